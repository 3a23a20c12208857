"""Does a directory hold what its manifest promises, and can it be used here?"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_artifacts._files import DigestCache, hash_file, is_about_access, read_regular
from neuron_artifacts.artifact.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SIDECARS,
    FileEntry,
    Manifest,
    parse_manifest,
)
from neuron_artifacts.errors import (
    CorruptError,
    ExitCode,
    IncompatibleError,
    IncompleteError,
    MissError,
    ModelFormatError,
    NeuronArtifactsError,
    StoreError,
)
from neuron_artifacts.model.safetensors_header import read_header
from neuron_artifacts.model.snapshot import CONFIG_NAME, TEMPLATE_FOLDER, is_asset

Status = Literal["ok", "missing", "incomplete", "corrupt", "incompatible", "unreadable"]
Depth = Literal["off", "quick", "full"]

EXIT_CODES: dict[Status, ExitCode] = {
    "ok": ExitCode.OK,
    "missing": ExitCode.MISS,
    "incomplete": ExitCode.CORRUPT,
    "corrupt": ExitCode.CORRUPT,
    "incompatible": ExitCode.INCOMPATIBLE,
    "unreadable": ExitCode.ERROR,
}

_ERRORS: dict[Status, type[NeuronArtifactsError]] = {
    "missing": MissError,
    "incomplete": IncompleteError,
    "corrupt": CorruptError,
    "incompatible": IncompatibleError,
    "unreadable": StoreError,
}

_GRAVITY: tuple[Status, ...] = ("corrupt", "incomplete", "unreadable")
"""What is known to be wrong is graver news than what could not be looked at."""

_LOOK_AGAIN = (
    "nothing says that it is damaged: see who may read it, and to the disk, and run the command "
    "again; `compile --force` sets it aside and builds it anew"
)

_WHERE_ARTIFACTS_ARE = (
    "name a directory, or the first digits of a key: `neuron-artifacts list` shows those of the "
    "store here, and `neuron-artifacts compile MODEL` makes one"
)

Problem = tuple[Status, str]


@dataclass(frozen=True)
class Verdict:
    """What became of checking one directory; ``problems`` are one line each, worst first."""

    path: Path
    status: Status
    depth: Depth
    problems: tuple[str, ...] = ()
    hint: str | None = None
    manifest: Manifest | None = None
    extra_files: tuple[str, ...] = ()
    bad_files: frozenset[str] = frozenset()

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.status]

    def error(self, hint: str | None = None) -> NeuronArtifactsError:
        """The typed error for a verdict other than ``ok``."""
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        message = f"{self.path} is {self.status}: {self.problems[0]}{more}"
        return _ERRORS[self.status](message, hint=hint or self.hint)


def verify_artifact(
    directory: Path,
    depth: Depth = "quick",
    *,
    digests: DigestCache | None = None,
    check_host: Callable[[Manifest], list[str]] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Verdict:
    """Check a directory against its manifest.

    ``off`` reads the manifest alone; ``quick`` also sizes and headers; ``full`` also every byte,
    or its digest remembered in ``digests``. ``check_host`` lists what keeps this machine from
    running it. What the system does not let us read is ``unreadable``, which says nothing about
    its bytes. Files that the manifest does not list do no harm, unless they have a name that is
    read wherever it is found, as ``chat_template.jinja``. Never raises for what it finds on disk.
    """
    try:
        manifest = _read(directory)
    except NeuronArtifactsError as error:
        status = next(name for name, cls in _ERRORS.items() if type(error) is cls)
        return Verdict(directory, status, depth, (error.message,), error.hint)
    checked = [
        (file.path, _check_file(directory, file, depth, digests, on_bytes))
        for file in (manifest.files if depth != "off" else ())
    ]
    bad = {path: problem for path, problem in checked if problem}
    if bad:
        ordered = sorted(bad.values(), key=lambda problem: _GRAVITY.index(problem[0]))
        status = ordered[0][0]
        return Verdict(
            directory, status, depth, tuple(text for _, text in ordered),
            _LOOK_AGAIN if status == "unreadable" else None, manifest, bad_files=frozenset(bad),
        )  # fmt: skip
    extra = tuple(sorted(set(_walk(directory)) - {*SIDECARS, *(f.path for f in manifest.files)}))
    problems = [
        *(f"{name} is no plain file" for name in sorted(SIDECARS) if _is_odd(directory / name)),
        *(
            f"{name} would be read, and the manifest does not list it"
            for name in extra
            if is_asset(name) or name == TEMPLATE_FOLDER
        ),
    ]
    if problems and depth != "off":
        return Verdict(directory, "corrupt", depth, tuple(problems), None, manifest, extra)
    reasons = check_host(manifest) if check_host else []
    if reasons:
        hint = "compile it for this machine, or move it to one that can run it"
        return Verdict(directory, "incompatible", depth, tuple(reasons), hint, manifest, extra)
    return Verdict(directory, "ok", depth, manifest=manifest, extra_files=extra)


def read_manifest(directory: Path) -> Manifest:
    """Read and check ``artifact.json`` alone.

    Raises
    ------
    MissError, IncompleteError, CorruptError, IncompatibleError
        No directory, no manifest in it, a damaged one, one of another schema.
    StoreError
        It cannot be looked at.
    """
    try:
        return _read(directory)
    except NeuronArtifactsError as error:
        where = "" if str(directory) in error.message else f"{directory}: "
        raise type(error)(where + error.message, hint=error.hint) from None


def _read(directory: Path) -> Manifest:
    found = _parse_if_there(directory)
    if found:
        return found
    try:
        names = [path.name for path in directory.iterdir()]
    except NotADirectoryError:
        names = [directory.name]
    except FileNotFoundError:
        raise MissError("there is no such directory", hint=_WHERE_ARTIFACTS_ARE) from None
    except OSError as error:
        raise _unreadable(directory, error) from None
    if not names:
        raise MissError("the directory is empty")
    # Artifacts are renamed into place whole: one may have come between the two looks.
    found = _parse_if_there(directory)
    if found:
        return found
    raise IncompleteError(
        f"it has no {MANIFEST_NAME}, so it is no artifact of ours, or an unfinished one",
        hint=_remedy(names, directory),
    )


def _remedy(names: list[str], directory: Path) -> str | None:
    """What to do with a directory that holds something else than an artifact."""
    if "model.pt" in names:
        return "what vLLM compiled is taken in with `neuron-artifacts adopt`"
    if CONFIG_NAME in names and any(name.endswith(".safetensors") for name in names):
        command = shlex.join(("neuron-artifacts", "compile", str(directory)))
        return f"it looks like a model: `{command}` makes an artifact of it"
    return None


def _parse_if_there(directory: Path) -> Manifest | None:
    try:
        return parse_manifest(read_regular(directory / MANIFEST_NAME, MAX_MANIFEST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if is_about_access(error):
            raise _unreadable(Path(MANIFEST_NAME), error) from None
        raise CorruptError(f"{MANIFEST_NAME} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CorruptError(f"{MANIFEST_NAME} is {error}") from None


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {error.strerror}", hint=_LOOK_AGAIN)


def _check_file(
    directory: Path,
    file: FileEntry,
    depth: Depth,
    digests: DigestCache | None,
    on_bytes: Callable[[int], None] | None,
) -> Problem | None:
    try:
        problem = _find_damage(directory, file, depth, digests, on_bytes)
    except FileNotFoundError:
        return "incomplete", f"{file.path} is missing"
    except OSError as error:
        status: Status = "unreadable" if is_about_access(error) else "corrupt"
        return status, f"{file.path} cannot be read: {error.strerror}"
    return ("corrupt", problem) if problem else None


def _find_damage(
    directory: Path,
    file: FileEntry,
    depth: Depth,
    digests: DigestCache | None,
    on_bytes: Callable[[int], None] | None,
) -> str | None:
    """One line about what differs; an OSError if that cannot be seen."""
    path = directory / file.path
    if _has_link(directory, file.path):
        return f"{file.path} is a symbolic link, or lies behind one"
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return f"{file.path} is no regular file"
    if status.st_size != file.size:
        return f"{file.path} has {status.st_size} bytes where {file.size} were written"
    problem = _check_header(path, file)
    if problem or depth == "quick":
        return problem
    found = digests.digest(path, on_bytes) if digests else hash_file(path, on_bytes)
    return None if found == file.sha256 else f"{file.path} has other bytes than were written"


def _check_header(path: Path, file: FileEntry) -> str | None:
    if file.role == "weights":
        try:
            read_header(path)
        except ModelFormatError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            return f"{file.path} has a damaged safetensors header"
    elif file.role == "graph" and file.path.endswith(".so"):
        with path.open("rb") as opened:
            if opened.read(4) != b"\x7fELF":
                return f"{file.path} is no shared object"
    return None


def _is_odd(path: Path) -> bool:
    """Whether something else than a file lies there, as a link to what must not be pushed."""
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _has_link(directory: Path, relative: str) -> bool:
    path = directory
    for part in relative.split("/"):
        path = path / part
        if path.is_symlink():
            return True
    return False


def _walk(directory: Path) -> Iterator[str]:
    """Every file, and every link to a folder, which is not followed."""
    for folder, folders, names in os.walk(directory):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*names, *links):
            yield (Path(folder) / name).relative_to(directory).as_posix()
