"""Corrupt, untrusted, incompatible and missing are four things, with four exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_artifacts.key import digest_of
from tests.artifact.artifacts import publish
from tests.cli.run import run

PUBLIC_KEY = "signer.pub"


def nothing(_path: Path) -> None:
    """As it was published."""


def flip(path: Path) -> None:
    weights = path / "weights/model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def outdate(path: Path) -> None:
    manifest = path / "artifact.json"
    body = {**json.loads(manifest.read_bytes()), "schema": 99}
    body.pop("manifest_sha256")
    manifest.unlink()
    manifest.write_text(json.dumps({**body, "manifest_sha256": digest_of(body)}) + "\n")


@pytest.mark.parametrize(
    ("become", "options", "status", "code"),
    [
        (nothing, [], "ok", 0),
        (flip, [], "corrupt", 5),
        (outdate, [], "incompatible", 4),
        (nothing, ["--key", PUBLIC_KEY], "untrusted", 6),
        (flip, ["--key", PUBLIC_KEY], "corrupt", 5),
        (shutil.rmtree, [], None, 3),
    ],
)
def test_each_kind_of_bad_has_a_code_of_its_own(
    become: Callable[[Path], None], options: list[str], status: str | None, code: int,
    tmp_path: Path,
) -> None:  # fmt: skip
    path = publish(tmp_path)
    assert run("keygen", "signer", cwd=tmp_path).code == 0
    become(path)
    result = run("verify", path.name, *options, "--json", cwd=tmp_path)
    assert result.code == code, result.err
    if status:
        assert [row["status"] for row in result.data["artifacts"]] == [status]
