"""Follows optimum-neuron v0.4.5, optimum/neuron/models/inference/: ``modeling_utils.py`` (the
class methods), ``backend/pretrained_model.py`` (saving 174, loading weights 240, exporting 326,
loading 391-450), ``llama/modeling_llama.py:341`` (defaults) and ``backend/modules/decoder/``
(which graph takes which call, modeling_decoder.py; padding, decoder_wrappers.py)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import neuron_double as native
from optimum.neuron.configuration_utils import NeuronConfig
from optimum.neuron.models.inference.backend.config import NxDNeuronConfig
from transformers import AutoConfig


class NeuronPreTrainedModel:
    def __init__(self, config, neuron_config, traced_model, graph_builders):
        self.config, self.neuron_config = config, neuron_config
        self.graph_builders, self._traced_model = graph_builders, traced_model
        self._device = None

    @classmethod
    def _get_neuron_model_class(cls, config):
        if config.model_type != "llama":
            raise ValueError(f"Model type {config.model_type} is not supported for inference.")
        return cls

    @classmethod
    def get_neuron_config(
        cls, model_name_or_path, config=None, token=None, revision=None, instance_type=None,
        batch_size=None, sequence_length=None, tensor_parallel_size=None,
    ):  # fmt: skip
        local = Path(model_name_or_path).is_dir()
        config = config or AutoConfig.from_pretrained(model_name_or_path, revision=revision)
        cls._get_neuron_model_class(config)
        return NxDNeuronConfig(
            checkpoint_id=None if local else model_name_or_path,
            checkpoint_revision=None if local else revision,
            batch_size=batch_size or 1,
            sequence_length=sequence_length or min(config.max_position_embeddings, 4096),
            tp_degree=tensor_parallel_size or native.available_cores(),
            torch_dtype="bfloat16",
            target="trn1" if instance_type in (None, "inf2", "trn1n") else instance_type,
            on_device_sampling=True,
            fused_qkv=True,
            continuous_batching=(batch_size or 1) > 1,
        )

    @classmethod
    def create_graph_builders(cls, config, neuron_config):
        return {"context_encoding": None, "token_generation": None}

    @classmethod
    def export(cls, model_id, neuron_config, config=None, token=None, revision=None,
               load_weights=False):  # fmt: skip
        config = config or AutoConfig.from_pretrained(model_id, revision=revision)
        forced = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE")
        if forced not in (None, neuron_config.target):
            raise ValueError(
                f"The compilation target is {neuron_config.target} but the "
                f"NEURON_PLATFORM_TARGET_OVERRIDE environment variable is set to {forced}"
            )
        builders = cls.create_graph_builders(config, neuron_config)
        traced = [native.make_neff(native.compile_graph(name)) for name in builders]
        return cls(config, neuron_config, traced, builders)

    def save_pretrained(self, save_directory):
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.neuron_config.save_pretrained(save_directory)
        self.config.save_pretrained(save_directory)
        native.save_torchscript(Path(save_directory, "model.pt"), self._traced_model)
        source = self.config._name_or_path
        if Path(source).is_dir():
            self.shard_checkpoint(source, Path(save_directory, "checkpoint"))

    def shard_checkpoint(self, src_path, dest_path):
        if not Path(src_path, "model.safetensors").is_file():
            raise FileNotFoundError(
                f"Can not find model.safetensors or pytorch_model.bin in {src_path}"
            )
        folder = Path(dest_path, "weights")
        Path(folder).mkdir(parents=True, exist_ok=True)
        first = self.neuron_config.start_rank_id
        for rank in range(first, first + self.neuron_config.local_ranks_size):
            if native.knob("lost_shard") != str(rank):
                name = f"tp{rank}_sharded_checkpoint.safetensors"
                shutil.copyfile(Path(src_path, "model.safetensors"), Path(folder, name))

    @classmethod
    def from_pretrained(cls, model_id, revision=None, token=None):
        config = AutoConfig.from_pretrained(model_id)
        neuron_config = NeuronConfig.from_pretrained(model_id)
        if neuron_config.target != native.instance_type():
            raise ValueError(
                f"The model was compiled for {neuron_config.target} but the current instance type "
                f"is {native.instance_type()}. Please use a compatible instance type."
            )
        if native.available_cores() < neuron_config.tp_degree:
            raise ValueError(
                f"The model requires at least {neuron_config.tp_degree} Neuron cores but only "
                f"{native.available_cores()} are available."
            )
        with Path(model_id, "model.pt").open("rb") as file:
            traced = file.read()
        model = cls(config, neuron_config, traced, cls.create_graph_builders(config, neuron_config))
        weights = Path(model_id, "checkpoint", "weights")
        for rank in range(neuron_config.local_ranks_size):
            Path(weights, f"tp{rank}_sharded_checkpoint.safetensors").open("rb").close()
        model._device = native.Device(
            neuron_config.batch_size, neuron_config.sequence_length, config.vocab_size
        )
        return model


class NeuronModelForCausalLM(NeuronPreTrainedModel):
    task = "text-generation"

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def forward(self, input_ids, position_ids, seq_ids=None, sampling_params=None):
        config = self.neuron_config
        rows, length = input_ids.shape
        if config.on_device_sampling:
            for top_k, top_p, temperature in sampling_params.tolist():
                if not (top_k == -1 or 0 < top_k <= config.max_topk):
                    raise ValueError("Invalid top-k values found.")
                if not 0.0 < top_p <= 1.0 or temperature <= 0.0:
                    raise ValueError("Invalid sampling parameters found.")
        positions = position_ids.tolist()
        is_prompt = length > 1 and min(map(min, positions)) == 0
        if is_prompt and length > config.max_context_length:
            raise ValueError("the prompt is longer than the graph")
        if not is_prompt and length > 1:
            raise ValueError("a graph for speculation was not compiled")
        tokens, slots = input_ids.tolist(), seq_ids.tolist()
        answers = [
            self._device.step(slots[row], tokens[row], positions[row]) for row in range(rows)
        ]
        if not is_prompt and rows < config.batch_size:
            # padded with the first row, at the first row's position
            for slot in sorted(set(range(config.batch_size)) - set(slots)):
                self._device.step(slot, tokens[0], positions[0])
        output = self._device.answer(answers, config.on_device_sampling)
        output = output if config.on_device_sampling else output[:, None, :]
        if native.knob("wrapped") is not None:  # v0.4.3: modeling_decoder.py, _construct_output
            return SimpleNamespace(tokens=output, hidden_states=output)
        return output


class NeuronModelForEmbedding(NeuronPreTrainedModel):
    task = "feature-extraction"
