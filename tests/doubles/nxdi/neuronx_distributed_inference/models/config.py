"""``models/config.py``: NeuronConfig (84), InferenceConfig (849), FusedSpecNeuronConfig (1045).

Fields and defaults are those dumped from the real class; of the rules only what files and graphs
depend on is here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_ROOT = Path(__file__).parents[5]
_DEFAULTS = json.loads(
    (_ROOT / "neuron_artifacts/backends/nxdi/data/neuron-config-2.29.json").read_text()
)["neuron"]
CONFIG_FILE = "neuron_config.json"


def to_dict(obj):
    """config.py:62."""
    if type(obj) is dict:
        return {k: to_dict(v) for k, v in obj.items()}
    if type(obj) is list:
        return [to_dict(v) for v in obj]
    if isinstance(obj, type):
        return {"__module__": obj.__module__, "__name__": obj.__name__}
    if hasattr(obj, "__dict__"):
        return {k: to_dict(v) for k, v in obj.__dict__.items()}
    return obj


class OnDeviceSamplingConfig:
    def __init__(self, **kwargs):
        self.dynamic = kwargs.get("dynamic", False)
        self.deterministic = kwargs.get("deterministic", False)
        self.global_topk = kwargs.get("global_topk", 256)


class NeuronConfig:
    def __init__(self, **kwargs):
        self.__dict__.update(json.loads(json.dumps(_DEFAULTS)))
        known = {name: value for name, value in kwargs.items() if name in _DEFAULTS}
        self.__dict__.update(known)
        for name in ("max_context_length", "max_length", "n_positions"):
            if name not in kwargs:
                setattr(self, name, self.seq_len)
        for name in ("ctx_batch_size", "tkg_batch_size", "max_batch_size"):
            if name not in kwargs:
                setattr(self, name, self.batch_size)
        if "world_size" not in kwargs:
            self.world_size = self.tp_degree * self.pp_degree * self.ep_degree
        if "local_ranks_size" not in kwargs:
            self.local_ranks_size = self.world_size
        self.buckets = [self.seq_len]
        if self.max_context_length > self.max_length:
            raise AssertionError("max_context_length must be no more than max_length")
        if self.quantized and not self.quantized_checkpoints_path:
            raise AssertionError("quantized_checkpoints_path is required")
        if isinstance(self.on_device_sampling_config, dict):
            self.on_device_sampling_config = OnDeviceSamplingConfig(
                **self.on_device_sampling_config
            )
        if self.lora_config is not None:
            for path in self.lora_config.get("lora_ckpt_paths", {}).values():
                with open(os.path.join(path, "adapter_config.json")):
                    pass
            # A set, so that its order depends on PYTHONHASHSEED (lora_serving/config.py).
            modules = {"q_proj", "k_proj", "v_proj", "o_proj"}
            self.lora_config.setdefault("target_modules", list(modules))


class FusedSpecNeuronConfig:
    def __init__(self, worker_cls, draft_config=None, draft_model_path=None, draft_model_cls=None):
        self.worker_cls, self.draft_config = worker_cls, draft_config
        self.draft_model_path, self.draft_model_cls = draft_model_path, draft_model_cls


class InferenceConfig:
    def __init__(self, neuron_config=None, load_config=None, **kwargs):
        self.neuron_config, self.fused_spec_config = neuron_config, None
        self.metadata = None
        if load_config is not None:
            load_config(self)
        self.__dict__.update(kwargs)
        for name in ("hidden_size", "num_attention_heads", "vocab_size"):
            if not hasattr(self, name):
                raise AssertionError(f"Config must define {name}")

    @classmethod
    def get_neuron_config_cls(cls):
        return NeuronConfig

    def to_json_string(self):
        return json.dumps(to_dict(self), indent=2, sort_keys=True)

    def save(self, path):
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, CONFIG_FILE), "w") as file:
            file.write(self.to_json_string() + "\n")

    @classmethod
    def load(cls, path):
        with open(os.path.join(path, CONFIG_FILE)) as file:
            content = json.load(file)
        fields = content.pop("neuron_config")
        derived = ("buckets",)
        content["neuron_config"] = NeuronConfig(
            **{name: value for name, value in fields.items() if name not in derived}
        )
        return cls(**content)
