"""The optimum-neuron worker, driven in a real process against the library's double."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import neuron_artifacts.backends.optimum
from neuron_artifacts.errors import CompileError, EngineError, ServeError
from neuron_artifacts.worker import WorkerEvent, open_worker, run_worker
from tests.backends.checkpoints import VOCAB, converse, write_checkpoint
from tests.doubles.environments import make_neuron_environment
from tests.model.fake_hub import FakeHub
from tests.worker.workers import processes, wait_until

WORKER = Path(neuron_artifacts.backends.optimum.__file__).with_name("worker.py")
ROOT = Path(__file__).parent.parent.parent.parent
SHARDS = [f"checkpoint/weights/tp{rank}_sharded_checkpoint.safetensors" for rank in (0, 1)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neuron_environment(tmp_path_factory.mktemp("optimum"), "optimum_neuron")


class Site:
    """One interpreter, one checkpoint, one output."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.output = folder / "output"
        self.model = write_checkpoint(folder / "model")
        self.log = folder / "compiles"
        self.events: list[WorkerEvent] = []

    def request(self, action: str, **fields: Any) -> dict[str, Any]:
        neuron_config = {"batch_size": 2, "sequence_length": 32, "tp_degree": 2}
        return {
            "action": action, "model": str(self.model), "output": str(self.output),
            "target": "trn1", "neuron_config": {**neuron_config, **fields.pop("neuron_config", {})},
            **fields,
        }  # fmt: skip

    def environ(self, knobs: str = "", **environ: str) -> dict[str, str]:
        double = {"NEURON_DOUBLE": knobs, "NEURON_DOUBLE_LOG": str(self.log)}
        return {**os.environ, **double, **environ}

    def run(self, action: str, knobs: str = "", **fields: Any) -> Mapping[str, Any]:
        environ = self.environ(knobs, **fields.pop("environ", {}))
        return run_worker(
            self.python, WORKER, self.request(action, **fields),
            directory=self.folder / "job", environ=environ, observe=self.events.append,
        )  # fmt: skip

    def compiles(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


def hub_environ(hub: FakeHub, site: Site) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(site.folder / "hf"), "HF_HUB_OFFLINE": "0"}


@pytest.fixture
def site(python: Path, tmp_path: Path) -> Site:
    return Site(python, tmp_path)


def test_an_export_stands_alone_and_is_described(site: Site) -> None:
    result = site.run("export")
    names = {"config.json", "neuron_config.json", "model.pt", *SHARDS}
    assert set(result["files"]) == names
    assert {str(p.relative_to(site.output)) for p in site.output.rglob("*") if p.is_file()} == names
    assert result["graphs"] == [
        {"phase": "context_encoding", "bucket": 32, "file": "model.pt"},
        {"phase": "token_generation", "bucket": 32, "file": "model.pt"},
    ]
    config = result["neuron_config"]
    assert (config["batch_size"], config["tp_degree"], config["target"]) == (2, 2, "trn1")
    assert config["continuous_batching"] is True
    assert site.compiles() == ["context_encoding", "token_generation"]
    assert [e.fields["state"] for e in site.events if e.name == "graph"] == [
        "compiling", "compiling", "compiled", "compiled",
    ]  # fmt: skip


def test_fields_of_the_configuration_replace_defaults_and_what_follows_from_them(
    site: Site,
) -> None:
    fields = {"sequence_length": 64, "on_device_sampling": False, "torch_dtype": "float32"}
    config = site.run("export", neuron_config=fields)["neuron_config"]
    assert config["max_context_length"] == config["n_active_tokens"] == 64
    assert config["on_device_sampling"] is False
    assert config["torch_dtype"] == "float32"
    shorter = site.run("export", neuron_config={"max_context_length": 16})
    assert shorter["graphs"][0]["bucket"] == 16


def test_a_hub_model_gets_its_weights_too(site: Site) -> None:
    files = {p.name: p.read_bytes() for p in site.model.iterdir()}
    with FakeHub() as hub:
        commit = hub.commit("org/llama", files)
        environ = hub_environ(hub, site)
        result = site.run("export", model="org/llama", revision=commit, environ=environ)
    assert set(SHARDS) <= set(result["files"])
    assert result["neuron_config"]["checkpoint_id"] == "org/llama"
    assert result["neuron_config"]["checkpoint_revision"] == commit


