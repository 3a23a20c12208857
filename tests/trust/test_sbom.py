"""The bill of materials lists every file with its digest, and is the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuron_artifacts.artifact import FileEntry, read_manifest
from neuron_artifacts.trust.sbom import make_sbom
from tests.artifact.artifacts import make_document, make_manifest, publish
from tests.cli.run import run


def test_every_file_and_tool_is_listed(tmp_path: Path) -> None:
    path = publish(tmp_path)
    manifest = read_manifest(path)
    result = run("sbom", path.name[:16], cwd=tmp_path)
    assert result.code == 0
    body = result.data
    assert body == make_sbom(manifest)
    assert (body["bomFormat"], body["specVersion"]) == ("CycloneDX", "1.6")
    digests = {c["name"]: c["hashes"][0]["content"] for c in body["components"] if "hashes" in c}
    assert digests == {file.path: file.sha256 for file in manifest.files}
    refs = [component["bom-ref"] for component in body["components"]]
    assert len(set(refs)) == len(refs)
    assert body["dependencies"][0]["dependsOn"] == refs
    assert any(c["name"] == "compiler" and c["version"] == "gcc" for c in body["components"])
    assert run("sbom", "zz", cwd=tmp_path).code == 3


def test_it_is_valid_by_its_schema(tmp_path: Path) -> None:
    """CycloneDX's own schema judges it, whatever the manifest calls things."""
    validation = pytest.importorskip("cyclonedx.validation.json", reason="it has the schema")
    schema = pytest.importorskip("cyclonedx.schema")
    judge = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    key = make_document()
    files = (
        FileEntry("graphs/a.so", 64, "3" * 64, "graph"),
        FileEntry("weights/ä b.safetensors", 8, "4" * 64, "weights"),
    )
    for model in (
        {"name": "org/model", "revision": "a" * 40}, {"name": "a b/c?d#e", "revision": "v1/x"},
        {"name": "folder", "revision": None}, {"name": None, "revision": 7},
    ):  # fmt: skip
        toolchain = {"neuronx-cc": "2.21.18209.0+043b1bf7", "flags": ["-O3", "-g0"], "x y": None}
        created = "2026-01-01T00:00:00Z" if model["name"] else "long ago"
        manifest = make_manifest(key, files, model=model, toolchain=toolchain, created=created)
        assert judge.validate_str(json.dumps(make_sbom(manifest))) is None, model
    assert judge.validate_str(json.dumps({**make_sbom(manifest), "components": 3})) is not None
