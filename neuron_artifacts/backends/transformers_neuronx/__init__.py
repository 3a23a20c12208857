"""transformers-neuronx (legacy): one NEFF a graph, weights in the original checkpoint."""
