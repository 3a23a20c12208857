"""The artifact key: what it is the digest of, and how two of them differ.

A *key document* has two halves. ``graphs`` names everything that shapes compiled code: the
architecture, the resolved Neuron configuration, the compiler and the target. ``weights`` names
the files that are laid beside it. Neither holds a path, host, user, time or environment
variable. ``key = sha256(graphs digest, weights digest)``, so a fine-tune shares the first digest
of its base model and needs no compiler.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

KEY_SCHEMA = 1

Cost = Literal["recompile", "relink", "nothing"]


@dataclass(frozen=True)
class ArtifactKey:
    """A key with the document that explains it."""

    graphs: Mapping[str, Any]
    weights: Mapping[str, Any]
    graphs_digest: str
    weights_digest: str
    key: str

    @property
    def document(self) -> dict[str, Any]:
        return {"graphs": dict(self.graphs), "weights": dict(self.weights)}


@dataclass(frozen=True)
class Difference:
    """One field of two key documents, with what it costs to get from one to the other."""

    field: str
    left: Any
    right: Any
    cost: Cost


class _Missing:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Missing()


def canonical_json(value: Any) -> bytes:
    """One spelling per value: sorted names, no spaces, UTF-8, shortest float.

    Python has printed the shortest text that reads back as the same float since 3.1, on every
    platform, so floats are safe as long as they are finite.

    Raises
    ------
    ValueError
        NaN or an infinity.
    TypeError
        A value or name JSON has no spelling for.
    """
    _check(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def make_key(graphs: Mapping[str, Any], weights: Mapping[str, Any]) -> ArtifactKey:
    """Digest both halves of a key document."""
    graphs, weights = _as_json(graphs), _as_json(weights)
    graphs_digest, weights_digest = digest_of(graphs), digest_of(weights)
    key = digest_of({"schema": KEY_SCHEMA, "graphs": graphs_digest, "weights": weights_digest})
    return ArtifactKey(graphs, weights, graphs_digest, weights_digest, key)


def diff_documents(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """Fields in which two key documents differ, the costliest first."""
    a, b = dict(_flatten(left)), dict(_flatten(right))
    rows = [
        Difference(field, a.get(field, ABSENT), b.get(field, ABSENT), _cost(field))
        for field in sorted({*a, *b})
        if a.get(field, ABSENT) != b.get(field, ABSENT)
    ]
    return sorted(rows, key=lambda row: (row.cost != "recompile", row.field))


def _as_json(value: Any) -> Any:
    """The value as it reads back from JSON: a document compares equal to its stored self."""
    if isinstance(value, Mapping):
        return {name: _as_json(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    return value


def _cost(field: str) -> Cost:
    return "recompile" if field.startswith("graphs.") else "relink"


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, entry in value.items():
            yield from _flatten(entry, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


def _check(value: Any) -> None:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if not isinstance(name, str):
                raise TypeError(f"a key document cannot hold the name {name!r}")
            _check(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _check(entry)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a key document cannot hold {value}")
    elif value is not None and not isinstance(value, (str, int, bool)):
        raise TypeError(f"a key document cannot hold {type(value).__name__}")
