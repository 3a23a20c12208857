"""Compile caches that Neuron libraries keep on this machine."""
