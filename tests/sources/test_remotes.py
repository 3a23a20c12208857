"""Configured remote stores in ``cache-lookup``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import Result, run
from tests.models import SMALL, copy_model

FLAGS = [str(t) for n, v in SMALL.items() for t in (f"--{n.replace('_', '-')}", v)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that was pushed from another folder, and the remote written down."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    copy_model(tmp_path / "model")
    (tmp_path / "here").mkdir()
    url = f"file://{tmp_path / 'remote'}"
    assert run("remote", "add", "prod", url, cwd=tmp_path).code == 0
    built = run("compile", "model", *FLAGS, "--remote", "prod", "--push", cwd=tmp_path)
    assert built.code == 0, built.err
    return tmp_path


def look_up(place: Path, *more: str) -> Result:
    return run("cache-lookup", place / "model", *FLAGS, *more, "--json", cwd=place / "here")


def test_a_remote_artifact_is_a_hit_with_the_command_that_brings_it(place: Path) -> None:
    result = look_up(place)
    assert result.code == 0, result.err
    (report,) = [s for s in result.data["sources"] if s["source"] == "prod"]
    assert (report["kind"], report["status"]) == ("remote", "hit")
    words = report["pull"].split()[1:]
    assert run(*words, cwd=place / "here").code == 0
    again = look_up(place)
    assert again.data["sources"][0]["source"] == "store"
    assert again.data["sources"][0]["status"] == "hit"


def test_what_is_near_is_explained(place: Path) -> None:
    result = look_up(place, "--token-generation-buckets", "32,64")
    assert result.code == 3
    (report,) = [s for s in result.data["sources"] if s["source"] == "prod"]
    assert report["status"] == "near"
    assert "of 4 graphs" in report["saves"]
    fields = {row["field"] for row in report["nearest"]["differences"]}
    assert any("token_generation_buckets" in field for field in fields)


def test_it_is_listed_and_named(place: Path) -> None:
    listing = run("cache-lookup", "--source", "prod", "--json", cwd=place / "here")
    assert listing.code == 0, listing.err
    (source,) = listing.data["sources"]
    assert len(source["rows"]) == 1
    assert run("cache-lookup", "--source", "other", cwd=place / "here").code == 2


def test_offline_it_is_not_asked(place: Path) -> None:
    result = look_up(place, "--offline")
    assert result.code == 3
    assert any(a["source"] == "prod" for a in result.data["absent"])


def test_one_that_is_gone_fails_nothing_else(place: Path) -> None:
    (written,) = (p for p in (place / "config").rglob("*") if p.is_file())
    text = written.read_text().replace(f"file://{place / 'remote'}", "oci://127.0.0.1:1/team/repo")
    written.write_text(text)
    result = look_up(place, "--store", str(place))
    assert result.code == 0, result.err
    (report,) = [s for s in result.data["sources"] if s["source"] == "prod"]
    assert report["status"] == "error"
