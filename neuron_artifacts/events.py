"""What a long job tells while it runs; whoever watches decides how to show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

GraphState = Literal["queued", "compiling", "compiled", "reused", "failed"]


@dataclass(frozen=True)
class PhaseEnded:
    """One step of the way is done: ``resolve``, ``look up``, ``compile``, ``publish`` …"""

    name: str
    seconds: float


@dataclass(frozen=True)
class GraphChanged:
    """A graph moved on; ``seconds`` is what it took, once it is ``compiled``."""

    phase: str
    bucket: int
    state: GraphState
    seconds: float | None = None


@dataclass(frozen=True)
class BytesMoved:
    """``done`` of ``total`` bytes are hashed, copied or downloaded."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Waiting:
    """Another process builds the same key."""

    holder: str
    seconds: float


@dataclass(frozen=True)
class Note:
    """Something the user should know.

    ``is_trouble`` says that something failed and was done without, at a price.
    """

    text: str
    is_trouble: bool = False


Event = PhaseEnded | GraphChanged | BytesMoved | Waiting | Note
Observer = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Watch nothing."""
