"""Neuron backends from the command line to the answer, through doubles of their libraries.

Real interpreters, processes, files and the whole way of ``compile``; only the library, its
compiler and the device are doubles.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.store import LocalStore
from neuron_artifacts.worker import run_worker
from tests.backends.nxdi.sites import WORKER
from tests.cli.run import TOOL, Result, run
from tests.doubles.environments import make_neuron_environment
from tests.models import ADDER, change_config, change_weights
from tests.worker.workers import processes, wait_until

BACKENDS = {
    "nxdi": ("nxdi", ["--tp-degree", "2"]),
    "optimum": ("optimum_neuron", ["--tp-degree", "2", "--allow-compile"]),
    "transformers-neuronx": ("transformers_neuronx", ["--tp-degree", "2"]),
}


@dataclass
class Place:
    """A backend's interpreter and a folder to work in."""

    backend: str
    python: Path
    folder: Path

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder)

    @property
    def flags(self) -> list[str]:
        own = BACKENDS[self.backend][1]
        common = ["--backend", self.backend, "--target", "trn1", "--python", str(self.python)]
        return [*common, "--seq-len", "256", "--batch-size", "2", *own]

    def environ(self, knobs: str = "") -> dict[str, str]:
        return {
            "NEURON_DOUBLE": knobs,
            "NEURON_DOUBLE_LOG": str(self.folder / "compiles"),
            "NEURON_ARTIFACTS_PYTHON": str(self.python),
        }

    def compile(self, model: object = ADDER, *more: str, knobs: str = "") -> Result:
        arguments = [*self.flags, *more]
        return run("compile", model, *arguments, "--json", cwd=self.folder, **self.environ(knobs))

    def compiles(self) -> int:
        """Graphs the compiler has been called for."""
        path = self.folder / "compiles"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def generate(self, *prompts: str, knobs: str = "cores=2") -> Result:
        (path,) = self.store.directories()
        words = [word for prompt in prompts for word in ("--prompt", prompt)]
        return run(
            "generate", "--artifacts", path, *words, "--max-tokens", "6", "--temperature", "0",
            "--ignore-eos", "--json", cwd=self.folder, **self.environ(knobs),
        )  # fmt: skip


@pytest.fixture(scope="module", params=BACKENDS)
def interpreter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    double = BACKENDS[request.param][0]
    return request.param, make_neuron_environment(tmp_path_factory.mktemp(double), double)


@pytest.fixture
def place(interpreter: tuple[str, Path], tmp_path: Path) -> Place:
    return Place(*interpreter, tmp_path)


@pytest.fixture(scope="module")
def nxdi(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Place]:
    python = make_neuron_environment(tmp_path_factory.mktemp("nxdi"), "nxdi")
    return lambda folder: Place("nxdi", python, folder)


def test_compile_then_hit_then_serve(place: Place) -> None:
    first = place.compile()
    assert first.code == 0, first.err
    assert first.data["verdict"] == "miss"
    graphs = place.compiles()
    assert graphs > 0
    (path,) = place.store.directories()
    assert verify_artifact(path, "full").status == "ok"
    assert read_manifest(path).backend == place.backend
    again = place.compile()
    assert (again.code, again.data["verdict"], again.data["compiled"]) == (0, "hit", 0)
    served = place.generate("1+1=")
    assert served.code == 0, served.err
    assert place.compiles() == graphs, "neither the hit nor serving compiled"


def test_answers_depend_on_nobody_else_in_the_batch(place: Place) -> None:
    """The double's answer is a function of all that its slot's cache holds."""
    assert place.compile().code == 0
    prompts = ["1+1=", "3", "123+456=", "22+7="]
    together = place.generate(*prompts)
    assert together.code == 0, together.err
    for prompt, answer in zip(prompts, together.data, strict=True):
        (alone,) = place.generate(prompt).data
        assert alone["token_ids"] == answer["token_ids"], prompt


def test_without_a_device_serving_says_so(place: Place) -> None:
    assert place.compile().code == 0
    refused = place.generate("1+1=", knobs="")
    assert refused.code == 1
    assert "Traceback" not in refused.err


def test_a_damaged_artifact_never_reaches_the_library(place: Place) -> None:
    assert place.compile().code == 0
    (path,) = place.store.directories()
    file = next(f for f in read_manifest(path).files if f.role == "weights")
    data = bytearray((path / file.path).read_bytes())
    data[-1] ^= 1
    (path / file.path).unlink()
    (path / file.path).write_bytes(data)
    assert place.generate("1+1=").code == 5


