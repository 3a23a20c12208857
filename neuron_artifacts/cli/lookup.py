"""``cache-lookup``: whether what ``compile`` would give exists somewhere, without compiling."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuron_artifacts.cli import _output, _render
from neuron_artifacts.cli._options import AsJson, SpecSources, takes_spec
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.errors import ExitCode, SpecError, UsageError
from neuron_artifacts.spec import CompileSpec, resolve_spec

if TYPE_CHECKING:
    from neuron_artifacts.neuron_cache import CacheOptions
    from neuron_artifacts.sources import Source

WHERE = "Which sources"
HUB = "Hugging Face Neuron cache"


@takes_spec
def lookup_command(
    *,
    sources: SpecSources,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME", rich_help_panel=WHERE,
                     help="Ask this one only (again for more): store, neuron-cache, "
                     "vllm-neuron-cache, remotes, a remote's name, or hf. "
                     "(default: those whose graphs the backend can use)"),
    ] = None,
    all_sources: Annotated[
        bool, typer.Option("--all-sources", rich_help_panel=WHERE, help="Ask every source.")
    ] = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", rich_help_panel=WHERE,
                     help="Ask no network; the hub's answers are those it gave before."),
    ] = False,
    cache_repo: Annotated[
        list[str] | None,
        typer.Option("--cache-repo", metavar="ORG/NAME", rich_help_panel=HUB,
                     help="Cache repository; several are asked in order. "
                     "(default: $CUSTOM_CACHE_REPO, else aws-neuron/optimum-neuron-cache)"),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="V", rich_help_panel=HUB,
                     help="optimum-neuron release that counts as usable. "
                     "(default: the one installed here, else the newest)"),
    ] = None,
    compiler: Annotated[
        str | None,
        typer.Option("--compiler", metavar="V", rich_help_panel=HUB,
                     help="neuronx-cc version that counts as usable."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", rich_help_panel=HUB, help="Task of the export.")
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", rich_help_panel=HUB, help="Check traced entries' graphs.")
    ] = False,
    as_json: AsJson = False,
) -> int:  # fmt: skip
    """Say whether what MODEL needs is compiled already, and if not, what is nearest.

    Asks this store, the compile caches of this machine, the configured remotes and, with
    --backend optimum or an option of its own, the Hugging Face Neuron cache. Exits with 0 if a
    source has exactly what was asked for, else with 3. Without MODEL, lists what all of them hold;
    an md5 of vLLM's instead of MODEL asks this store for what is called so.
    """
    from neuron_artifacts.neuron_cache import CacheOptions
    from neuron_artifacts.sources import choose_sources
    from neuron_artifacts.sources.remotes import configured_remotes

    spec = resolve_spec(sources.flags, config_file=sources.config_file, needs_model=False)
    if _is_vllms_name(spec.model):
        return _look_up_directory(spec, as_json)
    options = CacheOptions(tuple(cache_repo or ()), release, compiler, task, prove)
    told = spec.origins["backend"] != "default"
    if options != CacheOptions() and not told:
        spec = replace(spec, backend="optimum")  # whose caches these are questions to
    # Whoever asks everywhere and names no backend takes what any of them could use.
    chosen = told or (spec.model and not all_sources)
    asked = choose_sources(
        spec.backend if chosen else None, store=spec.store, environ=os.environ,
        options=options, remotes=configured_remotes(os.environ), names=source or (),
        every=all_sources,
    )  # fmt: skip
    _refuse_idle_options(options, asked)
    if not spec.model:
        return _list(spec, asked, offline, as_json)
    return _look_up(spec, asked, options, offline, as_json)


def _is_vllms_name(model: str) -> bool:
    from neuron_artifacts.artifact.neuron_config_file import is_md5

    return is_md5(model) and not Path(model).exists()


def _look_up_directory(spec: CompileSpec, as_json: bool) -> int:
    """What vLLM would look for: this store knows it under another name."""
    from neuron_artifacts.store import LocalStore
    from neuron_artifacts.store.names import find_called

    store = LocalStore(Path(spec.store))
    found = find_called(store, spec.model)
    if as_json:
        paths = [str(path) for path in found]
        _output.print_json({"md5": spec.model, "found": bool(found), "paths": paths})
    else:
        word = f"hit: {len(found)} in this store" if found else f"miss: {store.root} has none"
        _output.write(f"vllm md5  {spec.model}\nverdict   {word}")
        for path in found:
            _output.write(f"key       {path.name}\nserve     {_render.serve_command(path)}")
    return 0 if found else ExitCode.MISS


def _look_up(
    spec: CompileSpec, asked: list[Source], options: CacheOptions, offline: bool, as_json: bool
) -> int:
    from neuron_artifacts.cli import _sources
    from neuron_artifacts.sources import Lookup, look_up_everywhere

    with show_progress() as observe:
        lookup = Lookup(spec, environ=os.environ, options=options, offline=offline, observe=observe)
        found = look_up_everywhere(lookup, asked)
    if as_json:
        _output.print_json(_sources.lookup_json(found))
    else:
        _output.write(_sources.lookup_text(found))
    return 0 if found.found else ExitCode.MISS


def _list(spec: CompileSpec, asked: list[Source], offline: bool, as_json: bool) -> int:
    from neuron_artifacts.cli import _sources
    from neuron_artifacts.sources import list_everywhere

    shaping = [n for n, o in spec.origins.items() if o != "default" and n not in _PLACES]
    if shaping:
        raise SpecError(
            f"no model given, but {', '.join(shaping)}",
            hint="name a model, or leave the configuration off to list what exists",
        )
    listings = list_everywhere(asked, offline=offline)
    if as_json:
        _output.print_json({"sources": [listing.document() for listing in listings]})
    else:
        _output.write(_sources.listings_text(listings))
    return 0


_PLACES = ("model", "backend", "store", "output", "jobs", "python", "allow_compile")


def _refuse_idle_options(options: CacheOptions, asked: list[Source]) -> None:
    """An option that does nothing is a mistake somebody would rather hear of."""
    if options == type(options)() or any(s.kind in ("hf", "neuron-cache") for s in asked):
        return
    raise UsageError(
        "--cache-repo, --release, --compiler, --task and --prove are questions to Neuron caches, "
        "and none is asked",
        hint="add --backend optimum, or --source hf",
    )


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
    from neuron_artifacts.build.examine import resolve_or_refuse
    from neuron_artifacts.store import LocalStore

    with show_progress() as observe:
        if preflight:
            resolved = resolve_or_refuse(spec, environ=os.environ, observe=observe)
        else:
            resolved = resolve_request(spec, observe=observe, weights=False)
        store = LocalStore(Path(spec.store))
        destination = destination_of(spec, store, resolved.key.key, os.environ)
        decision = look_up(resolved, store, destination, force=force)
        if preflight and decision.action != "hit":
            check_build(resolved, decision, destination, os.environ, observe)
    if as_json:
        body = _render.decision_json(decision)
        _output.print_json({**body, "path": str(destination), "store": str(store.root)})
    else:
        _output.write(_render.decision_text(decision))
    return 0 if decision.action == "hit" or not exit_on_miss else ExitCode.MISS
