"""The optimum backend on this side: the gate of the caches, and repositories exported before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.store import LocalStore
from tests.artifact.artifacts import make_safetensors
from tests.cli.run import Result, run
from tests.doubles.environments import make_neuron_environment
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import REPO, Cache
from tests.neuron_cache.model_configs import LLAMA

CACHED = {"batch_size": 1, "sequence_length": 4096, "tp_degree": 2}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neuron_environment(tmp_path_factory.mktemp("optimum"), "optimum_neuron")


@pytest.fixture
def hub() -> Iterator[CacheHub]:
    with CacheHub() as served:
        cache = Cache()
        cache.add("0.4.5", "llama", "org/llama", **CACHED)
        served.commit(REPO, cache.files)
        yield served


class Site:
    """An interpreter, a hub and a folder."""

    def __init__(self, python: Path, hub: CacheHub, folder: Path) -> None:
        self.python, self.hub, self.folder = python, hub, folder

    def compile(self, model: object, *flags: str) -> Result:
        return run(
            "compile", model, "--backend", "optimum", "--target", "trn1", "--python", self.python,
            *flags, "--json", cwd=self.folder, HF_ENDPOINT=self.hub.url, HF_HUB_OFFLINE="0",
            HF_HOME=str(self.folder / "hf"), NEURON_ARTIFACTS_CACHE=str(self.folder / "kept"),
            CUSTOM_CACHE_REPO=REPO, NEURON_COMPILE_CACHE_URL=str(self.folder / "neuron"),
        )  # fmt: skip


@pytest.fixture
def site(python: Path, hub: CacheHub, tmp_path: Path) -> Site:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA))
    (model / "model.safetensors").write_bytes(make_safetensors())
    return Site(python, hub, tmp_path)


ASKED = ("--batch-size", "1", "--seq-len", "4096", "--tp-degree", "2")


def test_what_is_cached_is_compiled(site: Site) -> None:
    result = site.compile("model", *ASKED)
    assert result.code == 0, result.err
    assert result.data["verdict"] == "miss"


@pytest.mark.parametrize(
    "flags",
    [
        ("--batch-size", "3"),
        ("--tp-degree", "8"),
        ("--torch-dtype", "float16"),
        ("--override-neuron-config", '{"fused_qkv": false}'),
        ("--num-speculative-tokens", "4"),
        (),
    ],
)
def test_what_is_not_cached_is_refused_until_it_is_allowed(
    flags: tuple[str, ...], site: Site
) -> None:
    """Without flags the defaults are asked for, and nothing has them."""
    asked = (*ASKED, *flags) if flags else ()
    refused = site.compile("model", *asked)
    assert refused.code == 7, refused.err
    assert "no cache has this model compiled" in refused.err
    assert "--allow-compile" in refused.err
    assert not LocalStore(site.folder).directories()
    assert site.compile("model", *asked, "--allow-compile").code == 0


def exported(**neuron: object) -> dict[str, bytes]:
    config = {
        "_serialized_key": "NxDNeuronConfig", "batch_size": 2, "sequence_length": 32,
        "tp_degree": 2, "torch_dtype": "bfloat16", "target": "trn1",
        "optimum_neuron_version": "0.4.5", "neuronxcc_version": "2.21.33363.0+82129205",
        "continuous_batching": True, **neuron,
    }  # fmt: skip
    return {
        "config.json": json.dumps({**LLAMA, "vocab_size": 97}).encode(),
        "neuron_config.json": json.dumps(config).encode(),
        "model.pt": b"\x80graphs" * 100,
        "checkpoint/weights/tp0_sharded_checkpoint.safetensors": make_safetensors(b"0123"),
        "checkpoint/weights/tp1_sharded_checkpoint.safetensors": make_safetensors(b"4567"),
    }


def test_a_repository_exported_before_is_downloaded(site: Site, hub: CacheHub) -> None:
    hub.commit("org/exported", exported())
    result = site.compile("org/exported")
    assert result.code == 0, result.err
    (path,) = LocalStore(site.folder).directories()
    manifest = read_manifest(path)
    assert (path / "model.pt").read_bytes() == b"\x80graphs" * 100
    assert manifest.neuron_config["batch_size"] == 2
    assert manifest.serve["max_model_len"] == 32
    assert site.compile("org/exported").data["verdict"] == "hit"


def test_asking_an_exported_repository_for_something_else_is_a_contradiction(
    site: Site, hub: CacheHub
) -> None:
    hub.commit("org/exported", exported())
    result = site.compile("org/exported", "--batch-size", "4")
    assert result.code == 2
    assert "was exported with batch_size 2, not 4" in result.err


def test_a_repository_that_is_neither_says_so(site: Site, hub: CacheHub) -> None:
    hub.commit("org/empty", {"config.json": json.dumps(LLAMA).encode(), "README.md": b"x"})
    result = site.compile("org/empty")
    assert result.code == 1
    assert "no weights" in result.err
