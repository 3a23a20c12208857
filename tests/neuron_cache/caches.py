"""Cache repositories as each release of optimum-neuron fills them, file by file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.neuron_cache.model_configs import UNET

REPO = "org/neuron-cache"

ENTRY_CONFIGS: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "data" / "entry_configs.json").read_text()
)
"""By transformers release and model."""

RELEASES: dict[str, tuple[str, str]] = {
    "0.0.18": ("2.12.68.0+4480452af", "4.36.2"),
    "0.0.20": ("2.12.68.0+4480452af", "4.36.2"),
    "0.0.23": ("2.13.66.0+6dfecc895", "4.43.4"),
    "0.0.28": ("2.15.143.0+e39249ad", "4.43.4"),
    "0.1.0": ("2.16.372.0+4a9b2326", "4.51.3"),
    "0.2.0": ("2.17.194.0+d312836f", "4.51.3"),
    "0.3.0": ("2.19.8089.0+8ab9f450", "4.51.3"),
    "0.4.1": ("2.21.18209.0+043b1bf7", "4.51.3"),
    "0.4.4": ("2.21.33363.0+82129205", "4.57.6"),
    "0.4.5": ("2.21.33363.0+82129205", "4.57.6"),
    "0.4.6.dev4": ("2.21.33363.0+82129205", "4.57.6"),
}
"""The compiler and transformers release that each release of optimum-neuron goes with."""

_DROPPED = (
    "_name_or_path", "transformers_version", "_diffusers_version", "eos_token_id", "bos_token_id",
    "pad_token_id", "torchscript", "torch_dtype", "_commit_hash", "sample_size", "projection_dim",
    "_use_default_values", "_attn_implementation_autoset", "return_dict",
)  # fmt: skip
_AUTO_CAST = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Cache:
    """Collects the files of one repository."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {".gitattributes": b"*.neff filter=lfs\n"}
        self._aliased: set[tuple[str, str]] = set()

    def add(self, release: str, model: str, model_id: str, **neuron: Any) -> str:
        """Compile a decoder as that release does; returns the path of its entry.

        ``neuron`` overrides fields by the names of 0.4.5; ``task`` and ``mode`` likewise.
        """
        compiler, transformers = RELEASES[release]
        config = dict(ENTRY_CONFIGS[transformers][model])
        task = neuron.pop("task", "text-generation")
        mode = neuron.pop("mode", "inference")
        if release < "0.2":
            settings = _early_settings(compiler, task, model_id, neuron)
            document = {n: v for n, v in config.items() if n not in _DROPPED[:2]}
            return self._put_early(release, mode, model_id, {**document, "neuron": settings})
        settings = _settings(release, compiler, model_id, neuron)
        if "dtype" in config:
            config["dtype"] = settings["torch_dtype"]
        if "head_dim" in config and config["head_dim"] is None:
            config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
        return self._put(release, model_id, task, config, settings)

    def add_config(self, release: str, config: dict[str, Any], model_id: str, **neuron: Any) -> str:
        """Compile a decoder from 0.2.0 on whose configuration is given, not one of the models'."""
        settings = _settings(release, RELEASES[release][0], model_id, neuron)
        return self._put(release, model_id, "text-generation", config, settings)

    def add_traced(self, release: str, model: str, model_id: str, task: str, **neuron: Any) -> str:
        """Compile a model with fixed shapes; ``neuron`` holds the fields as they are written."""
        compiler, transformers = RELEASES[release]
        config = dict(ENTRY_CONFIGS[transformers][model])
        settings = _traced_settings(compiler, task, neuron)
        if release < "0.2":
            document = {n: v for n, v in config.items() if n not in _DROPPED[:2]}
            document |= {"task": task, "neuron": settings}
            return self._put_early(release, "inference", model_id, document)
        path = self._put(release, model_id, task, config, settings)
        self._put_module(release, path)
        return path

    def add_pipeline(
        self, release: str, model_id: str, unet: dict[str, Any] = UNET, **neuron: Any
    ) -> str:
        compiler, transformers = RELEASES[release]
        text = dict(ENTRY_CONFIGS[transformers]["clip_text"])
        shapes = {"static_height": 512, "static_width": 512, **neuron}
        parts = {"text_encoder": text, "unet": dict(unet)}
        document: dict[str, Any] = {}
        for name, config in parts.items():
            kept = {n: v for n, v in config.items() if n not in _DROPPED}
            settings = _traced_settings(compiler, "text-to-image", shapes)
            document[name] = {**kept, "neuron": settings}
        if release < "0.2":
            document["model_type"] = "stable-diffusion"
            return self._put_early(release, "inference", model_id, document)
        document |= {"_entry_class": "MultiModelCacheEntry", "_model_id": model_id, "_task": None}
        # 0.4.5 and later take the digest of a pipeline over no configuration at all.
        digest = _sha256({"model_type": "stable-diffusion", "configs": {}})
        path = self._write(release, "stable-diffusion", model_id, digest, document)
        self._put_module(release, path)
        return path

    def _put(
        self, release: str, model_id: str, task: str, config: dict[str, Any], settings: Any
    ) -> str:
        kept = {n: v for n, v in config.items() if n not in _DROPPED}
        digest = _sha256({"model_type": kept["model_type"], "task": task, "config": kept})
        document = {
            **kept, "neuron": settings, "_entry_class": "SingleModelCacheEntry",
            "_model_id": model_id, "_task": task,
        }  # fmt: skip
        return self._write(release, kept["model_type"], model_id, digest, document)

    def _write(
        self, release: str, model_type: str, model_id: str, digest: str, document: dict[str, Any]
    ) -> str:
        text = json.dumps(document, indent=2, sort_keys=True)
        name = f"{hashlib.sha512(text.encode()).hexdigest()[:20]}.json"
        root = self.registry(release)
        alias = f"{root}/{model_type}/{model_id}/{name}"
        if release < "0.4.5":
            self.files[alias] = text.encode()
            return alias
        path = f"{root}/{digest}/{name}"
        self.files[path] = text.encode()
        if (release, model_id) not in self._aliased:  # only a model's first entry gets one
            self._aliased.add((release, model_id))
            self.files[alias] = text.encode()
        return path

    def _put_early(self, release: str, mode: str, model_id: str, document: dict[str, Any]) -> str:
        text = json.dumps(document, sort_keys=release >= "0.0.21")
        name = f"{hashlib.sha512(text.encode()).hexdigest()[:20]}.json"
        folder = "" if release == "0.0.18" else f"{mode}/"
        path = f"{self.registry(release)}/{folder}{document['model_type']}/{model_id}/{name}"
        self.files[path] = text.encode()
        return path

    def _put_module(self, release: str, path: str) -> None:
        name = path.rpartition("/")[2].removesuffix(".json")
        folder = f"neuronxcc-{RELEASES[release][0]}/MODULE_{name}"
        self.files[f"{folder}/model.neuron"] = b"graph"

    @staticmethod
    def registry(release: str) -> str:
        return f"neuronxcc-{RELEASES[release][0]}/0_REGISTRY/{release}"


