"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem", "info"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    state: State
    text: str
    hint: str | None = None
