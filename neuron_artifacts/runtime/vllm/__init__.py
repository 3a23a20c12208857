"""Serving through the vLLM of a Neuron toolchain, which loads the artifact and compiles nothing."""
