"""Run a program that may be broken: it gets seconds to answer, and little room."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

OUTPUT_LIMIT = 4 << 20


def read_output(argv: Sequence[str], environ: Mapping[str, str], seconds: float) -> str:
    """What the program prints, up to its end.

    Raises
    ------
    OSError
        It cannot be started, or it does not answer in time (``TimeoutError``).
    ValueError
        It failed, or printed more than :data:`OUTPUT_LIMIT` bytes.
    """
    process = subprocess.Popen(
        argv, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        output = _read_until(process.stdout.fileno(), time.monotonic() + seconds)
        if output is None:
            raise TimeoutError(f"no answer within {seconds:g} s")
        if len(output) > OUTPUT_LIMIT:
            raise ValueError("it prints without end")
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"it does not end within {seconds:g} s") from None
    finally:
        with suppress(ProcessLookupError):  # its children too, whatever became of it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if code != 0:
        raise ValueError(f"it ended with {f'signal {-code}' if code < 0 else f'code {code}'}")
    return output.decode("utf-8", "replace")


def _read_until(descriptor: int, deadline: float) -> bytes | None:
    """Everything until the other side closes, ``None`` once the deadline has passed."""
    output = b""
    while len(output) <= OUTPUT_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return None
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            break
        output += piece
    return output
