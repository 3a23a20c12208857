"""``env``: the variables and the command that serve an artifact through vLLM without us."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._options import AsJson
from neuron_artifacts.cli._serve_vllm import (
    Loader,
    Master,
    Python,
    Rank,
    master_address,
    master_port,
)

if TYPE_CHECKING:
    from neuron_artifacts.artifact import Manifest
    from neuron_artifacts.runtime.vllm.recipes import Recipe


def env_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="An artifact directory, or its key.")
    ],
    *,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Port. (default: vLLM's)")
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option("--served-model-name", help="Name in the API; may be given several times."),
    ] = None,
    python: Python = None,
    vllm_loader: Loader = None,
    rank: Rank = None,
    master_addr: Master = None,
    as_json: AsJson = False,
) -> int:
    """Print what serves an artifact through vLLM: shell lines to source or to copy.

    Variables and flags are those of the vLLM the artifact was built for (--vllm-loader names
    another). Where the artifact is for several nodes there is one recipe for each: --rank.
    Unlike serve --engine vllm, nothing then keeps vLLM from compiling over the directory, so
    mount it read-only.
    """
    from neuron_artifacts.artifact import read_manifest
    from neuron_artifacts.runtime.vllm.recipes import Site, make_recipe
    from neuron_artifacts.runtime.vllm.serve import cache_root
    from neuron_artifacts.runtime.vllm.served import read_served
    from neuron_artifacts.store.names import directory_called

    directory = directory_called(directory)
    manifest = read_manifest(directory)
    served = read_served(manifest)
    root = cache_root(manifest, os.environ)
    site = Site(
        host, port, tuple(served_model_name or ()), root, rank, master_address(master_addr),
        master_port(),
    )  # fmt: skip
    recipe = make_recipe(served, directory.absolute(), vllm_loader, site)
    _show(manifest, recipe, _before(directory.absolute(), root), python or "python", as_json)
    return 0


def _before(directory: Path, root: Path | None) -> list[str] | None:
    """What fills the cache of vllm-neuron: whole entries, and none that are there."""
    if root is None:
        return None
    from neuron_artifacts.backends.vllm_neuron.adapter import COMPILE_CACHE
    from neuron_artifacts.compile_caches.vllm_neuron import BELOW_ROOT

    return ["cp", "-rn", f"{directory / COMPILE_CACHE}/.", str(root / BELOW_ROOT)]


def _show(
    manifest: Manifest, recipe: Recipe, before: list[str] | None, python: str, as_json: bool
) -> None:
    command = [python, *recipe.arguments]
    if as_json:
        _output.print_json(
            {
                "key": manifest.key,
                "loader": recipe.loader,
                "environment": dict(recipe.environ),
                "unset": list(recipe.unset),
                "before": before,
                "command": command,
                "notes": list(recipe.notes),
            }
        )
        return
    for note in recipe.notes:
        _output.write(f"# {_output.printable(note, one_line=True)}")  # it will be sourced
    _output.write(f"unset {' '.join(recipe.unset)}")
    for name, value in recipe.environ.items():
        _output.write(f"export {name}={shlex.quote(value)}")
    if before:
        _output.write(f"mkdir -p {shlex.quote(before[-1])} && {shlex.join(before)}")
    _output.write(shlex.join(command))
