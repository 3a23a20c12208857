"""``compile``: give the artifact for a model and a configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._options import PLACE, AsJson, takes_spec
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.errors import UsageError
from neuron_artifacts.spec import CompileSpec


@takes_spec
def compile_command(
    *,
    spec: CompileSpec,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=PLACE, help="Compile even what exists.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print each option with its origin, and stop.")
    ] = False,
    skip_preflight: Annotated[
        bool,
        typer.Option("--skip-preflight", help="Build although memory or disk look too small."),
    ] = False,
    preflight_only: Annotated[
        bool,
        typer.Option(
            "--preflight-only",
            help="Say what would fail, all of it, and stop; 7 if anything would, 2 if an option is "
            "wrong.",
        ),
    ] = False,
    remote: Annotated[
        str | None,
        typer.Option(
            "--remote",
            metavar="NAME",
            envvar="NEURON_ARTIFACTS_REMOTE",
            rich_help_panel=PLACE,
            help="Remote store, by name or URL, to ask before anything is compiled.",
        ),
    ] = None,
    push: Annotated[
        bool,
        typer.Option("--push", rich_help_panel=PLACE, help="With --remote: give it the result."),
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Build although the same build is known to fail.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Compile MODEL into an artifact directory, reusing whatever exists.

    An artifact that holds is a hit and costs nothing. Otherwise graphs that exist are reused,
    the others compiled, and what lay there broken is set aside.
    """
    if show_config:
        return _show_config(spec, as_json)
    if preflight_only:
        return _preflight(spec, as_json)
    if dry_run:
        from neuron_artifacts.cli.lookup import look_up_spec

        return look_up_spec(
            spec, as_json, force=force, preflight=not skip_preflight, exit_on_miss=False
        )
    from neuron_artifacts.build import compile_artifact

    share = open_share(remote, push)
    with show_progress() as observe:
        outcome = compile_artifact(
            spec, observe=observe, force=force, skip_preflight=skip_preflight, retry=retry,
            share=share,
        )  # fmt: skip
    if as_json:
        _output.print_json(_outcome_json(outcome))
    else:
        _print_outcome(outcome)
    return 0


def open_share(remote: str | None, push: bool = False) -> Any:
    if remote is None:
        if push:
            raise UsageError("--push needs --remote NAME")
        return None
    from neuron_artifacts.build import Share
    from neuron_artifacts.remote import names_of, open_remote

    return Share(remote, open_remote(remote), push, names_of(remote))


def _preflight(spec: CompileSpec, as_json: bool) -> int:
    from neuron_artifacts.build.examine import examine_request
    from neuron_artifacts.cli._findings import print_findings

    with show_progress() as observe:
        findings = examine_request(spec, environ=os.environ, observe=observe)
    return print_findings(findings, as_json=as_json)


def _show_config(spec: CompileSpec, as_json: bool) -> int:
    if as_json:
        _output.print_json(_render.origins_json(spec))
    else:
        _output.write(_render.origins_table(spec))
    return 0


def _outcome_json(outcome: Any) -> dict[str, Any]:
    return {
        **_render.decision_json(outcome.decision),
        "path": str(outcome.path),
        "compiled": outcome.compiled,
        "seconds": dict(outcome.seconds),
        "waited": outcome.waited,
        "fetched_from": outcome.fetched_from,
        "troubles": list(outcome.troubles),
        "set_aside": [str(path) for path in outcome.set_aside],
        "artifact_manifest": str(outcome.path / "artifact.json"),
        "serve": _render.serve_command(outcome.path),
    }


def _print_outcome(outcome: Any) -> None:
    decision = outcome.decision
    phases = ", ".join(f"{name} {took:.2f}" for name, took in outcome.seconds.items())
    path = _relative(outcome.path)
    _output.write(f"verdict   {decision.action}: {decision.reason}")
    _output.write(f"key       {decision.key}")
    _output.write(f"path      {path}")
    _output.write(f"compiled  {outcome.compiled} of {len(decision.graphs)} graphs")
    _output.write(f"seconds   {phases}")
    if outcome.troubles:
        _output.write(f"troubles  {len(outcome.troubles)}, done without; the notes above say which")
    _output.write(f"serve     {_render.serve_command(path)}")


def _relative(path: Path) -> Path:
    try:
        return path.relative_to(os.getcwd())  # noqa: PTH109 - keeps the spelling of the shell
    except (ValueError, OSError):
        return path
