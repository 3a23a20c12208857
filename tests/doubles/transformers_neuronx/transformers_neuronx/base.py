"""Follows transformers-neuronx, src/transformers_neuronx/: ``base.py`` (save 39, load 50, compile
55, to_neuron 77, cpu_compile 90, padding of rows 492-587, NEFF files 765-790), ``module.py``
(from_pretrained 396), ``bucket.py`` and ``decoder.py`` (update_generation_config 1107)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import neuron_double as native


def sizes(buckets_or_size):
    if isinstance(buckets_or_size, list):
        return sorted(buckets_or_size)
    return [buckets_or_size]


class NeuronModelBase:
    @classmethod
    def from_pretrained(cls, path, *, tp_degree, amp, neuron_config, context_length_estimate,
                        n_positions, batch_size):  # fmt: skip
        assert max(n_positions) >= max(context_length_estimate), (
            f"Max context_length_estimate {max(context_length_estimate)} cannot be more than max "
            f"n_positions {max(n_positions)}."
        )
        expected = neuron_config.continuous_batching.batch_size_for_shared_caches
        assert expected == batch_size, f"invalid batch_size_for_shared_caches ({expected})"
        model = cls()
        with Path(path, "config.json").open() as file:
            model.config = SimpleNamespace(**json.load(file))
        presharded = getattr(model.config, "is_presharded_checkpoint", False)
        if not (presharded or Path(path, "model.safetensors").is_file()):
            raise OSError(f"Could not find a checkpoint for {path} in a supported format")
        model.neuron_config, model.batch_size = neuron_config, batch_size
        model.token_buckets = sizes(n_positions)
        model.context_buckets = sizes(context_length_estimate)
        model._settings = [cls.__name__, tp_degree, amp, batch_size, bool(neuron_config.quant),
                           model.config.hidden_size]  # fmt: skip
        model._neffs = dict.fromkeys(model._kernels())
        return model

    def _kernels(self):
        """File names: the hash of what would be the HLO, so other settings are other files."""
        graphs = [("context", size) for size in self.context_buckets]
        for graph in graphs + [("token", size) for size in self.token_buckets]:
            text = json.dumps([self._settings, graph])
            yield hashlib.sha256(text.encode()).hexdigest()[:20] + ".neff"

    def compile(self, parallel_degree=None):
        print(f"compiling with {parallel_degree} workers", flush=True)
        for name in self._neffs:
            self._neffs[name] = native.make_neff(native.compile_graph(name))

    def to_neuron(self):
        if not native.available_cores():
            raise RuntimeError("Neuron runtime cannot be initialized")
        if hasattr(self, "_compiled_artifacts_directory"):
            self._load_compiled_artifacts(self._compiled_artifacts_directory)
        else:
            self.compile(parallel_degree=self.neuron_config.compilation_worker_count)
        self._device = native.Device(
            self.batch_size, max(self.token_buckets), self.config.vocab_size
        )

    def cpu_compile(self):
        self.compile(parallel_degree=self.neuron_config.compilation_worker_count)

    def save(self, directory, sharded_weights=False):
        if Path(directory).is_file():
            raise FileExistsError(f"Found existing file: {directory}")
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, neff in self._neffs.items():
            assert neff is not None, "cannot save a model which has not been compiled"
            with Path(directory, name).open("wb") as file:
                file.write(neff)
        if sharded_weights:
            assert self.neuron_config.on_device_embedding
            with Path(directory, "DecoderLMHead.safetensors").open("wb") as file:
                file.write(b"weights")
            self.config.is_presharded_checkpoint = True
            with Path(directory, "config.json").open("w") as file:
                json.dump(vars(self.config), file)

    def load(self, directory):
        self._compiled_artifacts_directory = directory

    def _load_compiled_artifacts(self, directory):
        if not Path(directory).is_dir():
            raise FileNotFoundError(f"Did not find directory: {directory}.")
        for name in self._neffs:
            try:
                with Path(directory, name).open("rb") as file:
                    self._neffs[name] = file.read()
            except FileNotFoundError:
                raise FileNotFoundError(
                    "Could not find a matching NEFF for your HLO in this directory."
                ) from None

    def update_generation_config(self, generation_config):
        current = self.neuron_config.on_device_generation
        assert generation_config.per_batch_line == current.per_batch_line
        assert len(generation_config.top_k) == self.batch_size

    def __call__(self, input_ids, cache_ids=None, start_ids=None):
        tokens, positions = input_ids.tolist(), cache_ids.tolist()
        slots = start_ids.tolist()
        if len(tokens[0]) > 1 and positions[0][0] == 0:
            assert len(tokens[0]) <= max(self.context_buckets), "invalid input prompt length"
        else:
            # rows that are not named run token 0 at position 0
            for slot in set(range(self.batch_size)) - set(slots):
                self._device.step(slot, [0], [0])
        rows = [
            self._device.step(slot, tokens[row], positions[row]) for row, slot in enumerate(slots)
        ]
        return self._device.answer(rows, self.neuron_config.on_device_generation is not None)
