"""What ``doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem", "info"]


@dataclass(frozen=True)
class Diagnosis:
    """One line of the report; ``hint`` is the way out where there is one."""

    topic: str
    state: State
    text: str
    hint: str | None = None
