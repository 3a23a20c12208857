"""``models/config.py``: NeuronConfig (84), MoENeuronConfig (797), InferenceConfig (849),
FusedSpecNeuronConfig (1045), OnDeviceSamplingConfig (1064).

Fields and defaults are those dumped from the real class; of the rules only what files and graphs
depend on is here.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from pathlib import Path

from ..modules.lora_serving import LoraServingConfig

_ROOT = Path(__file__).parents[5]
_TABLES = json.loads(
    (_ROOT / "neuron_artifacts/backends/nxdi/data/neuron-config-2.29.json").read_text()
)
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


class IncompatibleConfigError(ValueError):
    pass


class Nested:
    """A configuration within one; names that it does not know are dropped without a word."""

    def __init__(self, table, kwargs):
        self.__dict__.update(_TABLES[table] if isinstance(table, str) else table)
        self.__dict__.update({k: v for k, v in kwargs.items() if k in self.__dict__})


class OnDeviceSamplingConfig(Nested):
    def __init__(self, **kwargs):
        super().__init__("on_device_sampling_config", kwargs)


class ChunkedPrefillConfig(Nested):
    def __init__(self, **kwargs):
        super().__init__("chunked_prefill_config", kwargs)


class RouterConfig:
    """neuronx_distributed/modules/moe/moe_configs.py:251."""

    def __init__(self, act_fn="softmax", dtype="float32"):
        self.act_fn, self.dtype = act_fn, dtype


class NeuronConfig:
    def __init__(self, **kwargs):
        self.__dict__.update(copy.deepcopy(_TABLES["neuron"]))
        pop = kwargs.pop
        self.overrides_torch_dtype = "torch_dtype" in kwargs
        pop("overrides_torch_dtype", None)
        seq_len, batch_size = kwargs.get("seq_len", 128), kwargs.get("batch_size", 1)
        for name in ("max_context_length", "max_length", "n_positions", "n_active_tokens"):
            setattr(self, name, pop(name, seq_len))
        for name in ("ctx_batch_size", "tkg_batch_size", "max_batch_size", "spec_batch_size"):
            setattr(self, name, pop(name, batch_size))
        self.buckets = pop("buckets", [seq_len])
        sampling = pop("on_device_sampling_config", None)
        self.on_device_sampling_config = _make(OnDeviceSamplingConfig, sampling)
        self.chunked_prefill_config = _make(
            ChunkedPrefillConfig, pop("chunked_prefill_config", None)
        )
        self.lora_config = _make(LoraServingConfig, pop("lora_config", None))
        computed = {"kv_cache_tiling", "is_prefill_stage", "tile_cc", "enable_token_tree"}
        for name in [name for name in kwargs if name in self.__dict__ and name not in computed]:
            setattr(self, name, pop(name))
        world_size = self.tp_degree * self.pp_degree * self.ep_degree
        self.world_size = self.world_size if self.world_size != 1 else world_size
        if self.local_ranks_size == 1:
            self.local_ranks_size = self.world_size
        self.enable_fused_speculation |= self.enable_eagle_speculation
        self._check()
        if kwargs:
            logging.warning(f"NeuronConfig init: Unexpected keyword arguments: {kwargs}")

    def _check(self):
        assert self.max_context_length <= self.max_length, (
            "max_context_length cannot be more than max_length"
        )
        for name, limit in (
            ("context_encoding_buckets", self.max_context_length),
            ("token_generation_buckets", self.max_length),
        ):
            buckets = getattr(self, name)
            if buckets is not None:
                buckets.sort()
                assert buckets[-1] <= limit, f"bucket {buckets[-1]} should be <= {limit}"
        if self.quantized:
            assert self.quantized_checkpoints_path, "quantized_checkpoints_path is required"
        if self.is_medusa and self.async_mode:
            raise IncompatibleConfigError("Medusa Decoding is not yet supported with async.")


def _make(kind, value):
    return kind(**value) if type(value) is dict else value


class MoENeuronConfig(NeuronConfig):
    def __init__(self, **kwargs):
        moe = copy.deepcopy(_TABLES["moe"])
        self.router_config = _make(RouterConfig, kwargs.pop("router_config", None))
        if self.router_config is None:  # read, but not taken out, so logged as unexpected
            self.router_config = RouterConfig(
                kwargs.get("router_act_fn", "softmax"), kwargs.get("router_dtype", "float32")
            )
        blockwise = Nested(
            moe["blockwise_matmul_config"], kwargs.pop("blockwise_matmul_config", {})
        )
        for name in [name for name in kwargs if name in moe]:
            moe[name] = kwargs.pop(name)
        super().__init__(**kwargs)
        self.__dict__.update(
            moe, router_config=self.router_config, blockwise_matmul_config=blockwise
        )


class FusedSpecNeuronConfig:
    def __init__(self, worker_cls, draft_config=None, draft_model_path=None, draft_model_cls=None):
        self.worker_cls, self.draft_config = worker_cls, draft_config
        self.draft_model_path, self.draft_model_cls = draft_model_path, draft_model_cls


class InferenceConfig:
    neuron_config_cls = NeuronConfig

    def __init__(self, neuron_config, fused_spec_config=None, load_config=None, metadata=None,
                 **kwargs):  # fmt: skip
        self.neuron_config, self.fused_spec_config = neuron_config, fused_spec_config
        self.metadata = metadata
        if load_config is not None:
            load_config(self)
        self.__dict__.update(kwargs)
        missing = [name for name in self.get_required_attributes() if not hasattr(self, name)]
        assert not missing, f"Config must define {missing}"

    def get_required_attributes(self):
        return ["hidden_size", "num_attention_heads", "vocab_size"]

    def get_text_config(self):
        return getattr(self, "text_config", self)

    @classmethod
    def get_neuron_config_cls(cls):
        return cls.neuron_config_cls

    def to_json_string(self):
        return json.dumps(to_dict(self), indent=2, sort_keys=True)

    def save(self, path):
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, CONFIG_FILE), "w") as file:
            file.write(self.to_json_string() + "\n")

    @classmethod
    def load(cls, path):
        with open(os.path.join(path, CONFIG_FILE)) as file:
            return cls.from_json_string(file.read())

    @classmethod
    def from_json_string(cls, text):
        content = json.loads(text)
        content["neuron_config"] = cls.get_neuron_config_cls()(**content["neuron_config"])
        fused = content.get("fused_spec_config")
        if fused is not None:
            draft = fused["draft_config"]
            draft["neuron_config"] = cls.get_neuron_config_cls()(**draft["neuron_config"])
            content["fused_spec_config"] = FusedSpecNeuronConfig(
                fused["worker_cls"], cls(**draft), fused["draft_model_path"]
            )
        return cls(**content)


class MoEInferenceConfig(InferenceConfig):
    neuron_config_cls = MoENeuronConfig
