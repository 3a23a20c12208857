"""The decision as a table: what exists, what is asked, what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.artifact import FileEntry, GraphEntry, Manifest
from neuron_artifacts.backends.base import Estimate, GraphTask, ResolvedSpec, WeightTask
from neuron_artifacts.key import make_key
from neuron_artifacts.model import ModelFile
from neuron_artifacts.neuron_config import NeuronConfig
from neuron_artifacts.plan import Broken, Candidate, Decision, decide
from tests.artifact.artifacts import make_manifest


def weights_document(sha: str) -> dict[str, Any]:
    return {"files": {"model.safetensors": {"sha256": sha}}, "assets": {}, "serving": {}}


def request(
    buckets: tuple[int, ...] = (16, 32), weights: str = "w1", **graphs: Any
) -> ResolvedSpec:
    tasks = tuple(
        GraphTask("token_generation", b, f"digest-{b}", f"graphs/token_generation-{b}.so")
        for b in buckets
    )
    digests = {f"token_generation-{t.bucket}": t.digest for t in tasks}
    file = ModelFile("model.safetensors", 10, Path("model.safetensors"))
    config = NeuronConfig(1, 1, 32, 32, True, (32,), buckets, "float32")
    none: Any = None
    return ResolvedSpec(
        spec=none, model=none, backend="cpu", target="t", toolchain={}, neuron_config=config,
        graphs=tasks, weights=(WeightTask(file, None, (weights, None)),),
        key=make_key({"graphs": digests, **graphs}, weights_document(weights)),
        estimate=Estimate(0, 0, 0), notes=(), work=None,
    )  # fmt: skip


def existing(
    buckets: tuple[int, ...] = (16, 32), weights: str = "w1", name: str = "a", **graphs: Any
) -> Candidate:
    resolved = request(buckets, weights, **graphs)
    entries = tuple(
        GraphEntry("token_generation", t.bucket, t.file, t.digest, 1.0, 1) for t in resolved.graphs
    )
    files = [FileEntry(e.file, 1, "5" * 64, "graph") for e in entries]
    files.append(FileEntry("weights/model.safetensors", 10, weights, "weights"))
    manifest: Manifest = make_manifest(resolved.key, tuple(files), graphs=entries)
    return Candidate(Path(name), manifest)


@pytest.mark.parametrize(
    ("found", "asked", "action", "compiled", "weights_reused"),
    [
        ([], request(), "miss", [16, 32], False),
        ([existing()], request(), "hit", [], True),
        ([existing(weights="w2")], request(), "relink", [], False),
        ([existing((16,))], request(), "partial", [32], True),
        ([existing((16,)), existing((32,), name="b")], request(), "relink", [], True),
        ([existing((16, 32, 64))], request(), "relink", [], True),
        ([existing((64,), "w2")], request(), "miss", [16, 32], False),
        ([existing((64,))], request(), "miss", [16, 32], True),
    ],
)
def test_table(
    found: list[Candidate], asked: ResolvedSpec, action: str, compiled: list[int],
    weights_reused: bool,
) -> None:  # fmt: skip
    decision = decide(asked, found)
    assert decision.action == action
    assert [step.task.bucket for step in decision.to_compile] == compiled
    assert (decision.weights[0].source is not None) == weights_reused
    assert (decision.artifact is not None) == (action == "hit")


def test_a_damaged_artifact_is_no_hit_but_lends_its_sound_files() -> None:
    whole = existing()
    damaged = Candidate(whole.path, whole.manifest, frozenset({"graphs/token_generation-16.so"}))
    decision = decide(request(), [damaged], [Broken(whole.path, "corrupt", ("x",))])
    assert decision.action == "partial"
    assert [step.task.bucket for step in decision.to_compile] == [16]
    assert decision.weights[0].source == whole.path / "weights/model.safetensors"
    assert decision.broken[0].status == "corrupt"


def test_damaged_weights_are_not_reused() -> None:
    whole = existing()
    damaged = Candidate(whole.path, whole.manifest, frozenset({"weights/model.safetensors"}))
    decision = decide(request(), [damaged])
    assert (decision.action, decision.weights[0].source) == ("relink", None)


def test_force_compiles_all_but_still_reuses_weights() -> None:
    decision = decide(request(), [existing()], force=True)
    assert [step.task.bucket for step in decision.to_compile] == [16, 32]
    assert decision.weights[0].source is not None
    assert "again" in decision.reason


def test_another_backends_artifacts_do_not_count() -> None:
    whole = existing()
    other: Any = vars(whole.manifest) | {"backend": "nxdi"}
    assert decide(request(), [Candidate(whole.path, Manifest(**other))]).action == "miss"


def test_the_nearest_is_the_one_with_fewest_graphs_missing_then_fewest_fields() -> None:
    far = existing((64,), name="far")
    near = existing((16, 64), name="near")
    nearer = existing((16, 32), name="nearer", seq_len=4)
    decision = decide(request(seq_len=8), [far, near, nearer])
    assert decision.nearest is not None
    assert decision.nearest.path == Path("nearer")
    row = decision.nearest.differences[0]
    assert (row.field, row.left, row.right, row.cost) == ("graphs.seq_len", 4, 8, "recompile")


def test_reuse_remembers_where_a_graph_was_first_compiled() -> None:
    first = existing()
    entries = tuple(
        GraphEntry(e.phase, e.bucket, e.file, e.digest, 1.0, 1, reused_from="origin")
        for e in first.manifest.graphs
    )
    second: Any = vars(first.manifest) | {"graphs": entries}
    decision: Decision = decide(request(weights="w9"), [Candidate(Path("b"), Manifest(**second))])
    assert {step.source_key for step in decision.graphs} == {"origin"}
