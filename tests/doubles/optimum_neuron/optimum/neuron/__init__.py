"""A double of optimum-neuron v0.4.5 at its public boundary; each module names what it follows."""

from optimum.neuron.models.inference.modeling_utils import (
    NeuronModelForCausalLM,
    NeuronModelForEmbedding,
)

__all__ = ["NeuronModelForCausalLM", "NeuronModelForEmbedding"]
