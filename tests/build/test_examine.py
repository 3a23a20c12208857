"""Preflight of requests with several mistakes: each is told, and what is right is judged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.build.examine import examine_request
from neuron_artifacts.errors import ModelNotFoundError
from neuron_artifacts.spec import resolve_spec, without_options
from tests.doubles.environments import make_neuron_environment
from tests.models import ADDER, copy_model


def rules(**flags: Any) -> list[str]:
    spec = resolve_spec({"model": str(ADDER), **flags}, environ={})
    found = examine_request(spec, environ={"PATH": os.environ["PATH"]})
    return [finding.rule for finding in found if finding.severity == "error"]


def test_nothing_to_say_about_a_request_that_is_right(tmp_path: Path) -> None:
    assert rules(backend="cpu", target="x86-64-v3", store=str(tmp_path)) == []


def test_a_model_without_a_tokenizer_is_warned_of(tmp_path: Path) -> None:
    def warned(model: Path) -> list[str]:
        spec = resolve_spec({"model": str(model), "store": str(tmp_path)}, environ={})
        return [f.rule for f in examine_request(spec, environ=os.environ)]

    model = copy_model(tmp_path / "model")
    assert warned(model) == ["tokenizer"]
    (model / "tokenizer.json").write_text("{}")
    assert warned(model) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = str(tmp_path / "file" / "below")
    assert rules(backend="cpu", target="x86-64-v3", store=store, tp_degree=2) == [
        "tp_degree", "store",
    ]  # fmt: skip


def test_every_mistake_of_a_request_for_the_cpu(tmp_path: Path) -> None:
    found = rules(
        backend="cpu", target="x86-64-v3", store=str(tmp_path), tp_degree=4, seq_len=100000,
        context_encoding_buckets="512,128", torch_dtype="float16",
        override_neuron_config={"fused_qkv": True, "async_mode": True},
    )  # fmt: skip
    assert found == [
        "tp_degree", "fused_qkv", "async_mode", "seq_len", "context_encoding_buckets",
        "torch_dtype",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def nxdi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neuron_environment(tmp_path_factory.mktemp("venv"), "nxdi")


def test_mistakes_of_names_beside_those_of_values(nxdi: Path, tmp_path: Path) -> None:
    spec = resolve_spec(
        {
            "model": str(ADDER), "backend": "nxdi", "target": "trn1", "python": str(nxdi),
            "store": str(tmp_path), "tp_degree": 64, "vllm_loader": "nobody",
            "num_speculative_tokens": 3,
            "override_neuron_config": {"zzz": 1, "aaa": 2, "cast_type": "x"},
        },
        environ={},
    )  # fmt: skip
    found = {f.rule: f for f in examine_request(spec, environ={"PATH": ""})}
    errors = [rule for rule, finding in found.items() if finding.severity == "error"]
    assert errors == ["vllm_loader", "num_speculative_tokens", "request", "cast-type", "cores"]
    assert "no field 'aaa', 'zzz'" in found["request"].message
    assert "hbm-estimate" in found, "what can be judged is"


def test_a_cache_of_blocks_without_their_size(nxdi: Path, tmp_path: Path) -> None:
    found = rules(
        backend="nxdi", target="trn1", python=str(nxdi), store=str(tmp_path), tp_degree=64,
        override_neuron_config={"is_prefix_caching": True, "zzz": 1},
    )  # fmt: skip
    assert found == ["request", "zzz", "cores"]


def test_fields_that_transformers_neuronx_has_not(tmp_path: Path) -> None:
    python = make_neuron_environment(tmp_path / "venv", "transformers_neuronx")
    found = rules(
        backend="transformers-neuronx", target="trn1", python=str(python), store=str(tmp_path),
        max_context_length=64, override_neuron_config={"zzz": 1, "fuse_qkv": True, "aaa": 2},
    )  # fmt: skip
    assert found == ["max_context_length", "unknown-field", "unknown-field"]


def test_without_a_device_to_compile_for_nothing_more_can_be_said(nxdi: Path) -> None:
    assert rules(backend="nxdi", python=str(nxdi)) == ["request"]


def test_without_a_model_there_is_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        rules(model=str(tmp_path / "none"), backend="cpu")


def test_leaving_options_out_gives_the_request_without_them() -> None:
    flags = {"model": "m", "backend": "nxdi", "tp_degree": 8, "seq_len": 64}
    full = resolve_spec({**flags, "override_neuron_config": {"a": 1, "b": 2}}, environ={})
    assert without_options(full, ()) == full
    less = without_options(full, ("tp_degree", "b", "model", "unheard-of"))
    assert (less.tp_degree, less.seq_len, less.model, less.extra) == (1, 64, "m", {"a": 1})
    assert (less.origins["tp_degree"], less.origins["seq_len"]) == ("default", "flag")
