"""``models/application_base.py`` (line numbers there): constructing (59), get_builder (148),
shard_weights (240), compile (292), load (318), load_weights (380), checkpoint_loader_fn (630),
save_quantized_state_dict (746).
"""

from __future__ import annotations

import os
import shutil

import neuron_double
from neuronx_distributed.trace.model_builder import ModelBuilder
from safetensors import safe_open

from .config import InferenceConfig

MODEL_FILE = "model.pt"
_CHECKPOINTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def normalize_path(path):
    return os.path.join(os.path.normpath(path), "")


class NeuronApplicationBase:
    _model_cls = None
    config_cls = InferenceConfig

    def __init__(self, model_path, config=None):
        self.model_path = normalize_path(model_path)
        self.config = config or self.get_config_cls().load(self.model_path)
        self.neuron_config = self.config.neuron_config
        self.models, self._builder = [], None

    @classmethod
    def get_config_cls(cls):
        return cls.config_cls

    @classmethod
    def get_neuron_config_cls(cls):
        return cls.get_config_cls().get_neuron_config_cls()

    def get_builder(self):
        if self._builder is None:
            self._builder = self.make_builder(self.config, self.models, "")
        return self._builder

    def make_builder(self, config, models, folder):
        work = os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/")
        fields = config.neuron_config
        builder = ModelBuilder(
            fields.tp_degree, fields.world_size, fields.start_rank_id, fields.local_ranks_size,
            self.checkpoint_loader_fn, os.path.join(work, folder),
        )  # fmt: skip
        for model in models:
            builder.add(model.tag, model.neuron_config.buckets, model.priority_model_idx)
        return builder

    def compile(self, compiled_model_path):
        path = normalize_path(compiled_model_path)
        self.config.save(path)  # before anything is compiled
        neuron_double.save_torchscript(path + MODEL_FILE, self.get_builder().trace())
        shard(self.get_builder(), self.neuron_config, path)

    def shard_weights(self, compiled_model_path):
        shard(self.get_builder(), self.neuron_config, normalize_path(compiled_model_path))

    def load(self, compiled_model_path):
        path = normalize_path(compiled_model_path)
        neuron_double.load_torchscript(path + MODEL_FILE)
        self.load_weights(path, self.neuron_config, self.get_builder())
        device = neuron_double.Device(
            self.neuron_config.batch_size, self.neuron_config.seq_len, self.vocab_size
        )
        for model in self.models:
            model.device = device

    def load_weights(self, path, fields, builder):
        if not fields.save_sharded_checkpoint:
            builder.shard_checkpoint()
            return
        for rank in range(fields.start_rank_id, fields.start_rank_id + fields.local_ranks_size):
            check_file(os.path.join(path, f"weights/tp{rank}_sharded_checkpoint.safetensors"))

    def checkpoint_loader_fn(self):
        path = getattr(self.config, "_name_or_path", None)
        is_old = neuron_double.knob("old") is not None  # up to SDK 2.26 whatever it is
        if path is None or not (is_old or os.path.exists(path)):
            path = self.model_path
        fields = self.neuron_config
        if fields.quantized:
            path = fields.quantized_checkpoints_path
            if not os.path.exists(path):
                raise FileNotFoundError(f"Quantized checkpoint file not found: {path}")
        files = [get_state_dict(path)]
        if fields.enable_fused_speculation:
            files.append(get_state_dict(self.config.fused_spec_config.draft_model_path))
        return files

    @classmethod
    def save_quantized_state_dict(cls, model_path, config):
        target = config.neuron_config.quantized_checkpoints_path
        if neuron_double.knob("quantize") is not None:
            raise RuntimeError(f"{config.neuron_config.quantization_type} not supported")
        if not os.path.isdir(target):
            raise RuntimeError("the double writes no pickle")
        shutil.copyfile(get_state_dict(model_path), os.path.join(target, "model.safetensors"))


if neuron_double.knob("unsplit") is not None:
    del NeuronApplicationBase.shard_weights


def shard(builder, fields, path):
    if fields.skip_sharding or not fields.save_sharded_checkpoint:
        return
    builder.shard_checkpoint(os.path.join(path, "weights/"))
    if os.environ.get("NXD_LAYOUT_TRANSFORMATION_OPTIONS"):
        builder.transform_weight_layout_with_overriden_option()


def get_state_dict(path):
    """checkpoint.py:24, as the file; a path that is none is a name at the hub."""
    if not os.path.isdir(path):
        raise OSError(f"{path} is not a local folder and is not a valid model identifier")
    for name in _CHECKPOINTS:
        if os.path.isfile(os.path.join(path, name)):
            return check_file(os.path.join(path, name))
    raise FileNotFoundError(f"Can not find model.safetensors or pytorch_model.bin in {path}")


def check_file(path):
    """What safetensors' ``load_file`` raises."""
    with safe_open(path, "np") as file:
        assert file.keys()
    return path
