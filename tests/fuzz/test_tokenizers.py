"""Tokenizer files of absurd content: read or refused; what was read encodes and decodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuron_artifacts.errors import ModelFormatError, RequestError
from neuron_artifacts.runtime.server.fit import bound_chars
from neuron_artifacts.runtime.tokenizer import Tokenizer
from tests.fuzz.inputs import JSON, changed, damaged, fuzz, refusing
from tests.runtime.toy_tokenizers import byte_level, metaspace, save, word_piece

KINDS = {"byte level": byte_level, "metaspace": metaspace, "word piece": word_piece}
TEXTS = ("", "Hello world, this is a text", "ää 你好 😀 \x00", "<|endoftext|>" * 3)


def as_text(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: save(tmp_path_factory.mktemp("tokenizer"), make()) for name, make in KINDS.items()
    }


def use(folder: Path) -> None:
    with refusing(ModelFormatError):
        tokenizer = Tokenizer.load(folder)
        for text in TEXTS:
            with refusing(RequestError):
                ids = tokenizer.encode(text)
                tokenizer.decode(ids)
                tokenizer.decode([0, 2**31 - 1])
        with refusing(RequestError):
            tokenizer.chat_template(tools=True)


def outline(document: Any) -> Any:
    """The document with a small vocabulary, so that changes meet what matters."""
    model = document["model"]
    small = dict(list(model["vocab"].items())[:4])
    return {**document, "model": {**model, "vocab": small, "merges": []}}


@fuzz
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_tokenizer_files(folders: dict[str, Path], kind: str, data: st.DataObject) -> None:
    path = folders[kind] / "tokenizer.json"
    whole = path.read_bytes()
    document = json.loads(whole)
    if "merges" not in document["model"]:
        document["model"]["merges"] = []
    body = data.draw(
        damaged(whole) | changed(document).map(as_text) | changed(outline(document)).map(as_text)
    )
    try:
        path.write_bytes(body)
        use(folders[kind])
    finally:
        path.write_bytes(whole)


@fuzz
@given(
    st.sampled_from(["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]),
    changed({
        "bos_token": "<s>", "eos_token": {"content": "</s>", "special": True},
        "extra_special_tokens": ["<x>"], "added_tokens_decoder": {"7": {"content": "<y>"}},
        "chat_template": [{"name": "default", "template": "{{ messages }}"}], "eos_token_id": [1],
        "clean_up_tokenization_spaces": True,
    }) | JSON,
)  # fmt: skip
@example("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}})
@example("tokenizer_config.json", {"eos_token": ""})
@example("generation_config.json", {"eos_token_id": 10**400})
def test_configurations(folders: dict[str, Path], name: str, content: Any) -> None:
    path = folders["metaspace"] / name
    kept = path.read_bytes() if path.exists() else None
    try:
        path.write_bytes(as_text(content))
        use(folders["metaspace"])
    finally:
        path.unlink() if kept is None else path.write_bytes(kept)


def nested(depth: int) -> dict[str, Any]:
    inner = [nested(depth - 1)] if depth else []
    return {"type": "Sequence", "normalizers": inner}


STRANGE = {
    "no model": {"version": "1.0", "model": None},
    "a pattern that is none": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("},
                                                 "behavior": "Isolated", "invert": False}},
    "a charsmap of nonsense": {"normalizer": {"type": "Precompiled",
                                              "precompiled_charsmap": "AAAA"}},
    "a charsmap that is cut": {"normalizer": {"type": "Precompiled",
                                              "precompiled_charsmap": "/////w=="}},
    "a charsmap in disguise": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w==", "disguise": 1}
    },
    "normalizers in normalizers": {"normalizer": nested(100)},
    "a template without tokens": {"post_processor": {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "?", "type_id": 0}}], "pair": [], "special_tokens": {}}},
    "ids beyond all": {"added_tokens": [{"id": 2**32 - 1, "content": "<z>", "single_word": False,
                                         "lstrip": False, "rstrip": False, "normalized": False,
                                         "special": True}]},
    "padding to a million": {"padding": {"strategy": {"Fixed": 10**6}, "direction": "Right",
                                         "pad_to_multiple_of": None, "pad_id": 0,
                                         "pad_type_id": 0, "pad_token": "x"}},
    "a truncation that turns": {"truncation": {"direction": "Right", "max_length": 1,
                                               "strategy": "LongestFirst", "stride": 5}},
    "text that doubles": {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 60}},
    "text that grows": {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}},
    "nothing that grows": {"normalizer": {"type": "Replace", "pattern": {"String": ""},
                                          "content": "x" * 1_000_000}},
    "an answer that doubles": {"decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}] * 60}},
    "a decoder that strips all": {"decoder": {"type": "Strip", "content": " ", "start": 2**62,
                                              "stop": 2**62}},
    "a sequence in a sequence": {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Sequence", "normalizers": []}]}},
}  # fmt: skip


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_strange_tokenizers(tmp_path: Path, change: dict[str, Any]) -> None:
    save(tmp_path, byte_level())
    path = tmp_path / "tokenizer.json"
    text = as_text({**json.loads(path.read_bytes()), **change})
    if b"disguise" in text:
        text = text.replace(b"charsmap", b"\\u0063harsmap").replace(b', "disguise": 1', b"")
    path.write_bytes(text)
    use(tmp_path)


@fuzz
@given(st.data())
def test_bounds_of_any_document_that_loads(
    folders: dict[str, Path], tmp_path: Path, data: st.DataObject
) -> None:
    document = data.draw(
        changed(json.loads((folders["byte level"] / "tokenizer.json").read_text()))
    )
    (tmp_path / "tokenizer.json").write_bytes(as_text(document))
    with refusing(ModelFormatError):
        Tokenizer.load(tmp_path)
        assert (bound_chars(document) or 0) >= 0