def test_a_gated_model_is_named_as_the_cause(site: Site) -> None:
    with FakeHub() as hub:
        hub.commit("org/gated", {"config.json": b"{}"})
        hub.repositories["org/gated"].gated = True
        environ = hub_environ(hub, site)
        with pytest.raises(CompileError) as caught:
            site.run("export", model="org/gated", environ=environ)
    assert caught.value.cause == "model_access"


def test_a_hub_out_of_reach_is_named_as_the_cause(site: Site) -> None:
    with pytest.raises(CompileError) as caught:
        site.run("export", model="org/llama", environ={"HF_HOME": str(site.folder / "hf")})
    assert caught.value.cause == "hub_unreachable"


def test_a_pre_exported_repository_is_fetched_and_completed(site: Site) -> None:
    site.run("export")
    files = {
        str(p.relative_to(site.output)): p.read_bytes()
        for p in site.output.rglob("*")
        if p.is_file() and "checkpoint" not in p.parts
    }
    before = site.compiles()
    with FakeHub() as hub:
        hub.commit("org/exported", files)
        hub.commit("org/vanilla", {"config.json": b"{}"})
        environ = hub_environ(hub, site)
        site.output = site.folder / "fetched"
        fields = {"model": "org/exported", "checkpoint": str(site.model), "environ": environ}
        result = site.run("fetch", **fields)
        with pytest.raises(CompileError, match="no pre-exported repository"):
            site.run("fetch", model="org/vanilla", environ=environ)
    assert set(result["files"]) == {*files, *SHARDS}
    assert (site.output / "model.pt").read_bytes() == files["model.pt"]
    assert site.compiles() == before


def test_weights_alone_are_laid_for_graphs_that_exist(site: Site) -> None:
    site.run("export")
    before = site.compiles()
    for name in SHARDS:
        (site.output / name).unlink()
    assert site.run("inspect")["missing_shards"] == SHARDS
    with pytest.raises(CompileError, match="lacks checkpoint/weights/tp0"):
        site.run("validate")
    assert site.run("shard")["missing_shards"] == []
    assert site.run("validate")["loaded"] is False
    assert site.compiles() == before


@pytest.mark.parametrize(
    ("knobs", "cause"),
    [
        ("hbm", "device_memory"),
        ("instructions", "too_many_instructions"),
        ("operator", "unsupported_operator"),
        ("internal", "internal_error"),
        ("oom", "host_memory"),
        ("kill", "host_memory"),
        ("lost_shard=1", "unknown"),
    ],
)
def test_each_failure_is_an_error_and_no_artifact(site: Site, knobs: str, cause: str) -> None:
    with pytest.raises(CompileError) as caught:
        site.run("export", knobs)
    assert caught.value.cause == cause
    assert "worker" in caught.value.message
    with pytest.raises(CompileError):
        site.run("validate")
    attempts = 2 if cause == "host_memory" else 1
    assert site.compiles().count("context_encoding") == attempts


def test_what_the_library_refuses(site: Site) -> None:
    with pytest.raises(CompileError, match="has no field tensor_parallel"):
        site.run("export", neuron_config={"tensor_parallel": 2})
    with pytest.raises(CompileError, match="incompatible with on-device sampling"):
        site.run("export", neuron_config={"speculation_length": 4})
    with pytest.raises(CompileError, match="NEURON_PLATFORM_TARGET_OVERRIDE"):
        site.run("export", environ={"NEURON_PLATFORM_TARGET_OVERRIDE": "trn2"})
    with pytest.raises(CompileError, match="unknown action 'dance'"):
        site.run("dance")
    write_checkpoint(site.model, model_type="bloom")
    with pytest.raises(CompileError, match="bloom is not supported"):
        site.run("export")
    assert not site.compiles()


@pytest.mark.parametrize("key", ["optimum_neuron_version", "neuronxcc_version"])
def test_another_version_is_refused(site: Site, key: str) -> None:
    site.run("export")
    path = site.output / "neuron_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "0.0.1"}))
    with pytest.raises(CompileError, match=r"0\.0\.1"):
        site.run("inspect")


def test_half_an_export_is_known(site: Site) -> None:
    site.run("export")
    (site.output / "model.pt").unlink()
    with pytest.raises(CompileError, match="export was not finished"):
        site.run("inspect")
    (site.output / "neuron_config.json").unlink()
    with pytest.raises(CompileError, match=r"has no neuron_config\.json"):
        site.run("inspect")


