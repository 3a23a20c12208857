"""The sample model's folder: small, whole, and described as it was measured."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from neuron_artifacts.model import read_folder
from tests.models import ADDER

REPORT = json.loads((ADDER / "accuracy.json").read_bytes())


def test_it_is_a_small_llama_in_bf16() -> None:
    model = read_folder(ADDER)
    assert model.config["architectures"] == ["LlamaForCausalLM"]
    assert sum(file.stat().st_size for file in ADDER.iterdir()) < 4 << 20
    assert {info.dtype for info in model.all_tensors.values()} == {"BF16"}
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= {
        file.name for file in model.asset_files
    }


@pytest.mark.parametrize(("kind", "least"), [("plain", 5000), ("chat", 1000), ("long", 300)])
def test_held_out_sums_are_right_and_the_readme_says_how_often(kind: str, least: int) -> None:
    measured = REPORT[kind]
    assert measured["of"] >= least
    assert measured["accuracy"] >= 0.99
    assert f"{measured['accuracy']:.2%}" in (ADDER / "README.md").read_text()
    assert str(REPORT["seed"]) in (ADDER / "README.md").read_text()


@pytest.mark.parametrize("text", ["123+456=", "What is 7 + 8?", "", "é 漢字 🙂\n\ttab", "<|x|>"])
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = Tokenizer.from_file(str(ADDER / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert len(tokenizer.encode("579", add_special_tokens=False).ids) == 3
