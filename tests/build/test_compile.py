"""Builds for real: hit, relink, partial, repair, refusals."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import neuron_artifacts
from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.artifact.manifest import Role
from neuron_artifacts.backends.cpu.adapter import CpuBackend
from neuron_artifacts.build import Outcome, compile_artifact, look_up, resolve_request
from neuron_artifacts.build.graphs import GraphJob
from neuron_artifacts.build.progress import Clock
from neuron_artifacts.errors import RefusedError, ResourceError, SpecError, StoreError
from neuron_artifacts.events import Event, GraphChanged, Note, PhaseEnded
from neuron_artifacts.spec import resolve_spec
from neuron_artifacts.store import LocalStore, Staging
from tests.models import SMALL, change_weights, copy_model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one artifact of the tiny model, compiled once."""
    base = tmp_path_factory.mktemp("built")
    copy_model(base / "model")
    neuron_artifacts.compile(base / "model", store=base / "store", **SMALL)
    return base


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(built, tmp_path / "p")
    return tmp_path / "p"


def compile_at(place: Path, events: list[Event] | None = None, **options: Any) -> Outcome:
    settings: dict[str, Any] = {"model": str(place / "model"), "store": str(place / "store")}
    environ = {"PATH": os.environ["PATH"], **options.pop("environ", {})}
    force = options.pop("force", False)
    spec = resolve_spec({**settings, **SMALL, **options}, environ=environ)
    observe = events.append if events is not None else lambda _event: None
    return compile_artifact(spec, environ=environ, observe=observe, force=force)


def test_the_first_compile_makes_a_whole_artifact(built: Path) -> None:
    (path,) = [p for p in (built / "store/neuron-compiled-artifacts").iterdir() if p.name[0] != "."]
    verdict = verify_artifact(path, "full")
    assert (verdict.status, verdict.extra_files) == ("ok", ())
    manifest = read_manifest(path)
    assert path.name == manifest.key
    assert [(g.phase, g.bucket) for g in manifest.graphs] == [
        ("context_encoding", 32), ("context_encoding", 64), ("token_generation", 64),
    ]  # fmt: skip
    assert all(g.seconds > 0 and g.peak_memory_bytes > 1 << 20 for g in manifest.graphs)
    assert {f.role for f in manifest.files} == {"graph", "weights", "model"}


def test_the_second_compile_is_a_hit_that_changes_nothing(place: Path) -> None:
    """Beside the artifacts it leaves one mark: that this one was wanted now."""
    root = place / "store/neuron-compiled-artifacts"
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    outcome = compile_at(place)
    assert (outcome.decision.action, outcome.compiled) == ("hit", 0)
    after = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert after.pop(root / ".used" / outcome.path.name)
    del after[root / ".used"]
    assert after == before


def test_a_fine_tune_is_relinked(place: Path) -> None:
    change_weights(place / "model")
    outcome = compile_at(place)
    assert (outcome.decision.action, outcome.compiled) == ("relink", 0)
    assert verify_artifact(outcome.path, "full").status == "ok"
    assert all(graph.reused_from for graph in outcome.manifest.graphs)
    other = outcome.decision.nearest
    assert other
    assert (outcome.path / "graphs/context_encoding-32.so").samefile(
        other.path / "graphs/context_encoding-32.so"
    )


def test_one_more_bucket_compiles_one_graph(place: Path) -> None:
    events: list[Event] = []
    outcome = compile_at(place, events, token_generation_buckets="32,64")
    assert (outcome.decision.action, outcome.compiled) == ("partial", 1)
    compiled = [e for e in events if isinstance(e, GraphChanged) and e.state == "compiled"]
    assert [(e.phase, e.bucket) for e in compiled] == [("token_generation", 32)]


@pytest.mark.parametrize("options", [{"seq_len": "128", "token_generation_buckets": "64"}])
def test_a_longer_cache_with_the_same_buckets_compiles_nothing(
    place: Path, options: dict[str, Any]
) -> None:
    outcome = compile_at(place, max_context_length="64", **options)
    assert (outcome.decision.action, outcome.compiled) == ("relink", 0)


def test_force_compiles_all_again_and_keeps_the_old(place: Path) -> None:
    outcome = compile_at(place, force=True)
    assert outcome.compiled == 3
    assert len(outcome.set_aside) == 1
    assert verify_artifact(outcome.set_aside[0], "full").status == "ok"
    assert verify_artifact(outcome.path, "full").status == "ok"


def test_two_builds_are_byte_identical(place: Path) -> None:
    first = compile_at(place)
    graphs = {f.path: f.sha256 for f in first.manifest.files if f.role == "graph"}
    second = compile_at(place, force=True)
    assert {f.path: f.sha256 for f in second.manifest.files if f.role == "graph"} == graphs


@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        ("graphs/context_encoding-32.so", 1),
        ("weights/model.safetensors", 0),
        ("config.json", 0),
        ("artifact.json", 3),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_damage_is_set_aside_and_only_it_is_built_again(
    place: Path, name: str, compiled: int, damage: str
) -> None:
    good = compile_at(place).path
    _damage(good / name, damage)
    events: list[Event] = []
    outcome = compile_at(place, events)
    assert outcome.compiled == compiled
    assert outcome.path == good
    assert verify_artifact(good, "full").status == "ok"
    assert len(outcome.set_aside) == 1
    assert any(isinstance(e, Note) and "set aside" in e.text for e in events)


