"""The bill of materials lists every file with its digest, and is the same every time."""

from __future__ import annotations

from pathlib import Path

from neuron_artifacts.artifact import read_manifest
from neuron_artifacts.trust.sbom import make_sbom
from tests.artifact.artifacts import publish
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