@pytest.mark.parametrize(
    ("knobs", "words", "remembered"),
    [
        ("hbm", "device's memory", True),
        ("instructions", "more instructions", True),
        ("operator", "does not support", True),
        ("oom", "runs out of it", False),
        ("kill", "runs out of it", False),
    ],
)
def test_failures_have_causes_and_leave_nothing(
    knobs: str, words: str, remembered: bool, place: Place
) -> None:
    failed = place.compile(knobs=knobs)
    assert failed.code == 1, failed.err
    assert words in failed.err
    assert place.store.directories() == []
    assert not list((place.store.root / ".staging").glob("*"))
    again = place.compile()
    assert again.code == (7 if remembered else 0), again.err
    if remembered:
        assert "--retry" in again.err
        assert place.compile(ADDER, "--retry").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_compilers_end_too(number: int, place: Place) -> None:
    mark = f"mark-{place.folder.name}-{number}"
    process = subprocess.Popen(
        [*TOOL, "compile", str(ADDER), *place.flags], cwd=place.folder,
        env={**os.environ, **place.environ(f"slow={mark}")}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: processes(mark))
    process.send_signal(number)
    process.communicate(timeout=60)
    wait_until(lambda: not processes(mark))
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert place.store.directories() == []
    assert place.compile().code == 0
    assert not list((place.store.root / ".staging").glob("*"))


def test_a_fine_tune_is_relinked(nxdi: Callable[[Path], Place], tmp_path: Path) -> None:
    place = nxdi(tmp_path)
    model = tmp_path / "model"
    shutil.copytree(ADDER, model)
    assert place.compile(model).code == 0
    graphs = place.compiles()
    change_weights(model)
    relinked = place.compile(model)
    assert relinked.data["verdict"] == "relink"
    assert place.compiles() == graphs
    for path in place.store.directories():
        assert verify_artifact(path, "full").status == "ok"
    shards = {
        (path / "weights/tp0_sharded_checkpoint.safetensors").read_bytes()
        for path in place.store.directories()
    }
    assert len(shards) == 2


def test_weights_lie_in_the_artifact_even_if_they_are_not_sharded(
    nxdi: Callable[[Path], Place], tmp_path: Path
) -> None:
    """Else it would need the checkpoint at the place where it was compiled."""
    place = nxdi(tmp_path)
    model = tmp_path / "model"
    shutil.copytree(ADDER, model)
    override = json.dumps({"save_sharded_checkpoint": False})
    assert place.compile(model, "--override-neuron-config", override).code == 0
    (path,) = place.store.directories()
    assert not (path / "weights").exists()
    shutil.rmtree(model)
    served = place.generate("1+1=")
    assert served.code == 0, served.err


def test_a_quantised_checkpoint_lies_in_the_artifact_too(
    nxdi: Callable[[Path], Place], tmp_path: Path
) -> None:
    """And a path is of the caller's working directory, though a worker has its own."""
    place = nxdi(tmp_path)
    fields = {"quantized": True, "quantized_checkpoints_path": "int8"}
    override = json.dumps({"save_sharded_checkpoint": False, **fields})
    compiled = place.compile(ADDER, "--override-neuron-config", override)
    assert compiled.code == 0, compiled.err
    (path,) = place.store.directories()
    saved = json.loads((path / "neuron_config.json").read_text())["neuron_config"]
    assert saved["quantized_checkpoints_path"] == str(tmp_path / "int8")
    assert (path / "quantized/model.safetensors").is_file()
    assert not (path / "model.safetensors").exists(), "nothing reads it"
    shutil.rmtree(tmp_path / "int8")
    assert verify_artifact(path, "full").status == "ok"
    served = place.generate("1+1=")
    assert served.code == 0, served.err


def test_a_quantised_checkpoint_counts_unless_it_was_made_here(
    nxdi: Callable[[Path], Place], tmp_path: Path
) -> None:
    place = nxdi(tmp_path)
    fields = {"quantized": True, "quantized_checkpoints_path": "int8"}
    override = ["--override-neuron-config", json.dumps(fields)]
    first = place.compile(ADDER, *override)
    assert first.code == 0, first.err
    again = place.compile(ADDER, *override)
    assert (again.data["verdict"], again.data["key"]) == ("hit", first.data["key"])
    model = tmp_path / "int8" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"1")
    given = place.compile(ADDER, *override)
    assert given.data["verdict"] == "relink", "the graphs do not depend on it"
    assert given.data["key"] != first.data["key"]
    shutil.rmtree(tmp_path / "int8")
    shutil.rmtree(first.data["path"])
    made = place.compile(ADDER, *override)
    assert made.code == 0, made.err
    assert (made.data["verdict"], made.data["key"]) == ("relink", first.data["key"])
    assert model.is_file(), "sharding needs it, so it was made again"


def test_graphs_that_only_vllm_drives_are_refused_before_they_are_loaded(
    nxdi: Callable[[Path], Place], tmp_path: Path
) -> None:
    place = nxdi(tmp_path)
    draft = ["--speculative-model", str(ADDER), "--num-speculative-tokens", "4"]
    assert place.compile(ADDER, *draft).code == 0
    refused = place.generate("1+1=", knobs="")  # without a device, which nothing asked for yet
    assert refused.code == 4
    assert "compiled for speculation with a draft" in refused.err
    assert "serve --engine vllm --artifacts" in refused.err


