"""The ``vllm-neuron`` backend: vLLM's own compiler for Neuron, from SDK 2.31 on."""
