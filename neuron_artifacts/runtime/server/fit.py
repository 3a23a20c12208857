"""How many characters one token can stand for at most, where that can be proved.

A text longer than that many characters a position cannot fit the context, and need not be
tokenized to know it. The proof needs a tokenizer that spends at least one token on each stretch
of text: BPE that falls back to bytes instead of an unknown token, behind normalizers that do not
swallow characters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuron_artifacts.errors import ModelError
from neuron_artifacts.model.snapshot import read_json

_COMPOSED = 4
"""Code points that canonical composition (NFC) can at most turn into one."""


@functools.lru_cache(maxsize=4)
def chars_per_token(folder: str) -> int | None:
    """The bound for the tokenizer in ``folder``; ``None`` where nothing is proved."""
    try:
        return bound_chars(read_json(Path(folder) / "tokenizer.json"))
    except (ModelError, OSError):
        return None


def bound_chars(document: Mapping[str, Any]) -> int | None:
    """The bound for a parsed ``tokenizer.json``.

    In byte-level vocabularies each character stands for one byte, so a token's length bounds the
    characters of its text as well.
    """
    model = document.get("model")
    added = document.get("added_tokens") or []
    factors = [_shrinks_by(step) for step in _steps(document.get("normalizer"), "normalizers")]
    if not isinstance(model, dict) or not _covers_all(document, model) or None in factors:
        return None
    if any(token.get("lstrip") or token.get("rstrip") for token in added):
        return None
    longest = max(map(len, [*model["vocab"], *(token["content"] for token in added)]), default=1)
    for factor in factors:
        longest *= factor or 1
    return longest


def _covers_all(document: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        return False
    splits = _steps(document.get("pre_tokenizer"), "pretokenizers")
    kinds = {step.get("type") for step in splits}
    if kinds - {"ByteLevel", "Split", "Metaspace", "Digits"}:
        return False
    if any(step.get("behavior") == "Removed" for step in splits):
        return False
    return "ByteLevel" in kinds or _has_all_bytes(model)


def _has_all_bytes(model: Mapping[str, Any]) -> bool:
    vocab = model["vocab"]
    return bool(model.get("byte_fallback")) and all(f"<0x{b:02X}>" in vocab for b in range(256))


def _shrinks_by(step: Mapping[str, Any]) -> int | None:
    kind = step.get("type")
    if kind == "Prepend":
        return 1
    if kind == "NFC":
        return _COMPOSED
    pattern = (step.get("pattern") or {}).get("String")
    if kind == "Replace" and isinstance(pattern, str) and len(pattern) <= len(step["content"]):
        return 1
    return None


def _steps(step: Mapping[str, Any] | None, inner: str) -> Iterator[Mapping[str, Any]]:
    if step is None:
        return
    if step.get("type") == "Sequence":
        for part in step.get(inner) or []:
            yield from _steps(part, inner)
    else:
        yield step
