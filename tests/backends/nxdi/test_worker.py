"""The nxdi worker in a real process against the library's double: what it writes and refuses."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import CompileError, CompileInterruptedError
from neuron_artifacts.worker import WorkerEvent, run_worker
from tests.backends.nxdi.sites import GRAPHS, WORKER, Site, write_model
from tests.worker.workers import processes, wait_until

SHARDS = [f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in (0, 1)]


def test_compile_writes_graphs_weights_and_the_text_that_is_hashed(site: Site) -> None:
    result = site.run("compile")
    assert site.files() == ["model.pt", "neuron_config.json", *SHARDS]
    assert [(graph["phase"], graph["bucket"]) for graph in result["graphs"]] == GRAPHS
    saved = (site.output / "neuron_config.json").read_text()
    assert saved == result["document"] + "\n"
    digest = hashlib.md5(result["document"].encode()).hexdigest()
    assert result["md5"] == result["saved_md5"] == digest
    assert result["version"] == "0.9.17334"
    assert result["logical_nc_config"] == 1


def test_infinity_is_kept_as_the_library_writes_it(site: Site) -> None:
    document = site.run("compile")["document"]
    assert '"quantize_clamp_bound": Infinity' in document
    assert site.saved()["neuron_config"]["quantize_clamp_bound"] == float("inf")


def test_graphs_are_told_once_each_and_not_from_an_older_run(site: Site) -> None:
    for _ in range(2):
        site.events.clear()
        site.run("compile")
        assert sorted(site.graph_events("compiling")) == sorted(GRAPHS)
        assert sorted(site.graph_events("compiled")) == sorted(GRAPHS)


def test_what_an_older_run_left_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library empties its folder too, but only once it begins to trace."""
    monkeypatch.setenv("BASE_COMPILE_WORK_DIR", str(tmp_path / "work"))
    names = runpy.run_path(str(WORKER))
    graph = names["Graph"]("", "token_generation_model", 0, [4, 128])
    (tmp_path / "work" / graph.folder).mkdir(parents=True)
    (tmp_path / "work" / graph.folder / "graph.neff").touch()
    told: list[tuple[str, dict[str, Any]]] = []

    def emit(event: str, **fields: Any) -> None:
        told.append((event, fields))

    with names["Progress"]([graph], emit):
        pass
    assert told == []
    with names["Progress"]([graph], emit):
        (tmp_path / "work" / graph.folder).mkdir(parents=True)
        (tmp_path / "work" / graph.folder / "graph.neff").touch()
    assert [(fields["bucket"], fields["state"]) for _, fields in told] == [
        (128, "compiling"), (128, "compiled"),
    ]  # fmt: skip


def test_a_graph_that_was_not_compiled_is_not_told_as_compiled(site: Site) -> None:
    site.run("compile")
    site.events.clear()
    with pytest.raises(CompileError):
        site.run("compile", "hbm")
    assert site.graph_events("compiled") == []
    assert len(site.graph_events("compiling")) == 1


def test_nothing_is_compiled_in_the_folder_that_every_compile_wipes(site: Site) -> None:
    site.run("compile")
    assert sorted(path.name for path in (site.folder / "job/compile").iterdir()) == [
        "context_encoding_model", "token_generation_model",
    ]  # fmt: skip
    command = (
        f"import runpy; runpy.run_path({str(WORKER)!r})['run']({{'action': 'compile'}}, print)"
    )
    environ = {k: v for k, v in os.environ.items() if k != "BASE_COMPILE_WORK_DIR"}
    bare = subprocess.run(
        [site.python, "-c", command], capture_output=True, text=True, env=environ, check=False
    )
    assert "BASE_COMPILE_WORK_DIR is not set" in bare.stderr


def test_weights_alone_for_graphs_that_exist(site: Site) -> None:
    site.run("compile")
    before, graphs = site.compiles(), (site.output / "model.pt").read_bytes()
    shards = [(site.output / name).read_bytes() for name in SHARDS]
    shutil.rmtree(site.output / "weights")
    assert site.run("shard")["md5"] == site.run("hash")["md5"]
    assert [(site.output / name).read_bytes() for name in SHARDS] == shards
    tuned = write_model(site.folder / "tuned", weight=7.0, initializer_range=0.5)
    result = site.run("shard", more={"model": str(tuned)})
    assert [(site.output / name).read_bytes() for name in SHARDS] != shards
    assert result["md5"] == result["saved_md5"]
    assert site.saved()["initializer_range"] == 0.5
    assert site.compiles() == before
    assert (site.output / "model.pt").read_bytes() == graphs


def test_weights_alone_need_graphs(site: Site) -> None:
    with pytest.raises(CompileError, match=r"lacks model\.pt"):
        site.run("shard")


