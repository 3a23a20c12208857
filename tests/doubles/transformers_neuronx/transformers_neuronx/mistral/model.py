"""Follows transformers-neuronx, src/transformers_neuronx/mistral/model.py."""

from transformers_neuronx.base import NeuronModelBase


class MistralForSampling(NeuronModelBase):
    pass
