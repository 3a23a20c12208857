"""``cache-lookup``: what ``compile`` would do, and why, without doing it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._options import AsJson
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.errors import ExitCode, UsageError
from neuron_artifacts.spec import CompileSpec

HUB = "Hugging Face Neuron cache (--backend optimum)"


def lookup_command(
    *,
    spec: CompileSpec,
    cache_repo: Annotated[
        list[str] | None,
        typer.Option("--cache-repo", metavar="ORG/NAME", rich_help_panel=HUB,
                     help="Cache repository; several are asked in order. "
                     "(default: $CUSTOM_CACHE_REPO, else aws-neuron/optimum-neuron-cache)"),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="V", rich_help_panel=HUB,
                     help="optimum-neuron release that counts as usable. (default: the newest)"),
    ] = None,
    compiler: Annotated[
        str | None,
        typer.Option("--compiler", metavar="V", rich_help_panel=HUB,
                     help="neuronx-cc version that counts as usable."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", rich_help_panel=HUB, help="Task of the export.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", rich_help_panel=HUB, help="Only what was asked before.")
    ] = False,
    prove: Annotated[
        bool, typer.Option("--prove", rich_help_panel=HUB, help="Check traced entries' graphs.")
    ] = False,
    as_json: AsJson = False,
) -> int:  # fmt: skip
    """Say whether an artifact for MODEL exists, and if not, what is nearest.

    Exits with 0 on a hit and 3 otherwise: relink (only weights differ), partial (some graphs
    exist) or miss. With --backend optimum the Hugging Face Neuron cache is asked instead of the
    local store.
    """
    if spec.backend != "optimum":
        if cache_repo or release or compiler or task or offline or prove:
            raise UsageError(
                "--cache-repo, --release, --compiler, --task, --offline and --prove ask the "
                "Hugging Face Neuron cache",
                hint="add --backend optimum",
            )
        return look_up_spec(spec, as_json)
    from neuron_artifacts.cli.neuron_cache import look_up_hub_cache, render_sources, sources_json

    found = look_up_hub_cache(
        spec, repos=cache_repo or (), release=release, compiler=compiler, task=task,
        offline=offline, prove=prove,
    )  # fmt: skip
    if as_json:
        _output.print_json(sources_json(found))
    else:
        _output.write(render_sources(found))
    return found.exit_code


def look_up_spec(
    spec: CompileSpec,
    as_json: bool,
    *,
    force: bool = False,
    preflight: bool = False,
    exit_on_miss: bool = True,
) -> int:
    """Look a request up in the local store and print the decision."""
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
