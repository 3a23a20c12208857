"""``utils/constants.py``: MODEL_TYPES."""

from ..models.application_base import NeuronLlamaForCausalLM

MODEL_TYPES = {
    "llama": {"causal-lm": NeuronLlamaForCausalLM},
    "qwen3": {"causal-lm": NeuronLlamaForCausalLM},
}
