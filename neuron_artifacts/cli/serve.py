"""``serve``: an OpenAI-compatible server over exactly one artifact."""

from __future__ import annotations

import os
from pathlib import Path
from ssl import CERT_REQUIRED
from typing import TYPE_CHECKING, Any

from neuron_artifacts.cli import _output, _serve_vllm
from neuron_artifacts.cli import _serve_options as options
from neuron_artifacts.cli._logging import set_up_logging
from neuron_artifacts.cli._options import AsJson
from neuron_artifacts.cli._progress import show_progress
from neuron_artifacts.cli._serve_options import Engine, OnInvalid, Verify

if TYPE_CHECKING:
    from neuron_artifacts.runtime.loader import LoadedArtifact
    from neuron_artifacts.runtime.server.lifecycle import Tls

MAX_WAITING = 1024
_REQUIRE_CLIENTS = (f"--ssl-cert-reqs={int(CERT_REQUIRED)}",)
API_KEY_VARIABLES = ("NEURON_ARTIFACTS_API_KEY", "VLLM_API_KEY")


def serve_command(
    *,
    artifacts: options.Artifacts = None,
    engine: options.EngineOption = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    uds: options.Uds = None,
    served_model_name: options.ServedModelName = None,
    api_key: options.ApiKey = None,
    threads: options.Threads = None,
    verify: options.VerifyOption = Verify.full,
    on_invalid: options.OnInvalidOption = OnInvalid.refuse,
    model: options.Model = None,
    max_waiting: options.MaxWaiting = MAX_WAITING,
    shutdown_timeout: options.ShutdownTimeout = 30.0,
    ssl_certfile: options.SslCertfile = None,
    ssl_keyfile: options.SslKeyfile = None,
    ssl_ca_certs: options.SslCaCerts = None,
    python: _serve_vllm.Python = None,
    vllm_loader: _serve_vllm.Loader = None,
    rank: _serve_vllm.Rank = None,
    master_addr: _serve_vllm.Master = None,
    vllm_arg: _serve_vllm.VllmArguments = None,
    ready_timeout: _serve_vllm.ReadyTimeout = None,
    as_json: AsJson = False,
) -> int:
    """Serve an artifact. Nothing is compiled: an artifact that does not hold is refused.

    With --engine vllm the OpenAI server of the toolchain's vLLM runs with the flags the artifact
    was built with; it is ended, with exit code 4, as soon as it starts to compile.
    """
    from neuron_artifacts.runtime.loader import find_artifacts, verify_trusted
    from neuron_artifacts.runtime.server.lifecycle import serve

    set_up_logging()
    keys = _keys(api_key)
    ssl = {"ssl-certfile": ssl_certfile, "ssl-keyfile": ssl_keyfile, "ssl-ca-certs": ssl_ca_certs}
    tls = _tls(ssl_certfile, ssl_keyfile, ssl_ca_certs)
    directory = find_artifacts(artifacts)
    with show_progress() as observe:
        _ensure_valid(directory, verify, on_invalid, model, observe)
    if (engine or _engine_for(directory)) is Engine.vllm:
        _refuse_ours(uds, threads, max_waiting)
        flags = _serve_vllm.VllmFlags(
            python, vllm_loader, rank, master_addr,
            (*(_REQUIRE_CLIENTS if ssl_ca_certs else ()), *(vllm_arg or ())), ready_timeout, host,
            port, tuple(served_model_name or ()), next(iter(keys), None), ssl, shutdown_timeout,
        )  # fmt: skip
        _warn_if_open(host, keys)
        with show_progress() as observe:
            verify_trusted(directory, verify.value, observe)
        return _serve_vllm.serve_vllm(directory, flags, as_json=as_json)
    _refuse_vllm(python, vllm_loader, rank, master_addr, vllm_arg, ready_timeout)
    loaded, rebuilt = _load(directory, verify, threads)
    state = _make_state(loaded, served_model_name, keys, max_waiting)
    if not uds:
        _warn_if_open(host, state.api_keys)

    def on_ready(bound_host: str, bound_port: int) -> None:
        scheme = "https" if tls else "http"
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        url = f"unix:{bound_host}" if uds else f"{scheme}://{shown}:{bound_port}"
        _announce(loaded, url, loaded.compiled - rebuilt, rebuilt, as_json)

    return serve(
        state, host=host, port=port, uds=uds, tls=tls, shutdown_timeout=shutdown_timeout,
        on_ready=on_ready,
    ) or 0  # fmt: skip


def _load(directory: Path, verify: Verify, threads: int | None) -> tuple[LoadedArtifact, int]:
    """The artifact, and how many graphs were compiled until now: from now on none may be."""
    from neuron_artifacts.backends import compiles
    from neuron_artifacts.runtime.loader import load_artifact

    rebuilt = compiles.count()
    compiles.forbid()
    with show_progress() as observe:
        return load_artifact(
            directory, verify=verify.value, threads=threads, observe=observe
        ), rebuilt


