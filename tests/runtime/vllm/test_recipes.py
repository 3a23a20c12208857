"""The variables and flags that each generation of vLLM gets for an artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import CorruptError, IncompatibleError, UsageError
from neuron_artifacts.runtime.vllm.recipes import Recipe, Site, make_recipe
from neuron_artifacts.runtime.vllm.served import GENERATIONS, loader_of, read_served
from tests.runtime.vllm.manifests import make_manifest, make_served

DIRECTORY = Path("/artifacts/a")
FORKS = [name for name in GENERATIONS if name.startswith("aws-fork-")]
PLUGINS = ["vllm-neuron-0.2", "vllm-neuron-0.5"]
NXDI = [*FORKS, "vllm-main", *PLUGINS]


def recipe(loader: str | None = None, *, site: Site | None = None, **changes: Any) -> Recipe:
    return make_recipe(make_served(**changes), DIRECTORY, loader, site or Site())


def flag(made: Recipe, name: str) -> str | None:
    """The value of a flag, which appears once; ``""`` where it has none."""
    assert made.arguments.count(name) <= 1
    if name not in made.arguments:
        return None
    following = (*made.arguments, "--")[made.arguments.index(name) + 1]
    return "" if following.startswith("--") else following


def override(made: Recipe) -> Any:
    text = flag(made, "--override-neuron-config")
    if text is not None:
        return json.loads(text)
    return json.loads(flag(made, "--additional-config") or "{}").get("override_neuron_config")


@pytest.mark.parametrize("loader", NXDI)
def test_every_loader_of_nxd_inference_gets_the_artifact_and_its_sizes(loader: str) -> None:
    made = recipe(loader)
    assert made.environ["NEURON_COMPILED_ARTIFACTS"] == "/artifacts/a"
    assert made.environ["VLLM_NEURON_FRAMEWORK"] == "neuronx-distributed-inference"
    assert "NXD_LAYOUT_TRANSFORMATION_OPTIONS" in made.unset, "it rewrites the shards in place"
    assert made.arguments[:2] == ("-m", "vllm.entrypoints.openai.api_server")
    assert flag(made, "--model") == "/artifacts/a"
    assert flag(made, "--served-model-name") == "llama"
    assert flag(made, "--tensor-parallel-size") == "2"
    assert flag(made, "--max-num-seqs") == "4"
    assert flag(made, "--max-model-len") == "2048"
    assert flag(made, "--dtype") == "bfloat16"
    assert flag(made, "--device") == (None if loader in PLUGINS else "neuron")


def test_the_loader_an_artifact_was_built_for_is_the_default() -> None:
    assert recipe(serve={"loader": "aws-fork-2.23"}).loader == "aws-fork-2.23"
    assert recipe("vllm-main", serve={"loader": "aws-fork-2.23"}).loader == "vllm-main"
    assert recipe(backend="optimum", serve={"loader": "optimum"}).loader == "optimum"
    assert recipe(backend="vllm-neuron").loader == "vllm-neuron-0.21"


@pytest.mark.parametrize("loader", NXDI)
def test_overrides_are_passed_as_each_loader_takes_them(loader: str) -> None:
    given = {
        "sequence_parallel_enabled": True,
        "context_encoding_buckets": [128, 2048],
        "on_device_sampling_config": {"dynamic": True},
    }
    made = recipe(loader, serve={"override_neuron_config": given})
    if loader in PLUGINS:
        assert override(made) == given
    else:
        nested = given.pop("on_device_sampling_config")
        assert nested
        assert override(made) == given, "a nested one would replace an object by a dict"


@pytest.mark.parametrize("loader", [*FORKS, "vllm-main"])
def test_forks_always_get_an_override(loader: str) -> None:
    """Before SDK 2.24 they iterate over it without looking whether it is there."""
    assert override(recipe(loader)) == {}


def test_chunked_prefill_reaches_the_fork_that_makes_an_object_of_it() -> None:
    given = {"chunked_prefill_config": {"max_num_seqs": 8}, "is_chunked_prefill": True}
    assert override(recipe("aws-fork-2.24", serve={"override_neuron_config": given})) == given


@pytest.mark.parametrize(
    ("loader", "options", "fields", "wanted"),
    [
        ("vllm-neuron-0.5", {}, {}, ["--no-enable-prefix-caching", "--num-gpu-blocks-override=4"]),
        (
            "vllm-neuron-0.5",
            {"enable_prefix_caching": True, "block_size": 32, "num_gpu_blocks_override": 256},
            {"is_block_kv_layout": True, "is_prefix_caching": True},
            ["--enable-prefix-caching", "--block-size=32", "--num-gpu-blocks-override=256"],
        ),
        ("vllm-neuron-0.2", {"num_gpu_blocks_override": 9}, {}, ["--num-gpu-blocks-override=9"]),
        (
            "aws-fork-2.24", {"block_size": 32}, {"is_prefix_caching": True,
             "is_block_kv_layout": True}, ["--enable-prefix-caching", "--block-size=32"],
        ),
        ("aws-fork-2.24", {}, {}, []),
    ],
)  # fmt: skip
def test_cache_blocks(
    loader: str, options: dict[str, Any], fields: dict[str, Any], wanted: list[str]
) -> None:
    made = recipe(loader, serve={"override_neuron_config": options}, fields=fields)
    shown = [
        f"{name}={value}" if value else name
        for name in (
            "--enable-prefix-caching", "--no-enable-prefix-caching", "--block-size",
            "--num-gpu-blocks-override",
        )
        if (value := flag(made, name)) is not None
    ]  # fmt: skip
    if loader == "vllm-neuron-0.2":
        wanted = ["--no-enable-prefix-caching", *wanted]
    assert shown == wanted
    assert not set(override(made) or {}) & set(options)


SPECULATION = {"model": "/draft", "num_tokens": 5, "method": "eagle"}


@pytest.mark.parametrize("loader", NXDI)
def test_speculation_ends_before_the_last_position(loader: str) -> None:
    made = recipe(loader, serve={"speculation": SPECULATION}, fields={"speculation_length": 5})
    assert flag(made, "--max-model-len") == "2043"
    wanted = {"seq_len": 2048, "max_context_length": 2048}
    assert override(made).items() >= wanted.items(), "buckets may end at the full length"
    if loader in FORKS:
        assert flag(made, "--speculative-model") == "/draft"
        assert flag(made, "--num-speculative-tokens") == "5"
        assert flag(made, "--speculative-max-model-len") == "2043"
    else:
        assert json.loads(flag(made, "--speculative-config") or "") == {
            "model": "/draft", "num_speculative_tokens": 5, "max_model_len": 2043,
            "method": "eagle",
        }  # fmt: skip


def test_speculation_over_a_block_layout_is_stated_only() -> None:
    """The number of blocks follows from the length, so that must stay what it was."""
    fields = {"speculation_length": 5, "is_block_kv_layout": True}
    made = recipe("vllm-neuron-0.5", serve={"speculation": SPECULATION}, fields=fields)
    assert flag(made, "--max-model-len") == "2048"
    assert any("2043 tokens" in note for note in made.notes)


@pytest.mark.parametrize("loader", NXDI)
def test_a_shorter_limit_for_prompts(loader: str) -> None:
    made = recipe(loader, max_context_length=512)
    if loader == "vllm-neuron-0.5":
        config = json.loads(flag(made, "--additional-config") or "")
        assert config == {"max_prompt_length": 512}
    else:
        assert any("512 tokens" in note for note in made.notes)


def test_lora_modules_become_flags() -> None:
    modules = [{"name": "sql", "path": "/loras/sql"}, {"name": "fr", "path": "/loras/fr"}]
    given = {"lora_modules": modules, "max_loras": 2, "target_modules": ["q_proj"]}
    made = recipe("aws-fork-2.24", serve={"override_neuron_config": given},
                  fields={"lora_config": {"max_lora_rank": 64}})  # fmt: skip
    assert flag(made, "--max-loras") == "2"
    assert flag(made, "--max-lora-rank") == "64"
    place = made.arguments.index("--lora-modules")
    assert made.arguments[place + 1 : place + 3] == ("sql=/loras/sql", "fr=/loras/fr")
    assert override(made) == {"target_modules": ["q_proj"]}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {}),
        ({"logical_nc_config": 1, "on_device_sampling_config": {"dynamic": True}}, {}),
        ({"logical_nc_config": 2}, {"NEURON_LOGICAL_NC_CONFIG": "2"}),
        ({"on_device_sampling_config": None}, {"NEURON_ON_DEVICE_SAMPLING_DISABLED": "1"}),
        ({"quantized": True, "quantization_dtype": "int8"}, {}),
        ({"quantized": False, "quantization_dtype": "f8e4m3"}, {}),
        (
            {"quantized": True, "quantization_dtype": "F8E4M3"},
            {"XLA_HANDLE_SPECIAL_SCALAR": "1", "UNSAFE_FP8FNCAST": "1"},
        ),
        ({"kv_cache_quant": True}, {"XLA_HANDLE_SPECIAL_SCALAR": "1", "UNSAFE_FP8FNCAST": "1"}),
    ],
)
def test_variables_follow_from_the_configuration(
    fields: dict[str, Any], wanted: dict[str, str]
) -> None:
    environ = dict(recipe("vllm-neuron-0.5", fields=fields).environ)
    del environ["NEURON_COMPILED_ARTIFACTS"], environ["VLLM_NEURON_FRAMEWORK"]
    assert environ == wanted


NODES = {"tp_degree": 64, "fields": {"world_size": 64}}


@pytest.mark.parametrize(("rank", "start"), [(None, 32), (0, 0), (1, 32)])
def test_a_node_of_several(rank: int | None, start: int) -> None:
    layout = {"start_rank_id": 32, "local_ranks_size": 32}
    site = Site("0.0.0.0", 80, rank=rank, master="10.0.0.1")
    made = recipe("aws-fork-2.24", site=site, layout=layout, shards=range(64), **NODES)
    assert made.environ["ENABLE_NEURON_MULTI_NODE"] == "true"
    assert made.environ["WORLD_SIZE"] == "2", "processes, not cores"
    assert made.environ["NEURON_RANK_ID"] == str(start // 32)
    assert made.environ["NEURON_LOCAL_TP"] == "32"
    assert made.environ["NEURON_RT_ROOT_COMM_ID"] == "10.0.0.1:63423"
    assert made.environ["MASTER_ADDR"] == "10.0.0.1"
    assert made.environ["MASTER_PORT"] == "65111", "torch's env:// takes both"
    assert override(made) == {
        "world_size": 64, "tp_degree": 64, "local_ranks_size": 32, "start_rank_id": start,
    }  # fmt: skip
    assert flag(made, "--tensor-parallel-size") is None
    assert bool(made.notes) == (start == 32)
    serves = made.arguments[:2] == ("-m", "vllm.entrypoints.openai.api_server")
    assert serves == (start == 0), "the other nodes run a worker"
    assert [flag(made, name) for name in ("--host", "--port")] == (
        ["0.0.0.0", "80"] if serves else [None, None]
    )


def test_where_workers_meet_may_be_told() -> None:
    layout = {"start_rank_id": 0, "local_ranks_size": 32}
    site = Site(master="a", master_port="4000")
    made = recipe("aws-fork-2.24", site=site, layout=layout, shards=range(32), **NODES)
    assert made.environ["MASTER_PORT"] == "4000"


@pytest.mark.parametrize(
    ("loader", "site", "error", "words"),
    [
        ("vllm-neuron-0.5", Site(master="a"), IncompatibleError, "runs on one node"),
        ("aws-fork-2.24", Site(), UsageError, "address of the first"),
        ("aws-fork-2.24", Site(master="a", master_port="tcp://b:1"), UsageError, "is not a port"),
        ("aws-fork-2.24", Site(rank=2, master="a"), UsageError, "no rank 2"),
        ("aws-fork-2.24", Site(rank=1, master="a"), IncompatibleError, "lacks rank 32"),
    ],
)
def test_what_several_nodes_lack(
    loader: str, site: Site, error: type[Exception], words: str
) -> None:
    layout = {"start_rank_id": 0, "local_ranks_size": 32}
    with pytest.raises(error, match=words):
        recipe(loader, site=site, layout=layout, shards=range(32), **NODES)


def test_optimum_reads_the_directory_itself() -> None:
    made = recipe(backend="optimum", serve={"loader": "optimum"})
    assert made.environ == {}
    assert flag(made, "--model") == "/artifacts/a"
    assert flag(made, "--max-num-seqs") == "4"
    assert flag(made, "--tensor-parallel-size") == "2"


def test_vllm_neuron_looks_into_its_cache_and_must_not_compile() -> None:
    serve = {
        "override_neuron_config": {"num_seqs_buckets": [1, 4]},
        "vllm_arguments": {"max_num_batched_tokens": 512, "enable_prefix_caching": False},
    }
    made = recipe(backend="vllm-neuron", serve=serve, site=Site(cache_root=Path("/cache")))
    for name in ("VLLM_CACHE_ROOT", "NEURON_LIBTORCH_CACHE_ROOT"):
        assert made.environ[name] == "/cache"
    assert made.environ["VLLM_NEURON_DISABLE_WARMUP_COMPILE"] == "1"
    assert not set(made.environ) & set(made.unset)
    assert {"NEURON_LIBTORCH_CPU_MODE", "VLLM_NEURON_CPU_COMPILE"} <= set(made.unset)
    assert json.loads(flag(made, "--additional-config") or "") == {
        "neuron_config": {"num_seqs_buckets": [1, 4]}
    }
    assert flag(made, "--max-num-batched-tokens") == "512"
    assert flag(made, "--no-enable-prefix-caching") == ""


def test_where_to_listen() -> None:
    made = recipe("vllm-main", site=Site("::1", 9000, ("a", "b")))
    assert (flag(made, "--host"), flag(made, "--port")) == ("::1", "9000")
    place = made.arguments.index("--served-model-name")
    assert made.arguments[place + 1 : place + 4] == ("a", "b", "--max-num-seqs")


@pytest.mark.parametrize(
    ("backend", "loader", "error", "words"),
    [
        ("cpu", None, IncompatibleError, "backend cpu"),
        ("transformers-neuronx", None, IncompatibleError, "transformers-neuronx"),
        ("nxdi", "vllm-9", UsageError, "unknown vLLM loader"),
        ("nxdi", None, UsageError, "is not known"),
        ("nxdi", "vllm-neuron-0.21", IncompatibleError, "artifacts of vllm-neuron"),
        ("vllm-neuron", "vllm-main", IncompatibleError, "artifacts of nxdi"),
    ],
)
def test_what_cannot_be_served(
    backend: str, loader: str | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        recipe(loader, backend=backend)


@pytest.mark.parametrize(
    ("packages", "sdk", "backend", "loader"),
    [
        ({}, "2.24", "nxdi", None),
        ({"vllm": "0.7.2.dev38+neuron218"}, "2.22", "nxdi", "aws-fork-2.22"),
        ({"vllm": "0.6.6.post1"}, "2.20", "nxdi", "aws-fork-2.21"),
        ({"vllm": "0.7.2"}, "2.26", "nxdi", "aws-fork-2.24"),
        ({"vllm": "0.7.2"}, None, "nxdi", "aws-fork-2.24"),
        ({"vllm": "0.10.0"}, "2.25", "nxdi", "vllm-main"),
        ({"vllm": "0.11.0", "vllm-neuron": "0.2.1"}, "2.27", "nxdi", "vllm-neuron-0.2"),
        ({"vllm": "0.16.0", "vllm-neuron": "0.5.0"}, "2.29", "nxdi", "vllm-neuron-0.5"),
        ({"vllm": "0.24.0", "vllm-neuron": "0.24.0.1.1.0"}, "2.32", "vllm-neuron",
         "vllm-neuron-0.21"),
        ({"vllm": "0.11.0"}, "2.26", "optimum", "optimum"),
    ],
)  # fmt: skip
def test_the_generation_that_is_installed(
    packages: dict[str, str], sdk: str | None, backend: str, loader: str | None
) -> None:
    assert loader_of(packages, sdk, backend) == loader


def test_a_serve_recipe_that_says_nothing_useful() -> None:
    with pytest.raises(CorruptError, match="serve recipe"):
        read_served(make_manifest(serve={"speculation": {"num_tokens": 5}}))
