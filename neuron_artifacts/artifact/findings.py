"""What reading a directory that others wrote has brought to light, one line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from neuron_artifacts._files import is_about_access

Severity = Literal["note", "advice", "incompatible", "unreadable", "incomplete", "corrupt"]

_ORDER: tuple[Severity, ...] = (
    "corrupt", "incomplete", "unreadable", "incompatible", "advice", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line about one file.

    ``advice`` leaves the directory usable; the four after it do not. ``path`` is relative to the
    directory; ``field`` is the field of the configuration, or of a NEFF's header, that is at fault.
    """

    severity: Severity
    what: str
    path: str = ""
    field: str | None = None

    @property
    def is_problem(self) -> bool:
        return self.severity not in ("advice", "note")

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.path else self.what


def severity_of(error: BaseException) -> Severity:
    """Of what a reader raised: damage, unless the system did not let it read."""
    cause = error if isinstance(error, OSError) else error.__cause__
    unread = isinstance(cause, OSError) and is_about_access(cause)
    return "unreadable" if unread else "corrupt"


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first: damage, what is absent, what cannot be read, what does not fit."""
    return tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity)))
