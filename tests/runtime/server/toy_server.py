"""A toy server as a process: ``python -m tests.runtime.server.toy_server FOLDER [OPTIONS]``.

Prints ``{"host": …, "port": …}`` when ready; exits with what ``serve`` returns.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.runtime.server.lifecycle import serve
from tests.runtime.server.harness import toy_state


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--uds", type=Path)
    parser.add_argument("--shutdown-timeout", type=float, default=30.0)
    parser.add_argument("--max-waiting", type=int, default=1024)
    options = parser.parse_args()

    def announce(host: str, port: int) -> None:
        print(json.dumps({"host": host, "port": port}), flush=True)

    # A list of every call would grow for as long as the server is asked.
    runner = {"pace": options.pace, "remembers": False}
    state = toy_state(options.folder, runner=runner, max_waiting=options.max_waiting)
    try:
        return serve(
            state, port=options.port, uds=options.uds,
            shutdown_timeout=options.shutdown_timeout, on_ready=announce,
        )  # fmt: skip
    except NeuronArtifactsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
