"""Preflight of a request that may be wrong itself: all that speaks against it, at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from neuron_artifacts.backends.base import ResolvedSpec
from neuron_artifacts.backends.findings import Finding, order, refuse
from neuron_artifacts.build.lookup import (
    destination_of,
    examine_build,
    look_up,
    resolve_request,
)
from neuron_artifacts.errors import NeuronArtifactsError, RefusedError, SpecError, StoreError
from neuron_artifacts.events import Observer, ignore
from neuron_artifacts.preflight import check_writable
from neuron_artifacts.spec import CompileSpec, without_options
from neuron_artifacts.store import LocalStore


def examine_request(
    spec: CompileSpec, *, environ: Mapping[str, str], observe: Observer = ignore
) -> tuple[Finding, ...]:
    """Everything that speaks against building it, and what is good to know, worst first.

    An option that cannot be resolved is a finding, and what remains is judged without it: somebody
    who corrects the first mistake should not have to come back for the second.

    Raises
    ------
    ModelError, ToolchainError, StoreError
        There is nothing to judge, or nothing to judge it by, or what lies there is not ours.
    """
    resolved, findings = _resolve_what_can_be(spec, environ, observe)
    if resolved is None:
        return order(findings)
    store = LocalStore(Path(spec.store))
    destination = destination_of(spec, store, resolved.key.key, environ)
    decision = look_up(resolved, store, destination)
    if decision.action != "hit":
        try:
            check_writable(destination.parent)
        except StoreError as error:
            findings.append(Finding("error", "store", error.message, error.hint))
    return order((*findings, *examine_build(resolved, decision, destination, environ)))


def resolve_or_refuse(
    spec: CompileSpec, *, environ: Mapping[str, str], observe: Observer = ignore
) -> ResolvedSpec:
    """Resolve a request without a hub model's weights, or say all that is wrong with it.

    Raises
    ------
    SpecError, RefusedError
        With every finding, as ``--preflight-only`` has them, where there are several.
    """
    try:
        return resolve_request(spec, environ=environ, observe=observe, weights=False)
    except (SpecError, RefusedError) as error:
        try:
            findings = examine_request(spec, environ=environ)
        except NeuronArtifactsError:
            raise error from None
        if sum(finding.severity == "error" for finding in findings) > 1:
            refuse(findings)
        raise


def _resolve_what_can_be(
    spec: CompileSpec, environ: Mapping[str, str], observe: Observer
) -> tuple[ResolvedSpec | None, list[Finding]]:
    findings: list[Finding] = []
    while True:
        try:
            resolved = resolve_request(spec, environ=environ, observe=observe, weights=False)
        except (SpecError, RefusedError) as error:
            findings.append(_finding(error))
            rest = without_options(spec, error.options)
            if rest == spec:
                return None, findings
            spec = rest
        else:
            return resolved, findings


def _finding(error: NeuronArtifactsError) -> Finding:
    rule = error.options[0] if len(error.options) == 1 else "request"
    return Finding("error", rule, error.message, error.hint, is_usage=isinstance(error, SpecError))
