"""What a worker tells its host: one line of JSON each, with bytes behind it where it says so."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LINE_LIMIT = 64 << 20
DATA_LIMIT = 1 << 30
CHUNK = 1 << 20

_REQUIRED: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "phase": {"name": str},
    "graph": {"phase": str, "bucket": int, "state": str},
    "progress": {"what": str, "done": int, "total": int},
    "warning": {"text": str},
    "started": {"pid": int},
    "ready": {"facts": dict},
    "answer": {"payload": dict},
    "refused": {"type": str, "message": str},
    "failed": {"type": str, "module": str, "message": str},
    "result": {"result": dict},
}


@dataclass(frozen=True)
class Message:
    event: str
    fields: Mapping[str, Any]
    data: bytes = field(default=b"", repr=False)


class BrokenMessageError(ValueError):
    """A line on the worker's channel that is none of its messages."""


def parse_message(line: bytes) -> tuple[Message, int]:
    """The message of a line, and how many bytes follow it.

    Raises
    ------
    BrokenMessageError
        Not a JSON object, an unknown event, or one without its fields.
    """
    try:
        fields = json.loads(line)
        event, size = fields.pop("event"), fields.pop("bytes", 0)
        required = _REQUIRED[event]
        sound = all(isinstance(fields[name], kind) for name, kind in required.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound, size = False, 0
    if not sound or not isinstance(size, int) or not 0 <= size <= DATA_LIMIT:
        raise BrokenMessageError(f"the worker sent {_shorten(line)}, which is no message")
    return Message(event, fields), size


def _shorten(line: bytes, limit: int = 80) -> str:
    text = line[:limit].decode("utf-8", "replace").strip()
    return repr(f"{text}…" if len(line) > limit else text)


class MessageReader:
    """Messages from a pipe, as they come."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._ended = False

    def read(self, seconds: float) -> Message | None:
        """The next message; ``None`` once the worker's end is closed.

        Raises
        ------
        TimeoutError
            Nothing whole arrived in ``seconds``; what did arrive is kept.
        BrokenMessageError
            See :func:`parse_message`; also a line or message cut off in its middle.
        """
        deadline = time.monotonic() + seconds
        while (message := self._take()) is None:
            if self._ended:
                if self._buffer:
                    raise BrokenMessageError(
                        f"the worker's last message breaks off: {_shorten(bytes(self._buffer))}"
                    )
                return None
            self._fill(deadline)
        return message

    def _take(self) -> Message | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > LINE_LIMIT:
                raise BrokenMessageError(f"the worker sent a line beyond {LINE_LIMIT} bytes")
            return None
        message, size = parse_message(bytes(self._buffer[:end]))
        whole = end + 1 + size
        if len(self._buffer) < whole:
            return None
        data = bytes(self._buffer[end + 1 : whole])
        del self._buffer[:whole]
        return Message(message.event, message.fields, data)

    def _fill(self, deadline: float) -> None:
        wait = max(0.0, deadline - time.monotonic())
        if not select.select([self._descriptor], [], [], wait)[0]:
            raise TimeoutError
        chunk = os.read(self._descriptor, CHUNK)
        self._buffer += chunk
        self._ended = not chunk
