"""An OCI store over a real registry, and what ordinary tools make of what lies in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from neuron_artifacts._files import hash_file
from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.remote import open_url, pull_artifact, push_artifact
from neuron_artifacts.remote.oci import ARTIFACT_TYPE, TITLE
from tests.remote import servers
from tests.remote.samples import local_store, make_artifact

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (servers.find_registry() and shutil.which("skopeo")),
        reason="no registry or skopeo is installed (Debian: docker-registry skopeo)",
    ),
]


def skopeo(*arguments: object) -> str:
    command = ["skopeo", "--insecure-policy", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_skopeo_carries_an_artifact_to_a_folder_and_to_another_registry(
    registry_host: str, tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "a")
    push_artifact(open_url(f"oci://{registry_host}/team/one"), artifact)
    layout = f"oci:{tmp_path}/layout:{artifact.name}"
    source = f"docker://{registry_host}/team/one:{artifact.name}"
    skopeo("copy", "--src-tls-verify=false", source, layout)
    _check_layout(tmp_path / "layout", artifact)
    target = f"docker://{registry_host}/team/two:{artifact.name}"
    skopeo("copy", "--dest-tls-verify=false", layout, target)
    pulled = pull_artifact(
        open_url(f"oci://{registry_host}/team/two"), artifact.name, local_store(tmp_path / "b")
    )
    assert verify_artifact(pulled.path, "full").status == "ok"


def _check_layout(layout: Path, artifact: Path) -> None:
    """Every file lies there under its own digest, with the name ``oras pull`` writes it to."""
    blobs = layout / "blobs" / "sha256"
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    image = json.loads((blobs / entry["digest"].removeprefix("sha256:")).read_bytes())
    assert image["artifactType"] == ARTIFACT_TYPE
    titles = {layer["annotations"][TITLE]: layer["digest"] for layer in image["layers"]}
    listed = [file.path for file in read_manifest(artifact).files]
    assert sorted(titles) == sorted(["artifact.json", *listed])
    for name, digest in titles.items():
        assert digest == f"sha256:{hash_file(blobs / digest.removeprefix('sha256:'))}"
        assert digest == f"sha256:{hash_file(artifact / name)}"
