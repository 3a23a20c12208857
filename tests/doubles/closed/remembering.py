"""A traced model of optimum-neuron that remembers, in place of one that a device would run.

It takes what ``backend/modules/decoder/decoder_wrappers.py`` of optimum-neuron (0.4.5: line 88)
hands to ``model.pt`` and answers as ``NxDDecoderModelForCausalLM.forward`` does
(modeling_decoder.py:124): token ids of shape (rows,) with on-device sampling, else logits of shape
(rows, 1, vocabulary). A prompt is written to its slot's cache from the first position on, padding
and all; one token is written at its position. The next token is that of ``neuron_double.Device``.
``nxd_model.initialize`` is what weights are handed to (pretrained_model.py:213).
"""

from __future__ import annotations

import torch


class Weights(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ranks = 0

    def forward(self, given):
        return given

    @torch.jit.export
    def initialize(self, weights: list[dict[str, torch.Tensor]], start_rank: torch.Tensor):
        self.ranks = len(weights)


class Remembering(torch.nn.Module):
    def __init__(self, slots: int, length: int, vocab_size: int, samples: bool) -> None:
        super().__init__()
        self.nxd_model = Weights()
        self.register_buffer("cache", torch.zeros(slots, length, dtype=torch.int64))
        self.vocab_size, self.samples = vocab_size, samples

    def answer(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, seq_ids: torch.Tensor
    ) -> torch.Tensor:
        if self.nxd_model.ranks == 0:
            raise RuntimeError("no weights were loaded")
        rows = torch.zeros(input_ids.shape[0], dtype=torch.int64)
        for row in range(input_ids.shape[0]):
            slot, last = int(seq_ids[row]), int(position_ids[row].max())
            if input_ids.shape[1] > 1:
                self.cache[slot, : input_ids.shape[1]] = input_ids[row].to(torch.int64)
            else:
                self.cache[slot, last] = int(input_ids[row, 0])
            seen = self.cache[slot, : last + 1]
            total = (seen * torch.arange(1, last + 2)).sum() + last
            rows[row] = total % self.vocab_size
        if self.samples:
            return rows
        return 5 * torch.nn.functional.one_hot(rows, self.vocab_size).to(torch.float32)[:, None, :]

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, seq_ids: torch.Tensor,
        sampling_params: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        return self.answer(input_ids, position_ids, seq_ids)


class WithMask(Remembering):
    """Before 0.4.5 an attention mask comes second."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor,
        seq_ids: torch.Tensor, sampling_params: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        return self.answer(input_ids, position_ids, seq_ids)


def remember(container):
    """The traced model of a builder whose graphs are optimum-neuron's decoders."""
    count = len(container.example_inputs[0])
    if count not in (4, 5):  # no decoder that generates
        return torch.jit.script(Weights())
    config, neuron = container.model_instance.config, container.model_instance.neuron_config
    kind = Remembering if count == 4 else WithMask
    size = neuron.max_batch_size, neuron.sequence_length
    return torch.jit.script(kind(*size, config.vocab_size, neuron.on_device_sampling))
