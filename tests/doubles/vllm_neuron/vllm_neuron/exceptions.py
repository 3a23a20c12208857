"""``vllm_neuron/exceptions.py``."""


class CPUCompilationComplete(Exception):
    pass
