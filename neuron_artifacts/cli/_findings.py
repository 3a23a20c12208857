"""What preflight found, for people and as data."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from neuron_artifacts.backends.findings import SEVERITIES, Finding, exit_code
from neuron_artifacts.cli import _output

_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}
_WIDTH = 96
_SHOWN = ("severity", "rule", "message", "hint")


def findings_table(findings: Sequence[Finding]) -> str:
    """A paragraph for each finding under its severity and rule, and a count of each kind."""
    lines = [line for finding in findings for line in _paragraph(finding)]
    return "\n".join((*lines, summary(findings)))


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """``exit_code`` is what ``--preflight-only`` ends with."""
    return {
        "findings": [{name: getattr(finding, name) for name in _SHOWN} for finding in findings],
        "counts": _count(findings),
        "exit_code": int(exit_code(findings)),
    }


def summary(findings: Sequence[Finding]) -> str:
    """``2 errors, 1 warning``; the notes are not counted."""
    counts = _count(findings)
    told = [
        f"{counts[kind]} {kind}{'' if counts[kind] == 1 else 's'}" for kind in SEVERITIES[:2]
    ]  # fmt: skip
    return ", ".join(told)


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> int:
    """All that ``--preflight-only`` prints; gives the exit code."""
    if as_json:
        _output.print_json(findings_json(findings))
    else:
        _output.write(findings_table(findings))
    return exit_code(findings)


def _count(findings: Sequence[Finding]) -> dict[str, int]:
    return {kind: sum(f.severity == kind for f in findings) for kind in SEVERITIES}


def _paragraph(finding: Finding) -> list[str]:
    word = finding.severity.ljust(max(map(len, SEVERITIES)))
    head = f"{_output.styled(word, _STYLES[finding.severity], stream=sys.stdout)}  {finding.rule}"
    body = textwrap.wrap(finding.message, _WIDTH, break_on_hyphens=False)
    hint = textwrap.wrap(f"tip: {finding.hint}", _WIDTH, break_on_hyphens=False)
    return [head, *(f"         {line}" for line in (*body, *(hint if finding.hint else ())))]