def _settings(release: str, compiler: str, model_id: str, over: dict[str, Any]) -> dict[str, Any]:
    batch, length = over.get("batch_size", 1), over.get("sequence_length", 4096)
    tp = over.get("tp_degree", 8)
    settings = {
        "_serialized_key": "NxDNeuronConfig", "batch_size": batch, "capacity_factor": None,
        "checkpoint_id": model_id, "checkpoint_revision": "a" * 40,
        "continuous_batching": batch > 1, "ep_degree": 1, "fused_qkv": True, "glu_mlp": True,
        "local_ranks_size": tp, "max_batch_size": batch, "max_context_length": length,
        "max_topk": 256, "n_active_tokens": length, "neuronxcc_version": compiler,
        "on_device_sampling": True, "optimum_neuron_version": release, "output_logits": False,
        "pp_degree": 1, "sequence_length": length, "speculation_length": 0, "start_rank_id": 0,
        "target": "trn1", "torch_dtype": "bfloat16", "tp_degree": tp,
    }  # fmt: skip
    if release.startswith("0.4.6"):
        settings["prefill_chunk_size"] = 0
    if over.get("_serialized_key") == "HloNeuronConfig":
        for name in ("torch_dtype", "target", "on_device_sampling", "speculation_length"):
            del settings[name]
        settings["auto_cast_type"] = "bf16"
    return {**settings, **over}


def _early_settings(
    compiler: str, task: str, model_id: str, over: dict[str, Any]
) -> dict[str, Any]:
    """Decoders before 0.2.0, and training, which named other things."""
    if over.get("precision"):
        return {"model_class": "LlamaForCausalLM", "num_neuron_cores_per_node": 32,
                "compiler_version": compiler, "tensor_parallel_size": 8,
                "pipeline_parallel_size": 1, **over}  # fmt: skip
    return {
        "task": task, "batch_size": over.get("batch_size", 1),
        "num_cores": over.get("tp_degree", 8),
        "auto_cast_type": _AUTO_CAST[over.get("torch_dtype", "bfloat16")],
        "sequence_length": over.get("sequence_length", 4096), "compiler_type": "neuronx-cc",
        "compiler_version": compiler, "checkpoint_id": model_id,
        "checkpoint_revision": over.get("checkpoint_revision", "b" * 40),
    }  # fmt: skip


def _traced_settings(compiler: str, task: str, over: dict[str, Any]) -> dict[str, Any]:
    return {
        "auto_cast": "matmul", "auto_cast_type": "bf16", "compiler_type": "neuronx-cc",
        "compiler_version": compiler, "dynamic_batch_size": False, "float_dtype": "fp32",
        "inline_weights_to_neff": False, "instance_type": "trn1", "int_dtype": "int64",
        "optlevel": "2", "output_attentions": False, "output_hidden_states": False,
        "static_batch_size": 1, "task": task, "tensor_parallel_size": 1, **over,
    }  # fmt: skip


def _sha256(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
