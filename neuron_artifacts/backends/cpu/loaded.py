"""A compiled graph as a library in this process."""

from __future__ import annotations

import _ctypes
import ctypes
from pathlib import Path

from neuron_artifacts.backends.cpu import abi
from neuron_artifacts.backends.cpu.elf import read_machine
from neuron_artifacts.backends.cpu.targets import missing_features, read_cpu, resolve_target
from neuron_artifacts.errors import CorruptError, IncompatibleError, SpecError

RECOMPILE = "compile the artifact again on this machine"


class LoadedGraph:
    """One shared object; nothing of it runs before its target and signature are checked.

    Raises
    ------
    CorruptError
        The file is no graph of ours.
    IncompatibleError
        It is, but for another processor, another model or another version.
    """

    def __init__(self, path: Path, signature: tuple[int, ...]) -> None:
        self._path = path
        self._check_machine()
        try:
            # An absolute path: the loader searches no folders.
            self._library = ctypes.CDLL(str(path.absolute()))
        except OSError as error:
            raise IncompatibleError(f"{path} cannot be loaded: {error}", hint=RECOMPILE) from error
        try:
            self._check_target()
            self._check_signature(signature)
            self._declare()
        except BaseException:
            self.close()
            raise

    def scratch_bytes(self, threads: int) -> int:
        return int(self._library.graph_scratch(threads))

    def run(self, call: abi.Call) -> None:
        self._library.graph_run(ctypes.byref(call))

    def open_team(self, threads: int) -> int:
        """Start threads that any graph may run on; 0 where memory is lacking."""
        return int(self._library.team_open(threads) or 0)

    def team_threads(self, team: int) -> int:
        return int(self._library.team_threads(team))

    def close_team(self, team: int) -> None:
        self._library.team_close(team)

    def close(self) -> None:
        _ctypes.dlclose(self._library._handle)

    def _check_machine(self) -> None:
        machine, (ours, _) = read_machine(self._path), read_cpu()
        if machine != ours:
            raise IncompatibleError(
                f"{self._path} is built for {machine}, this machine is {ours}", hint=RECOMPILE
            )

    def _check_target(self) -> None:
        try:
            name = (ctypes.c_char * 32).in_dll(self._library, "graph_target").value.decode("ascii")
            missing = missing_features(resolve_target(name))
        except (ValueError, SpecError) as error:
            raise CorruptError(f"{self._path} names no target of ours", hint=RECOMPILE) from error
        if missing:
            raise IncompatibleError(
                f"{self._path} is built for {name}; this CPU lacks {', '.join(missing)}",
                hint=RECOMPILE,
            )

    def _check_signature(self, expected: tuple[int, ...]) -> None:
        try:
            version = ctypes.c_int64.in_dll(self._library, "graph_signature").value
            length = len(expected) if version == abi.VERSION else 1
            found = tuple((ctypes.c_int64 * length).in_dll(self._library, "graph_signature"))
        except ValueError as error:
            raise CorruptError(f"{self._path} has no signature", hint=RECOMPILE) from error
        if found != expected:
            raise IncompatibleError(
                f"{self._path} is another graph: its signature is {found}, expected {expected}",
                hint=RECOMPILE,
            )

    def _declare(self) -> None:
        """Argument types; the functions are the four that every graph exports."""
        library, pointer = self._library, ctypes.c_void_p
        try:
            library.graph_scratch.argtypes, library.graph_scratch.restype = (
                (ctypes.c_int,),
                ctypes.c_int64,
            )
            library.graph_run.argtypes, library.graph_run.restype = (pointer,), None
            library.team_open.argtypes, library.team_open.restype = (ctypes.c_int,), pointer
            library.team_threads.argtypes = (pointer,)
            library.team_close.argtypes, library.team_close.restype = (pointer,), None
        except AttributeError as error:
            raise CorruptError(f"{self._path} lacks a function", hint=RECOMPILE) from error
