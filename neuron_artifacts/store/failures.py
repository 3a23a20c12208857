"""Builds that failed for good: remembered, so that an hour is not spent twice on the same end.

One small JSON file per graphs digest below ``.failed``. The digest covers model, configuration,
compiler and target, so another compiler or bucket is another question. A file that cannot be
read or written is as good as none.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from neuron_artifacts._files import load_json_object, read_regular, write_atomically

FAILED = ".failed"
EXPIRES_SECONDS = 30 * 86400
PERMANENT = ("device_memory", "too_many_instructions", "unsupported_operator", "internal_error")
"""Causes that another try of the same compiler cannot change; see ``worker/causes.py``."""

_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class KnownFailure:
    """A build that failed. ``created`` and ``expires`` are seconds since 1970."""

    cause: str
    message: str
    log: str
    created: float
    expires: float

    def __str__(self) -> str:
        return f"failed on {_day(self.created)} ({self.cause.replace('_', ' ')}): {self.message}"

    @property
    def until(self) -> str:
        """The day until which it counts, UTC."""
        return _day(self.expires)


def remember_failure(
    root: Path, graphs_digest: str, *, cause: str, message: str, log: str, now: float | None = None
) -> bool:
    """Remember a failure whose cause is permanent; whether that was done."""
    if cause not in PERMANENT:
        return False
    now = time.time() if now is None else now
    failure = KnownFailure(cause, message, log, now, now + EXPIRES_SECONDS)
    with suppress(OSError):
        (root / FAILED).mkdir(parents=True, exist_ok=True)
        write_atomically(_path(root, graphs_digest), json.dumps(asdict(failure)).encode())
        return True
    return False


def recall_failure(
    root: Path, graphs_digest: str, *, now: float | None = None
) -> KnownFailure | None:
    """The failure remembered for these graphs, unless it has expired."""
    now = time.time() if now is None else now
    try:
        body = load_json_object(read_regular(_path(root, graphs_digest), _MOST_BYTES))
        failure = KnownFailure(
            str(body["cause"]), str(body["message"]), str(body["log"]),
            float(body["created"]), min(float(body["expires"]), now + EXPIRES_SECONDS),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    # A clock that was wrong when it was written must not make it last for ever.
    is_current = 0 <= failure.created <= now + 86400 and now < failure.expires
    return failure if is_current and failure.cause in PERMANENT else None


def forget_failure(root: Path, graphs_digest: str) -> None:
    with suppress(OSError):
        _path(root, graphs_digest).unlink()


def collect_failures(root: Path, *, now: float | None = None) -> None:
    """Remove those that have expired."""
    with suppress(OSError):
        for path in (root / FAILED).glob("*.json"):
            if recall_failure(root, path.stem, now=now) is None:
                path.unlink(missing_ok=True)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _path(root: Path, graphs_digest: str) -> Path:
    return root / FAILED / f"{graphs_digest}.json"
