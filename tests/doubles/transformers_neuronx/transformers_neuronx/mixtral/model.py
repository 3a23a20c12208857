"""Follows transformers-neuronx, src/transformers_neuronx/mixtral/model.py."""

from transformers_neuronx.base import NeuronModelBase


class MixtralForSampling(NeuronModelBase):
    pass