def test_the_name_in_the_hubs_cache_depends_on_both_configurations(site: Site) -> None:
    entry = site.run("hash", model_id="org/llama")
    assert len(entry["hash"]) == 20
    assert json.loads(entry["document"])["_model_id"] == "org/llama"
    other = site.run("hash", model_id="org/llama", neuron_config={"batch_size": 1})
    assert other["hash"] != entry["hash"]
    assert other["architecture"] == entry["architecture"]
    assert not site.compiles()


INTERRUPTED = """
import json, os, sys
from pathlib import Path
from neuron_artifacts.worker import run_worker

python, worker, directory, request = sys.argv[1:]
try:
    run_worker(Path(python), Path(worker), json.loads(request), directory=Path(directory),
               environ=dict(os.environ), observe=lambda event: print(event.name, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_leaves_no_compiler(site: Site, number: signal.Signals) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    request = json.dumps(site.request("export"))
    host = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(site.python), str(WORKER),
         str(site.folder / "job"), request],
        env=site.environ(f"slow={mark}"), cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert wait_until(lambda: bool(processes(mark)))
    host.send_signal(number)
    assert host.wait() == (130 if number == signal.SIGINT else -number)
    assert wait_until(lambda: not processes(mark))
    assert not (site.output / "model.pt").exists()


def serve(site: Site, knobs: str = "cores=2") -> Any:
    request = site.request("serve")
    environ = site.environ(knobs)
    return closing(
        open_worker(site.python, WORKER, request, directory=site.folder / "s", environ=environ)
    )


@pytest.mark.parametrize("on_device", [True, False])
def test_slots_do_not_disturb_each_other(site: Site, on_device: bool) -> None:
    site.run("export", neuron_config={"on_device_sampling": on_device, "batch_size": 3})
    before = site.compiles()
    with serve(site) as worker:
        assert worker.facts == {
            "batch_size": 3, "seq_len": 32, "max_context_length": 32, "vocab_size": VOCAB,
            "context_encoding_buckets": [32], "token_generation_buckets": [32],
            "on_device_sampling": on_device,
        }  # fmt: skip
        worker.call("warm_up", {})
        converse(worker, [[2, 0], [1], [0], [0, 1, 2], [2], [1, 2]])
    assert site.compiles() == before


def test_answers_may_come_wrapped(site: Site) -> None:
    """As optimum-neuron 0.4.0 to 0.4.3 give them."""
    site.run("export")
    with serve(site, "cores=2,wrapped") as worker:
        converse(worker, [[1, 0], [0], [1]])


def test_sampling_stays_within_what_the_device_takes(site: Site) -> None:
    site.run("export")
    with serve(site) as worker:
        for top_k in (0, -1, 1, 50, 100_000):
            sampling = {"slot": 1, "temperature": 0.7, "top_k": top_k, "top_p": 0.9}
            worker.call("sampling", sampling)
            worker.call("prefill", {"slot": 1, "tokens": [3, 4], "start": 0})
        worker.call("sampling", {"slot": 1, "temperature": 0.7, "top_k": 1, "top_p": 2.0})
        with pytest.raises(EngineError, match="Invalid sampling parameters"):
            worker.call("prefill", {"slot": 1, "tokens": [3, 4], "start": 0})
        with pytest.raises(EngineError, match="1 to 32 tokens"):
            worker.call("prefill", {"slot": 1, "tokens": [1] * 33, "start": 0})
        with pytest.raises(EngineError, match="unknown method"):
            worker.call("dance", {})


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ("", "Neuron cores could not be had"),
        ("cores=1", "at least 2 Neuron cores"),
        ("cores=4,instance=trn2", "compiled for trn1"),
    ],
)
def test_a_device_that_cannot_take_it(site: Site, knobs: str, told: str) -> None:
    site.run("export")
    with pytest.raises(ServeError, match=told), serve(site, knobs):
        pass
    with pytest.raises(CompileError, match=told):
        site.run("validate", knobs, load=True)


def test_static_batches_are_not_served(site: Site) -> None:
    site.run("export", neuron_config={"continuous_batching": False})
    with pytest.raises(ServeError, match="without continuous_batching"), serve(site):
        pass
