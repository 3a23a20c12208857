"""Digests that are remembered, and the small file pieces beside them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts._files import (
    CHUNK,
    SETTLED_NS,
    DigestCache,
    find_stale_temporaries,
    hash_file,
    is_safe_relative,
    load_json_object,
    load_yaml,
    read_regular,
    shorten,
    sync,
    write_all,
    write_atomically,
)

LONG_AGO = time.time_ns() - 10 * SETTLED_NS


def write(path: Path, data: bytes, *, mtime_ns: int = LONG_AGO) -> Path:
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> DigestCache:
    return DigestCache(tmp_path / "digests")


def entries(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "digests").glob("*"))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_a_digest_is_that_of_hashlib(tmp_path: Path, cache: DigestCache, size: int) -> None:
    data = os.urandom(size)
    path = write(tmp_path / "file", data)
    told: list[int] = []
    assert hash_file(path, told.append) == sha256(data)
    assert sum(told) == size
    assert cache.digest(path) == cache.digest(path) == sha256(data)


def test_a_file_is_read_once(tmp_path: Path, cache: DigestCache) -> None:
    path = write(tmp_path / "file", b"weights")
    told: list[int] = []
    cache.digest(path, told.append)
    assert told == [7]
    assert DigestCache(tmp_path / "digests").digest(path, told.append) == sha256(b"weights")
    assert told == [7]


def test_another_name_of_the_same_file_is_known(tmp_path: Path, cache: DigestCache) -> None:
    path = write(tmp_path / "file", b"weights")
    cache.digest(path)
    os.link(path, tmp_path / "other")
    (tmp_path / "link").symlink_to(path)
    assert cache.lookup(tmp_path / "other") == cache.lookup(tmp_path / "link") == sha256(b"weights")


@pytest.mark.parametrize(
    ("data", "mtime_ns"),
    [
        (b"WEIGHTS", LONG_AGO + 1),
        (b"WEIGHTS", LONG_AGO - 1),
        (b"weights and more", LONG_AGO),
        (b"", LONG_AGO),
    ],
)
def test_a_change_in_place_is_noticed(
    tmp_path: Path, cache: DigestCache, data: bytes, mtime_ns: int
) -> None:
    path = write(tmp_path / "file", b"weights")
    inode = path.stat().st_ino
    cache.digest(path)
    write(path, data, mtime_ns=mtime_ns)
    assert path.stat().st_ino == inode
    assert cache.digest(path) == sha256(data)


def test_a_replaced_file_is_noticed(tmp_path: Path, cache: DigestCache) -> None:
    path = write(tmp_path / "file", b"weights")
    cache.digest(path)
    write(tmp_path / "new", b"WEIGHTS").replace(path)
    assert cache.digest(path) == sha256(b"WEIGHTS")


def test_a_file_just_written_is_not_remembered_unless_settled(
    tmp_path: Path, cache: DigestCache
) -> None:
    path = write(tmp_path / "file", b"weights", mtime_ns=time.time_ns() + 60 * 10**9)
    assert cache.digest(path) == sha256(b"weights")
    assert cache.lookup(path) is None
    cache.remember(path, sha256(b"weights"), settled=True)
    assert cache.lookup(path) == sha256(b"weights")


def test_a_file_changed_while_it_is_hashed_is_not_remembered(
    tmp_path: Path, cache: DigestCache
) -> None:
    path = write(tmp_path / "file", bytes(2 * CHUNK))

    def change(_count: int) -> None:
        write(path, b"\1" * (2 * CHUNK), mtime_ns=LONG_AGO + 5)

    cache.digest(path, change)
    assert cache.lookup(path) is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_vouches_for_nothing(
    tmp_path: Path, cache: DigestCache, mode: int
) -> None:
    path = write(tmp_path / "file", b"weights")
    cache.digest(path)
    assert cache.lookup(path)
    (tmp_path / "digests").chmod(mode)
    assert cache.lookup(path) is None
    assert cache.digest(path) == sha256(b"weights")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_entry_that_others_may_write_vouches_for_nothing(
    tmp_path: Path, cache: DigestCache, mode: int
) -> None:
    path = write(tmp_path / "file", b"weights")
    cache.digest(path)
    (entry,) = entries(tmp_path)
    assert entry.stat().st_mode & 0o777 == 0o600
    entry.write_text(json.dumps({**json.loads(entry.read_bytes()), "sha256": "0" * 64}))
    assert cache.digest(path) == "0" * 64, "what only we may write is believed"
    entry.chmod(mode)
    assert cache.digest(path) == sha256(b"weights")
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert cache.digest(path) == sha256(b"weights")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_an_entry_of_another_user_vouches_for_nothing(tmp_path: Path, cache: DigestCache) -> None:
    path = write(tmp_path / "file", b"weights")
    cache.digest(path)
    (entry,) = entries(tmp_path)
    os.chown(entry, 12345, 12345)
    assert cache.lookup(path) is None
    cache.remember(path, sha256(b"weights"), settled=True)
    assert cache.lookup(path)
    os.chown(tmp_path / "digests", 12345, 12345)
    assert cache.lookup(path) is None


@pytest.mark.parametrize(
    "record",
    [
        b"", b"{", b"[]", b"null", b'"text"', b"\xff", b"{}",
        b'{"size": 7}', b'{"size": 7, "mtime_ns": 0, "sha256": 5}',
    ],
)  # fmt: skip
def test_a_damaged_entry_is_ignored(tmp_path: Path, cache: DigestCache, record: bytes) -> None:
    path = write(tmp_path / "file", b"weights", mtime_ns=0)
    cache.digest(path)
    (entry,) = entries(tmp_path)
    entry.write_bytes(record)
    assert cache.lookup(path) is None
    assert cache.digest(path) == sha256(b"weights")
    assert cache.lookup(path) == sha256(b"weights")


@pytest.mark.parametrize("digest", ["", "f" * 63, "f" * 65, "F" * 64, "g" * 64, None, 5])
def test_an_entry_must_hold_a_sha256(tmp_path: Path, cache: DigestCache, digest: Any) -> None:
    path = write(tmp_path / "file", b"weights")
    cache.digest(path)
    (entry,) = entries(tmp_path)
    entry.write_text(json.dumps({**json.loads(entry.read_bytes()), "sha256": digest}))
    assert cache.lookup(path) is None


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "digests").write_text("in the way")
    path = write(tmp_path / "file", b"weights")
    assert DigestCache(tmp_path / "digests").digest(path) == sha256(b"weights")


def test_many_at_once(tmp_path: Path, cache: DigestCache) -> None:
    path = write(tmp_path / "file", b"weights" * 1000)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(cache.digest(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sha256(b"weights" * 1000)] * 8
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("model.safetensors", True), ("weights/a b", True), ("..a", True), ("a..", True),
        ("é/ü", True), ("", False), (".", False), ("..", False), ("a/..", False), ("../a", False),
        ("a/../b", False), ("./a", False), ("a/./b", False), ("/a", False), ("//a", False),
        ("a\\b", False), ("C:a", False), ("a\0", False), ("a\nb", False), ("a\x1b[31m", False),
        ("\ud800", False),
    ],
)  # fmt: skip
def test_safe_names(name: str, safe: bool) -> None:
    assert is_safe_relative(name) is safe


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"1", b'"a"', b"null", b'{"a": 1', b'{"a": 1} x', b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "b": 2}}', b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}',
        b'{"a": 1e999}', b'{"a": -1e999}', b'{"a": "\xff"}', b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"), '{"a": 1}'.encode("utf-32"), b'{"a":' * 100_000,
        b'{"a": 1' + b"0" * 5000 + b"}", b'{"a": "\\ud800"}', b'{"a": ["\\uDC00\\uD800"]}',
        b'{"a": ' + b"[" * 150 + b"]" * 150 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_json_object(data: bytes) -> None:
    with pytest.raises(ValueError):
        load_json_object(data)


def test_a_json_object() -> None:
    assert load_json_object('{"a": [1, -0.5, 1e3, "é", null, true]}'.encode()) == {
        "a": [1, -0.5, 1000.0, "é", None, True]
    }


def test_pairs_of_surrogates_are_characters() -> None:
    assert load_json_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "aliases"),
        ("&a [*a]", "aliases"),
        ("a: 1\na: 2", "'a' appears twice"),
        ("1: 1\n0x1: 2", "a name appears twice"),
        ("a: [1", "but got .* in line 1"),
        ("[" * 3000, "too deeply"),
        ("!!bool x", "x"),
        ("!!timestamp x", "groupdict"),
        ("a: 2001-99-99", "month"),
        ("a: 0x" + "f" * 9000, "digits"),
        ('"\\ud800"', "surrogates"),
    ],
)
def test_what_is_no_yaml_to_be_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_yaml(text.encode())
    assert "\n" not in str(caught.value)


def test_yaml() -> None:
    assert load_yaml(b"a: [1, 2.5, yes, ~]\nb: {c: 'd'}") == {
        "a": [1, 2.5, True, None],
        "b": {"c": "d"},
    }
    assert load_yaml(b"") is None


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"12345")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(path, 5) == read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(ValueError, match="larger"):
        read_regular(path, 4)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(tmp_path / name, 5)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 5)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\n\x1b", "'a\\n\\x1b'"),
        (None, "None"),
        ("x" * 99, "'" + "x" * 8 + "…"),
        ([1] * 99, "[1, 1, 1,…"),
        (16**9000, "a very la…"),
    ],
    ids=["text", "none", "long", "list", "number"],
)
def test_shortened(value: Any, expected: str) -> None:
    assert shorten(value, 10) == expected


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    blocked = tmp_path / "folder"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_atomically(blocked, b"three")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


class _Narrow(io.FileIO):
    """Takes three bytes a call, as a disk that fills up or a signal makes it."""

    def write(self, data: Any, /) -> int:
        return super().write(memoryview(data)[:3])


def test_every_byte_is_written(tmp_path: Path) -> None:
    with _Narrow(str(tmp_path / "file"), "wb") as file:
        write_all(file, b"ten bytes!")
    assert (tmp_path / "file").read_bytes() == b"ten bytes!"


@pytest.mark.parametrize("size", [9, 11, 0])
def test_a_disk_that_took_less_than_it_said(tmp_path: Path, size: int) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"ten bytes!")
        file.flush()
        sync(file, 10)
        with pytest.raises(OSError, match=f"10 of {size} bytes"):
            sync(file, size)


def test_what_killed_writers_left_is_found(tmp_path: Path) -> None:
    hour_ago = time.time() - 3600
    for name in (".key.json.4711.00c0ffee", ".key.json.4711.00c0ffe", "key.json", ".hidden"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (hour_ago, hour_ago))
    (tmp_path / ".key.json.4712.00c0ffee").touch()  # somebody is at it
    assert find_stale_temporaries(tmp_path) == [tmp_path / ".key.json.4711.00c0ffee"]
    assert find_stale_temporaries(tmp_path / "absent") == []


def test_an_entry_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _text: str) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    cache.remember(write(tmp_path / "file", b"data"), sha256(b"data"))
    assert entries(tmp_path) == []
