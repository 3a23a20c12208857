"""optimum-neuron: artifacts are model folders that the library exports."""
