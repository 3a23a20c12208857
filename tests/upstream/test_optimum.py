"""The optimum worker against optimum-neuron itself; only what is closed is a double.

Skipped unless these are set (docs/toolchains.md, *What has run against what*):

NEURON_ARTIFACTS_OPTIMUM_PATHS
    Folders for ``sys.path``, separated as ``PATH`` is: one that holds ``optimum`` with
    ``optimum/neuron`` in it, the transformers of that release, ``src`` of a neuronx-distributed of
    the same SDK, and where torch and safetensors are installed.
NEURON_ARTIFACTS_OPTIMUM_RELEASE
    The release of optimum-neuron, such as ``0.4.5``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.optimum.adapter import WORKER
from neuron_artifacts.errors import CompileError, ServeError
from neuron_artifacts.worker import WorkerEvent, WorkerProcess, open_worker, run_worker
from tests.backends.checkpoints import converse
from tests.doubles.environments import DOUBLES, PACKAGES
from tests.models import GOLDEN
from tests.toolchain.environments import make_environment, site_packages

PATHS = os.environ.get("NEURON_ARTIFACTS_OPTIMUM_PATHS", "")
RELEASE = os.environ.get("NEURON_ARTIFACTS_OPTIMUM_RELEASE", "")

pytestmark = pytest.mark.skipif(not (PATHS and RELEASE), reason="no optimum-neuron")

LLAMA, QWEN2, QWEN3 = "llama-gqa-tied-llama3", "qwen2-tied-window-off", "qwen3-tied"
SHARD = "checkpoint/weights/tp{}_sharded_checkpoint.safetensors"
FIELDS: dict[str, Any] = {
    "batch_size": 2, "sequence_length": 64, "tp_degree": 2, "torch_dtype": "float32",
    "continuous_batching": True,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sampling": (LLAMA, {"on_device_sampling": True, "max_context_length": 32}),
    "logits": (LLAMA, {"on_device_sampling": False, "fused_qkv": False}),
    "one slot": (LLAMA, {"batch_size": 1, "continuous_batching": False}),
    "speculation": (LLAMA, {"speculation_length": 4, "on_device_sampling": False}),
    "four ranks": (LLAMA, {"tp_degree": 4}),
    "qwen2": (QWEN2, {"torch_dtype": "bfloat16"}),
    "qwen3": (QWEN3, {"batch_size": 4, "tp_degree": 1}),
}


class Place:
    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.output = folder / "output"
        self.events: list[WorkerEvent] = []
        self.environ = {
            **os.environ, "NEURON_PLATFORM_TARGET_OVERRIDE": "trn1",
            "HF_HOME": str(folder / "hf"),
            "NEURON_COMPILE_CACHE_URL": str(folder / "cache"), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip

    def run(self, action: str, model: str, **fields: Any) -> Mapping[str, Any]:
        request = {
            "action": action, "model": str(GOLDEN / model / "model"), "output": str(self.output),
            "target": "trn1", "neuron_config": {**FIELDS, **fields},
        }  # fmt: skip
        return run_worker(
            self.python, WORKER, request, directory=self.folder / "job",
            environ=self.environ, observe=self.events.append,
        )  # fmt: skip

    def serve(self) -> WorkerProcess:
        environ = {**self.environ, "NEURON_DOUBLE_INSTANCE": "trn1.2xlarge"}
        request = {"action": "serve", "output": str(self.output)}
        return open_worker(
            self.python, WORKER, request, directory=self.folder / "serve", environ=environ
        )

    def shards(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.output)): path.read_bytes()
            for path in sorted(self.output.rglob("*.safetensors"))
        }


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimum")
    python = make_environment(folder, {**PACKAGES["optimum_neuron"], "optimum-neuron": RELEASE})
    paths = [str(DOUBLES / "closed"), *PATHS.split(os.pathsep)]
    (site_packages(folder) / "real.pth").write_text("\n".join([*paths, "import closed_parts\n"]))
    return python


@pytest.fixture
def place(python: Path, tmp_path: Path) -> Place:
    return Place(python, tmp_path)


@pytest.mark.parametrize(("model", "fields"), CASES.values(), ids=CASES)
def test_the_worker_against_the_real_code(place: Place, model: str, fields: dict[str, Any]) -> None:
    wanted = {**FIELDS, **fields}
    told = json.loads(place.run("hash", model, **fields)["document"])["neuron"]
    result = place.run("export", model, **fields)
    assert {name: result["neuron_config"][name] for name in wanted} == wanted
    assert {name: told[name] for name in wanted} == wanted
    states = [event.fields["state"] for event in place.events if event.name == "graph"]
    assert states.count("compiled") == len(result["graphs"]) == count_graphs(place)
    shards = place.shards()
    assert list(shards) == [SHARD.format(rank) for rank in range(wanted["tp_degree"])]
    for name in shards:
        (place.output / name).unlink()
    assert place.run("shard", model)["missing_shards"] == []
    assert place.shards() == shards
    assert place.run("validate", model)["graphs"] == result["graphs"]
    if wanted["tp_degree"] <= 2 and not wanted.get("speculation_length"):
        vocab = json.loads((place.output / "config.json").read_text())["vocab_size"]
        with closing(place.serve()) as worker:
            worker.call("warm_up", {})
            converse(worker, [[1, 0], [1], [0]] if wanted["batch_size"] > 1 else [[0]], vocab)


def count_graphs(place: Place) -> int:
    """The folders of graphs that were traced."""
    return len(list(place.folder.rglob("_tp0_bk*")))


def test_the_second_node_has_its_own_ranks(place: Place) -> None:
    result = place.run("export", LLAMA, tp_degree=4, start_rank_id=2, local_ranks_size=2)
    assert result["missing_shards"] == []
    assert list(place.shards()) == [SHARD.format(2), SHARD.format(3)]


def test_what_the_library_does_not_know_is_refused(place: Place) -> None:
    with pytest.raises(CompileError, match="has no field no_such_field"):
        place.run("export", LLAMA, no_such_field=1)


def test_a_host_without_a_device_cannot_serve(place: Place) -> None:
    place.run("export", LLAMA)
    request = {"action": "serve", "output": str(place.output)}
    with pytest.raises(ServeError, match=r"cores could not be had|at least 2"):
        open_worker(place.python, WORKER, request, directory=place.folder / "s",
                    environ=place.environ)  # fmt: skip
