"""Strangers name things too: nothing they write moves a cursor, turns text or begins a line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from neuron_artifacts._files import DigestCache
from neuron_artifacts.cli import _output
from neuron_artifacts.store import LocalStore
from tests.artifact.artifacts import make_document, make_manifest
from tests.cli.run import run, run_on_terminal

HOSTILE = "m\x1b[2J\x1b]0;pwned\x07\x9b1A\r\u202eegnahc\n  ok  /trusted"
ACTING = ("\x1b", "\x07", "\x9b", "\r", "\u202e")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 你好 😀\tand\nlines", "plain ä 你好 😀\tand\nlines"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[38;5;1mred", "\\x1b[38;5;1mred"),
        ("a\r\x08\x00\x7f\x85\x9b", "a\\r\\x08\\x00\\x7f\\x85\\x9b"),
        ("\u2028\u202e\u2066", "\\u2028\\u202e\\u2066"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_is_given(text: str, shown: str) -> None:
    assert _output.printable(text) == shown
    assert "\n" not in _output.printable(text, one_line=True)


def test_a_cell_stays_a_cell() -> None:
    lines = _output.table(("name", "n"), [(HOSTILE, 1), (["a\nb"], 2)]).splitlines()
    assert len(lines) == 3
    assert not any(character in line for line in lines for character in ACTING)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An artifact whose manifest is sound, and whose every name is hostile."""
    base = LocalStore(tmp_path, DigestCache(tmp_path / "digests"))
    key = make_document(a=HOSTILE)
    with base.stage(key.key) as staging:
        staging.write("config.json", b"{}\n", "model")
        manifest = make_manifest(
            key, staging.files, graphs=(), target=HOSTILE, toolchain={HOSTILE: HOSTILE},
            model={"name": HOSTILE, "revision": HOSTILE, "source": HOSTILE}, created_by=HOSTILE,
            neuron_config={"batch_size": 1, HOSTILE: HOSTILE}, backend=HOSTILE,
            serve={"max_model_len": 16, "served_model_name": HOSTILE},
        )  # fmt: skip
        assert staging.publish(manifest, base.path(key.key))
    (base.path(key.key) / "\x1b[2Jstranger").touch()
    return base.path(key.key)


@pytest.mark.parametrize(
    "command",
    ["list", "inspect", "verify", "validate", "sbom", "generate", "serve", "env", "repair", "gc"],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_hostile_artifact(store: Path, command: str, as_json: bool) -> None:
    arguments = {
        "list": (), "gc": ("--dry-run", "--keep", "0"),
        "serve": ("--artifacts", store, "--port", "0"),
        "generate": ("--artifacts", store, "--prompt", "x"),
    }.get(command, (store,))  # fmt: skip
    result = run(command, *arguments, *(["--json"] if as_json else []), cwd=store.parents[1])
    assert result.code in range(8)
    shown = result.out + result.err
    assert "bug" not in shown
    assert not [character for character in ACTING if character in shown]
    assert "\n  ok  /trusted" not in shown
    if as_json and result.out:
        assert json.loads(result.out) is not None
    if command == "list" and as_json:
        assert HOSTILE in str(result.data["artifacts"][0]["model"]["name"])


def test_on_a_terminal(store: Path) -> None:
    code, shown = run_on_terminal(store.parents[1], "list")
    assert code == 0
    assert "m\\x1b[2J" in shown
    assert "\x1b[2J" not in shown
    assert "\x9b" not in shown


def test_a_directory_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    bad = tmp_path / os.fsdecode(b"a\xff\x1b[2J")
    bad.mkdir()
    result = run("verify", bad, cwd=tmp_path)
    assert result.code == 3
    assert "\\udcff\\x1b[2J" in result.out + result.err