def test_weights_alone_of_a_release_that_shards_while_it_compiles(site: Site) -> None:
    """NxD Inference 0.1 has no ``shard_weights``."""
    site.run("compile", "unsplit")
    shards = [(site.output / name).read_bytes() for name in SHARDS]
    shutil.rmtree(site.output / "weights")
    site.run("shard", "unsplit")
    assert [(site.output / name).read_bytes() for name in SHARDS] == shards
    shutil.rmtree(site.output / "weights")
    site.run("shard", "unsplit", save_sharded_checkpoint=False)
    assert not (site.output / "weights").exists()


def test_graphs_are_told_before_they_are_compiled(site: Site) -> None:
    told = site.run("hash", more={"graphs": True})
    assert "graphs" not in site.run("hash")
    assert site.compiles() == []
    result = site.run("compile")
    assert told["graphs"] == result["graphs"]
    assert told["md5"] == result["md5"]


def test_weights_alone_cannot_have_a_layout_that_tracing_decides(site: Site) -> None:
    site.run("compile")
    option: dict[str, Any] = {
        "NXD_LAYOUT_TRANSFORMATION_OPTIONS": "NXD_LAYOUT_ON_CPU_AND_SERIALIZE"
    }
    with pytest.raises(CompileError, match="NXD_LAYOUT_TRANSFORMATION_OPTIONS"):
        site.run("shard", environ=option)
    site.run("compile", environ=option)


@pytest.mark.parametrize("field", ["save_sharded_checkpoint", "skip_sharding"])
def test_no_shards_where_they_are_refused(site: Site, field: str) -> None:
    fields: dict[str, Any] = {field: field == "skip_sharding"}
    site.run("compile", **fields)
    assert site.files() == ["model.pt", "neuron_config.json"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_shard_is_noticed(site: Site, rank: int) -> None:
    with pytest.raises(CompileError, match=f"lacks weights/tp{rank}_sharded"):
        site.run("compile", f"lost_shard={rank}")


def test_a_node_shards_its_own_ranks(site: Site) -> None:
    site.run("compile", tp_degree=8, world_size=8, start_rank_id=4, local_ranks_size=2)
    assert [name for name in site.files() if "weights" in name] == [
        f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in (4, 5)
    ]


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"tp_degre": 2}, {}, "NeuronConfig of NxD Inference 0.9.17334 has no argument tp_degre"),
    ({"kv_cache_tiling": True}, {}, "has no argument kv_cache_tiling"),  # computed, never taken
    ({"on_device_sampling_config": {"topk": 1}}, {}, "on_device_sampling_config.topk"),
    ({"context_encoding_buckets": [8, 64]}, {}, "should be <= 16"),
    ({"max_context_length": 64}, {}, "cannot be more than max_length"),
    ({"quantized": True}, {}, "quantized_checkpoints_path is required"),
    ({"is_medusa": True, "async_mode": True}, {}, "Medusa Decoding"),
    ({"lora_config": {"lora_ckpt_paths": {"a": "/nowhere"}}}, {}, "LoRA adapter path /nowhere"),
    ({"lora_config": {"rank": 8}}, {}, "unexpected keyword argument 'rank'"),
    ({}, {"architecture": "BloomForCausalLM"}, "no class for BloomForCausalLM; it has llama,"),
    ({}, {"architecture": "LlamaForSequenceClassification"}, "no class for LlamaForSequence"),
    ({}, {"action": "compose"}, "unknown action 'compose'"),
]


@pytest.mark.parametrize(("fields", "more", "told"), REFUSED)
def test_what_is_refused(
    site: Site, fields: dict[str, Any], more: dict[str, Any], told: str
) -> None:
    request = {**site.request("compile", fields), **more}
    with pytest.raises(CompileError) as caught:
        run_worker(
            site.python, WORKER, request, directory=site.folder / "job", environ=site.environ()
        )
    assert told in str(caught.value)
    assert not site.compiles()


def test_a_model_without_a_needed_field_or_architecture(site: Site) -> None:
    write_model(site.folder / "odd", architectures=[])
    with pytest.raises(CompileError, match="names no architectures"):
        site.run("compile", more={"model": str(site.folder / "odd")})
    config = json.loads((site.model / "config.json").read_text())
    del config["hidden_size"]
    (site.model / "config.json").write_text(json.dumps(config))
    with pytest.raises(CompileError, match=r"Config must define \['hidden_size'\]"):
        site.run("compile")


def test_the_hash_ignores_what_the_library_drops_and_says_so(site: Site) -> None:
    plain, odd = site.run("hash"), site.run("hash", tp_degre=4)
    assert odd == plain
    (warning,) = [event for event in site.events if event.name == "warning"]
    assert "tp_degre" in warning.fields["text"]


