"""Listening sockets, with errors that say what to do."""

from __future__ import annotations

import errno
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

from neuron_artifacts.errors import ServeError


def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """A bound socket for each address of ``host``, all on one port; 0 finds a free one.

    Raises
    ------
    ServeError
        The host is unknown, or the port cannot be had.
    """
    with ExitStack() as opened:
        bound: list[socket.socket] = []
        for family, address in _resolve(host, port):
            # The protocol is named because asyncio sets TCP_NODELAY only where it is.
            listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            opened.enter_context(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                # The first address decides which port it is where any will do.
                listener.bind((address, port or (bound[0].getsockname()[1] if bound else 0)))
            except OSError as error:
                raise _cannot_bind(error, host, port) from None
            bound.append(listener)
        opened.pop_all()
    return bound


def bind_unix(path: Path) -> list[socket.socket]:
    """A socket at ``path``; one that a dead server left there is replaced.

    Raises
    ------
    ServeError
        Something else is there, or a live server, or the folder cannot be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            _remove_dead(path)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ServeError(f"cannot listen on {path}: {error.strerror or error}") from None
    except ServeError:
        listener.close()
        raise
    return [listener]


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError):
        raise ServeError(
            f"the host {host!r} cannot be resolved",
            hint="--host 127.0.0.1 for this machine alone, 0.0.0.0 for all its addresses",
        ) from None
    pairs = dict.fromkeys((family, str(address[0])) for family, *_, address in found)
    return list(pairs)


def _cannot_bind(error: OSError, host: str, port: int) -> ServeError:
    hints = {
        errno.EADDRINUSE: "stop what listens there, or choose another with --port (0: a free one)",
        errno.EACCES: "ports below 1024 need privileges; choose another with --port",
        errno.EADDRNOTAVAIL: "this machine does not have that address; see --host",
    }
    reason = error.strerror or str(error)
    return ServeError(
        f"cannot listen on {host}:{port}: {reason.lower()}", hint=hints.get(error.errno or 0)
    )


def _remove_dead(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ServeError(f"cannot listen on {path}: a file is there", hint="choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ServeError(
        f"cannot listen on {path}: a server is listening there already", hint="stop it first"
    )
