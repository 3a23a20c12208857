"""Provenance that was changed, belongs elsewhere, or is not what was signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.artifact import MANIFEST_NAME, PROVENANCE_NAME, read_manifest
from neuron_artifacts.errors import CorruptError
from neuron_artifacts.trust.judgement import judge_artifact
from neuron_artifacts.trust.keys import generate_keys, load_private_key, load_public_key
from neuron_artifacts.trust.provenance import make_predicate, make_statement, read_provenance
from neuron_artifacts.trust.statement import sign_artifact
from tests.artifact.artifacts import publish


def predicate_of(artifact: Path) -> dict[str, Any]:
    manifest = read_manifest(artifact)
    return make_predicate(
        kind="compile", builder="https://ci", command=["neuron-artifacts", "compile", "m"],
        parameters={"key": manifest.key, "backend": "cpu"}, toolchain={"compiler": "gcc"},
        dependencies=[{"name": "model.safetensors", "digest": {"sha256": "0" * 64}}],
        began="2026-01-01T00:00:00Z", ended="2026-01-01T00:00:01Z",
    )  # fmt: skip


def write(artifact: Path, predicate: Any, about: Path | None = None) -> None:
    manifest = ((about or artifact) / MANIFEST_NAME).read_bytes()
    (artifact / PROVENANCE_NAME).write_bytes(make_statement(manifest, predicate))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = publish(tmp_path)
    write(path, predicate_of(path))
    return path


def test_what_agrees_is_told(artifact: Path) -> None:
    found = judge_artifact(artifact, ())
    assert (found.status, found.builder, found.problems) == ("ok", "https://ci", ())


def test_an_artifact_without_is_no_liar(tmp_path: Path) -> None:
    assert judge_artifact(publish(tmp_path), ()).status == "ok"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d["externalParameters"].update(key="f" * 64), "says 'key' was 'fff"),
        (lambda d: d["externalParameters"].update(backend="nxdi"), "says 'backend' was 'nxdi'"),
        (
            lambda d: d["internalParameters"]["toolchain"].update(compiler="tcc"),
            "says 'toolchain compiler' was 'tcc', the artifact says 'gcc'",
        ),
        (lambda d: d["internalParameters"].pop("toolchain"), "'toolchain compiler' was None"),
        (
            lambda d: d["resolvedDependencies"][0]["digest"].update(sha256="1" * 64),
            "says 'model.safetensors' was '111",
        ),
        (lambda d: d["resolvedDependencies"].clear(), "'model.safetensors' was None"),
    ],
)
def test_what_contradicts_is_corruption(
    change: Callable[[Any], Any], problem: str, artifact: Path
) -> None:
    predicate = predicate_of(artifact)
    change(predicate["buildDefinition"])
    write(artifact, predicate)
    found = judge_artifact(artifact, ())
    assert found.status == "corrupt"
    assert problem in found.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.pop("runDetails"),
        lambda p: p["runDetails"]["builder"].update(id=3),
        lambda p: p["buildDefinition"].update(externalParameters=[]),
        lambda p: p["buildDefinition"].update(internalParameters="x"),
        lambda p: p["buildDefinition"].update(resolvedDependencies={}),
        lambda p: p.clear(),
    ],
)
def test_what_is_no_predicate_is_damage(change: Callable[[Any], Any], artifact: Path) -> None:
    predicate = predicate_of(artifact)
    change(predicate)
    write(artifact, predicate)
    with pytest.raises(CorruptError, match="damaged"):
        read_provenance(artifact)


def test_provenance_of_another_artifact_says_nothing_here(artifact: Path, tmp_path: Path) -> None:
    other = publish(tmp_path, number=2)
    write(artifact, predicate_of(artifact), about=other)
    with pytest.raises(CorruptError, match=r"about another artifact\.json"):
        read_provenance(artifact)


def test_what_is_signed_is_the_provenance_that_lies_there(artifact: Path, tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "k", {})
    sign_artifact(artifact, load_private_key(private, {}))
    key = load_public_key(public, "release")
    found = judge_artifact(artifact, [(key,)])
    assert (found.status, found.signed_by) == ("ok", str(key))
    later = predicate_of(artifact)
    later["runDetails"]["builder"]["id"] = "https://somebody.else"
    write(artifact, later)
    found = judge_artifact(artifact, [(key,)])
    assert found.status == "corrupt"
    assert "another than the one that was signed" in found.problems[0]


def test_a_damaged_one_is_not_signed(artifact: Path, tmp_path: Path) -> None:
    private, _ = generate_keys(tmp_path / "k", {})
    (artifact / PROVENANCE_NAME).write_text("{}")
    with pytest.raises(CorruptError):
        sign_artifact(artifact, load_private_key(private, {}))
