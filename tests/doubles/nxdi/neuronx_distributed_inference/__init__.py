"""A double of NxD Inference at the boundary that workers and vLLM use.

Follows neuronx-distributed-inference 0.9 (commit c63afe0), ``src/neuronx_distributed_inference``:
the same calls write the same files in the same order and raise the same exceptions. The compiler
and the device are :mod:`neuron_double`'s.
"""
