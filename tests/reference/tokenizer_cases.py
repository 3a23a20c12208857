"""Tokenizer folders and texts that are compared with transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).parents[1] / "data" / "tokenizers" / "expected.json"

_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "clean-up": {"clean_up_tokenization_spaces": True},
    "bos off, eos on": {"add_bos_token": False, "add_eos_token": True},
    "extra tokens": {"extra_special_tokens": ["<extra>"], "pad_token": "<pad>"},
    "additional tokens": {"additional_special_tokens": ["<extra>", "<tool>"]},
    "a token of the model": {"image_token": "<img>", "extra_special_tokens": {"sky": "<extra>"}},
    "added tokens": {
        "added_tokens_decoder": {
            "901": {"content": "<sp>", "special": True, **_PLAIN, "rstrip": True},
            "900": {"content": "<new>", "special": False, **_PLAIN, "lstrip": True},
        }
    },
    "token objects": {
        "bos_token": {"content": "<s>", "__type": "AddedToken", **_PLAIN},
        "pad_token": {"content": "<pad>", "__type": "AddedToken", **_PLAIN, "lstrip": True},
    },
    "no specials": {"bos_token": None, "eos_token": None},
}

TEXTS = (
    "Hello world, this is 12 + 30.",
    "don't do n't . über 你好 😀👩‍👩‍👧 �",
    " lead  <tool> x <new> y <sp> z <extra> \t\n",
    "</s><pad>a  b<img>",
    "",
)
