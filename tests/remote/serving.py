"""What the small servers of the tests share: a socket, a thread, a beginning and an end."""

from __future__ import annotations

import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TypeVar

Self = TypeVar("Self", bound="Serving")


class Serving:
    """A server on a free port of this machine, until the block ends.

    Handlers reach the object by ``self.server.owner``.
    """

    def __init__(self, server: socketserver.ThreadingTCPServer | ThreadingHTTPServer) -> None:
        server.daemon_threads = True
        server.owner = self  # type: ignore[union-attr]
        self._server = server
        self.port = int(server.server_address[1])
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self: Self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class HttpServing(Serving):
    """The same for HTTP."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), handler))


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, and prints nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass
