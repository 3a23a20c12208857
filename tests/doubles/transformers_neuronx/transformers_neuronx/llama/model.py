"""Follows transformers-neuronx, src/transformers_neuronx/llama/model.py."""

from transformers_neuronx.base import NeuronModelBase


class LlamaForSampling(NeuronModelBase):
    pass
