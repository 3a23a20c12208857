"""NxD Inference: what its configuration, loaders and artifacts look like, without installing it."""
