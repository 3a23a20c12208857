"""What reading a directory that others wrote has brought to light, one line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["note", "advice", "incompatible", "incomplete", "corrupt"]

_ORDER: tuple[Severity, ...] = ("corrupt", "incomplete", "incompatible", "advice", "note")


@dataclass(frozen=True)
class Finding:
    """One line about one file.

    ``advice`` leaves the directory usable; the three after it do not. ``path`` is relative to the
    directory; ``field`` is the field of the configuration, or of a NEFF's header, that is at fault.
    """

    severity: Severity
    what: str
    path: str = ""
    field: str | None = None

    @property
    def is_problem(self) -> bool:
        return self.severity in ("corrupt", "incomplete", "incompatible")

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.path else self.what


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first: damage, then what is absent, then what does not fit."""
    return tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity)))
