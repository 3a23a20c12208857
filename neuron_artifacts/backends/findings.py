"""What preflight has to say: findings, every one of them, before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from neuron_artifacts.errors import ExitCode, RefusedError, SpecError

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""``error``: it would fail, so it is refused. ``warning``: it may. ``note``: good to know."""


@dataclass(frozen=True)
class Finding:
    """One thing that preflight found, under the name of the rule that looks for it.

    ``is_usage``: an option is wrong in itself, whatever the model and the configuration.
    """

    severity: Severity
    rule: str
    message: str
    hint: str | None = None
    is_usage: bool = False


def order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Worst first, each finding once, else in the order they were found."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda f: SEVERITIES.index(f.severity)))


def exit_code(findings: Iterable[Finding]) -> ExitCode:
    """Refused where there is an error; wrong usage where all errors are options."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return ExitCode.OK
    return ExitCode.USAGE if all(error.is_usage for error in errors) else ExitCode.REFUSED


def refuse(findings: Sequence[Finding]) -> None:
    """Refuse a request for all the errors found, a line each.

    Raises
    ------
    RefusedError
        There is an error among the findings.
    SpecError
        All of them are wrong options.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    kind = SpecError if exit_code(errors) is ExitCode.USAGE else RefusedError
    lines = [f"{f.message} [{f.rule}]" + (f"; {f.hint}" if f.hint else "") for f in errors]
    count = "this" if len(errors) == 1 else f"{len(errors)} things"
    raise kind(
        "\n  ".join((f"preflight refuses {count}:", *lines)),
        hint="--preflight-only shows warnings and arithmetic too; --skip-preflight builds anyway",
    )
