"""EAGLE drafts: converted, refused, and left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from neuron_artifacts.backends.nxdi.eagle import convert_eagle
from neuron_artifacts.errors import ModelFormatError, RefusedError, StoreError
from neuron_artifacts.model import read_folder
from neuron_artifacts.model.floats import encode, widen
from tests.cli.run import run
from tests.model.fake_hub import FakeHub

VOCAB, HIDDEN = 12, 8
GENERATOR = np.random.default_rng(7)


def numbers(*shape: int) -> Any:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def lay_model(folder: Path, tensors: dict[str, Any], *, shards: int = 1, **config: Any) -> Path:
    folder.mkdir(parents=True)
    content = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, **config}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "tokenizer.json").write_text("{}")
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {}
    for number in range(shards):
        names = sorted(tensors)[number::shards]
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1000}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def lay_draft(folder: Path, dtype: Any = np.float16, **options: Any) -> Path:
    extra = options.pop("tensors", {})
    tensors = {
        "embed_tokens.weight": numbers(VOCAB, HIDDEN).astype(dtype),
        "fc.weight": numbers(HIDDEN, 2 * HIDDEN).astype(dtype),
        "layers.0.mlp.up_proj.weight": numbers(16, HIDDEN).astype(dtype),
        **extra,
    }
    return lay_model(folder, {k: v for k, v in tensors.items() if v is not None}, **options)


def lay_target(folder: Path, **options: Any) -> Path:
    extra = options.pop("tensors", {"lm_head.weight": numbers(VOCAB, HIDDEN)})
    return lay_model(folder, {"model.embed_tokens.weight": numbers(VOCAB, HIDDEN), **extra},
                     **options)  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def tensors_of(folder: Path) -> dict[str, Any]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def file_of_head(folder: Path) -> str:
    """The file that holds the head."""
    files = read_folder(folder).tensors
    return next(name for name, tensors in files.items() if "lm_head.weight" in tensors)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("target_shards", [1, 2])
def test_a_draft_gets_its_targets_head(tmp_path: Path, shards: int, target_shards: int) -> None:
    draft = lay_draft(tmp_path / "draft", shards=shards)
    target = lay_target(tmp_path / "target", shards=target_shards)
    before = contents(draft), contents(target)
    converted = convert_eagle(
        str(draft), target_model=str(target), output=tmp_path / "new" / "draft"
    )
    assert (contents(draft), contents(target)) == before
    found, kept = tensors_of(converted.path), tensors_of(draft)
    head = found.pop("lm_head.weight")
    assert head.dtype == np.float16
    np.testing.assert_array_equal(head, tensors_of(target)["lm_head.weight"].astype(np.float16))
    assert found.keys() == kept.keys()
    for name, tensor in kept.items():
        np.testing.assert_array_equal(found[name], tensor)
    with safe_open(converted.path / file_of_head(converted.path), framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt"}  # without it transformers opens no file
    snapshot = read_folder(converted.path)  # complete, with an index that tells the truth
    assert "lm_head.weight" in snapshot.all_tensors
    assert (converted.path / "tokenizer.json").exists()
    if shards == 2:
        assert snapshot.index is not None
        assert snapshot.index["metadata"]["total_size"] == 1000 + 2 * VOCAB * HIDDEN


def test_tied_embeddings_are_the_head(tmp_path: Path) -> None:
    draft = lay_draft(tmp_path / "draft", tie_word_embeddings=True)
    target = lay_target(tmp_path / "target", tensors={}, tie_word_embeddings=True)
    converted = convert_eagle(str(draft), target_model=str(target), output=tmp_path / "new")
    table = tensors_of(target)["model.embed_tokens.weight"].astype(np.float16)
    np.testing.assert_array_equal(tensors_of(converted.path)["lm_head.weight"], table)
    # Tied, NxD Inference would put the draft's own embeddings in its place.
    assert json.loads((converted.path / "config.json").read_bytes())["tie_word_embeddings"] is False


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "has a head": ({"tensors": {"lm_head.weight": numbers(VOCAB, HIDDEN)}}, {}, RefusedError,
                   "has lm_head.weight already"),
    "no EAGLE draft": ({"tensors": {"fc.weight": None}}, {}, RefusedError, "no fc.weight"),
    "EAGLE3": ({"draft_vocab_size": 6}, {}, RefusedError, "EAGLE3"),
    "other vocabulary": ({"vocab_size": 13}, {}, RefusedError, r"\[12, 8\], .* needs \[13, 8\]"),
    "other width": ({"hidden_size": 4}, {}, RefusedError, r"needs \[12, 4\]"),
    "no head": ({}, {"tensors": {}}, ModelFormatError, "no lm_head.weight, and its embeddings"),
    "quantised head": ({}, {"tensors": {"lm_head.weight": np.zeros((VOCAB, HIDDEN), np.int8)}},
                       ModelFormatError, "head of I8"),
}  # fmt: skip


@pytest.mark.parametrize(("draft", "target", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, draft: Any, target: Any, error: Any, words: str
) -> None:
    paths = lay_draft(tmp_path / "draft", **draft), lay_target(tmp_path / "target", **target)
    with pytest.raises(error, match=words):
        convert_eagle(str(paths[0]), target_model=str(paths[1]), output=tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draft", "target"]


def test_a_pickled_draft_is_refused_with_a_way_out(tmp_path: Path) -> None:
    draft = lay_draft(tmp_path / "draft")
    (draft / "model.safetensors").rename(draft / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match="a pickle, which is never loaded") as caught:
        convert_eagle(
            str(draft), target_model=str(lay_target(tmp_path / "t")), output=tmp_path / "new"
        )
    assert "safe_serialization" in str(caught.value.hint)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    draft, target = lay_draft(tmp_path / "draft"), lay_target(tmp_path / "target")
    before = contents(draft)
    with pytest.raises(StoreError, match="exists already"):
        convert_eagle(str(draft), target_model=str(target), output=draft)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="exists already"):
        convert_eagle(str(draft), target_model=str(target), output=tmp_path / "dangling")
    assert contents(draft) == before


def test_a_target_cut_while_it_is_read_leaves_nothing(tmp_path: Path) -> None:
    draft = lay_draft(tmp_path / "draft")
    target = lay_target(tmp_path / "target")
    weights = target / "model.safetensors"

    def cut(_event: object) -> None:
        os.truncate(weights, 16)

    with pytest.raises(ModelFormatError, match="became shorter"):
        convert_eagle(str(draft), target_model=str(target), output=tmp_path / "new", observe=cut)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draft", "target"]


@settings(max_examples=200)
@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_numbers_survive_what_can_hold_them(values: list[float]) -> None:
    array = np.array(values, np.float32)
    np.testing.assert_array_equal(widen(encode(array, "F32"), "F32"), array)
    with np.errstate(over="ignore"):
        halves = array.astype(np.float16)
        np.testing.assert_array_equal(widen(encode(array, "F16"), "F16"), halves.astype(np.float32))
    narrow = widen(encode(array, "BF16"), "BF16")
    np.testing.assert_array_equal(widen(encode(narrow, "BF16"), "BF16"), narrow)
    finite = np.isfinite(array) & np.isfinite(narrow)
    narrow, array = narrow[finite], array[finite]
    assert np.all(np.abs(narrow - array) <= np.abs(array) / 256 + 1e-38)


def test_the_command(tmp_path: Path) -> None:
    draft, target = lay_draft(tmp_path / "draft"), lay_target(tmp_path / "target")
    result = run("convert-eagle", draft, "--target-model", target, "--output", "new", "--json",
                 cwd=tmp_path)  # fmt: skip
    assert result.code == 0, result.err
    assert result.data["head"] == {
        "from": "lm_head.weight", "file": "model.safetensors", "shape": [VOCAB, HIDDEN],
        "stored_as": "F32", "dtype": "F16",
    }  # fmt: skip
    assert Path(result.data["path"]) == tmp_path / "new"
    again = run("convert-eagle", draft, "--target-model", target, "--output", "new", cwd=tmp_path)
    assert again.code == 1
    assert "exists already" in again.err
    refused = run("convert-eagle", "new", "--target-model", target, "--output", "x", cwd=tmp_path)
    assert refused.code == 7


def test_of_a_target_on_the_hub_only_the_heads_file_is_downloaded(tmp_path: Path) -> None:
    target = lay_target(tmp_path / "target", shards=2)
    draft = lay_draft(tmp_path / "draft")
    with FakeHub() as hub:
        hub.commit("org/target", contents(target))
        result = run(
            "convert-eagle", draft, "--target-model", "org/target", "--output", "new",
            cwd=tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hf"),
        )  # fmt: skip
        assert result.code == 0, result.err
        whole = {r.path.rsplit("/", 1)[-1] for r in hub.asked("GET", "resolve")
                 if r.path.endswith(".safetensors") and not r.span}  # fmt: skip
    assert whole == {file_of_head(target)}
    assert "lm_head.weight" in read_folder(tmp_path / "new").all_tensors
