"""Servers of vLLM's double, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.cli.run import TOOL, Result

DEVICE = "cores=2"


@dataclass(frozen=True)
class Place:
    """An interpreter that has vLLM, and an artifact that was compiled there."""

    generation: str
    python: Path
    artifact: Path

    def command(self, *flags: str) -> list[str]:
        return [
            *TOOL, "serve", "--engine", "vllm", "--artifacts", str(self.artifact),
            "--python", str(self.python), "--json", *flags,
        ]  # fmt: skip

    def serve(self, *flags: str, knobs: str = DEVICE, **environ: str) -> Result:
        """Serve where that is bound to fail."""
        process = subprocess.run(
            self.command("--port", "0", *flags), env=_environ(knobs, environ), timeout=120,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Result(process.returncode, process.stdout, process.stderr)


def _environ(knobs: str, more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "NEURON_DOUBLE": knobs, **more}


@dataclass
class Running:
    """A server that has said it is ready."""

    process: subprocess.Popen[str]
    told: dict[str, Any]
    said: list[str]

    def complete(self, **headers: str) -> httpx.Response:
        body = {"prompt": "1+1=", "max_tokens": 4}
        url = f"{self.told['url']}/v1/completions"
        return httpx.post(url, json=body, headers=headers, timeout=60)


@contextmanager
def running(place: Place, *flags: str, knobs: str = DEVICE, **environ: str) -> Iterator[Running]:
    process = subprocess.Popen(
        place.command("--port", "0", *flags), env=_environ(knobs, environ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said: list[str] = []
    assert process.stdout
    assert process.stderr
    reading = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
    reading.start()
    try:
        answer = ""
        while not answer.rstrip().endswith("\n}"):
            line = process.stdout.readline()
            assert line, "".join(said)
            answer += line
        yield Running(process, json.loads(answer), said)
    finally:
        process.kill()
        process.wait()
        reading.join()
