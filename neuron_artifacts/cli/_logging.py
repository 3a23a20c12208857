"""What long-running parts log, as lines on standard error; tracebacks only when debugging."""

from __future__ import annotations

import logging
import os
import sys

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._errors import DEBUG_VARIABLE


class _OneLine(logging.Formatter):
    def formatException(self, ei: object) -> str:  # noqa: ARG002 - logging's own name
        return ""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).rstrip()
        error = record.exc_info[1] if record.exc_info else None
        text = f"{text}: {type(error).__name__}: {error}" if error else text
        return _output.printable(text, one_line=True)


def set_up_logging() -> None:
    """Send warnings and worse of this package to standard error, one line each."""
    debugging = bool(os.environ.get(DEBUG_VARIABLE))
    layout = "%(levelname)s: %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(layout) if debugging else _OneLine(layout))
    logger = logging.getLogger("neuron_artifacts")
    logger.addHandler(handler)
    logger.propagate = False
