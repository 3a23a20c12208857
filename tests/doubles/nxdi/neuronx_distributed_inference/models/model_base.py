"""``models/model_base.py``: NeuronBaseForCausalLM (2999), which graphs it has (3054), forward
(3314); ``modules/autobucketing.py:8``; ``modules/generation/sampling.py:80``,
validate_sampling_params."""

from __future__ import annotations

import math

import numpy as np
import torch

from .application_base import NeuronApplicationBase
from .config import MoEInferenceConfig
from .model_wrapper import CONTEXT, DECODING, FUSED, SPECULATION, ModelWrapper


def generate_buckets(low, high):
    if low >= high:
        return [high]
    return [2**i for i in range(int(math.log2(low)), round(math.log2(high)))] + [high]


class Output:
    def __init__(self, logits, hidden_states):
        self.logits, self.hidden_states = logits, hidden_states


class NeuronBaseForCausalLM(NeuronApplicationBase):
    def __init__(self, *args):
        super().__init__(*args)
        self.vocab_size = self.config.get_text_config().vocab_size
        self.models = self.make_models(self.config)

    def make_models(self, config):
        fields = config.neuron_config
        context, decoding = [fields.max_context_length], [fields.max_length]
        if fields.enable_bucketing:
            context = fields.context_encoding_buckets or generate_buckets(128, context[0])
            decoding = fields.token_generation_buckets or generate_buckets(128, decoding[0])
        second = SPECULATION if fields.speculation_length else DECODING
        if fields.enable_fused_speculation:
            # the draft's sampler (model_base.py:1500)
            second, _ = FUSED, fields.on_device_sampling_config.dynamic
        return [
            ModelWrapper(CONTEXT, config, context, fields.ctx_batch_size),
            ModelWrapper(second, config, decoding, fields.tkg_batch_size, priority_model_idx=0),
        ]

    def __call__(self, input_ids, attention_mask=None, position_ids=None, seq_ids=None,
                 sampling_params=None):  # fmt: skip
        tokens, positions, slots = (x.tolist() for x in (input_ids, position_ids, seq_ids))
        sampling = sampling_params.tolist()
        config = self.neuron_config.on_device_sampling_config
        if config is not None:
            validate_sampling_params(sampling, len(slots), config.global_topk)
        is_prefill = min(map(min, positions)) == 0
        rows = self.models[0 if is_prefill else 1](tokens, positions, slots, sampling)
        if config is None:
            logits = torch.Tensor(np.stack(rows)[:, None, :], torch.float32)
            return Output(logits, logits)
        chosen = [
            self._sample(row, *how) if config.dynamic else int(row.argmax())
            for row, how in zip(rows, sampling, strict=True)
        ]
        return Output(None, torch.tensor(chosen, torch.int64))

    def _sample(self, row, top_k, top_p, temperature):
        """A draw that can be told: the likeliest, the token after it, or (below 1) any token."""
        away = 0 if top_k == 1 else 1 if top_k > 1 else self.vocab_size // 2
        return (int(row.argmax()) + away) % self.vocab_size


def validate_sampling_params(params, rows, global_topk):
    for top_k, top_p, temperature in params:
        if not -1 <= top_k <= global_topk or top_k != int(top_k):
            raise ValueError(f"Invalid top-k values found: {top_k}")
        if not 0 < top_p <= 1:
            raise ValueError(f"Invalid top-p values found: {top_p}")
        if temperature < 0 or (temperature == 0 and top_k < 1):
            raise ValueError(f"Invalid temperature values found: {temperature}")


class NeuronLlamaModel:
    pass


class NeuronLlamaForCausalLM(NeuronBaseForCausalLM):
    _model_cls = NeuronLlamaModel


class NeuronMixtralForCausalLM(NeuronBaseForCausalLM):
    config_cls = MoEInferenceConfig