@pytest.mark.parametrize("is_sharded", [True, False])
def test_a_draft_lies_in_the_artifact_unless_it_is_sharded(
    is_sharded: bool, nxdi: Callable[[Path], Place], tmp_path: Path
) -> None:
    place = nxdi(tmp_path)
    draft = tmp_path / "draft"
    shutil.copytree(ADDER, draft)
    override = json.dumps({"save_sharded_checkpoint": is_sharded})
    compiled = place.compile(
        ADDER, "--override-neuron-config", override, "--speculative-model", "draft",
        "--num-speculative-tokens", "4",
    )  # fmt: skip
    assert compiled.code == 0, compiled.err
    (path,) = place.store.directories()
    laid = {f.path: f.role for f in read_manifest(path).files if f.path.startswith("draft/")}
    assert laid == (
        {} if is_sharded else {"draft/config.json": "model", "draft/model.safetensors": "weights"}
    )
    assert (path / "model.safetensors").exists() is not is_sharded
    shutil.rmtree(draft)
    request = {"action": "validate", "model": str(path), "output": str(path), "load": True}
    loaded = run_worker(
        place.python, WORKER, request, directory=tmp_path / "job",
        environ={**os.environ, "NEURON_DOUBLE": "cores=2"},
    )  # fmt: skip
    assert loaded["loaded"] is True


def test_both_parts_of_an_image_model_are_listed(
    nxdi: Callable[[Path], Place], tmp_path: Path
) -> None:
    """And what a finer tuned one shares with it is found again in both."""
    place = nxdi(tmp_path)
    model = tmp_path / "model"
    shutil.copytree(ADDER, model)
    text = json.loads((model / "config.json").read_text())
    change_config(
        model, architectures=["Llama4ForConditionalGeneration"], text_config=text, vision_config={}
    )
    first = place.compile(model)
    assert first.code == 0, first.err
    (path,) = place.store.directories()
    listed = {(graph.file, graph.phase, graph.bucket) for graph in read_manifest(path).graphs}
    buckets = [("context_encoding", 128), ("context_encoding", 256),
               ("token_generation", 128), ("token_generation", 256)]  # fmt: skip
    assert listed == {
        *(("text_model/model.pt", *graph) for graph in buckets),
        ("vision_model/model.pt", "vision_encoder", 88),
    }
    graphs = place.compiles()
    change_weights(model)
    assert place.compile(model).data["verdict"] == "relink"
    assert place.compiles() == graphs
    for each in place.store.directories():
        assert verify_artifact(each, "full").status == "ok"


def test_two_builds_at_once_do_not_share_a_work_directory(
    nxdi: Callable[[Path], Place], tmp_path: Path
) -> None:
    """The library empties its work directory when it begins."""
    place = nxdi(tmp_path)
    commands = [[*place.flags, "--store", str(tmp_path / name)] for name in ("a", "b")]
    started = [
        subprocess.Popen(
            [*TOOL, "compile", str(ADDER), *flags, "--json"], cwd=tmp_path,
            env={**os.environ, **place.environ()}, stdout=subprocess.PIPE, text=True,
        )
        for flags in commands
    ]  # fmt: skip
    outcomes = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert len({outcome["key"] for outcome in outcomes}) == 1


def test_half_a_compile_is_not_an_artifact(nxdi: Callable[[Path], Place], tmp_path: Path) -> None:
    """``neuron_config.json`` is written before anything is compiled."""
    place = nxdi(tmp_path)
    output = tmp_path / "out"
    failed = place.compile(ADDER, "--output", str(output), knobs="oom")
    assert failed.code == 1
    assert not output.exists()
    lost = place.compile(ADDER, "--output", str(output), knobs="lost_shard=1")
    assert lost.code == 1
    assert "tp1_sharded_checkpoint" in lost.err
    assert not output.exists()
    assert place.compile(ADDER, "--output", str(output)).code == 0


def test_the_server_answers_over_http(nxdi: Callable[[Path], Place], tmp_path: Path) -> None:
    import httpx

    place = nxdi(tmp_path)
    assert place.compile().code == 0
    graphs = place.compiles()
    (path,) = place.store.directories()
    process = subprocess.Popen(
        [*TOOL, "serve", "--artifacts", str(path), "--port", "0", "--json"], cwd=tmp_path,
        env={**os.environ, **place.environ("cores=2")}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    ready = ""
    while not ready.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, "the server did not start"
        ready += line
    told = json.loads(ready)
    assert told["compiled"] == 0
    body = {"prompt": "1+1=", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(told["url"] + "/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    refused = httpx.post(told["url"] + "/v1/completions", json={**body, "logprobs": 1}, timeout=60)
    assert refused.status_code == 400
    assert "sample on the device" in refused.text
    began = time.monotonic()
    process.terminate()
    assert process.wait(60) == 0, time.monotonic() - began
    assert place.compiles() == graphs
