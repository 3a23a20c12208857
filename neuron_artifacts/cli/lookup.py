"""``cache-lookup``: what ``compile`` would do, and why, without doing it."""

from __future__ import annotations

import os
from pathlib import Path

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._options import AsJson
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.errors import ExitCode
from neuron_artifacts.spec import CompileSpec


def lookup_command(*, spec: CompileSpec, as_json: AsJson = False) -> int:
    """Say whether an artifact for MODEL exists, and if not, what is nearest.

    Exits with 0 on a hit and 3 otherwise: relink (only weights differ), partial (some graphs
    exist) or miss.
    """
    return look_up_spec(spec, as_json)


def look_up_spec(
    spec: CompileSpec,
    as_json: bool,
    *,
    force: bool = False,
    preflight: bool = False,
    exit_on_miss: bool = True,
) -> int:
    from neuron_artifacts.build import check_build, destination_of, look_up, resolve_request
    from neuron_artifacts.store import LocalStore

    with show_progress() as observe:
        resolved = resolve_request(spec, observe=observe, weights=False)
        store = LocalStore(Path(spec.store))
        destination = destination_of(spec, store, resolved.key.key, os.environ)
        decision = look_up(resolved, store, destination, force=force)
        if preflight and decision.action != "hit":
            check_build(resolved, decision, destination)
    if as_json:
        body = _render.decision_json(decision)
        _output.print_json({**body, "path": str(destination), "store": str(store.root)})
    else:
        _output.write(_render.decision_text(decision))
    return 0 if decision.action == "hit" or not exit_on_miss else ExitCode.MISS
