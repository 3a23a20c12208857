"""Follows transformers-neuronx, src/transformers_neuronx/mixtral/model.py, and hlo.py:34."""

from transformers_neuronx.base import NeuronModelBase


class MixtralForSampling(NeuronModelBase):
    @classmethod
    def from_pretrained(cls, path, *, neuron_config, **arguments):
        is_bsh = neuron_config.attention_layout == "BSH"
        assert not is_bsh, "BSH layout is currently not supported for moe_layer"
        return super().from_pretrained(path, neuron_config=neuron_config, **arguments)
