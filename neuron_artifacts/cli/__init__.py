"""The command line: parse, call, render; nothing else.

Data goes to standard output, talk to standard error. Every command takes ``--json``. Exit codes
are those of :class:`neuron_artifacts.errors.ExitCode`.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of ``neuron-artifacts``."""
    import sys

    try:
        from neuron_artifacts.cli._app import build_app
        from neuron_artifacts.cli._start import defer_validators

        defer_validators()
        app = build_app(sys.argv[1] if len(sys.argv) > 1 else "")
    except KeyboardInterrupt:  # while modules load, which takes a moment
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    app()
