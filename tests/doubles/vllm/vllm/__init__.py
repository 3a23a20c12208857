"""A double of vLLM at its public boundary: ``LLM``, and the OpenAI API server as a module.

Which of its generations it is, the installed versions say. ``NEURON_DOUBLE`` (see
``tests/doubles/native/neuron_double.py``) has these knobs more:

============ ===================================================================================
vllm_crash   raise before the model is loaded
vllm_hang    never become ready
vllm_quiet   compile over the artifact without a word in the log
vllm_deaf    ignore SIGTERM
vllm_child=M leave a process in the server's group that has M among its arguments
vllm_die     end by itself once it is ready
vllm_touch=P append to the file P when the model is loaded
============ ===================================================================================
"""

from vllm.llm import LLM

__all__ = ["LLM"]
