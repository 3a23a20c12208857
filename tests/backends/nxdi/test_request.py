"""What a request becomes: NeuronConfig's arguments as vLLM's loader of that SDK asks for them."""

from __future__ import annotations

from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.loaders import LOADERS, Speculation
from neuron_artifacts.backends.nxdi.request import make_request
from neuron_artifacts.errors import RefusedError, SpecError
from neuron_artifacts.spec import resolve_spec

CONFIG = {"torch_dtype": "bfloat16", "max_position_embeddings": 4096}


def request(*, sdk: str = "2.27", config: Any = CONFIG, plugin: str | None = None, **flags: Any):  # type: ignore[no-untyped-def]
    spec = resolve_spec({"model": "m", "backend": "nxdi", **flags}, environ={})
    return make_request(spec, config, sdk=sdk, plugin_version=plugin)


@pytest.mark.parametrize(
    ("sdk", "plugin", "loader"),
    [
        ("2.21", None, "aws-fork-2.23"),
        ("2.22", None, "aws-fork-2.22"),
        ("2.24", None, "aws-fork-2.24"),
        ("2.25", None, "aws-fork-2.24"),
        ("2.27", None, "vllm-neuron-0.2"),
        ("2.29", None, "vllm-neuron-0.5"),
        ("", None, "vllm-neuron-0.5"),
        ("2.29", "0.2.1", "vllm-neuron-0.2"),
        ("2.29", "0.4.1", "vllm-neuron-0.5"),
        ("2.29", "0.12.0", "vllm-neuron-0.5"),
    ],
)
def test_defaults_are_those_of_the_vllm_that_goes_with_the_sdk(
    sdk: str, plugin: str | None, loader: str
) -> None:
    assert request(sdk=sdk, plugin=plugin).loader == loader


def test_vllm_can_serve_what_is_asked_for() -> None:
    arguments = request(batch_size=4, seq_len=1024, tp_degree=2).arguments
    assert arguments["tp_degree"] == 2
    assert arguments["batch_size"] == 4
    assert arguments["seq_len"] == arguments["max_context_length"] == 1024
    assert arguments["is_continuous_batching"] is True
    assert arguments["on_device_sampling_config"] == {"dynamic": True, "deterministic": False}
    assert arguments["torch_dtype"] == "bfloat16"


def test_weights_travel_with_the_artifact_unless_that_is_refused() -> None:
    assert request().arguments["save_sharded_checkpoint"] is True
    refused = request(override_neuron_config={"save_sharded_checkpoint": False})
    assert refused.arguments["save_sharded_checkpoint"] is False


def test_what_is_said_wins_over_the_loader() -> None:
    arguments = request(
        seq_len=1024, max_context_length=256, context_encoding_buckets=[128, 256],
        token_generation_buckets=[512, 1024], override_neuron_config={"fused_qkv": True},
    ).arguments  # fmt: skip
    assert arguments["max_context_length"] == 256
    assert arguments["context_encoding_buckets"] == [128, 256]
    assert arguments["token_generation_buckets"] == [512, 1024]
    assert arguments["fused_qkv"] is True
    assert request(override_neuron_config={"enable_bucketing": False}).arguments[
        "enable_bucketing"
    ] is False  # fmt: skip


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": 131072}, 2048),
        ({"text_config": {"max_position_embeddings": 1024}}, 1024),
        ({}, 2048),
    ],
)
def test_the_length_defaults_to_the_models_up_to_2048(config: Any, length: int) -> None:
    assert request(config={"torch_dtype": "bfloat16", **config}).arguments["seq_len"] == length


@pytest.mark.parametrize("loader", ["vllm-neuron-0.5", "aws-fork-2.24", "vllm-main"])
def test_eagle_means_the_same_on_every_loader(loader: str) -> None:
    asked = request(
        speculative_model="d", num_speculative_tokens=4, speculative_method="eagle",
        vllm_loader=loader,
    )  # fmt: skip
    assert asked.speculation == Speculation("d", 4, "eagle")
    assert asked.arguments["speculation_length"] == 4
    assert asked.arguments["enable_fused_speculation"] is True
    assert asked.arguments["enable_eagle_speculation"] is True


def test_lora_modules_in_vllms_spelling_become_lora_config() -> None:
    override = {
        "lora_modules": [{"name": "a", "path": "/x"}, {"name": "b", "path": "/y"}],
        "target_modules": ["q_proj"], "max_lora_rank": 8,
    }  # fmt: skip
    arguments = request(override_neuron_config=override).arguments
    assert arguments["lora_config"] == {
        "max_loras": 2, "max_lora_rank": 8, "target_modules": ["q_proj"],
        "lora_ckpt_paths": {"a": "/x", "b": "/y"},
    }  # fmt: skip
    assert "lora_modules" not in arguments


def test_the_two_configurations_of_an_image_model_are_kept_apart() -> None:
    asked = request(
        override_neuron_config={"text_neuron_config": {"tp_degree": 2}, "vision_neuron_config": {}}
    )
    assert asked.multimodal == {"text_neuron_config": {"tp_degree": 2}, "vision_neuron_config": {}}
    assert not {"text_neuron_config", "vision_neuron_config"} & set(asked.arguments)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"vllm_loader": "vllm-9"}, "unknown vllm_loader"),
        ({"num_speculative_tokens": 3}, "needs speculative_model"),
        ({"speculative_model": "d"}, "needs num_speculative_tokens"),
        ({"override_neuron_config": {"lora_modules": [{"name": "a"}]}}, "name and path"),
        (
            {"override_neuron_config": {
                "lora_modules": [{"name": "a", "path": "x"}, {"name": "b", "path": "y"}],
                "max_loras": 1,
            }},
            "more than max_loras",
        ),
    ],
)  # fmt: skip
def test_contradictions_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        request(**flags)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("value", ["x", "32", 0, -1, 2.5, True, [], {"a": 1}])
@pytest.mark.parametrize("name", ["block_size", "num_gpu_blocks_override"])
def test_counts_that_are_none_are_refused(name: str, value: object, loader: str) -> None:
    override = {name: value, "is_prefix_caching": True}
    with pytest.raises(RefusedError, match=f"{name} must be a whole number") as caught:
        request(vllm_loader=loader, override_neuron_config=override)
    assert caught.value.options == (name,)


@pytest.mark.parametrize(
    ("override", "option"),
    [({"max_loras": "x"}, "max_loras"), ({"lora_config": ["x"]}, "lora_config"),
     ({"lora_config": {"max_loras": []}}, "max_loras")],
)  # fmt: skip
def test_lora_options_of_another_kind(override: dict[str, Any], option: str) -> None:
    modules = [{"name": "a", "path": "/a"}]
    with pytest.raises(RefusedError, match=option):
        request(override_neuron_config={"lora_modules": modules, **override})
    defaults = request(override_neuron_config={"lora_modules": modules, "max_loras": None})
    assert defaults.arguments["lora_config"]["max_loras"] == 1


@pytest.mark.parametrize("loader", ["vllm-neuron-0.2", "vllm-neuron-0.5"])
def test_blocks_that_are_null_need_the_option_too(loader: str) -> None:
    with pytest.raises(SpecError, match="needs --num-gpu-blocks-override"):
        request(
            vllm_loader=loader,
            override_neuron_config={"pa_num_blocks": None, "is_block_kv_layout": True},
        )