def _damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.chmod(0o644)
    if how == "remove":
        path.unlink()
    elif how == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    else:
        path.write_bytes(data[: len(data) // 2] if how == "cut" else b"")


def test_output_gets_the_artifact_itself_without_compiling(place: Path) -> None:
    outcome = compile_at(place, output=str(place / "out"))
    assert outcome.path == place / "out"
    assert outcome.compiled == 0
    assert verify_artifact(place / "out", "full").status == "ok"
    assert compile_at(place, output=str(place / "out")).decision.action == "hit"


@pytest.mark.parametrize("prepare", ["missing", "empty", "corrupt", "other key"])
def test_the_vllm_variable_names_where_it_is_stored(place: Path, prepare: str) -> None:
    target = place / "vllm"
    environ = {"NEURON_COMPILED_ARTIFACTS": str(target)}
    if prepare == "empty":
        target.mkdir()
    elif prepare == "corrupt":
        compile_at(place, environ=environ)
        _damage(target / "artifact.json", "cut")
    elif prepare == "other key":
        compile_at(place, environ=environ, context_encoding_buckets="64")
    outcome = compile_at(place, environ=environ)
    assert outcome.path == target
    assert verify_artifact(target, "full").status == "ok"
    assert len(outcome.set_aside) == (prepare in ("corrupt", "other key"))
    again = compile_at(place, environ=environ)
    assert (again.decision.action, again.path) == ("hit", target)


def test_what_is_not_ours_is_never_touched(place: Path) -> None:
    target = place / "precious"
    target.mkdir()
    (target / "model.pt").write_bytes(b"an hour of neuronx-cc")
    with pytest.raises(StoreError, match="holds something else"):
        compile_at(place, output=str(target))
    assert [p.name for p in target.iterdir()] == ["model.pt"]


def test_phases_are_told_and_kept(place: Path) -> None:
    change_weights(place / "model")
    events: list[Event] = []
    outcome = compile_at(place, events)
    told = list(dict.fromkeys(e.name for e in events if isinstance(e, PhaseEnded)))
    assert told == ["resolve", "look up", "compile", "weights", "publish"]
    assert list(outcome.seconds) == told


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tp_degree": "2"}, RefusedError, "tp_degree is 2"),
        ({"torch_dtype": "float16"}, RefusedError, "float32 or bfloat16"),
        ({"seq_len": "1000000"}, SpecError, "beyond the model's max_position_embeddings"),
        ({"max_context_length": "65"}, SpecError, "larger than seq_len 64"),
        ({"context_encoding_buckets": "64,32"}, SpecError, "must ascend"),
        ({"context_encoding_buckets": "32,128"}, SpecError, "ends at 128, beyond"),
        ({"target": "pentium"}, SpecError, "target 'pentium' is unknown"),
        ({"override_neuron_config": '{"fused_qkv": true}'}, RefusedError, "fused_qkv=True"),
        ({"override_neuron_config": '{"enable_bucketing": false}'}, SpecError, "enable_bucketing"),
        ({"batch_size": "100000000"}, ResourceError, "GiB|TiB"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is(
    place: Path, options: dict[str, str], error: type[Exception], message: str
) -> None:
    before = sorted((place / "store").rglob("*"))
    with pytest.raises(error, match=message):
        compile_at(place, **options)
    assert [p for p in sorted((place / "store").rglob("*")) if ".locks" not in p.parts] == [
        p for p in before if ".locks" not in p.parts
    ]


def test_implied_settings_are_accepted(place: Path) -> None:
    outcome = compile_at(
        place, override_neuron_config='{"is_continuous_batching": true, "on_cpu": true}'
    )
    assert outcome.decision.action == "hit"


def test_a_lender_that_vanishes_costs_a_compile_and_nothing_else(place: Path) -> None:
    """An artifact may be removed between the look-up and its use: the build goes on without it."""
    change_weights(place / "model")
    lender = place / "store/neuron-compiled-artifacts"
    old = next(p for p in lender.iterdir() if not p.name.startswith("."))
    spec = resolve_spec(
        {"model": str(place / "model"), "store": str(place / "store"), **SMALL}, environ={}
    )
    resolved = resolve_request(spec)
    store = LocalStore(place / "store")
    destination = store.path(resolved.key.key)
    decision = look_up(resolved, store, destination)
    assert decision.action == "relink"
    shutil.rmtree(old)
    events: list[Event] = []
    clock = Clock(events.append)
    outcome = GraphJob(CpuBackend(), resolved, store, destination, decision, clock).run()
    assert outcome.compiled == 3
    assert verify_artifact(outcome.path, "full").status == "ok"
    assert any(isinstance(e, Note) and "cannot be reused" in e.text for e in events)


def test_a_linker_whose_bytes_got_lost_publishes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt = Staging.adopt

    def adopt_damaged(staging: Staging, name: str, role: Role) -> None:
        path = staging.path / name
        if name.endswith(".so"):
            path.write_bytes(b"\0" + path.read_bytes()[1:])
        adopt(staging, name, role)

    before = LocalStore(place / "store").directories()
    monkeypatch.setattr(Staging, "adopt", adopt_damaged)
    with pytest.raises(StoreError, match="is no shared object"):
        compile_at(place, context_encoding_buckets="16,64")
    assert LocalStore(place / "store").directories() == before
