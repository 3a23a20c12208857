"""``utils/constants.py``: MODEL_TYPES."""

from ..models.image_to_text_model_base import NeuronLlama4ForCausalLM
from ..models.model_base import NeuronLlamaForCausalLM, NeuronMixtralForCausalLM

MODEL_TYPES = {
    "llama": {"causal-lm": NeuronLlamaForCausalLM},
    "llama4": {"causal-lm": NeuronLlama4ForCausalLM},
    "mixtral": {"causal-lm": NeuronMixtralForCausalLM},
    "qwen3": {"causal-lm": NeuronLlamaForCausalLM},
    "qwen3_moe": {"causal-lm": NeuronMixtralForCausalLM},
}
