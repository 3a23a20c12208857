"""Hashes that NxD Inference's own code gives, and the call that must give the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts.backends.nxdi.loaders import Speculation, VllmArguments
from neuron_artifacts.backends.nxdi.vllm_hash import VllmHash, vllm_artifact_hash
from neuron_artifacts.backends.nxdi.vllm_lora import Lora

DATA = Path(__file__).parents[2] / "data" / "vllm_hashes"


def read(name: str) -> Mapping[str, Any]:
    """``vectors``, ``random`` or ``loaders``: models, and cases with an md5 per SDK level."""
    content: Mapping[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return content


def each(name: str) -> Iterator[tuple[str, Mapping[str, Any], str, str | None]]:
    """Every case at every level: its name, itself, the level, and the md5 or None for refused."""
    for case in read(name)["cases"]:
        for sdk, md5 in case["md5"].items():
            yield f"{case['name']}-{sdk}", case, sdk, md5


def compute(case: Mapping[str, Any], sdk: str, models: Mapping[str, Any]) -> VllmHash:
    loader = case.get("loader")
    draft = case.get("vllm", {}).get("spec", {}).get("draft")
    return vllm_artifact_hash(
        models[case.get("config", case["model"])],
        model=case["model"],
        sdk=sdk,
        loader=loader,
        target=case.get("target", "trn1"),
        arguments=None if loader is None else arguments(case),
        override_neuron_config=case.get("override" if loader else "neuron_config"),
        draft_config=None if draft is None else models[draft],
        environ=case.get("env"),
        transformers=case.get("transformers"),
    )


def arguments(case: Mapping[str, Any]) -> VllmArguments:
    options = case["vllm"]
    spec = options.get("spec")
    return VllmArguments(
        tensor_parallel_size=options["tp"],
        max_num_seqs=options["max_num_seqs"],
        max_model_len=options["max_model_len"],
        dtype=options.get("dtype", "bfloat16"),
        block_size=options["block_size"],
        enable_prefix_caching=options.get("enable_prefix_caching", False),
        num_gpu_blocks_override=options.get("num_gpu_blocks_override"),
        max_prompt_length=case.get("max_prompt_length"),
        chunked_prefill=options.get("chunked_prefill"),
        lora=Lora(**options["lora"]) if "lora" in options else None,
        speculation=spec and Speculation(spec["draft"], spec["k"], spec.get("method")),
    )
