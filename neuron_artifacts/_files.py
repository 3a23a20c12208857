"""Small file-system pieces that several layers share."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

CHUNK = 1 << 20
SETTLED_NS = 2_000_000_000
"""A file younger than this may still change within one timestamp tick: its digest is not kept."""

_ADVICE = {
    **dict.fromkeys(
        (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN),
        "run the command again; if that does not help, look at the disk or the mount",
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space there"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check who may read and write there"),
    errno.EMLINK: "no more names fit in there: remove some, or choose another place",
    errno.ENOMEM: "free memory, or raise the limit of the container",
}

_WRITING_SECONDS = 600
"""Nobody takes longer to write a small file."""

MAX_DEPTH = 100
"""Levels of a JSON object, far more than any file has; whoever walks it by recursion is safe."""

MAX_YAML_BYTES = 1 << 18
"""Settings that people write; the parser takes seconds for more."""

_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def user_cache_dir() -> Path:
    """Where digests and probe results are remembered; losing it costs time, never correctness."""
    configured = os.environ.get("NEURON_ARTIFACTS_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "neuron-artifacts"


def stat_regular(path: Path) -> os.stat_result:
    """The status of a regular file, whose size is known and which can be opened without waiting.

    A stranger's folder may link to a device, which has no end, or hold a pipe, which blocks.

    Raises
    ------
    OSError
        It cannot be looked at, or is something else.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return status


def is_about_access(error: OSError) -> bool:
    """Whether bytes could not be had, which says nothing about them: denied, out of descriptors.

    Otherwise something else than a file lies there, as a folder, a pipe or a loop of links.
    """
    return error.errno not in (errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENOTDIR)


def advise(error: OSError) -> str | None:
    """What to do about a file operation that the system refused."""
    return _ADVICE.get(error.errno or 0)


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, at most ``limit`` of them.

    Raises
    ------
    OSError
        It cannot be read, or is no regular file.
    ValueError
        It is larger.
    """
    status = stat_regular(path)
    data = b""
    if status.st_size <= limit:
        with path.open("rb") as file:
            data = file.read(limit + 1)  # files of /proc state a size of 0
    if max(len(data), status.st_size) > limit:
        most = f"{limit >> 20} MiB" if limit >> 20 else f"{limit >> 10} KiB"
        raise ValueError(f"larger than {most}")
    return data


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` whole or not at all."""
    temporary = _temporary(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            sync(file, len(data))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def find_stale_temporaries(directory: Path) -> list[Path]:
    """What :func:`write_atomically` left in a directory as its process was killed."""
    found = []
    with suppress(OSError):
        for path in directory.iterdir():
            with suppress(OSError):
                age = time.time() - path.lstat().st_mtime
                if _TEMPORARY.fullmatch(path.name) and age > _WRITING_SECONDS:
                    found.append(path)
    return found


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write every byte to an unbuffered file: on a disk that fills up, one call writes a part.

    Raises
    ------
    OSError
        There is no space for the rest.
    """
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync(file: IO[bytes], size: int) -> None:
    """Make a file durable, and see that its ``size`` bytes arrived.

    Raises
    ------
    OSError
        The disk did not take them, whatever it said before.
    """
    os.fsync(file.fileno())
    there = os.fstat(file.fileno()).st_size
    if there != size:
        raise OSError(errno.EIO, f"{there} of {size} bytes arrived on the disk", str(file.name))


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


def shorten(value: Any, width: int = 80) -> str:
    """A stranger's value for a message: one line that can be printed, of a bounded length."""
    try:
        text = repr(value[: width + 1] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # a number of too many digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= width else f"{text[: width - 1]}…"


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
    it could vouch for any bytes. What others own or may write is not believed.
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
            if not (_is_private(entry.parent.lstat()) and _is_private(entry.lstat())):
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
        temporary = _temporary(entry)
        with suppress(OSError):  # a cache that cannot be written only costs a second reading
            entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            entry.parent.chmod(0o700)
            try:
                temporary.touch(mode=0o600, exist_ok=False)
                temporary.write_text(json.dumps(record))
                temporary.replace(entry)
            except OSError:
                temporary.unlink(missing_ok=True)

    def find_abandoned(self) -> list[Path]:
        """Temporary files of writers that were killed."""
        return find_stale_temporaries(self._directory)

    def _entry(self, stat: os.stat_result) -> Path:
        return self._directory / f"{stat.st_dev:x}-{stat.st_ino:x}.json"


def _is_private(status: os.stat_result) -> bool:
    """Whether it is ours and nobody else may write it; links, whose mode says all may, are not."""
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def load_json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object, refusing what other parsers would read differently.

    Raises
    ------
    ValueError
        Not JSON, not an object, a duplicate name, NaN or an infinity, half a surrogate pair, or
        nested too deeply.
    """
    # json guesses UTF-16 and UTF-32 from bytes, which the format and other readers do not.
    text = data.decode("utf-8")
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_pairs,
            parse_constant=_no_constant, parse_float=_finite,
        )  # fmt: skip
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    _check_depth(value)
    if _SURROGATE.search(text):  # mostly whole pairs, which the parser has joined
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


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


def load_yaml(data: bytes) -> Any:
    """Parse YAML of plain values, refusing what can grow or hide: aliases and duplicate names.

    Raises
    ------
    ValueError
        Not YAML, or of more than this reads.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not read")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) != len(node.value):
                names = [shorten(child.value) for child, _ in node.value]
                twice = (name for at, name in enumerate(names) if name in names[:at])
                raise ValueError(f"{next(twice, 'a name')} appears twice")
            return mapping

    try:
        value = yaml.load(data, Loader)  # noqa: S506 - a SafeLoader
        json.dumps(value, default=str, ensure_ascii=False).encode()  # only what JSON can hold
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{line}") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError,
            ArithmeticError) as error:  # fmt: skip
        # Constructors of explicit tags, as in `!!bool x`, fail in any of these ways.
        lines = str(error).splitlines()
        raise ValueError(lines[0] if lines else type(error).__name__) from None
    return value
