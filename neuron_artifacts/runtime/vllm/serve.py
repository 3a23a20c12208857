"""Serve an artifact through the vLLM of a toolchain."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron_artifacts.artifact import Manifest
from neuron_artifacts.backends.vllm_neuron.adapter import COMPILE_CACHE
from neuron_artifacts.backends.worker_backend import changed_versions
from neuron_artifacts.compile_caches.served import CACHE_VARIABLE, remember, root_of
from neuron_artifacts.compile_caches.vllm_neuron import BELOW_ROOT, lay_entries
from neuron_artifacts.errors import (
    CorruptError,
    ExitCode,
    IncompatibleError,
    ToolchainError,
    UsageError,
)
from neuron_artifacts.runtime.server.sockets import bind_tcp
from neuron_artifacts.runtime.vllm.process import Launch, run_server
from neuron_artifacts.runtime.vllm.recipes import (
    RANK_VARIABLE,
    Recipe,
    Site,
    make_recipe,
)
from neuron_artifacts.runtime.vllm.served import NATIVE, Served, loader_of, read_served
from neuron_artifacts.runtime.vllm.view import first_difference, open_view, take_snapshot
from neuron_artifacts.store.leases import hold, mark_used
from neuron_artifacts.toolchain import Toolchain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the caller decides. ``extra`` are arguments for vLLM, after the recipe's."""

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    loader: str | None = None
    rank: int | None = None
    master: str | None = None
    extra: tuple[str, ...] = ()
    shutdown_timeout: float = 30.0
    ready_timeout: float | None = None
    master_port: str | None = None


def serve_with_vllm(
    artifact: Path,
    manifest: Manifest,
    toolchain: Toolchain,
    options: Options,
    environ: Mapping[str, str],
    *,
    on_ready: Callable[[Recipe, int, float], None],
    on_line: Callable[[str], None],
) -> ExitCode:
    """Serve a verified artifact until a signal stops it; see :func:`.process.run_server`.

    ``on_ready`` gets the recipe, the port and the seconds that loading took.

    Raises
    ------
    CorruptError
        The artifact was changed while it was served.
    IncompatibleError
        vLLM would find none of its graphs, or began to compile.
    """
    artifact = artifact.absolute()
    _check_versions(artifact, manifest, toolchain)
    served = _with_absolute_paths(read_served(manifest))
    loader = options.loader or installed_loader(toolchain, manifest.backend)
    with ExitStack() as stack:
        port = _reserve_port(options.host, options.port, stack)
        mark_used(artifact)
        stack.enter_context(hold(artifact))
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="neuron-artifacts-"))
        listed = {file.path for file in manifest.files}
        place = Path(temporary, manifest.key[:16])
        offered = stack.enter_context(open_view(artifact, place, listed))
        directory = Path(temporary, "run")
        directory.mkdir()
        site = Site(
            options.host, port, options.names, cache_root(manifest, environ), options.rank,
            options.master, options.master_port,
        )  # fmt: skip
        recipe = make_recipe(served, offered, loader, site)
        if recipe.environ.get(RANK_VARIABLE, "0") != "0":
            raise UsageError(
                "of several nodes only the first serves",
                hint=f"neuron-artifacts env {artifact} --rank N shows what the others run",
            )
        recipe = replace(recipe, arguments=(*recipe.arguments, *options.extra))
        if recipe.loader == NATIVE and site.cache_root:
            remember(site.cache_root, artifact)
            lay_entries(artifact / COMPILE_CACHE, site.cache_root / BELOW_ROOT)
        before = take_snapshot(artifact)
        launch = Launch(
            toolchain.python, recipe, environ, directory, offered,
            options.shutdown_timeout, options.ready_timeout,
        )  # fmt: skip
        try:
            return run_server(
                launch, on_ready=lambda took: on_ready(recipe, port, took), on_line=on_line
            )
        finally:
            _check_untouched(artifact, first_difference(before, take_snapshot(artifact)))


def installed_loader(toolchain: Toolchain, backend: str) -> str:
    """The generation of the toolchain's vLLM.

    Raises
    ------
    ToolchainError
        It has no vLLM.
    """
    loader = loader_of(toolchain.packages, toolchain.sdk, backend)
    if loader is None:
        raise ToolchainError(
            f"{toolchain.python} has no vLLM",
            hint="serve with --engine bundled, or name an interpreter that has one (--python)",
        )
    return loader


def cache_root(manifest: Manifest, environ: Mapping[str, str]) -> Path | None:
    """Where vllm-neuron finds its graphs: where the caller says, else a place of the artifact's."""
    if manifest.backend != "vllm-neuron":
        return None
    told = environ.get(CACHE_VARIABLE)
    if told:
        return Path(told).expanduser().absolute()
    return root_of(manifest.key)


def _check_versions(artifact: Path, manifest: Manifest, toolchain: Toolchain) -> None:
    """Newer runtimes take older graphs, but vllm-neuron's keys hold the versions."""
    changed = changed_versions(toolchain.document(manifest.backend), manifest.toolchain)
    if changed and manifest.backend == "vllm-neuron":
        raise IncompatibleError(
            f"{artifact} was compiled with {changed}, so none of its graphs would be found",
            hint="serve it with the libraries it was compiled with (--python), or compile it again",
        )
    if changed:
        log.warning("compiled with %s: if it does not load, compile it again", changed)


def _check_untouched(artifact: Path, changed: str | None) -> None:
    if changed is not None:
        raise CorruptError(
            f"{changed} was changed while vLLM served it",
            hint=f"neuron-artifacts validate --full {artifact}",
        )


def _reserve_port(host: str, port: int, stack: ExitStack) -> int:
    """Tell now, not after minutes of loading, that the port is taken; and keep it meanwhile.

    A socket that is bound and does not listen keeps others from being given the port, but not
    vLLM, which binds with ``SO_REUSEADDR`` as well (``entrypoints/openai/api_server.py``).
    """
    sockets = [stack.enter_context(each) for each in bind_tcp(host, port)]
    found: int = sockets[0].getsockname()[1]
    return found


def _with_absolute_paths(served: Served) -> Served:
    """The server runs in a folder of its own: paths given as they lie here must hold there."""
    speculation, override = served.speculation, dict(served.override)
    if speculation is not None:
        speculation = replace(speculation, model=_absolute(speculation.model))
    modules: list[Mapping[str, Any]] = override.get("lora_modules") or []
    if modules:
        override["lora_modules"] = [{**each, "path": _absolute(each["path"])} for each in modules]
    return replace(served, speculation=speculation, override=override)


def _absolute(path: str) -> str:
    """A folder by its whole name; a hub id stays what it is."""
    return str(Path(path).absolute()) if Path(path).exists() else path
