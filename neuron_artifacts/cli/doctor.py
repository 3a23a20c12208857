"""``doctor``: what this machine can do, and which variables would count."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from neuron_artifacts.cli import _output
from neuron_artifacts.cli._diagnosis import Diagnosis
from neuron_artifacts.cli._options import AsJson, Store
from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.spec import ENVIRONMENT_PREFIX, OPTION_NAMES

HUB_TIMEOUT_SECONDS = 5

VARIABLES = {
    "NEURON_COMPILED_ARTIFACTS": "where compile puts the artifact and serve finds it",
    "HF_ENDPOINT": "the hub to ask",
    "HF_TOKEN": "the token for it (not shown)",
    "HF_HOME": "where hub downloads are kept",
    "HF_HUB_CACHE": "where hub downloads are kept",
    "HF_HUB_OFFLINE": "only what is downloaded already is used",
    "VLLM_API_KEY": "the key serve requires (not shown)",
    "NEURON_ARTIFACTS_API_KEY": "the key serve requires (not shown)",
    "NEURON_ARTIFACTS_CC": "the C compiler",
    "CC": "the C compiler, after NEURON_ARTIFACTS_CC",
    "NEURON_ARTIFACTS_CACHE": "where digests and compiler probes are remembered",
    "NEURON_ARTIFACTS_DEBUG": "tracebacks are shown",
    "NEURON_ARTIFACTS_REMOTE": "the remote store that compile asks first",
    "NEURON_ARTIFACTS_CONFIG": "where names of remote stores are kept",
    "NEURON_ARTIFACTS_POLICY": "whose signatures are asked for",
    "NEURON_ARTIFACTS_BUILDER": "who builds, in provenance",
    "NEURON_ARTIFACTS_KEY_PASSWORD": "of the private key that signs (not shown)",
    "COSIGN_PASSWORD": "of the private key that signs (not shown)",
    "NEURON_ARTIFACTS_SSL_PASSWORD": "of the server's TLS key (not shown)",
    "NO_COLOR": "no colour",
}

IGNORED_VARIABLES = {
    "BASE_COMPILE_WORK_DIR": "each build has its own, which no other one wipes",
    "CFLAGS": "flags come from the target, so that they are in the key",
}

SECRET = ("TOKEN", "KEY", "PASSWORD")


def doctor_command(
    *,
    store: Store = ".",
    as_json: AsJson = False,
) -> int:
    """Check compilers, devices, hub, disk and environment; exits with 1 on a problem."""
    findings = [
        *_checked("compiler", _compiler),
        *_checked("target", _target),
        *_checked("toolchain", _neuron),
        *_checked("store", lambda: _store(store)),
        *_checked("memory", _memory),
        *_checked("hub", _hub),
        *_environment(),
    ]
    failed = any(finding.state == "problem" for finding in findings)
    if as_json:
        _output.print_json({"ok": not failed, "findings": [asdict(f) for f in findings]})
        return int(failed)
    colours = {"ok": "green", "warning": "yellow", "problem": "red", "info": "dim"}
    for finding in findings:
        word = _output.styled(f"{finding.state:8}", colours[finding.state])
        _output.write(f"{word} {finding.topic:9} {finding.text}")
        if finding.hint:
            _output.write(f"{'':18} tip: {finding.hint}")
    return int(failed)


def _checked(topic: str, check: Callable[[], list[Diagnosis]]) -> list[Diagnosis]:
    try:
        return check()
    except NeuronArtifactsError as error:
        return [Diagnosis(topic, "problem", error.message, error.hint)]


def _compiler() -> list[Diagnosis]:
    from neuron_artifacts._files import user_cache_dir
    from neuron_artifacts.backends.cpu.compiler import find_compiler
    from neuron_artifacts.backends.cpu.targets import resolve_target

    cache = user_cache_dir() / "compilers"
    native = find_compiler(resolve_target("native"), os.environ, cache)
    findings = [Diagnosis("compiler", "ok", f"{native.build} for this machine")]
    try:
        cross = find_compiler(resolve_target("aarch64"), os.environ, cache)
        findings.append(Diagnosis("compiler", "ok", f"{cross.build} for aarch64"))
    except NeuronArtifactsError as error:
        findings.append(Diagnosis("compiler", "info", error.message, error.hint))
    return findings


def _target() -> list[Diagnosis]:
    from neuron_artifacts.backends.cpu.targets import (
        TARGET_NAMES,
        missing_features,
        resolve_target,
    )

    native = resolve_target("native")
    findings = [Diagnosis("target", "ok", f"native is {native.name}")]
    for target in map(resolve_target, TARGET_NAMES):
        missing = missing_features(target)
        if missing:
            text = f"{target.name} can be compiled for but not run here: no {', '.join(missing)}"
            findings.append(Diagnosis("target", "info", text))
    return findings


def _neuron() -> list[Diagnosis]:
    from neuron_artifacts.cli._neuron_diagnosis import diagnose_neuron
    from neuron_artifacts.toolchain import survey_toolchains

    return diagnose_neuron(survey_toolchains(os.environ), os.environ)


def _store(store: str) -> list[Diagnosis]:
    from neuron_artifacts.preflight import check_writable, free_disk, show_bytes
    from neuron_artifacts.store import LocalStore

    local = LocalStore(Path(store))
    check_writable(local.root)
    count = len(local.directories())
    free = show_bytes(free_disk(local.root))
    return [Diagnosis("store", "ok", f"{local.root}: artifacts {count}, free {free}")]


def _memory() -> list[Diagnosis]:
    from neuron_artifacts.preflight import show_bytes, total_memory

    return [Diagnosis("memory", "ok", f"{show_bytes(total_memory())}, {_cores()} cores")]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _hub() -> list[Diagnosis]:
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return [Diagnosis("hub", "info", "HF_HUB_OFFLINE is set: only downloaded models are used")]
    endpoint = constants.ENDPOINT
    try:
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the user's own
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError:
        pass  # an answer all the same
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        hint = "model folders work without it; behind a mirror set HF_ENDPOINT"
        return [Diagnosis("hub", "warning", f"{endpoint} cannot be reached ({reason})", hint)]
    return [Diagnosis("hub", "ok", f"{endpoint} answers")]


def _environment() -> list[Diagnosis]:
    findings = []
    options = {ENVIRONMENT_PREFIX + name.upper(): f"option {name}" for name in OPTION_NAMES}
    for name, what in {**VARIABLES, **options}.items():
        if os.environ.get(name):
            findings.append(Diagnosis("variable", "info", f"{_shown(name)}: honoured, {what}"))
    for name, why in IGNORED_VARIABLES.items():
        if os.environ.get(name):
            findings.append(Diagnosis("variable", "warning", f"{name}: ignored, {why}"))
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith(ENVIRONMENT_PREFIX) and name not in {**VARIABLES, **options}
    )
    findings += [Diagnosis("variable", "warning", f"{name}: unknown, ignored") for name in unknown]
    return findings


def _shown(name: str) -> str:
    return name if name.endswith(SECRET) else f"{name}={os.environ[name]}"
