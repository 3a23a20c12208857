"""Server-sent events: one ``data:`` line of JSON each, ``data: [DONE]`` at the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from neuron_artifacts.runtime.server.errors import ClientGoneError, as_api_error, log_failure
from neuron_artifacts.runtime.server.generation import Generation
from neuron_artifacts.runtime.server.protocol import StreamOptions
from neuron_artifacts.runtime.server.responses import Usage, make_usage

DONE = b"data: [DONE]\n\n"
_LINE_BREAKS = {ord(char): f"\\u{ord(char):04x}" for char in "\u0085\u2028\u2029"}
"""What Unicode calls a line's end and JSON does not: clients that split lines by Unicode (httpx's
``iter_lines``, Python's ``splitlines``) would cut an event in two."""


class StreamUsage:
    """Counts tokens along a stream and says which chunks carry them."""

    def __init__(self, prompt_tokens: int, options: StreamOptions | None) -> None:
        self.wanted = options is not None and options.include_usage
        self._continuous = options is not None and options.continuous_usage_stats
        self._prompt_tokens = prompt_tokens
        self._completion_tokens = 0

    def add(self, tokens: int) -> None:
        self._completion_tokens += tokens

    def total(self) -> Usage:
        return make_usage(self._prompt_tokens, self._completion_tokens)

    def fields(self) -> dict[str, Any]:
        """What a chunk says of usage: OpenAI's null where the last chunk will tell."""
        if self._continuous:
            return {"usage": self.total()}
        return {"usage": None} if self.wanted else {}


class EventStream(Response):
    """Streams ``chunks`` while a generation runs, and ends it when the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, generation: Generation, chunks: AsyncIterator[BaseModel]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._generation = generation
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._generation.watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events(scope):
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": DONE, "more_body": False})
        finally:
            watcher.cancel()
            self._generation.close()

    async def _events(self, scope: Scope) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield encode_event(chunk.model_dump_json(exclude_unset=True))
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - the status is out; only the stream can tell
            failure = as_api_error(error)
            if failure.status == 500:
                log_failure(error, scope["method"], scope["path"])
            yield encode_event(json.dumps(failure.body()))


def encode_event(data: str) -> bytes:
    return b"data: " + data.translate(_LINE_BREAKS).encode() + b"\n\n"