def test_the_hash_is_of_the_names_that_were_given(site: Site) -> None:
    """And what was compiled from a folder says the same."""
    names: dict[str, Any] = {"name_or_path": "org/model"}
    hashed = site.run("hash", more=names)
    assert json.loads(hashed["document"])["_name_or_path"] == "org/model"
    assert site.run("compile", "old", more=names)["saved_md5"] == hashed["md5"]
    assert site.run("hash")["md5"] != hashed["md5"]


@pytest.mark.parametrize("seed", ["1", "2", "random"])
def test_lora_modules_have_one_order(site: Site, seed: str) -> None:
    """NxD Inference makes the list from a set; under three seeds it would have several orders."""
    adapter = site.folder / "adapter"
    adapter.mkdir()
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": modules}))
    config: dict[str, Any] = {
        "lora_config": {"max_loras": 1, "lora_ckpt_paths": {"a": str(adapter)}}
    }
    known = site.run("hash", **config)["document"]
    assert set(json.loads(known)["neuron_config"]["lora_config"]["target_modules"]) == set(modules)
    again = site.run("hash", environ={"PYTHONHASHSEED": seed}, **config)["document"]
    assert again == known


@pytest.mark.parametrize("method", ["draft", "eagle"])
def test_speculation_with_a_draft(site: Site, method: str) -> None:
    draft = write_model(site.folder / "draft", hidden_size=4)
    fields: dict[str, Any] = {
        "enable_fused_speculation": True, "speculation_length": 4,
        "enable_eagle_speculation": method == "eagle",
        "on_device_sampling_config": {"dynamic": True},
    }  # fmt: skip
    more: dict[str, Any] = {"draft": {"model": str(draft), "name_or_path": "org/draft"}}
    result = site.run("compile", **fields, more=more)
    assert {graph["phase"] for graph in result["graphs"]} == {
        "context_encoding_model", "fused_speculation_model",
    }  # fmt: skip
    assert result["md5"] == result["saved_md5"] == site.run("hash", **fields, more=more)["md5"]
    fused = site.saved()["fused_spec_config"]
    assert fused["draft_model_path"] == fused["draft_config"]["_name_or_path"] == "org/draft"
    assert fused["worker_cls"]["__name__"] == "NeuronLlamaModel"
    inner = fused["draft_config"]["neuron_config"]
    assert (inner["enable_fused_speculation"], inner["is_eagle_draft"]) == (
        False, method == "eagle",
    )  # fmt: skip
    assert inner["speculation_length"] == (4 if method == "eagle" else 0)
    assert fused["draft_config"]["hidden_size"] == 4


def test_a_draft_may_differ_from_the_target(site: Site) -> None:
    more: dict[str, Any] = {"draft": {"model": str(site.model), "neuron_config": {"tp_degree": 1}}}
    fields: dict[str, Any] = {
        "enable_fused_speculation": True,
        "on_device_sampling_config": {"dynamic": True},
    }
    document = json.loads(site.run("hash", **fields, more=more)["document"])
    assert document["fused_spec_config"]["draft_config"]["neuron_config"]["tp_degree"] == 1
    assert document["neuron_config"]["tp_degree"] == 2


def test_what_nothing_reads_is_refused_and_not_hashed(site: Site) -> None:
    """``draft`` without fused speculation, and two configurations for a model that has one."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"draft": {"model": str(site.model)}}, "a draft is read with enable_fused_speculation"),
        ({"vision_neuron_config": {"tp_degree": 1}}, "takes no vision_neuron_config"),
    ]
    plain = site.run("hash")
    for more, told in cases:
        with pytest.raises(CompileError, match=told):
            site.run("compile", more=more)
        site.events.clear()
        assert site.run("hash", more=more) == plain
        assert [told in e.fields["text"] for e in site.events if e.name == "warning"] == [True]


def test_quantised_whole_or_not_at_all(site: Site) -> None:
    path = site.folder / "quantised"
    fields: dict[str, Any] = {"quantized": True, "quantized_checkpoints_path": str(path)}
    with pytest.raises(CompileError, match="not supported"):
        site.run("compile", "quantize", **fields, more={"quantize": True})
    assert not path.exists()
    site.run("compile", **fields, more={"quantize": True})
    assert [file.name for file in path.iterdir()] == ["model.safetensors"]
    assert not path.with_name("quantised.partial").exists()
    assert site.saved()["neuron_config"]["quantized_checkpoints_path"] == str(path)
    site.run("compile", **fields)
    shutil.rmtree(path)
    with pytest.raises(CompileError, match="Quantized checkpoint file not found"):
        site.run("compile", **fields)


def test_experts_have_configurations_of_their_own(site: Site) -> None:
    write_model(site.model, architectures=["MixtralForCausalLM"])
    fields: dict[str, Any] = {
        "router_config": {"act_fn": "sigmoid"}, "blockwise_matmul_config": {"block_size": 256},
        "glu_type": "swiglu",
    }  # fmt: skip
    known = json.loads(site.run("compile", **fields)["document"])["neuron_config"]
    assert known["router_config"] == {"act_fn": "sigmoid", "dtype": "float32"}
    assert known["blockwise_matmul_config"]["block_size"] == 256
    assert known["glu_type"] == "swiglu"
    site.run("compile", router_act_fn="sigmoid")  # taken, though the library calls it unexpected
    with pytest.raises(CompileError, match=r"blockwise_matmul_config\.size"):
        site.run("compile", blockwise_matmul_config={"size": 1})


@pytest.mark.parametrize(
    "name",
    ["LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "MistralForCausalLM"],
)
def test_the_class_follows_the_architecture(site: Site, name: str) -> None:
    """Mistral has no class of its own in most releases: vLLM takes Llama's."""
    is_moe = "glu_type" in site.run("hash", more={"architecture": name})["document"]
    assert is_moe == (name == "Qwen3MoeForCausalLM")