def _engine_for(directory: Path) -> Engine:
    """Only graphs of vLLM's own compiler need vLLM."""
    from neuron_artifacts.artifact import read_manifest

    is_native = read_manifest(directory).backend == "vllm-neuron"
    return Engine.vllm if is_native else Engine.bundled


def _ensure_valid(
    directory: Path, verify: Verify, on_invalid: OnInvalid, model: str | None, observe: Any
) -> None:
    from neuron_artifacts._files import DigestCache
    from neuron_artifacts.backends.checks import check_artifact
    from neuron_artifacts.build.repair import repair_command, repair_flags

    verdict = check_artifact(directory, verify.value, digests=DigestCache())
    if verdict.status == "ok":
        return
    if on_invalid is OnInvalid.refuse:
        hint = verdict.hint if verdict.manifest is None else None
        raise verdict.error(hint or f"repair it: {repair_command(directory, verdict)}")
    from neuron_artifacts.build import compile_artifact
    from neuron_artifacts.spec import resolve_spec

    _output.talk(f"{_output.styled('WARNING:', 'yellow')} {verdict.error().message}")
    _output.talk("WARNING: --on-invalid recompile: building it again before serving")
    flags = repair_flags(directory, verdict, model)
    outcome = compile_artifact(resolve_spec(flags), observe=observe)
    _output.talk(f"WARNING: rebuilt {directory}: {outcome.compiled} graphs compiled")


def _make_state(
    loaded: Any, names: list[str] | None, keys: tuple[str, ...], max_waiting: int
) -> Any:
    from neuron_artifacts.runtime.server.state import make_state

    return make_state(
        loaded, model_names=tuple(names or ()), api_keys=keys, max_waiting=max_waiting
    )


def _keys(told: list[str] | None) -> tuple[str, ...]:
    from neuron_artifacts.errors import UsageError

    found = [os.environ[name] for name in API_KEY_VARIABLES if os.environ.get(name)]
    keys = tuple(told or found[:1])
    if not all(key.strip() == key and key.isprintable() and key for key in keys):
        raise UsageError(
            "an API key is empty, or has blanks around it",
            hint="clients send `Authorization: Bearer <key>`, where neither can be told",
        )
    return keys


def _tls(certfile: Path | None, keyfile: Path | None, ca_certs: Path | None) -> Tls | None:
    from neuron_artifacts.errors import UsageError
    from neuron_artifacts.runtime.server.lifecycle import KEY_UNLOCK_VARIABLE, Tls

    if certfile is None:
        if keyfile or ca_certs:
            raise UsageError(
                "--ssl-keyfile and --ssl-ca-certs need --ssl-certfile",
                hint="without a certificate everything would be sent in the clear",
            )
        return None
    return Tls(certfile, keyfile, ca_certs, os.environ.get(KEY_UNLOCK_VARIABLE))


def _refuse_ours(uds: Path | None, threads: int | None, max_waiting: int) -> None:
    """Options of our own server mean nothing to vLLM."""
    given = {
        "--uds": uds is not None,
        "--threads": threads is not None,
        "--max-waiting": max_waiting != MAX_WAITING,
    }
    _refuse(given, "is an option of our own server", "leave out --engine vllm, or the option")


def _refuse_vllm(*values: Any) -> None:
    names = (
        "--python", "--vllm-loader", "--rank", "--master-addr", "--vllm-arg", "--ready-timeout",
    )  # fmt: skip
    given = {name: value not in (None, []) for name, value in zip(names, values, strict=True)}
    _refuse(given, "is an option of vLLM's server", "add --engine vllm, or leave the option out")


def _refuse(given: dict[str, bool], why: str, hint: str) -> None:
    from neuron_artifacts.errors import UsageError

    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{name} {why}", hint=hint)


def _warn_if_open(host: str, api_keys: tuple[str, ...]) -> None:
    if not api_keys and not _is_loopback(host):
        _output.talk(
            f"{_output.styled('WARNING:', 'yellow')} {host} may be reached from other machines "
            "and no --api-key is set"
        )


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _announce(loaded: Any, url: str, compiled: int, rebuilt: int, as_json: bool) -> None:
    if as_json:
        _output.print_json(
            {
                "url": url,
                "key": loaded.manifest.key,
                "artifacts": str(loaded.directory),
                "seconds": dict(loaded.seconds),
                "compiled": compiled,
                "rebuilt_before_serving": rebuilt,
            }
        )
        return
    phases = ", ".join(f"{name} {_output.seconds(took)}" for name, took in loaded.seconds.items())
    _output.write(f"key       {loaded.manifest.key}")
    _output.write(f"phases    {phases}")
    _output.write(f"compiled: {compiled}")
    _output.write(f"ready     {url}")
