"""Ask an interpreter what it has, once for as long as it stays the same."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuron_artifacts._files import SETTLED_NS, load_json_object, user_cache_dir, write_atomically
from neuron_artifacts.toolchain.generations import PROBED
from neuron_artifacts.toolchain.processes import read_output

PROBE_SECONDS = 30.0
_SCRIPT = Path(__file__).with_name("probe.py")


@dataclass(frozen=True)
class Report:
    """What an interpreter said of itself. ``path`` are the folders it imports from.

    ``executable`` is another file than the one that was started where that is a script, such as
    a version manager's, which may start another interpreter from another folder.
    """

    python: str
    executable: str
    packages: Mapping[str, str]
    placeholders: Mapping[str, str]
    path: tuple[str, ...]


def probe_interpreter(
    python: Path, environ: Mapping[str, str], *, seconds: float = PROBE_SECONDS
) -> Report:
    """Run the probe there. What start-up files of the interpreter print does not matter.

    Raises
    ------
    OSError, ValueError
        It does not start, does not answer in time, or answers something else.
    """
    token = secrets.token_hex(16)
    argv = [str(python), "-I", "-B", str(_SCRIPT), token, *PROBED]
    for line in read_output(argv, environ, seconds).splitlines():
        if line.startswith(token):
            return _report(load_json_object(line.removeprefix(token).encode()))
    raise ValueError("it does not answer like Python 3.8 or later")


def recall_or_probe(python: Path, environ: Mapping[str, str], cache: Path | None = None) -> Report:
    """The report of last time, unless the binary or a folder it imports from has changed.

    Raises
    ------
    OSError, ValueError
        As :func:`probe_interpreter`.
    """
    folder = cache or user_cache_dir() / "toolchains"
    entry = folder / f"{hashlib.sha256(os.fsencode(python)).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        known = load_json_object(entry.read_bytes())
        report = _report(known["report"])
        if known["asked"] == list(PROBED) and known["state"] == _state(python, report):
            return report
    report = probe_interpreter(python, environ)
    _remember(entry, python, report)
    return report


def is_script(python: Path, report: Report) -> bool:
    """Whether ``python`` is no interpreter, but starts one."""
    return os.path.realpath(python) != os.path.realpath(report.executable)


def _remember(entry: Path, python: Path, report: Report) -> None:
    state = _state(python, report)
    newest = max(changed for *_, changed in state)
    if is_script(python, report) or time.time_ns() - newest < SETTLED_NS:
        return  # a file younger than this may still change within one tick of the clock
    body = {"asked": PROBED, "state": state, "report": asdict(report)}
    with suppress(OSError):  # a read-only home costs a probe each time, nothing else
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(entry, json.dumps(body).encode())


def _state(python: Path, report: Report) -> list[list[Any]]:
    """Path, inode and time of change of everything whose change could change the answer."""
    settings = [str(p) for p in (python.parent.parent / "pyvenv.cfg",) if p.exists()]
    places = [str(python), os.path.realpath(python), *settings, *report.path]
    stats = [(place, os.stat(place)) for place in places]  # noqa: PTH116 - beside realpath
    return [[place, stat.st_ino, stat.st_mtime_ns] for place, stat in stats]


def _report(body: Mapping[str, Any]) -> Report:
    try:
        return Report(
            python=str(body["python"]),
            executable=str(body["executable"]),
            packages={str(name): str(v) for name, v in body["packages"].items()},
            placeholders={str(name): str(v) for name, v in body["placeholders"].items()},
            path=tuple(map(str, body["path"])),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("it answers something else") from error
