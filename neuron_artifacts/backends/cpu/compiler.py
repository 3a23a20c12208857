"""Find a C compiler, say what it is, and turn C into a shared object."""

from __future__ import annotations

import ctypes
import importlib.util
import io
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from neuron_artifacts._files import user_cache_dir, write_atomically
from neuron_artifacts.backends.cpu.targets import Target
from neuron_artifacts.errors import CompileError, ResourceError, ToolchainError

Kind = Literal["gcc", "clang", "zig"]

SOURCE_NAME, OBJECT_NAME = "graph.c", "graph.so"
FLAGS = (
    "-std=gnu11", "-O3", "-g0", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden",
    "-fno-ident", "-fno-asynchronous-unwind-tables",
    # Products and sums may fuse; nothing may be reordered, so every compiler sums alike.
    "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-Wl,--build-id=none", "-Wl,-s", "-w",
)  # fmt: skip
PASSED_ON = ("PATH", "HOME", "ZIG_GLOBAL_CACHE_DIR", "LD_LIBRARY_PATH")
"""What a compiler may see of the environment: enough to run, nothing that changes its output."""

PROBE_SECONDS = 60
LOG_LINES = 12
_DISK_FULL = ("No space left on device", "NoSpaceLeft", "Disk quota exceeded")


@dataclass(frozen=True)
class Compiler:
    """A C compiler that ran: ``argv`` starts it, the rest says which one it is.

    ``machine`` is the processor it compiles for by itself (zig compiles for every target).
    """

    kind: Kind
    argv: tuple[str, ...]
    version: str
    build: str
    machine: str
    linker: str

    def document(self) -> dict[str, Any]:
        """Identity for the key: no paths, so that two machines with the same compiler agree."""
        return {
            "compiler": self.kind,
            "version": self.version,
            "build": self.build,
            "machine": self.machine,
            "linker": self.linker,
            "flags": list(FLAGS),
        }


def find_compiler(target: Target, environ: Mapping[str, str], cache_dir: Path) -> Compiler:
    """The first compiler that works and can compile for ``target``.

    Looked for in this order: ``NEURON_ARTIFACTS_CC``, ``CC``, ``gcc``, ``cc``, ``clang`` (for
    another processor than this one: its GNU cross compiler), then zig from the ``ziglang``
    package. What it is, is asked by subprocess once and remembered in ``cache_dir`` for as long
    as the file stays the same.

    Raises
    ------
    ToolchainError
        There is none, or the one that ``NEURON_ARTIFACTS_CC`` or ``CC`` names does not work.
    """
    for origin, argv in _candidates(target, environ):
        resolved = _resolve(argv, environ)
        compiler = _recall_or_probe(resolved, environ, cache_dir) if resolved else None
        if compiler is None:
            if origin:
                why = "answers unlike gcc, clang and zig" if resolved else "is not an executable"
                raise _rejected(origin, argv, why)
        elif compiler.kind == "zig" or compiler.machine == target.machine:
            return compiler
        elif origin == "NEURON_ARTIFACTS_CC":
            why = f"compiles for {compiler.machine}, not for {target.machine}"
            raise _rejected(origin, argv, why)
    raise _none_found(target)


