"""vllm-neuron from the command line to the server, through doubles of vLLM and its compiler."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.compile_caches.vllm_neuron import read_entries
from neuron_artifacts.store import LocalStore
from tests.cli.run import TOOL, Result, run
from tests.doubles.vllm_environments import make_vllm_environment
from tests.models import ADDER, change_weights
from tests.runtime.vllm.servers import Place as Served
from tests.runtime.vllm.servers import running
from tests.worker.workers import processes, wait_until

DEVICE = "cores=2,instance=trn2"


@dataclass(frozen=True)
class Place:
    """An interpreter with vllm-neuron, and a folder with a store."""

    python: Path
    folder: Path

    @property
    def flags(self) -> list[str]:
        sizes = ["--tp-degree", "2", "--batch-size", "2", "--seq-len", "256"]
        return [
            "--backend",
            "vllm-neuron",
            "--python",
            str(self.python),
            "--target",
            "trn2",
            *sizes,
        ]

    @property
    def artifacts(self) -> list[Path]:
        return LocalStore(self.folder).directories()

    def environ(self, knobs: str) -> dict[str, str]:
        return {"NEURON_DOUBLE": knobs, "NEURON_DOUBLE_LOG": str(self.folder / "compiles")}

    def compile(
        self, model: object = ADDER, *more: object, knobs: str = "", **environ: str
    ) -> Result:
        own = {**self.environ(knobs), **environ}
        return run("compile", model, *self.flags, *more, "--json", cwd=self.folder, **own)

    def compiles(self) -> list[str]:
        """The graphs the compiler has been called for."""
        path = self.folder / "compiles"
        return path.read_text().splitlines() if path.exists() else []

    def served(self) -> Served:
        (artifact,) = self.artifacts
        return Served("native", self.python, artifact)

    def serving(self, **more: str) -> dict[str, str]:
        cache = {"VLLM_CACHE_ROOT": str(self.folder / "cache")}
        return {"NEURON_DOUBLE_LOG": str(self.folder / "compiles"), **cache, **more}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vllm_environment(tmp_path_factory.mktemp("native"), "native")


@pytest.fixture
def place(python: Path, tmp_path: Path) -> Place:
    return Place(python, tmp_path)


GRAPHS = ["decode 256 1", "decode 256 2", "prefill 128", "prefill 256"]


def test_compile_then_hit_then_serve(place: Place) -> None:
    first = place.compile()
    assert (first.code, first.data["verdict"]) == (0, "miss"), first.err
    assert sorted(place.compiles()) == GRAPHS
    (artifact,) = place.artifacts
    assert verify_artifact(artifact, "full").status == "ok"
    entries = read_entries(artifact / "compile_cache")
    assert [entry.state for entry in entries] == ["complete"] * 4
    assert {entry.target for entry in entries} == {"trn2"}
    index = json.loads((artifact / "compile_cache.json").read_text())
    assert index == {"compile_cache": [entry.key for entry in entries]}
    assert place.compile().data["verdict"] == "hit"
    with running(place.served(), knobs=DEVICE, **place.serving()) as server:
        assert server.told["loader"] == "vllm-neuron-0.21"
        assert httpx.get(f"{server.told['url']}/health", timeout=60).status_code == 200
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert sorted(place.compiles()) == GRAPHS, "serving compiled nothing"
    assert verify_artifact(artifact, "full").extra_files == ()
    laid = read_entries(place.folder / "cache" / "neuron" / "compile_cache")
    assert [entry.key for entry in laid] == [entry.key for entry in entries]


def test_vllm_is_chosen_without_being_named(place: Place) -> None:
    assert place.compile().code == 0
    served = run("serve", "--artifacts", place.artifacts[0], "--threads", 2)
    assert (served.code, "--threads is an option of our own" in served.err) == (2, True)
    refused = run("generate", "--artifacts", place.artifacts[0], "--prompt", "1+1=")
    assert refused.code == 4
    assert "only vLLM runs" in refused.err


def test_a_fine_tune_takes_the_graphs_over(place: Place) -> None:
    model = place.folder / "model"
    shutil.copytree(ADDER, model)
    assert place.compile(model).code == 0
    change_weights(model)
    again = place.compile(model)
    assert (again.code, again.data["verdict"], again.data["compiled"]) == (0, "relink", 0)
    assert sorted(place.compiles()) == GRAPHS
    first, second = (path / "compile_cache" for path in place.artifacts)
    assert {e.key for e in read_entries(first)} == {e.key for e in read_entries(second)}
    assert all(verify_artifact(path, "full").status == "ok" for path in place.artifacts)


def test_graphs_that_have_gone_are_compiled_again(place: Place) -> None:
    """Found when it was decided, and removed before they were taken."""
    model, elsewhere = place.folder / "model", place.folder / "elsewhere"
    shutil.copytree(ADDER, model)
    assert place.compile(model, "--output", elsewhere).code == 0
    change_weights(model)
    again = place.compile(model, "--output", elsewhere)
    assert again.code == 0, again.err
    assert sorted(place.compiles()) == sorted(GRAPHS * 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"knobs": "cores=2,instance=trn1"}, "cache miss"),
        ({"knobs": DEVICE, "flags": ("--vllm-arg=--gpu-memory-utilization=0.5",)}, "cache miss"),
    ],
)
def test_a_graph_that_is_not_found_is_not_compiled(
    change: dict[str, object], reason: str, place: Place
) -> None:
    assert place.compile().code == 0
    flags = [str(flag) for flag in change.get("flags", ())]  # type: ignore[attr-defined]
    refused = place.served().serve(*flags, knobs=str(change["knobs"]), **place.serving())
    assert refused.code == 4, refused.err
    assert reason in refused.data["error"]["message"].lower()
    assert sorted(place.compiles()) == GRAPHS
    assert verify_artifact(place.artifacts[0], "full").status == "ok"


def test_other_versions_are_told_before_vllm_starts(place: Place) -> None:
    assert place.compile().code == 0
    newer = make_vllm_environment(place.folder / "newer", "native-newer")
    refused = replace(place.served(), python=newer).serve(knobs=DEVICE, **place.serving())
    assert refused.code == 4
    assert "nki 0.6.0 (here: 0.7.0)" in refused.err
    assert "INFO" not in refused.err


def test_misleading_variables_are_taken_away(place: Place) -> None:
    """Each would keep graphs from being compiled, or have them compiled elsewhere, or served."""
    elsewhere = str(place.folder / "elsewhere")
    misleading = {
        "NEURON_LIBTORCH_CACHE_ROOT": elsewhere, "VLLM_CACHE_ROOT": elsewhere,
        "VLLM_NEURON_DISABLE_COMPILE_CACHE": "1",
    }  # fmt: skip
    compiled = place.compile(
        **misleading, VLLM_NEURON_CPU_MODE="1", VLLM_NEURON_DISABLE_WARMUP_COMPILE="1"
    )
    assert compiled.code == 0, compiled.err
    assert not Path(elsewhere).exists()
    served = {**misleading, "VLLM_NEURON_CPU_COMPILE": "1"}
    del served["VLLM_CACHE_ROOT"]
    with running(place.served(), knobs=DEVICE, **place.serving(**served)) as server:
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert not Path(elsewhere).exists()


def test_a_library_that_knows_its_own_root_alone(place: Place) -> None:
    home = {"HOME": str(place.folder / "home")}
    assert place.compile(NEURON_DOUBLE="lite", **home).code == 0
    serving = place.serving(**home)
    with running(place.served(), knobs=f"{DEVICE},lite", **serving) as server:
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert not (place.folder / "home").exists()


def test_variables_that_shape_graphs_are_in_the_key_and_set_again(place: Place) -> None:
    plain = place.compile()
    shaped = place.compile(VLLM_NEURON_KV_GMU_BUDGET_CAP_FRACTION="0.4")
    assert plain.data["key"] != shaped.data["key"]
    data = run("env", LocalStore(place.folder).path(shaped.data["key"]), "--json").data
    assert data["environment"]["VLLM_NEURON_KV_GMU_BUDGET_CAP_FRACTION"] == "0.4"
    assert data["environment"]["NEURON_LOGICAL_NC_CONFIG"] == "2"


def test_env_fills_the_cache_first(place: Place) -> None:
    assert place.compile().code == 0
    shown = run("env", place.artifacts[0], "--python", place.python, **place.serving())
    *lines, _ = shown.out.splitlines()
    subprocess.run(["sh", "-ec", "\n".join(lines)], check=True, cwd=place.folder)
    laid = read_entries(place.folder / "cache" / "neuron" / "compile_cache")
    assert [entry.state for entry in laid] == ["complete"] * 4


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ("oom", "runs out of it"),
        ("hbm", "device's memory"),
        ("internal", "error of its own"),
        ("half", "is incomplete"),
        ("vllm_crash", "initialization failed"),
    ],
)
def test_failures_have_causes_and_leave_nothing(knobs: str, words: str, place: Place) -> None:
    failed = place.compile(knobs=knobs)
    assert failed.code == 1, failed.err
    assert words in failed.err
    assert place.artifacts == []


def test_a_compile_that_ends_by_raising_has_succeeded(place: Place) -> None:
    assert place.compile(knobs="raises").code == 0
    assert len(read_entries(place.artifacts[0] / "compile_cache")) == 4


def test_interrupted_compilers_end_too(place: Place) -> None:
    mark = f"mark-{place.folder.name}"
    process = subprocess.Popen(
        [*TOOL, "compile", str(ADDER), *place.flags], cwd=place.folder,
        env={**os.environ, **place.environ(f"slow={mark}")}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert wait_until(lambda: processes(mark))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert wait_until(lambda: not processes(mark))
    assert place.compile().code == 0


def test_a_device_must_be_named_where_there_is_none(place: Place) -> None:
    flags = [flag for flag in place.flags if flag not in ("--target", "trn2")]
    refused = run("compile", ADDER, *flags, cwd=place.folder)
    assert refused.code == 7
    assert "--target" in refused.err


def test_buckets_are_judged_before_anything_starts(place: Place) -> None:
    refused = place.compile(
        ADDER, "--override-neuron-config", json.dumps({"num_seqs_buckets": [1]})
    )
    assert refused.code == 7
    assert "must end at 2" in refused.err
    assert place.compiles() == []


def test_a_manifest_says_how_to_serve(place: Place) -> None:
    assert place.compile(ADDER, "--context-encoding-buckets", "128,256").code == 0
    serve = read_manifest(place.artifacts[0]).serve
    assert serve["vllm_arguments"] == {"max_num_batched_tokens": 256}
    assert serve["override_neuron_config"] == {
        "num_batched_tokens_buckets": [128, 256], "num_seqs_buckets": [1, 2],
    }  # fmt: skip
