"""How many graphs this process has compiled: the figure behind ``compiled: 0``."""

from __future__ import annotations

import threading

from neuron_artifacts.errors import ServeError

_lock = threading.Lock()
_started = 0
_forbidden = False


def record() -> None:
    """Count one compile, or refuse it in a process that has promised to compile nothing."""
    global _started
    with _lock:
        if _forbidden:
            raise ServeError("a graph was about to be compiled while serving")
        _started += 1


def count() -> int:
    """Graphs this process has begun to compile."""
    return _started


def forbid() -> None:
    """From now on compiling is an error: serving never compiles."""
    global _forbidden
    _forbidden = True