def _candidates(target: Target, environ: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Origin (empty for our own guesses) and command, best first."""
    for name in ("NEURON_ARTIFACTS_CC", "CC"):
        if environ.get(name, "").strip():
            yield name, _split(name, environ[name])
    if target.machine == platform.machine():
        for name in ("gcc", "cc", "clang"):
            yield "", [name]
    else:
        yield "", [f"{target.machine}-linux-gnu-gcc"]
    zig = _bundled_zig()
    if zig:
        yield "", [str(zig), "cc"]


def _split(name: str, command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ToolchainError(f"{name} cannot be read as a command: {error}") from error


def _bundled_zig() -> Path | None:
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec and spec.submodule_search_locations) or ():
        zig = Path(folder) / "zig"
        if os.access(zig, os.X_OK):
            return zig
    return None


def _resolve(argv: list[str], environ: Mapping[str, str]) -> tuple[str, ...] | None:
    program = shutil.which(argv[0], path=environ.get("PATH"))
    return (str(Path(program).absolute()), *argv[1:]) if program else None


def _rejected(origin: str, argv: list[str], why: str) -> ToolchainError:
    return ToolchainError(
        f"{origin}={shlex.join(argv)} {why}",
        hint=f"correct {origin}, or unset it to have a compiler looked for",
    )


def _none_found(target: Target) -> ToolchainError:
    native = target.machine == platform.machine()
    package = "gcc" if native else f"gcc-{target.machine.replace('_', '-')}-linux-gnu"
    return ToolchainError(
        f"no C compiler for {target.name} was found",
        hint=f"install one with your system's packages (apt install {package}), or from PyPI: "
        "pip install 'neuron-artifacts[toolchain]'",
    )


def _recall_or_probe(
    argv: tuple[str, ...], environ: Mapping[str, str], cache_dir: Path
) -> Compiler | None:
    path, identity = cache_dir / "compilers.json", _file_identity(argv, environ)
    known = _read_cache(path)
    entry = known.get(identity)
    if entry is not None:
        with suppress(TypeError):
            return Compiler(argv=argv, **entry)
    compiler = _probe(argv, environ)
    if compiler is not None:
        document = asdict(compiler)
        del document["argv"]
        with suppress(OSError):  # a read-only home costs a probe each time, nothing else
            cache_dir.mkdir(parents=True, exist_ok=True)
            content = json.dumps({**known, identity: document}, indent=1, sort_keys=True)
            write_atomically(path, content.encode())
    return compiler


def _file_identity(argv: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """The command and every file in it: in ``ccache gcc``, both."""
    parts: list[Any] = [list(argv)]
    for word in argv:
        program = shutil.which(word, path=environ.get("PATH"))
        if program:
            real = os.path.realpath(program)
            stat = os.stat(real)  # noqa: PTH116 - beside os.path.realpath
            parts.append([real, stat.st_ino, stat.st_size, stat.st_mtime_ns])
    return json.dumps(parts, separators=(",", ":"))


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {key: value for key, value in entries if isinstance(value, dict)}


def _probe(argv: tuple[str, ...], environ: Mapping[str, str]) -> Compiler | None:
    zig = len(argv) > 1 and argv[1] == "cc"
    build = _first_line(argv, "--version", environ)
    version = _first_line((argv[0],), "version", environ) if zig else None
    version = version or _first_line(argv, "-dumpversion", environ)
    machine = _first_line(argv, "-dumpmachine", environ)
    if not (build and version and machine) or not version[0].isdigit():
        return None
    kind: Kind = "zig" if zig else "clang" if "clang" in build.lower() else "gcc"
    full = version if kind != "gcc" else _first_line(argv, "-dumpfullversion", environ) or version
    linker = "lld" if zig else _first_line(argv, "-Wl,--version", environ) or "unknown"
    return Compiler(kind, argv, full, build, machine.split("-")[0], linker)


def _first_line(argv: tuple[str, ...], option: str, environ: Mapping[str, str]) -> str | None:
    try:
        done = subprocess.run(
            [*argv, option],
            env=_environment(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return lines[0].strip() if lines else None


def _environment(environ: Mapping[str, str], temporary: str | None = None) -> dict[str, str]:
    kept = {name: environ[name] for name in PASSED_ON if name in environ}
    # zig keeps the C library's stubs there, which take seconds to build
    kept.setdefault("ZIG_GLOBAL_CACHE_DIR", str(user_cache_dir() / "zig"))
    fixed = {"LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    if temporary is not None:
        fixed |= {"TMPDIR": temporary, "ZIG_LOCAL_CACHE_DIR": temporary}
    return {**kept, **fixed}


def compile_graph(compiler: Compiler, target: Target, source: str, destination: Path) -> int:
    """Compile C text to the shared object ``destination``, which appears whole or not at all.

    Returns the peak memory of the largest process involved, in bytes.

    The bytes depend on compiler, target and source only: the compiler runs in a folder of its own
    on a file of fixed name. That folder is made beside ``destination``.

    Raises
    ------
    CompileError
        The compiler failed; its last lines are in the message, all of them in ``log``.
    ResourceError
        The disk is full.
    """
    with tempfile.TemporaryDirectory(prefix=".compile-", dir=destination.parent) as folder:
        (Path(folder) / SOURCE_NAME).write_text(source, encoding="utf-8")
        argv = [
            *compiler.argv,
            *FLAGS,
            *target.flags(compiler.kind),
            "-o",
            OBJECT_NAME,
            SOURCE_NAME,
        ]
        code, log, peak = _run(argv, folder)
        built = Path(folder) / OBJECT_NAME
        if code or not built.is_file():
            raise _failed(compiler, target, code, log)
        built.chmod(0o644)
        built.replace(destination)
    return peak


def _run(argv: list[str], folder: str) -> tuple[int, str, int]:
    """Exit code, output and peak memory; whatever interrupts us ends the compiler first."""
    try:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=_environment(os.environ, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_death_hook(),
        )
    except OSError as error:
        return -1, f"{argv[0]}: {error.strerror}", 0
    try:
        with process.stdout or io.BytesIO() as stdout:
            output = stdout.read()
        # wait4 counts what the driver waited for too: the compiler proper is its child.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    text = output.decode("utf-8", "replace").strip()
    return process.returncode, text, usage.ru_maxrss << 10


def _death_hook() -> Callable[[], None] | None:
    """Between fork and exec: ask Linux to end the child when this process dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    set_death_signal = 1

    def hook() -> None:
        prctl(set_death_signal, signal.SIGKILL)

    return hook


def _failed(
    compiler: Compiler, target: Target, code: int, log: str
) -> CompileError | ResourceError:
    if any(words in log for words in _DISK_FULL):
        return ResourceError(
            f"{compiler.kind} {compiler.version} found no space left on the disk",
            hint="free space there, or choose another place with --store",
        )
    lines = log.splitlines()
    cause = " | ".join(line.strip() for line in lines[-LOG_LINES:]) or "it printed nothing"
    ended = f"signal {-code}" if code < -1 else f"code {code}"
    return CompileError(
        f"{compiler.kind} {compiler.version} failed for {target.name} ({ended}): {cause}",
        hint="try another compiler with NEURON_ARTIFACTS_CC, or "
        "pip install 'neuron-artifacts[toolchain]' for a known good one",
        log=log,
    )
