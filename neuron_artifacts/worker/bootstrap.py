"""Runs one worker file inside the toolchain's interpreter, where nothing of ours is installed.

Run as a script (Python 3.8 or later, standard library only)::

    python bootstrap.py WORKER REQUEST EVENTS [CALLS]

``WORKER`` is the worker's file, ``REQUEST`` a file with one JSON object, ``EVENTS`` a descriptor
for messages to the host, and ``CALLS`` one for the host's calls, which makes the worker serve.
A message is one line of JSON; where it has ``bytes``, so many bytes follow the line. Everything
printed goes elsewhere.
"""

from __future__ import annotations

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the folder of this file: what lies beside it is not for others to import

import concurrent.futures
import faulthandler
import json
import os
import signal
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

MESSAGE_CHARACTERS = 20000
"""Of an exception's text; compilers put their whole output into it."""


class Channel:
    """Writes whole messages, from any thread."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # compilers must not hold it open
        self._descriptor, self._lock = descriptor, threading.Lock()

    def emit(self, event: str, **fields: Any) -> None:
        self.send(dict(fields, event=event))

    def send(self, message: Mapping[str, Any], data: bytes = b"") -> None:
        if data:
            message = dict(message, bytes=len(data))
        line = json.dumps(message).encode("ascii") + b"\n"
        with self._lock:
            for part in (line, data):
                view = memoryview(part)
                while view:
                    view = view[os.write(self._descriptor, view) :]


class Call:
    def __init__(self, method: str, payload: dict[str, Any]) -> None:
        self.method, self.payload = method, payload


class Exchange:
    """The worker's side of serving: say what is loaded, then answer each call in turn."""

    def __init__(self, channel: Channel, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._channel, self._calls = channel, os.fdopen(descriptor, "rb")

    def ready(self, facts: Mapping[str, Any]) -> None:
        self._channel.send({"event": "ready", "facts": facts})

    def __iter__(self) -> Iterator[Call]:
        for line in self._calls:
            message = json.loads(line.decode("ascii"))
            yield Call(message["method"], message["payload"])

    def answer(self, payload: Mapping[str, Any], data: bytes = b"") -> None:
        self._channel.send({"event": "answer", "payload": payload}, data)

    def fail(self, error: BaseException) -> None:
        self._channel.send(dict(describe(error), event="refused"))


def describe(error: BaseException) -> dict[str, Any]:
    text = str(error)
    if len(text) > MESSAGE_CHARACTERS:
        half = MESSAGE_CHARACTERS // 2
        text = text[:half] + "\n…\n" + text[-half:]
    kind = type(error)
    return {"type": kind.__name__, "module": kind.__module__, "message": text}


def load(path: str) -> Any:
    """The worker as a module, without its folder on ``sys.path`` and without a cache file."""
    module = types.ModuleType("neuron_artifacts_worker")
    module.__file__ = path
    sys.modules[module.__name__] = module
    exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)  # noqa: S102 - our own
    return module


def limit_pools(jobs: int) -> None:
    """Let executors run ``jobs`` compilers at once.

    NxD's ModelBuilder starts one compiler per graph in an executor of the default size and has
    no option for it (neuronx-distributed, ``trace/model_builder.py:710``).
    """

    def limit(original: Callable[..., None]) -> Callable[..., None]:
        def begin(pool: Any, max_workers: int | None = None, *rest: Any, **named: Any) -> None:
            original(pool, min(max_workers or jobs, jobs), *rest, **named)

        return begin

    pools: list[Any] = [concurrent.futures.ThreadPoolExecutor]
    pools.append(concurrent.futures.ProcessPoolExecutor)
    for pool in pools:
        pool.__init__ = limit(pool.__init__)


def perform(worker: Any, request: dict[str, Any], channel: Channel, calls: str | None) -> Any:
    if calls is None:
        return worker.run(request, channel.emit)
    worker.serve(request, channel.emit, Exchange(channel, int(calls)))
    return {}


def main(path: str, request: str, events: str, calls: str | None = None) -> None:
    channel = Channel(int(events))
    channel.emit("started", pid=os.getpid())
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started us may have ignored them
        signal.signal(number, signal.default_int_handler)
    try:
        wish = json.loads(Path(request).read_bytes().decode("utf-8"))
        if wish.get("jobs"):
            limit_pools(wish["jobs"])
        result = perform(load(path), wish, channel, calls)
        channel.send({"event": "result", "result": result})
    except BaseException as error:  # noqa: BLE001 - the host hears of every end
        traceback.print_exc()
        channel.send(dict(describe(error), event="failed"))
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
