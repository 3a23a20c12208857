from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from pathlib import Path

import pytest

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import read_manifest, verify_artifact
from neuron_artifacts.errors import CorruptError, StoreError
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.staging import Staging, rename_without_replacing
from tests.artifact.artifacts import make_document, make_manifest, publish


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "s", "label", DigestCache(tmp_path / "digests"))


@pytest.mark.parametrize("may_hardlink", [True, False])
def test_placed_files_hold_the_same_bytes(
    staging: Staging, tmp_path: Path, may_hardlink: bool
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights" * 1000)
    mode = source.stat().st_mode
    how = staging.place(
        source, "weights/w", "weights", sha256=sha(source.read_bytes()), may_hardlink=may_hardlink
    )
    placed = staging.path / "weights/w"
    assert placed.read_bytes() == source.read_bytes()
    assert (how == "hardlink") == placed.samefile(source)
    assert how in (("reflink", "hardlink") if may_hardlink else ("reflink", "copy"))
    assert source.stat().st_mode == mode, "the user's file keeps its permissions"
    assert [(f.path, f.size) for f in staging.files] == [("weights/w", 7000)]


@pytest.mark.parametrize("may_hardlink", [True, False])
def test_other_bytes_than_promised_are_refused(
    staging: Staging, tmp_path: Path, may_hardlink: bool
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"other")
    with pytest.raises(CorruptError, match="other bytes"):
        staging.place(source, "w", "weights", sha256=sha(b"promised"), may_hardlink=may_hardlink)


def test_a_users_file_written_in_place_later_does_not_reach_the_artifact(
    staging: Staging, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"first")
    staging.place(source, "w", "weights", sha256=sha(b"first"), may_hardlink=False)
    with source.open("r+b") as file:
        file.write(b"later")
    assert (staging.path / "w").read_bytes() == b"first"


def test_publishing_never_replaces(tmp_path: Path) -> None:
    first = publish(tmp_path)
    inode = first.stat().st_ino
    store = LocalStore(tmp_path, DigestCache(tmp_path / "digests"))
    key = make_document()
    with store.stage(key.key) as staging:
        staging.write("config.json", b"{}", "model")
        again = make_manifest(key, staging.files, graphs=())
        assert staging.publish(again, first) is False
        assert staging.publish(again, first) is False, "trying again is harmless"
    assert first.stat().st_ino == inode
    assert read_manifest(first).graphs


def test_an_empty_directory_is_taken_over(tmp_path: Path) -> None:
    destination = tmp_path / "here"
    destination.mkdir()
    publish(tmp_path, destination)
    assert verify_artifact(destination, "full").status == "ok"


def test_leaving_the_block_removes_what_was_not_published(tmp_path: Path) -> None:
    with Staging(tmp_path / "s", "label", DigestCache(tmp_path / "d")) as staging:
        staging.write("a", b"a", "model")
    assert list((tmp_path / "s").iterdir()) == []


def test_rename_without_replacing(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    assert rename_without_replacing(tmp_path / "a", tmp_path / "new") is True
    assert rename_without_replacing(tmp_path / "b", tmp_path / "c") is False
    with pytest.raises(OSError, match="No such file"):
        rename_without_replacing(tmp_path / "absent", tmp_path / "x")


@pytest.mark.parametrize(
    ("happens", "code", "outcome"),
    [
        (True, errno.ENOENT, True),
        (True, errno.EIO, True),
        (True, errno.ENOTEMPTY, True),
        (False, errno.ENOTEMPTY, False),
        (False, errno.ESTALE, errno.ESTALE),
        (False, errno.EXDEV, errno.EXDEV),
        (False, errno.EBUSY, errno.EBUSY),
    ],
)
def test_a_rename_as_over_nfs(
    happens: bool, code: int, outcome: bool | int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no ``renameat2`` there, and an answer that got lost makes the second try fail."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if happens:
            real(self, target)
        raise OSError(code, os.strerror(code), str(self))

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(Path, "rename", rename)
    if isinstance(outcome, bool):
        assert rename_without_replacing(tmp_path / "a", tmp_path / "b") is outcome
    else:
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            rename_without_replacing(tmp_path / "a", tmp_path / "b")
        assert caught.value.errno == outcome
    assert (tmp_path / ("b" if happens else "a") / "file").is_file()


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EXDEV, errno.EBUSY])
def test_a_rename_that_fails_leaves_nothing_behind(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(self: Path, target: Path) -> Path:
        raise OSError(code, os.strerror(code), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda *_, **__: object())
        patch.setattr(Path, "rename", rename)
        with pytest.raises(StoreError):
            publish(tmp_path)
    store = LocalStore(tmp_path)
    assert store.directories() == []
    assert list((store.root / ".staging").iterdir()) == []
    publish(tmp_path)


def test_a_file_where_the_store_should_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "neuron-compiled-artifacts").write_text("a file")
    with pytest.raises(StoreError):
        LocalStore(tmp_path).stage("0" * 64)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            LocalStore(tmp_path).stage("0" * 64)
    finally:
        tmp_path.chmod(0o700)
