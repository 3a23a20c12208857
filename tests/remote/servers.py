"""Servers that remote stores are tested against, each a process or thread of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.remote.serving import Serving

BUCKET = "artifacts"
AWS = {
    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "sekret-of-the-test",
    "AWS_REGION": "us-east-1",
}  # fmt: skip


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def wait_for(
    url: str, seconds: float = 60.0, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Return as soon as a server answers anything; its process must not end meanwhile."""
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > until or (process and process.poll() is not None):
                raise
            time.sleep(0.05)


@contextmanager
def running(command: list[str], url: str, **environ: str) -> Iterator[None]:
    """A server process until the block ends."""
    process = subprocess.Popen(
        command, env={**os.environ, **environ},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(url, process=process)
        yield
    finally:
        process.kill()
        process.wait()


def has_moto() -> bool:
    return all(importlib.util.find_spec(name) for name in ("obstore", "moto", "flask_cors"))


@contextmanager
def moto() -> Iterator[str]:
    """moto's S3 in a process of its own; gives its endpoint, with :data:`BUCKET` in it."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, endpoint):
        request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/a")
        urllib.request.urlopen(request, timeout=30).close()
        yield endpoint


def find_rclone() -> str | None:
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.is_file() else shutil.which("rclone")


@contextmanager
def rclone(folder: Path) -> Iterator[str]:
    """``rclone serve s3``, which ignores conditions."""
    (folder / BUCKET).mkdir(parents=True)
    program, port = find_rclone(), free_port()
    assert program
    endpoint = f"http://127.0.0.1:{port}"
    keys = f"{AWS['AWS_ACCESS_KEY_ID']},{AWS['AWS_SECRET_ACCESS_KEY']}"
    command = [program, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    with running([*command, "--auth-key", keys, "--config", "/dev/null"], endpoint):
        yield endpoint


class Proxy(Serving):
    """Passes TCP on and counts; ``cut_after`` bytes to the server it calls ``on_cut`` and stops."""

    def __init__(self, port: int) -> None:
        self.sent = self.received = 0
        self.cut_after: int | None = None
        self.cut = threading.Event()
        self._lock = threading.Lock()
        self._dropped = threading.Event()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                dropped = proxy._dropped
                with closing(socket.create_connection(("127.0.0.1", port))) as server:
                    back = threading.Thread(
                        target=proxy._pump, args=(server, self.request, False, dropped), daemon=True
                    )
                    back.start()
                    proxy._pump(self.request, server, True, dropped)
                    back.join()

        super().__init__(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))

    def reset(self) -> None:
        """Count from nothing, and cut nothing."""
        self._dropped = threading.Event()
        self.sent = self.received = 0
        self.cut_after = None
        self.cut.clear()

    def drop(self) -> None:
        """End connections since :meth:`reset`; what the dead have left in them never counts."""
        self._dropped.set()

    def _pump(
        self, source: socket.socket, target: socket.socket, up: bool, dropped: threading.Event
    ) -> None:
        try:
            while data := source.recv(16 << 10):
                with self._lock:
                    if dropped.is_set():
                        return
                    self.sent += len(data) if up else 0
                    self.received += 0 if up else len(data)
                    if self.cut_after and self.sent + self.received > self.cut_after:
                        self.cut.set()
                while self.cut.is_set():
                    time.sleep(0.01)  # the one who waits for it kills the client now
                if dropped.is_set():
                    return
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def find_registry() -> str | None:
    """The registry of https://github.com/distribution/distribution."""
    return shutil.which("docker-registry") or shutil.which("registry")


@contextmanager
def docker_registry(folder: Path) -> Iterator[str]:
    """A real registry, open to all; gives its ``host:port``."""
    port, program = free_port(), find_registry()
    assert program
    folder.mkdir(parents=True)
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
    )
    with running([program, "serve", str(config)], f"http://127.0.0.1:{port}/v2/"):
        yield f"127.0.0.1:{port}"
