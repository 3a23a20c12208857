"""Which vLLM asked for a configuration, told from the configuration alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.levels import level_of
from neuron_artifacts.backends.nxdi.loaders import Speculation, VllmArguments
from neuron_artifacts.backends.nxdi.recognise import (
    Recognised,
    recognise_loader,
    speculation_of,
)
from neuron_artifacts.backends.nxdi.vllm_hash import vllm_artifact_hash
from tests.backends.nxdi.vectors import read

MODELS = read("vectors")["models"]
PLAIN = VllmArguments(2, 4, 512, "bfloat16")
CAME_WITH = [
    ("aws-fork-2.22", "2.22"), ("aws-fork-2.23", "2.23"), ("aws-fork-2.24", "2.24"),
    ("vllm-neuron-0.2", "2.26"), ("vllm-neuron-0.2", "2.27"), ("vllm-neuron-0.5", "2.28"),
    ("vllm-neuron-0.5", "2.29"),
]  # fmt: skip


def document(
    loader: str | None, sdk: str, arguments: VllmArguments | None = PLAIN, **changes: Any
) -> Any:
    call = {"model": "tiny-llama", "loader": loader, "arguments": arguments, "sdk": sdk, **changes}
    config = call.pop("config", MODELS["tiny-llama"])
    return json.loads(vllm_artifact_hash(config, **call).document)


def recognised(loader: str | None, sdk: str, **changes: Any) -> Recognised | None:
    return recognise_loader(document(loader, sdk, **changes), level_of(sdk))


@pytest.mark.parametrize(("loader", "sdk"), CAME_WITH)
def test_the_loader_that_came_with_the_sdk(loader: str, sdk: str) -> None:
    assert recognised(loader, sdk) == Recognised(loader, {}, {})
    assert recognised(loader, sdk, target="trn1n") == Recognised(loader, {}, {})


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_what_a_device_changes_is_no_override(target: str) -> None:
    found = recognised("vllm-neuron-0.5", "2.29", target=target)
    assert found == Recognised("vllm-neuron-0.5", {}, {})


@pytest.mark.parametrize("python", ["3.10", "3.12"])
def test_experts(python: str) -> None:
    mixtral = MODELS["tiny-mixtral"]
    found = recognised("aws-fork-2.24", "2.24", config=mixtral, python=python)
    assert found == Recognised("aws-fork-2.24", {}, {})


@pytest.mark.parametrize(("loader", "sdk"), CAME_WITH)
def test_of_many_overrides_only_those_that_shape_it(loader: str, sdk: str) -> None:
    override = {"fused_qkv": True, "save_sharded_checkpoint": sdk != "2.22", "seq_len": 512}
    told = {name: value for name, value in override.items() if name != "seq_len"}
    found = recognised(loader, sdk, override_neuron_config=override)
    assert found == Recognised(loader, told, {})


@pytest.mark.parametrize(
    ("loader", "sdk", "blocks"),
    [("aws-fork-2.24", "2.24", None), ("vllm-neuron-0.5", "2.29", None),
     ("vllm-neuron-0.5", "2.29", 100)],
)  # fmt: skip
def test_blocks_of_the_cache_are_options_of_vllm(loader: str, sdk: str, blocks: int | None) -> None:
    arguments = VllmArguments(2, 4, 512, "bfloat16", 32, True, blocks)
    override = {"is_block_kv_layout": True, "is_prefix_caching": True}
    found = recognised(loader, sdk, arguments=arguments, override_neuron_config=override)
    assert found is not None
    assert found.loader == loader
    assert "pa_num_blocks" not in found.override
    assert found.options == {"block_size": 32} | (
        {"num_gpu_blocks_override": blocks} if blocks else {}
    )


def test_a_draft_model_is_told_as_vllm_was() -> None:
    draft = Speculation("drafts/tiny", 5)
    arguments = VllmArguments(2, 4, 512, "bfloat16", speculation=draft)
    made = document(
        "aws-fork-2.24", "2.24", arguments, draft_config=MODELS["tiny-llama-draft"],
        override_neuron_config={"enable_eagle_speculation": True},
    )  # fmt: skip
    assert speculation_of(made) == Speculation("drafts/tiny", 5, "eagle")
    found = recognise_loader(made, level_of("2.24"))
    assert found == Recognised("aws-fork-2.24", {"enable_eagle_speculation": True}, {})
    assert speculation_of(document("aws-fork-2.24", "2.24")) is None


def test_several_that_ask_alike_are_not_told_apart() -> None:
    assert recognised("vllm-main", "2.28") is None, "AWS's fork of 2.23 asks for the same"


def test_nobody_asks_for_this() -> None:
    made = document("vllm-neuron-0.5", "2.29")
    made["neuron_config"]["max_length"] = 7
    made["neuron_config"]["tp_degree"] = "two"
    assert recognise_loader(made, level_of("2.29")) is None
    made["architectures"] = ["SomethingElse"]
    assert recognise_loader(made, level_of("2.29")) is None
    assert recognise_loader({"neuron_config": {}}, level_of("2.29")) is None
