"""``models/model_wrapper.py``: pad_inputs (730), _forward_with_pad (574), forward (1315), and of
``models/model_base.py`` the choice of the row whose logits are given (1014).
"""

from __future__ import annotations

import copy

CONTEXT, DECODING = "context_encoding_model", "token_generation_model"
SPECULATION, FUSED = "speculation_model", "fused_speculation_model"
VISION = "vision_encoder_model"


class ModelWrapper:
    """The graphs of one phase; ``device`` is set when it is loaded."""

    def __init__(self, tag, config, buckets, batch_size, priority_model_idx=None):
        self.tag, self.priority_model_idx = tag, priority_model_idx
        self.config = copy.deepcopy(config)
        self.neuron_config = self.config.neuron_config
        self.neuron_config.buckets, self.neuron_config.batch_size = buckets, batch_size
        self.device = None

    def __call__(self, tokens, positions, slots, sampling):
        """One list of logits a row, in the order of ``slots``."""
        if self.device is None:
            raise RuntimeError("Forward called before load.")
        mask = max(len(row) if len(row) > 1 else row[-1] + 1 for row in positions)
        bucket = next((b for b in self.neuron_config.buckets if b >= mask), None)
        if bucket is None:
            raise ValueError(f"Input len {mask} exceeds largest bucket for {self.tag}")
        print(f"running {self.tag} {bucket}", flush=True)
        if self.tag == CONTEXT:
            tokens = [row + [0] * (bucket - len(row)) for row in tokens]
            positions = [row + [1] * (bucket - len(row)) for row in positions]
        size = self.neuron_config.batch_size
        if len(slots) == size:  # nothing is sorted: in token generation row 0 is line 0
            lines = slots if self.tag == CONTEXT else range(size)
            return self._run(lines, tokens, positions)
        if len(slots) > size:
            return [
                self([t], [p], [s], None)[0]
                for t, p, s in zip(tokens, positions, slots, strict=True)
            ]
        lines = [*slots, *(s for s in range(self.neuron_config.max_batch_size) if s not in slots)]
        missing = len(lines) - len(slots)  # they repeat the first row
        rows = self._run(lines, tokens + tokens[:1] * missing, positions + positions[:1] * missing)
        return rows[: len(slots)]

    def _run(self, lines, tokens, positions):
        return [
            self._run_row(line, *row) for line, *row in zip(lines, tokens, positions, strict=True)
        ]

    def _run_row(self, line, tokens, positions):
        if self.tag != CONTEXT:
            return self.device.step(line, tokens, positions)
        last = positions.index(max(positions))  # the first, as torch.max has it
        self.device.step(line, tokens, list(range(len(tokens))))  # padding is written as well
        return self.device.step(line, tokens[: last + 1], list(range(last + 1)))
