"""What ``serve --engine vllm`` and ``env`` share: the options of vLLM's server, and its start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuron_artifacts.cli import _output

if TYPE_CHECKING:
    from neuron_artifacts.artifact import Manifest
    from neuron_artifacts.runtime.vllm.recipes import Recipe
    from neuron_artifacts.toolchain import Toolchain

VLLM = "vLLM"

Python = Annotated[
    str | None,
    typer.Option(
        "--python", metavar="PATH", rich_help_panel=VLLM,
        help="The interpreter that has vLLM. (default: the first that can run the artifact)",
    ),
]  # fmt: skip
Loader = Annotated[
    str | None,
    typer.Option(
        "--vllm-loader", "--loader", metavar="NAME", rich_help_panel=VLLM,
        help="Which generation of vLLM for Neuron it is. (default: what is installed)",
    ),
]  # fmt: skip
Rank = Annotated[
    int | None,
    typer.Option(
        "--rank", metavar="N", min=0, rich_help_panel=VLLM, help="This node of several, from 0."
    ),
]
Master = Annotated[
    str | None,
    typer.Option(
        "--master-addr", metavar="HOST", rich_help_panel=VLLM,
        help="Address of the first of several nodes. (default: $MASTER_ADDR)",
    ),
]  # fmt: skip
VllmArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--vllm-arg", metavar="ARG", rich_help_panel=VLLM,
        help="One more argument for vLLM, as --vllm-arg=--enable-log-requests.",
    ),
]  # fmt: skip
ReadyTimeout = Annotated[
    float | None,
    typer.Option(
        "--ready-timeout", min=0, rich_help_panel=VLLM,
        help="Seconds vLLM may take to load. (default: as long as it takes)",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class VllmFlags:
    """The options of ``serve`` that reach vLLM."""

    python: str | None
    loader: str | None
    rank: int | None
    master: str | None
    extra: tuple[str, ...]
    ready_timeout: float | None
    host: str
    port: int
    names: tuple[str, ...]
    api_key: str | None
    ssl: Mapping[str, Path | None]
    shutdown_timeout: float


def serve_vllm(artifact: Path, flags: VllmFlags, *, as_json: bool) -> int:
    """Serve through vLLM an artifact that is known to hold."""
    from neuron_artifacts.artifact import read_manifest
    from neuron_artifacts.runtime.vllm.serve import Options, serve_with_vllm

    manifest = read_manifest(artifact)
    toolchain = choose_for(manifest, flags.python)
    certificates = [f"--{name}={path}" for name, path in flags.ssl.items() if path]
    options = Options(
        flags.host, flags.port, flags.names, flags.loader, flags.rank,
        master_address(flags.master), (*certificates, *flags.extra), flags.shutdown_timeout,
        flags.ready_timeout, master_port(),
    )  # fmt: skip
    environ = dict(os.environ)
    if flags.api_key:
        environ["VLLM_API_KEY"] = flags.api_key  # an argument could be read by everybody
    scheme = "https" if certificates else "http"

    def on_ready(recipe: Recipe, port: int, took: float) -> None:
        host = f"[{flags.host}]" if ":" in flags.host else flags.host
        _announce(artifact, manifest, recipe, f"{scheme}://{host}:{port}", took, as_json)

    return serve_with_vllm(
        artifact, manifest, toolchain, options, environ, on_ready=on_ready, on_line=_output.talk
    )


def choose_for(manifest: Manifest, python: str | None) -> Toolchain:
    """The interpreter that can run the artifact, with the libraries it was compiled with."""
    from neuron_artifacts.runtime.vllm.served import check_backend
    from neuron_artifacts.toolchain import choose_toolchain

    check_backend(manifest.backend)
    return choose_toolchain(manifest.backend, os.environ, python=python)


def master_address(told: str | None) -> str | None:
    return told or os.environ.get("MASTER_ADDR")


def master_port() -> str | None:
    return os.environ.get("MASTER_PORT")


def _announce(
    artifact: Path, manifest: Manifest, recipe: Recipe, url: str, took: float, as_json: bool
) -> None:
    if as_json:
        _output.print_json(
            {
                "url": url,
                "engine": "vllm",
                "loader": recipe.loader,
                "key": manifest.key,
                "artifacts": str(artifact),
                "seconds": {"load": took},
                "compiled": 0,
                "notes": list(recipe.notes),
            }
        )
        return
    for note in recipe.notes:
        _output.talk(f"note: {note}")
    _output.write(f"key       {manifest.key}")
    _output.write(f"engine    vLLM ({recipe.loader})")
    _output.write(f"phases    load {_output.seconds(took)}")
    _output.write("compiled: 0")
    _output.write(f"ready     {url}")
