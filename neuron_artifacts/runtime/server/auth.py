"""API keys.

With keys set, every route needs ``Authorization: Bearer <key>`` but ``/health`` and ``/ping``,
which probes call and which say one word. ``/metrics`` and ``/load`` tell how much a server is used
and by which lengths of prompts, ``/version`` which holes it has: scrapers send a key as well.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

OPEN_ROUTES = frozenset({"/health", "/ping"})


class KeyRing:
    """The accepted keys, kept as digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key.encode()) for key in keys)

    def admits(self, path: str, authorization: bytes) -> bool:
        """Whether a request to ``path`` with this ``Authorization`` header may pass."""
        if not self._digests or path in OPEN_ROUTES:
            return True
        scheme, _, token = authorization.partition(b" ")
        offered = _digest(token.strip())
        # Every key is compared, whole digest by whole digest: time tells nothing of the match.
        matches = [hmac.compare_digest(offered, digest) for digest in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
