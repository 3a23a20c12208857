"""Tokenizers that would fill the memory, and those that only look like it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import ModelFormatError
from neuron_artifacts.runtime.tokenizer import Tokenizer
from neuron_artifacts.runtime.tokenizer_growth import growth, has_sound_tables
from tests.runtime.toy_tokenizers import byte_level, metaspace, save, word_piece


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(*steps: dict[str, Any], name: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", name: list(steps)}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (replace(" ", "▁"), 1),
        (replace("``", '"'), 1),
        (replace(" {2,}", " ", "Regex"), 3),
        (replace("a", "bb"), 2),
        (sequence(*[replace("a", "aa")] * 10), 1024),
        (sequence(replace("e", "ee"), replace("e", "eee"), name="decoders"), 6),
        (sequence(sequence(replace("a", "aa")), replace("a", "aa")), 4),
        (replace("", "x"), 3),
        ({"type": "Prepend", "prepend": "▁"}, 1),
        ({"type": "Prepend", "prepend": "x" * 2000}, float("inf")),
        ({"type": "NFC"}, 1),
    ],
)
def test_growth(step: dict[str, Any], expected: float) -> None:
    assert growth(step) == expected


def table(size: int, length: int) -> str:
    return base64.b64encode(size.to_bytes(4, "little") + bytes(length)).decode()


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (None, True),
        ({"type": "NFC"}, True),
        ({"type": "Precompiled", "precompiled_charsmap": table(8, 12)}, True),
        ({"type": "Precompiled", "precompiled_charsmap": table(2**32 - 1, 12)}, False),
        (sequence({"type": "Precompiled", "precompiled_charsmap": table(13, 12)}), False),
    ],
)
def test_tables(normalizer: Any, expected: bool) -> None:
    text = json.dumps({"normalizer": normalizer})
    assert has_sound_tables(text.encode()) is expected
    disguised = text.replace("charsmap", "\\u0063harsmap")
    assert has_sound_tables(disguised.encode()) is expected


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": sequence(*[replace("a", "aa")] * 60)},
        {"decoder": sequence(*[replace("a", "aa")] * 60, name="decoders")},
        {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": table(2**32 - 1, 0)}},
    ],
)
def test_what_fills_the_memory_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save(tmp_path, byte_level())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(ModelFormatError, match=r"without bounds|cut short"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("make", [byte_level, metaspace, word_piece])
def test_sound_tokenizers_are_read(tmp_path: Path, make: Any) -> None:
    assert Tokenizer.load(save(tmp_path, make())).encode("a text")
