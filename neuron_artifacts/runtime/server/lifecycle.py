"""Running the server: signals, and a shutdown that finishes what it accepted.

The first SIGTERM or SIGINT makes ``/health`` answer 503 and new requests with it, while those
accepted go on until they are done or ``shutdown_timeout`` has passed; what is left then is told
so and cut off. A second signal cuts off at once.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from neuron_artifacts.errors import ExitCode, ServeError
from neuron_artifacts.runtime.server.app import create_app
from neuron_artifacts.runtime.server.connections import Limits, Watch, allow_many_connections
from neuron_artifacts.runtime.server.errors import unavailable
from neuron_artifacts.runtime.server.sockets import bind_tcp, bind_unix
from neuron_artifacts.runtime.server.state import ServerState

OnReady = Callable[[str, int], None]

_TICKS_A_SECOND = 10

LAST_WORDS_SECONDS = 2
"""Time for the answers to requests that were cut off to reach their clients."""

KEY_UNLOCK_VARIABLE = "NEURON_ARTIFACTS_SSL_PASSWORD"

KEEP_ALIVE_SECONDS = 30
"""Longer than clients' pools keep idle connections, so that it is they who close them."""


@dataclass(frozen=True)
class Tls:
    """Files in PEM form: the server's chain, and its key where that is apart.

    With ``ca_certs`` only clients with a certificate of one of these authorities are served.
    """

    certfile: Path
    keyfile: Path | None = None
    ca_certs: Path | None = None
    password: str | None = None


def serve(
    state: ServerState,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    uds: Path | None = None,
    tls: Tls | None = None,
    shutdown_timeout: float = 30.0,
    on_ready: OnReady | None = None,
) -> ExitCode:
    """Serve until a signal ends it; the engine is started and closed along.

    Parameters
    ----------
    port:
        0 takes a free one; ``on_ready`` is told which.
    uds:
        A path to listen on instead of host and port; ``on_ready`` gets the path and port 0.
    shutdown_timeout:
        Seconds to finish accepted requests after the first signal.
    on_ready:
        Called once, with host and port, when requests are taken.

    Returns
    -------
    ExitCode
        ``OK`` when all accepted requests were answered, ``INTERRUPTED`` when some were cut off.

    Raises
    ------
    ServeError
        The address or the certificate cannot be used, or the engine failed while serving.
    """
    server = Server(state, tls=tls, shutdown_timeout=shutdown_timeout)
    allow_many_connections()
    if uds is None:
        listeners = bind_tcp(host, port)
        where = (host, int(listeners[0].getsockname()[1]))
    else:
        listeners, where = bind_unix(uds), (str(uds), 0)
    try:
        return server.run(listeners, lambda: on_ready(*where) if on_ready else None)
    finally:
        for listener in listeners:
            listener.close()
        if uds is not None:
            uds.unlink(missing_ok=True)


class Server(uvicorn.Server):
    """uvicorn around the app, with its own idea of when to stop.

    :meth:`stop` is what a signal does; it may be called from any thread.
    """

    def __init__(
        self,
        state: ServerState,
        *,
        tls: Tls | None = None,
        shutdown_timeout: float = 30.0,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(_configure(state, tls))
        self._state = state
        self._watch = Watch(limits)
        self._shutdown_timeout = shutdown_timeout
        self._deadline: float | None = None
        self._stops = 0
        self._cut_off = False
        self._announce: Callable[[], None] = lambda: None

    def run(  # type: ignore[override]
        self, listeners: list[socket.socket], announce: Callable[[], None] | None = None
    ) -> ExitCode:
        """Serve on bound sockets until stopped; ``announce`` is called when ready."""
        self._announce = announce or self._announce
        engine = self._state.engine
        engine.start()
        try:
            super().run(sockets=listeners)
        finally:
            self._state.tokenizing.shutdown(wait=False, cancel_futures=True)
            engine.close()
        if engine.failed is not None:
            raise ServeError(f"the engine failed: {engine.failed}") from engine.failed
        return ExitCode.INTERRUPTED if self._cut_off else ExitCode.OK

    def stop(self) -> None:
        """Begin to drain; when draining already, cut off what is left."""
        self._stops += 1
        self.force_exit = self._stops > 1

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Not recorded for uvicorn to raise again: a drained server has ended well.
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._state.readiness.phase = "ready"
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_A_SECOND == 0:
            self._watch.look(tuple(self.server_state.connections), time.monotonic())
        return await super().on_tick(counter) or self._is_over()

    def _is_over(self) -> bool:
        """Move the shutdown on; called ten times a second."""
        readiness = self._state.readiness
        if self._state.engine.failed is not None:
            return True
        if not self._stops:
            return False
        if self._deadline is None:
            readiness.phase = "draining"
            self._deadline = time.monotonic() + self._shutdown_timeout
        if readiness.in_flight and self._stops == 1 and time.monotonic() < self._deadline:
            return False
        self._cut_off = readiness.in_flight > 0
        readiness.cut_off(unavailable("the server is shutting down"))
        return True


def _configure(state: ServerState, tls: Tls | None) -> uvicorn.Config:
    config = uvicorn.Config(
        create_app(state), lifespan="off", ws="none", log_config=None, access_log=False,
        server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_WORDS_SECONDS, **(_tls_options(tls) if tls else {}),
    )  # fmt: skip
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ServeError(
            f"the certificate {tls.certfile if tls else ''} or its key cannot be used: {error}",
            hint="--ssl-certfile and --ssl-keyfile take PEM files that belong together; the key's "
            f"password comes from ${KEY_UNLOCK_VARIABLE}",
        ) from None
    return config


def _tls_options(tls: Tls) -> dict[str, Any]:
    return {
        "ssl_certfile": tls.certfile,
        "ssl_keyfile": tls.keyfile,
        # Without any, OpenSSL would ask at the terminal, and a service would wait for ever.
        "ssl_keyfile_password": tls.password or "none",
        "ssl_ca_certs": tls.ca_certs,
        "ssl_cert_reqs": ssl.CERT_REQUIRED if tls.ca_certs else ssl.CERT_NONE,
    }
