"""From a request to its key and to the decision about it; nothing is changed on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from neuron_artifacts.artifact import MANIFEST_NAME
from neuron_artifacts.backends.base import ResolvedSpec
from neuron_artifacts.backends.checks import check_artifact
from neuron_artifacts.backends.findings import Finding, order, refuse
from neuron_artifacts.backends.registry import get_backend
from neuron_artifacts.build.progress import ByteReport
from neuron_artifacts.errors import CorruptError, ResourceError, StoreError, UntrustedError
from neuron_artifacts.events import Note, Observer, ignore
from neuron_artifacts.model import ModelSnapshot
from neuron_artifacts.plan import Broken, Candidate, Decision, decide
from neuron_artifacts.preflight import check_resources, measure
from neuron_artifacts.spec import ARTIFACTS_VARIABLE, CompileSpec
from neuron_artifacts.store import LocalStore
from neuron_artifacts.store.failures import recall_failure
from neuron_artifacts.trust.policy import Policy, load_policy, require_trust


def resolve_request(
    spec: CompileSpec,
    *,
    environ: Mapping[str, str] | None = None,
    observe: Observer = ignore,
    weights: bool = True,
) -> ResolvedSpec:
    """From a request to its key. With ``weights=False`` a hub model's weights stay there."""
    backend = get_backend(spec.backend)
    model = backend.find_model(spec, weights=weights, observe=observe)
    _hash_weights(model, observe)
    resolved = backend.resolve(spec, model, os.environ if environ is None else environ)
    for note in resolved.notes:
        observe(Note(note))
    return resolved


def destination_of(
    spec: CompileSpec, store: LocalStore, key: str, environ: Mapping[str, str]
) -> Path:
    """Where the artifact belongs: ``--output``, else ``NEURON_COMPILED_ARTIFACTS``, else by key."""
    chosen = spec.output or environ.get(ARTIFACTS_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else store.path(key)


def look_up(
    resolved: ResolvedSpec, store: LocalStore, destination: Path, *, force: bool = False
) -> Decision:
    """Check what exists and decide, changing nothing.

    Of an artifact that the policy does not trust nothing is taken: its graphs are code, and a
    signature of what they were linked into would vouch for them.

    Raises
    ------
    StoreError
        Something that is no artifact lies at ``destination``, or something that cannot be read.
    UsageError
        The policy cannot be read.
    """
    policy = load_policy()
    candidates: list[Candidate] = []
    broken: list[Broken] = []
    key = resolved.key.key
    for path in _unique([destination, store.path(key), *store.directories()]):
        wanted = path in (destination, store.path(key))
        verdict = check_artifact(
            path, "full" if wanted else "quick", digests=store.digests, host=False
        )
        if verdict.status == "unreadable" and path == destination and not force:
            raise verdict.error()
        if verdict.status != "missing" and path == destination:
            refuse_foreign(path, store, verdict.manifest is None)
        if verdict.manifest and (path == destination or _is_trusted(path, policy)):
            candidates.append(Candidate(path, verdict.manifest, verdict.bad_files))
        if wanted and verdict.status not in ("ok", "missing"):
            broken.append(Broken(path, verdict.status, verdict.problems))
        elif path == destination and verdict.manifest and verdict.manifest.key != key:
            broken.append(Broken(path, "incompatible", ("it was built for another key",)))
    decision = decide(resolved, candidates, broken, force=force)
    failure = recall_failure(store.root, resolved.key.graphs_digest)
    return replace(decision, known_failure=failure if decision.to_compile else None)


def _is_trusted(directory: Path, policy: Policy) -> bool:
    try:
        require_trust(directory, policy.required_at(directory))
    except (UntrustedError, CorruptError, StoreError):
        return False
    return True


def needs_download(decision: Decision) -> bool:
    """Whether a file the artifact needs is neither here nor in an artifact that is."""
    return any(step.source is None and step.task.source.path is None for step in decision.weights)


def compiler_jobs(resolved: ResolvedSpec) -> int:
    """Compilers to run at once."""
    return resolved.spec.jobs or len(os.sched_getaffinity(0))


def examine_build(
    resolved: ResolvedSpec, decision: Decision, destination: Path, environ: Mapping[str, str]
) -> tuple[Finding, ...]:
    """All that speaks against a build, and what is good to know about it, worst first."""
    findings = [*_examine(resolved, destination, environ)]
    try:
        _check_resources(resolved, decision, destination)
    except ResourceError as error:
        findings.append(Finding("error", "resources", error.message, error.hint))
    return order(findings)


def check_build(
    resolved: ResolvedSpec,
    decision: Decision,
    destination: Path,
    environ: Mapping[str, str],
    observe: Observer = ignore,
) -> None:
    """Refuse a build that would fail later, or that this machine is too small for.

    Raises
    ------
    RefusedError
        With every finding.
    ResourceError
        Disk or memory is lacking; with both figures.
    """
    if not decision.to_compile:
        return _check_resources(resolved, decision, destination)
    findings = _examine(resolved, destination, environ)
    refuse(findings)
    for finding in findings:
        if finding.severity == "warning":
            observe(Note(f"{finding.message} [{finding.rule}]"))
    return _check_resources(resolved, decision, destination)


def _examine(
    resolved: ResolvedSpec, destination: Path, environ: Mapping[str, str]
) -> tuple[Finding, ...]:
    return get_backend(resolved.backend).examine(resolved, measure(destination), environ)


def _check_resources(resolved: ResolvedSpec, decision: Decision, destination: Path) -> None:
    copied = sum(step.task.source.size for step in decision.weights if step.source is None)
    check_resources(
        resolved, measure(destination), copied_bytes=copied,
        graphs_to_compile=len(decision.to_compile), jobs=compiler_jobs(resolved),
    )  # fmt: skip


def _hash_weights(model: ModelSnapshot, observe: Observer) -> None:
    """Hash what has no digest yet, files in parallel: SHA-256 is the long part of a key."""
    files = [file for file in model.weight_files if not file.known_sha256 and file.path]
    report = ByteReport("hashing weights", sum(file.size for file in files), observe)
    with ThreadPoolExecutor(max_workers=max(1, min(4, len(files)))) as pool:
        futures = [pool.submit(model.sha256, file, report.add) for file in files]
        for future in futures:
            future.result()


def refuse_foreign(path: Path, store: LocalStore, unreadable: bool) -> None:
    """What is not ours is never moved: only a manifest, or lying under a key, makes it ours."""
    ours = path.parent == store.root or (path / MANIFEST_NAME).exists()
    if unreadable and not ours:
        raise StoreError(
            f"{path} exists and holds something else than an artifact of this tool",
            hint="name a new or empty directory; nothing there was touched",
        )


def _unique(paths: list[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))
