"""Follows optimum-neuron v0.4.5, optimum/neuron/models/inference/backend/config.py:45-170."""

from __future__ import annotations

import torch
from optimum.neuron.configuration_utils import NeuronConfig


class IncompatibleConfigError(ValueError):
    pass


class NxDNeuronConfig(NeuronConfig):
    def __init__(
        self, checkpoint_id=None, checkpoint_revision=None, batch_size=1, max_batch_size=None,
        continuous_batching=False, speculation_length=0, sequence_length=128, tp_degree=1,
        ep_degree=1, pp_degree=1, torch_dtype=torch.bfloat16, n_active_tokens=None,
        max_context_length=None, output_logits=False, fused_qkv=False, target=None,
        on_device_sampling=False, max_topk=256, start_rank_id=0, local_ranks_size=None,
        capacity_factor=None, glu_mlp=True,
    ):  # fmt: skip
        self.checkpoint_id, self.checkpoint_revision = checkpoint_id, checkpoint_revision
        self.batch_size, self.sequence_length, self.tp_degree = (
            batch_size,
            sequence_length,
            tp_degree,
        )
        self.torch_dtype = (
            getattr(torch, torch_dtype) if isinstance(torch_dtype, str) else torch_dtype
        )
        self.n_active_tokens = sequence_length if n_active_tokens is None else n_active_tokens
        self.output_logits = output_logits
        self.max_context_length = (
            sequence_length if max_context_length is None else max_context_length
        )
        self.fused_qkv, self.continuous_batching = fused_qkv, continuous_batching
        self.max_batch_size = batch_size if max_batch_size is None else max_batch_size
        self.on_device_sampling, self.max_topk = on_device_sampling, max_topk
        self.speculation_length = speculation_length
        if speculation_length > 0 and on_device_sampling:
            raise IncompatibleConfigError(
                "Speculative decoding is incompatible with on-device sampling"
            )
        self.pp_degree, self.ep_degree, self.start_rank_id = pp_degree, ep_degree, start_rank_id
        self.local_ranks_size = self.world_size if local_ranks_size is None else local_ranks_size
        self.target, self.capacity_factor, self.glu_mlp = target, capacity_factor, glu_mlp

    @property
    def world_size(self):
        return self.tp_degree * self.pp_degree * self.ep_degree
