"""The bound on characters a token holds, where it is given, is never exceeded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from neuron_artifacts.runtime.server.fit import bound_chars, chars_per_token
from tests.runtime.toy_tokenizers import KINDS, byte_level, metaspace


def composing() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def splitting() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("x", "isolated"),
            pre_tokenizers.Digits(True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


BOUNDED = [byte_level, metaspace, composing, splitting]


def read(tokenizer: Tokenizer) -> dict[str, Any]:
    return dict(json.loads(tokenizer.to_str()))


@pytest.mark.parametrize("make", BOUNDED)
def test_no_text_has_fewer_tokens(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    bound = bound_chars(read(tokenizer))
    assert bound is not None
    alphabet = st.one_of(st.characters(codec="utf-8"), st.sampled_from("a ẛ̣\u0301\u0345ᾳ 0▁\n"))

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet, min_size=1, max_size=200))
    def check(text: str) -> None:
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert len(text) <= bound * tokens

    check()


@pytest.mark.parametrize("make", BOUNDED)
def test_the_bound_is_the_longest_entry(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    longest = max(map(len, tokenizer.get_vocab(with_added_tokens=True)))
    factor = 4 if make is composing else 1
    assert bound_chars(read(tokenizer)) == longest * factor


def change(tokenizer: Tokenizer, **parts: Any) -> dict[str, Any]:
    return {**read(tokenizer), **parts}


STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
SHORTEN = {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}
CUT = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
SWALLOW = [{"content": "<x>", "lstrip": True, "rstrip": False}]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"model": None},
        read(KINDS["word-piece"]()),
        change(byte_level(), normalizer=STRIP),
        change(byte_level(), normalizer={"type": "Sequence", "normalizers": [SHORTEN]}),
        change(byte_level(), normalizer={"type": "Lowercase"}),
        change(byte_level(), added_tokens=SWALLOW),
        change(byte_level(), pre_tokenizer={"type": "Whitespace"}),
        change(byte_level(), pre_tokenizer={"type": "Sequence", "pretokenizers": [CUT]}),
        change(byte_level(), pre_tokenizer=None),
    ],
)
def test_nothing_is_claimed_of_others(document: dict[str, Any]) -> None:
    assert bound_chars(document) is None


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    assert chars_per_token(str(tmp_path)) is None
    assert chars_per_token(str(tmp_path / "missing")) is None