def test_a_model_of_two_parts(site: Site) -> None:
    config: dict[str, Any] = {
        "text_config": {"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 97}
    }
    write_model(
        site.model, architectures=["Llama4ForConditionalGeneration"], vision_config={}, **config
    )
    more: dict[str, Any] = {"text_neuron_config": {"fused_qkv": True}, "name_or_path": "org/model"}
    result = site.run("compile", more=more)
    parts = ("text_model", "vision_model")
    assert site.files() == [
        "neuron_config.json",
        *(f"{part}/{name}" for part in parts for name in ("model.pt", *SHARDS)),
    ]
    assert ("vision_encoder_model", 88) in [(g["phase"], g["bucket"]) for g in result["graphs"]]
    assert len(site.graph_events("compiled")) == len(GRAPHS) + 1
    saved = site.saved()
    assert saved["text_config"]["neuron_config"]["fused_qkv"] is True
    assert saved["vision_config"]["neuron_config"]["fused_qkv"] is False
    assert saved["_name_or_path"] == saved["text_config"]["_name_or_path"] == "org/model"
    shards = {name: (site.output / name).read_bytes() for name in site.files() if "tp" in name}
    for part in parts:
        shutil.rmtree(site.output / part / "weights")
    site.run("shard", more=more)
    assert {name: (site.output / name).read_bytes() for name in shards} == shards
    (site.output / "vision_model/model.pt").unlink()
    with pytest.raises(CompileError, match=r"lacks vision_model/model\.pt"):
        site.run("shard", more=more)


@pytest.mark.parametrize("tp_degree", [2, 4])
def test_older_releases_find_their_groups(site: Site, tp_degree: int) -> None:
    """NxD up to SDK 2.27 ends with a KeyError for four ranks on trn1 if nobody tells it."""
    site.run("compile", "old", tp_degree=tp_degree, environ={"LOCAL_WORLD_SIZE": "4"})
    environ = site.environ("old", NEURON_PLATFORM_TARGET_OVERRIDE="trn1")
    environ.pop("LOCAL_WORLD_SIZE", None)
    run_worker(
        site.python, WORKER, site.request("compile", {"tp_degree": tp_degree}),
        directory=site.folder / "job", environ=environ,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("knobs", "cause", "attempts"),
    [
        ("hbm", "device_memory", 1),
        ("instructions", "too_many_instructions", 1),
        ("operator", "unsupported_operator", 1),
        ("internal", "internal_error", 1),
        ("oom", "host_memory", 2),
        ("kill", "host_memory", 2),
    ],
)
def test_each_failure_leaves_half_a_compile_that_validate_knows(
    site: Site, knobs: str, cause: str, attempts: int
) -> None:
    """``neuron_config.json`` lies there before anything is compiled."""
    with pytest.raises(CompileError) as caught:
        site.run("compile", knobs)
    assert caught.value.cause == cause
    assert len(site.compiles()) == attempts
    assert site.files() == ["neuron_config.json"]
    with pytest.raises(CompileError, match=r"model\.pt does not exist"):
        site.run("validate", "cores=2", more={"load": True})


def test_an_interrupted_compile_leaves_no_compiler(site: Site) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    terminated: list[int] = []

    def terminate(event: WorkerEvent) -> None:
        """Somebody ends the worker itself once its compiler runs."""
        if event.name == "graph" and not terminated:
            assert wait_until(lambda: bool(processes(mark)))
            found = [p for p in processes(str(WORKER)) if b"bootstrap" in arguments(p)]
            terminated.extend(found)
            os.kill(found[-1], signal.SIGTERM)

    def arguments(pid: int) -> bytes:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1]

    with pytest.raises(CompileInterruptedError):
        run_worker(
            site.python, WORKER, site.request("compile", {}), directory=site.folder / "job",
            environ=site.environ(f"slow={mark}"), observe=terminate,
        )  # fmt: skip
    assert terminated
    assert not processes(mark)
