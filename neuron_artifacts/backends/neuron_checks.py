"""The verdict on a Neuron directory, with a manifest of ours or without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuron_artifacts._files import DigestCache
from neuron_artifacts.artifact import Depth, Manifest, Status, Verdict, verify_artifact
from neuron_artifacts.artifact.findings import Finding, Severity, sort_findings
from neuron_artifacts.artifact.neuron_directory import NeuronDirectory, read_neuron_directory
from neuron_artifacts.backends.checks import host_reasons
from neuron_artifacts.backends.neuron_host import NeuronHost, judge
from neuron_artifacts.errors import IncompleteError
from neuron_artifacts.toolchain.generations import GENERATIONS

Word = Literal["usable", "recompile advised", "incompatible", "corrupt", "missing", "unreadable"]

_STATUSES: dict[str, Status] = {
    "corrupt": "corrupt", "incomplete": "incomplete", "incompatible": "incompatible",
    "unreadable": "unreadable",
}  # fmt: skip

_HINTS: dict[Status, str] = {
    "incomplete": "compile it again: what is missing cannot be made from what is there",
    "corrupt": "copy it again from where it is whole, or compile it again",
    "unreadable": "nothing says that it is damaged: see who may read it, and to the disk",
    "incompatible": "compile it for this target, or use it where it fits",
}


@dataclass(frozen=True)
class NeuronVerdict:
    """A verdict with what was read. ``contents`` is ``None`` where nothing could be."""

    verdict: Verdict
    contents: NeuronDirectory | None
    findings: tuple[Finding, ...]

    @property
    def word(self) -> Word:
        """One of four, or that there is nothing."""
        status = self.verdict.status
        if status == "ok":
            advised = any(finding.severity == "advice" for finding in self.findings)
            return "recompile advised" if advised else "usable"
        return "corrupt" if status == "incomplete" else status


def check_neuron_directory(
    directory: Path,
    depth: Depth = "quick",
    *,
    host: NeuronHost | None = None,
    digests: DigestCache | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> NeuronVerdict | None:
    """Check a directory that a Neuron library wrote; ``None`` if none did, or nobody can tell.

    Without ``host``, an artifact with a manifest is judged against this machine.
    """
    base = verify_artifact(directory, depth, digests=digests, on_bytes=on_bytes)
    manifest = base.manifest
    if base.status in ("missing", "unreadable"):
        return None
    if manifest and manifest.backend not in GENERATIONS:
        return None
    try:
        contents = read_neuron_directory(directory, full=depth == "full")
    except IncompleteError:
        # With a manifest, what is missing has a name; without one, nothing says it is Neuron's.
        return NeuronVerdict(base, None, tuple(_of_base(base))) if manifest else None
    if not manifest and (directory / "artifact.json").exists():
        return NeuronVerdict(base, contents, tuple(_of_base(base)))
    findings = [*(_of_base(base) if manifest else ()), *contents.findings]
    if not any(finding.severity == "corrupt" for finding in findings):
        findings += judge(contents, manifest, host or NeuronHost())
    if manifest and host is None:
        findings += (Finding("incompatible", reason) for reason in host_reasons(manifest))
    return _conclude(base, depth, contents, sort_findings(findings))


def _of_base(base: Verdict) -> Iterator[Finding]:
    """What the manifest's own check found."""
    severity: Severity = "incomplete" if base.status == "incomplete" else "corrupt"
    yield from (Finding(severity, problem) for problem in base.problems)


def _conclude(
    base: Verdict, depth: Depth, contents: NeuronDirectory, findings: tuple[Finding, ...]
) -> NeuronVerdict:
    problems = tuple(finding for finding in findings if finding.is_problem)
    status = _STATUSES[problems[0].severity] if problems else "ok"
    manifest: Manifest | None = base.manifest
    verdict = Verdict(
        base.path, status, depth, tuple(dict.fromkeys(map(str, problems))), _HINTS.get(status),
        manifest, base.extra_files, base.bad_files,
    )  # fmt: skip
    return NeuronVerdict(verdict, contents, findings)
