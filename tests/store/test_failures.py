"""Failures are remembered while they are true, and only those that are permanent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from neuron_artifacts.store.failures import (
    EXPIRES_SECONDS,
    PERMANENT,
    collect_failures,
    forget_failure,
    recall_failure,
    remember_failure,
)
from neuron_artifacts.worker.causes import Kind

DIGEST = "a" * 64
NOW = 1_800_000_000.0


def remember(root: Path, cause: str = "device_memory", **options: Any) -> bool:
    return remember_failure(root, DIGEST, cause=cause, message="m", log="l", now=NOW, **options)


@pytest.mark.parametrize("cause", get_args(Kind))
def test_only_permanent_causes_are_remembered(cause: str, tmp_path: Path) -> None:
    assert remember(tmp_path, cause) == (cause in PERMANENT)
    known = recall_failure(tmp_path, DIGEST, now=NOW)
    assert (known is not None) == (cause in PERMANENT)
    if known:
        assert (known.cause, known.message, known.log) == (cause, "m", "l")


@pytest.mark.parametrize(
    ("later", "known"),
    [(0, True), (EXPIRES_SECONDS - 1, True), (EXPIRES_SECONDS, False), (-3600, True),
     (-10 * EXPIRES_SECONDS, False)],
)  # fmt: skip
def test_it_expires_also_after_a_clock_that_was_wrong(
    later: float, known: bool, tmp_path: Path
) -> None:
    remember(tmp_path)
    assert (recall_failure(tmp_path, DIGEST, now=NOW + later) is not None) == known
    collect_failures(tmp_path, now=NOW + later)
    assert bool(list((tmp_path / ".failed").iterdir())) == known


def test_it_is_forgotten_by_digest(tmp_path: Path) -> None:
    remember(tmp_path)
    assert recall_failure(tmp_path, "b" * 64, now=NOW) is None
    forget_failure(tmp_path, DIGEST)
    forget_failure(tmp_path, DIGEST)
    assert recall_failure(tmp_path, DIGEST, now=NOW) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"cause": "device_memory"}', b"\xff"])
def test_a_damaged_file_is_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    remember(tmp_path)
    (tmp_path / ".failed" / f"{DIGEST}.json").write_bytes(content)
    assert recall_failure(tmp_path, DIGEST, now=NOW) is None


def test_a_store_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / ".failed").write_text("a file where the folder belongs")
    assert not remember(tmp_path)
    assert recall_failure(tmp_path, DIGEST, now=NOW) is None
