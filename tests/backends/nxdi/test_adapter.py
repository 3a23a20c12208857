"""The nxdi backend on this side: its key, its graphs, its preflight; nothing is compiled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.vllm_hash import vllm_artifact_hash
from neuron_artifacts.build import resolve_request
from neuron_artifacts.build.examine import examine_request
from neuron_artifacts.errors import NeuronArtifactsError, RefusedError, SpecError, ToolchainError
from neuron_artifacts.spec import resolve_spec
from tests.backends.nxdi.sites import Site, write_model
from tests.cli.run import run
from tests.models import ADDER, change_weights, copy_model
from tests.toolchain.environments import NXDI, bare_environ, make_environment

Resolve = Callable[..., Any]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("venv"), NXDI)


@pytest.fixture
def resolve(python: Path) -> Resolve:
    def call(model: Path = ADDER, *, environ: Any = None, **flags: Any) -> Any:
        given = {"backend": "nxdi", "target": "trn1", "python": str(python), **flags}
        spec = resolve_spec({"model": str(model), **given}, environ={})
        return resolve_request(spec, environ=environ or bare_environ())

    return call


def test_graphs_and_versions(resolve: Resolve) -> None:
    resolved = resolve(seq_len=256, batch_size=2)
    assert [(g.phase, g.bucket) for g in resolved.graphs] == [
        ("context_encoding", 128), ("context_encoding", 256),
        ("token_generation", 128), ("token_generation", 256),
    ]  # fmt: skip
    assert {g.file for g in resolved.graphs} == {"model.pt"}
    assert resolved.toolchain["neuronx-cc"] == NXDI["neuronx-cc"]
    assert resolved.key.document["graphs"]["target"] == "trn1"
    assert resolved.neuron_config.batch_size == 2


def test_the_configuration_is_the_one_behind_vllms_hash(resolve: Resolve) -> None:
    """Field by field: the two ways to compute it agree."""
    resolved = resolve(seq_len=256, override_neuron_config={"save_sharded_checkpoint": False})
    work = resolved.work
    hashed = vllm_artifact_hash(
        resolved.model.config, model="m", sdk="2.29", loader=work.request.loader,
        arguments=work.request.vllm, override_neuron_config={"save_sharded_checkpoint": False},
        environ=dict(work.site.worker_environ),
    )  # fmt: skip
    assert json.loads(hashed.document)["neuron_config"] == work.fields


@pytest.mark.parametrize(
    ("flags", "same_graphs", "same_key"),
    [
        ({}, True, True),
        ({"store": "elsewhere", "jobs": 3}, True, True),
        ({"override_neuron_config": {"save_sharded_checkpoint": False}}, True, False),
        ({"override_neuron_config": {"fused_qkv": True}}, False, False),
        ({"token_generation_buckets": [128, 512]}, False, False),
        ({"target": "inf2"}, False, False),
        ({"target": "trn2"}, False, False),
        ({"batch_size": 2}, False, False),
        ({"vllm_loader": "vllm-main"}, False, False),
        (
            {"speculative_model": str(ADDER), "num_speculative_tokens": 3},
            False, False,
        ),
    ],
)  # fmt: skip
def test_what_changes_the_key(
    flags: dict[str, Any], same_graphs: bool, same_key: bool, resolve: Resolve
) -> None:
    base, other = resolve().key, resolve(**flags).key
    assert (other.graphs_digest == base.graphs_digest) == same_graphs
    assert (other.key == base.key) == same_key


def test_a_fine_tune_shares_the_graphs(resolve: Resolve, tmp_path: Path) -> None:
    model = copy_model(tmp_path / "m")
    base = resolve(model)
    change_weights(model)
    tuned = resolve(model)
    assert tuned.key.graphs_digest == base.key.graphs_digest
    assert tuned.key.key != base.key.key
    assert [g.digest for g in tuned.graphs] == [g.digest for g in base.graphs]


def test_another_compiler_is_another_key(resolve: Resolve, tmp_path: Path) -> None:
    newer = make_environment(tmp_path / "venv", {**NXDI, "neuronx-cc": "2.25.1.0"})
    assert resolve(python=str(newer)).key.graphs_digest != resolve().key.graphs_digest
    moved = make_environment(tmp_path / "moved", NXDI)
    assert resolve(python=str(moved)).key.key == resolve().key.key


def test_flags_of_the_environment_that_reach_the_compiler(resolve: Resolve) -> None:
    base = resolve().key
    assert resolve(environ=bare_environ(NEURON_CC_FLAGS="-O3")).key.key != base.key
    assert resolve(environ=bare_environ(NEURON_CC_FLAGS="--cache_dir=/x")).key.key == base.key


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"target": "native"}, RefusedError, "has no Neuron device"),
        ({"target": "x86-64-v3"}, SpecError, "no Neuron device"),
        ({"override_neuron_config": {"fused_kqv": True}}, RefusedError, "no field 'fused_kqv'"),
        ({"override_neuron_config": {"lora_config": 5}}, RefusedError, "must be an object, and"),
        (
            {"override_neuron_config": {"token_generation_batches": ["a", 1]}},
            RefusedError,
            "unusable value",
        ),
        ({"python": "/nowhere/python"}, ToolchainError, "/nowhere/python"),
        ({"vllm_loader": "x"}, SpecError, "unknown vllm_loader"),
        ({"speculative_model": str(ADDER)}, SpecError, "num_speculative_tokens"),
    ],
)
def test_refusals(
    flags: dict[str, Any], error: type[NeuronArtifactsError], message: str, resolve: Resolve
) -> None:
    with pytest.raises(error, match=message):
        resolve(**flags)


def test_adapters_are_in_the_key_by_content(resolve: Resolve, tmp_path: Path) -> None:
    adapter = tmp_path / "a"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8, "target_modules": ["q_proj"]}')
    (adapter / "adapter_model.safetensors").write_bytes(b"1")

    def key(folder: Path) -> str:
        config = {
            "max_loras": 1,
            "target_modules": ["q_proj"],
            "lora_ckpt_paths": {"a": str(folder)},
        }
        return str(resolve(override_neuron_config={"lora_config": config}).key.key)

    base = key(adapter)
    assert key(Path(shutil.copytree(adapter, tmp_path / "b"))) == base
    (adapter / "adapter_model.safetensors").write_bytes(b"2")
    assert key(adapter) != base


def test_preflight_names_everything_and_compile_refuses(python: Path, tmp_path: Path) -> None:
    flags = ["--backend", "nxdi", "--target", "trn1", "--python", python, "--tp-degree", "64"]
    flags += ["--context-encoding-buckets", "4096"]
    shown = run("compile", ADDER, *flags, "--preflight-only", "--json", cwd=tmp_path)
    assert shown.code == 7
    errors = {f["rule"] for f in shown.data["findings"] if f["severity"] == "error"}
    assert {"cores", "buckets-limit"} <= errors
    refused = run("compile", ADDER, *flags, cwd=tmp_path)
    assert refused.code == 7
    assert all(rule in refused.err for rule in errors)
    assert not list((tmp_path / "neuron-compiled-artifacts").glob("*"))


def test_compile_tells_all_that_the_preflight_tells(python: Path, tmp_path: Path) -> None:
    flags = ["--backend", "nxdi", "--target", "trn1", "--python", python, "--tp-degree", "64"]
    override = {"lora_config": 5, "on_device_sampling_config": {"topk": 1}, "fused_qkv": "false"}
    flags += ["--override-neuron-config", json.dumps(override)]
    shown = run("compile", ADDER, *flags, "--preflight-only", "--json", cwd=tmp_path)
    told = [f["message"] for f in shown.data["findings"] if f["severity"] == "error"]
    assert len(told) == 4
    for action in ([], ["--dry-run"]):
        refused = run("compile", ADDER, *flags, *action, cwd=tmp_path)
        assert (refused.code, shown.code) == (7, 7)
        assert all(message in refused.err for message in told)
        assert refused.err.count("error: ") == 1


@pytest.mark.parametrize("extra", [[], ["--speculative-method", "eagle"]])
def test_wrong_options_alone_are_wrong_usage(
    python: Path, tmp_path: Path, extra: list[str]
) -> None:
    flags = ["--backend", "nxdi", "--target", "trn1", "--python", python, "--vllm-loader", "x"]
    refused = run("compile", ADDER, *flags, *extra, cwd=tmp_path)
    shown = run("compile", ADDER, *flags, *extra, "--preflight-only", cwd=tmp_path)
    assert (refused.code, shown.code) == (2, 2)
    assert ("speculative_method" in refused.err) == bool(extra)


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"override_neuron_config": {"is_prefix_caching": True, "block_size": 32}}, ["prefix"]),
        ({"override_neuron_config": {"text_neuron_config": {"is_prefix_caching": True}}},
         ["prefix"]),
        ({"speculative_model": str(ADDER), "num_speculative_tokens": 3}, ["fused speculation"]),
        ({"override_neuron_config": {
            "is_medusa": True, "chunked_prefill_config": {"max_num_seqs": 2}}},
         ["chunked prefill", "Medusa"]),
    ],
)  # fmt: skip
def test_what_image_models_have_not_is_told_with_the_rest(
    flags: dict[str, Any], what: list[str], site: Site, python: Path, tmp_path: Path
) -> None:
    model = write_model(
        tmp_path / "model", architectures=["Llama4ForConditionalGeneration"],
        torch_dtype="bfloat16", vision_config={},
        text_config={"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2},
    )  # fmt: skip
    given = {"backend": "nxdi", "target": "trn1", "python": str(site.python), **flags}
    spec = resolve_spec({"model": str(model), "tp_degree": 64, **given}, environ={})
    found = examine_request(spec, environ=bare_environ())
    errors = [finding.message for finding in found if finding.severity == "error"]
    assert [any(word in error for error in errors) for word in what] == [True] * len(what), errors
    assert any("cores" in error for error in errors), errors


def test_what_the_library_itself_refuses_is_a_finding(site: Site, tmp_path: Path) -> None:
    model = write_model(
        tmp_path / "model", architectures=["Llama4ForConditionalGeneration"], vision_config={},
        torch_dtype="bfloat16", text_config={"hidden_size": 16},
    )  # fmt: skip
    flags = ["--backend", "nxdi", "--target", "trn1", "--python", site.python, "--seq-len", "32"]
    shown = run("compile", model, *flags, "--preflight-only", "--json", cwd=tmp_path)
    assert shown.code == 7
    assert "AssertionError: Config must define" in shown.data["findings"][0]["message"]
    refused = run("compile", model, *flags, cwd=tmp_path)
    assert (refused.code, "Config must define" in refused.err) == (7, True)


def test_what_only_the_library_knows_is_asked_of_it(site: Site, resolve: Resolve) -> None:
    resolved = resolve(
        python=str(site.python), override_neuron_config={"kv_quant_config": {"a": 1}},
        environ=site.environ(),
    )  # fmt: skip
    assert resolved.work.fields["kv_quant_config"] == {"a": 1}


def test_dry_run_and_lookup_need_no_device(python: Path, tmp_path: Path) -> None:
    flags = ["--backend", "nxdi", "--target", "trn2", "--python", python, "--seq-len", "256"]
    dry = run("compile", ADDER, *flags, "--dry-run", "--json", cwd=tmp_path)
    assert (dry.code, dry.data["verdict"]) == (0, "miss")
    key = run("key", ADDER, *flags, "--json", cwd=tmp_path)
    assert key.data["key"] == dry.data["key"]
    assert run("cache-lookup", ADDER, *flags, cwd=tmp_path).code == 3
