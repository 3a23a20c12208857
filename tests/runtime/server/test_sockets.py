"""Listening sockets. Errors are tested through ``serve`` in test_lifecycle."""

from __future__ import annotations

import socket

from neuron_artifacts.runtime.server.sockets import bind_tcp
from tests.runtime.server.harness import RunningServer, eventually


def test_one_port_for_all_addresses_of_a_host() -> None:
    listeners = bind_tcp("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        assert len({listener.getsockname()[0] for listener in listeners}) == len(listeners)
    finally:
        for listener in listeners:
            listener.close()


def test_answers_are_sent_without_delay(server: RunningServer) -> None:
    """Else each answer's body waits for the client to acknowledge its head."""
    with socket.create_connection(("127.0.0.1", server.port)):
        connections = server.server.server_state.connections
        eventually(lambda: len(connections) == 1)
        (connection,) = connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
