"""Small file-system pieces that several layers share."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

CHUNK = 1 << 20
SETTLED_NS = 2_000_000_000
"""A file younger than this may still change within one timestamp tick: its digest is not kept."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def user_cache_dir() -> Path:
    """Where digests and probe results are remembered; losing it costs time, never correctness."""
    configured = os.environ.get("NEURON_ARTIFACTS_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "neuron-artifacts"


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_safe_relative(name: str) -> bool:
    """Whether ``name`` stays inside the folder it is joined to, on every platform."""
    if not name.isprintable() or not name or "\\" in name or ":" in name:
        return False
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts and "." not in name.split("/")


def is_sha256(value: Any) -> bool:
    """Whether ``value`` is a SHA-256 in lower-case hexadecimal."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def hash_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            if on_bytes:
                on_bytes(count)
    return digest.hexdigest()


class DigestCache:
    """Remembers digests by device, inode, size and mtime, so that a file is read once a machine.

    One small file per inode, in a directory that only its owner may write: whoever could write
    it could vouch for any bytes.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or user_cache_dir() / "digests"

    def digest(self, path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
        """The file's SHA-256, read from the file unless it was hashed before and is unchanged."""
        before = path.stat()
        known = self.lookup(path)
        if known:
            return known
        digest = hash_file(path, on_bytes)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            self.remember(path, digest)
        return digest

    def lookup(self, path: Path) -> str | None:
        stat = path.stat()
        entry = self._entry(stat)
        try:
            folder, mine = entry.parent.stat(), os.getuid()
            if folder.st_mode & 0o022 or {folder.st_uid, entry.stat().st_uid} != {mine}:
                return None
            record = json.loads(entry.read_bytes())
            if record["size"] == stat.st_size and record["mtime_ns"] == stat.st_mtime_ns:
                return record["sha256"] if is_sha256(record["sha256"]) else None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def remember(self, path: Path, digest: str, *, settled: bool = False) -> None:
        """Keep a digest; ``settled`` says that nobody writes the file any more."""
        stat = path.stat()
        if not settled and time.time_ns() - stat.st_mtime_ns < SETTLED_NS:
            return
        record = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
        entry = self._entry(stat)
        try:
            entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            entry.parent.chmod(0o700)
            temporary = entry.with_name(f"{entry.name}.{os.getpid()}.{secrets.token_hex(4)}")
            temporary.write_text(json.dumps(record))
            temporary.replace(entry)
        except OSError:
            pass  # a cache that cannot be written only costs a second reading

    def _entry(self, stat: os.stat_result) -> Path:
        return self._directory / f"{stat.st_dev:x}-{stat.st_ino:x}.json"


def load_json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object, refusing what other parsers would read differently.

    Raises
    ------
    ValueError
        Not JSON, not an object, a duplicate name, NaN or an infinity, or nested too deeply.
    """
    try:
        # json guesses UTF-16 and UTF-32 from bytes, which the format and other readers do not.
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique_pairs,
            parse_constant=_no_constant, parse_float=_finite,
        )  # fmt: skip
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
