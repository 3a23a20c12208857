"""The tokenizer: as transformers reads the same folder, and clear about broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import ModelFormatError, RequestError
from neuron_artifacts.runtime.tokenizer import Tokenizer
from tests.reference.tokenizer_cases import CONFIGS, EXPECTED, TEXTS
from tests.runtime.toy_tokenizers import CHAT_TEMPLATE, KINDS, byte_level, save, write_json

GOLDEN: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_reads_a_folder_as_transformers(tmp_path: Path, kind: str, config: str) -> None:
    tokenizer = Tokenizer.load(save(tmp_path, KINDS[kind](), **CONFIGS[config]))
    golden = GOLDEN[kind][config]
    assert tokenizer.vocab_size == golden["size"]
    assert tokenizer.special_tokens == golden["special_tokens"]
    for text, expected in zip(TEXTS, golden["texts"], strict=True):
        assert tokenizer.encode(text) == expected["ids"]
        assert tokenizer.encode(text, add_special_tokens=False) == expected["bare"]
        assert tokenizer.decode(expected["ids"], skip_special_tokens=False) == expected["decoded"]
        assert tokenizer.decode(expected["ids"]) == expected["skipped"]


def test_truncation_and_padding_saved_along_are_ignored(tmp_path: Path) -> None:
    backend = byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=40)
    tokenizer = Tokenizer.load(save(tmp_path, backend))
    assert tokenizer.decode(tokenizer.encode("Hello world, this is a text")) == (
        "Hello world, this is a text"
    )


def test_ids_and_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(save(tmp_path, byte_level(), pad_token="<|user|>"))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        292, 293, 294,
    )  # fmt: skip
    assert tokenizer.id_to_token(293) == "</s>"
    assert tokenizer.id_to_token(10**6) is None
    assert tokenizer.token_to_id("nothing like it") is None
    assert tokenizer.decode([292, 10**6, 293], skip_special_tokens=False) == "<s></s>"
    assert tokenizer.special_ids == {292, 293, 294, 295}


@pytest.mark.parametrize(
    ("generation", "model", "expected"),
    [
        (None, {}, (293,)),
        (None, {"eos_token_id": 5}, (5, 293)),
        ({}, {"eos_token_id": [5, 6]}, (5, 6, 293)),
        ({"eos_token_id": [7, 293]}, {"eos_token_id": 5}, (7, 293)),
        ({"eos_token_id": None}, {"eos_token_id": None}, (293,)),
    ],
)
def test_ends_of_text(
    tmp_path: Path, generation: Any, model: Any, expected: tuple[int, ...]
) -> None:
    save(tmp_path, byte_level())
    write_json(tmp_path / "config.json", model)
    if generation is not None:
        write_json(tmp_path / "generation_config.json", generation)
    assert Tokenizer.load(tmp_path).eos_token_ids == expected


def test_special_tokens_from_the_legacy_file(tmp_path: Path) -> None:
    save(tmp_path, byte_level())
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "<|user|>"})
    write_json(tmp_path / "special_tokens_map.json", {"eos_token": "x", "bos_token": "<s>"})
    assert Tokenizer.load(tmp_path).special_tokens == {"eos_token": "<|user|>", "bos_token": "<s>"}


def write_template(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")

    return write


JINJA = write_template("chat_template.jinja")
TOOL_USE = write_template("additional_chat_templates/tool_use.jinja")
NAMED = [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]


@pytest.mark.parametrize(
    ("config", "files", "expected"),
    [
        (None, [], {}),
        ("text", [], {"default": "text"}),
        (NAMED, [], {"default": "d", "rag": "r"}),
        ("text", [JINJA], {"default": "chat_template.jinja"}),
        (NAMED, [JINJA, TOOL_USE], {
            "default": "chat_template.jinja",
            "tool_use": "additional_chat_templates/tool_use.jinja",
        }),
        (None, [lambda f: write_json(f / "chat_template.json", {"chat_template": "old"})],
         {"default": "old"}),
    ],
)  # fmt: skip
def test_chat_templates(tmp_path: Path, config: Any, files: Any, expected: Any) -> None:
    save(tmp_path, byte_level(), chat_template=config)
    for write in files:
        write(tmp_path)
    assert Tokenizer.load(tmp_path).chat_templates == expected


def test_choosing_a_chat_template(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(save(tmp_path, byte_level()))
    assert tokenizer.chat_template() == tokenizer.chat_template(tools=True) == CHAT_TEMPLATE
    tokenizer.chat_templates["tool_use"] = "t"
    assert tokenizer.chat_template() == CHAT_TEMPLATE
    assert tokenizer.chat_template(tools=True) == tokenizer.chat_template(name="tool_use") == "t"
    with pytest.raises(RequestError, match="'rag'; it has 'default', 'tool_use'"):
        tokenizer.chat_template(name="rag")
    tokenizer.chat_templates.clear()
    with pytest.raises(RequestError, match=r"no chat template$"):
        tokenizer.chat_template()


def break_file(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (break_file("tokenizer.json", ""), "tokenizer.json is not a tokenizer"),
        (break_file("tokenizer.json", '{"model": 3}'), "tokenizer.json is not a tokenizer"),
        (break_file("tokenizer.json", b"\xff\xfe\x00"), "tokenizer.json is not a tokenizer"),
        (break_file("tokenizer_config.json", "[1]"), "tokenizer_config.json is not usable"),
        (break_file("tokenizer_config.json", '{"bos_token": 3}'), "bos_token"),
        (break_file("tokenizer_config.json", '{"chat_template": 3}'), "chat_template"),
        (break_file("tokenizer_config.json", '{"chat_template": [{"name": "x"}]}'),
         "chat_template"),
        (break_file("tokenizer_config.json", '{"extra_special_tokens": [3]}'), "special token"),
        (break_file("tokenizer_config.json", '{"extra_special_tokens": 3}'), "extra_special"),
        (break_file("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}'),
         "'x'"),
        (break_file("generation_config.json", '{"eos_token_id": "x"}'), "eos_token_id"),
        (break_file("generation_config.json", '{"eos_token_id": [true]}'), "eos_token_id"),
        (break_file("special_tokens_map.json", "{"), "special_tokens_map.json"),
        (break_file("chat_template.jinja", b"\xff"), "not UTF-8"),
        (break_file("chat_template.jinja", "x" * (1 << 20) + "x"), "larger than"),
    ],
)  # fmt: skip
def test_broken_files_are_named(tmp_path: Path, damage: Any, named: str) -> None:
    save(tmp_path, byte_level())
    damage(tmp_path)
    with pytest.raises(ModelFormatError, match=named) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in caught.value.message
