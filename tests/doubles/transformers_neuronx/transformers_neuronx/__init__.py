"""A double of transformers-neuronx 0.13 at its public boundary; each module names its model."""

__version__ = "0.13.x"
