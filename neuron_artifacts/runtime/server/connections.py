"""Connections that lead nowhere are ended, so that nobody keeps them all.

Two kinds cost a descriptor and memory for as long as a client pleases: those on which no request
arrives, or only the beginning of one, and those whose client has stopped reading its answer.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SILENT_SECONDS = 60
"""Without a whole request; longer than an idle connection is kept, which uvicorn sees to."""

STALLED_SECONDS = 120
"""Without a byte taken by a client for whom there are some."""

_MOST_DESCRIPTORS = 1 << 16


@dataclass(frozen=True)
class Limits:
    """Seconds until a connection is ended."""

    silent: float = SILENT_SECONDS
    stalled: float = STALLED_SECONDS


class Watch:
    """Remembers since when each connection has been getting nowhere."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._since: dict[Any, tuple[int | None, float]] = {}

    def look(self, connections: Iterable[Any], now: float) -> int:
        """End those that have been at it for too long; how many they were.

        ``connections`` are uvicorn's protocols; ``now`` is of a monotonic clock, in seconds.
        """
        since, ended = {}, 0
        for connection in connections:
            waiting = _waiting_for(connection)
            if waiting == 0:
                continue  # the client waits for us
            before, began = self._since.get(connection, (waiting, now))
            began = began if before == waiting else now
            limit = self._limits.silent if waiting is None else self._limits.stalled
            if now - began > limit:
                connection.transport.abort()
                ended += 1
            else:
                since[connection] = (waiting, began)
        self._since = since
        return ended


def allow_many_connections() -> None:
    """Use as many descriptors as this process may have; many systems begin with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _waiting_for(connection: Any) -> int | None:
    """Bytes that the client has to take, or ``None`` where it has to send a request."""
    cycle = connection.cycle
    if cycle is None or cycle.response_complete:
        return None
    return int(connection.transport.get_write_buffer_size())
