"""Files beside a checkpoint that end in the weights: in the key by content, and only as read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.nxdi.inputs import (
    MARKER,
    input_digests,
    is_stale,
    quantization_origin,
    refuse_changes,
)
from neuron_artifacts.errors import ModelFormatError
from neuron_artifacts.model import ModelSnapshot, resolve_model
from tests.models import change_weights, copy_model

DTYPE = {"quantized": True, "quantization_dtype": "int8"}


@pytest.fixture
def model(tmp_path: Path) -> ModelSnapshot:
    return resolve_model(str(copy_model(tmp_path / "model")))


def folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_text(content)
    return path


def make(model: ModelSnapshot, path: Path, **fields: Any) -> dict[str, Any]:
    """A quantised checkpoint as the worker leaves it."""
    named = {**DTYPE, **fields, "quantized_checkpoints_path": str(folder(path, weights="1"))}
    stat = (path / "weights").stat()
    files = {"weights": [stat.st_size, stat.st_mtime_ns]}
    marker = {**quantization_origin(model, named), "files": files}
    (path / MARKER).write_text(json.dumps(marker))
    return named


def test_a_quantised_checkpoint_counts_by_content(model: ModelSnapshot, tmp_path: Path) -> None:
    def digests(path: Path) -> Any:
        return input_digests(model, {**DTYPE, "quantized_checkpoints_path": str(path)})

    one, other = folder(tmp_path / "a", weights="1"), folder(tmp_path / "b", weights="2")
    assert digests(one) != digests(other)
    (other / "weights").write_text("1")
    assert digests(one) == digests(other)
    assert set(digests(one)["quantized"]) == {"weights"}
    assert set(digests(one / "weights")["quantized"]) == {"weights"}
    assert digests(tmp_path / "none") == {}
    assert input_digests(model, {"quantized": False, "quantized_checkpoints_path": str(one)}) == {}


def test_one_that_was_made_of_the_model_follows_from_it(
    model: ModelSnapshot, tmp_path: Path
) -> None:
    named = make(model, tmp_path / "q")
    assert input_digests(model, named) == {}
    assert not is_stale(model, named)


@pytest.mark.parametrize("change", ["content", "file", "marker"])
def test_one_that_somebody_touched_is_an_input(
    model: ModelSnapshot, tmp_path: Path, change: str
) -> None:
    named = make(model, tmp_path / "q")
    path = {"content": "weights", "file": "more", "marker": MARKER}[change]
    (tmp_path / "q" / path).write_text("others")
    assert set(input_digests(model, named)["quantized"]) == {"weights", path} - {MARKER}
    assert not is_stale(model, named)


def test_one_of_other_weights_or_settings_is_stale(model: ModelSnapshot, tmp_path: Path) -> None:
    named = make(model, tmp_path / "q")
    assert is_stale(model, {**named, "quantization_dtype": "f8e4m3"})
    assert is_stale(model, {**named, "modules_to_not_convert": ["lm_head"]})
    assert model.root is not None
    change_weights(model.root)
    others = resolve_model(str(model.root))
    assert is_stale(others, named)
    assert input_digests(others, named)["quantized"]


def test_medusa_heads(model: ModelSnapshot) -> None:
    assert model.root is not None
    assert input_digests(model, {"is_medusa": True}) == {}
    (model.root / "medusa_heads.pt").write_bytes(b"1")
    first = input_digests(model, {"is_medusa": True})
    assert set(first) == {"medusa"}
    assert input_digests(model, {"is_medusa": False}) == {}
    (model.root / "medusa_heads.pt").write_bytes(b"2")
    assert input_digests(model, {"is_medusa": True}) != first


def test_what_changes_meanwhile_is_refused(model: ModelSnapshot, tmp_path: Path) -> None:
    files = {"quantized": {"weights": "1"}}
    for file in model.weight_files:
        model.sha256(file)
    refuse_changes([model], files, files)
    with pytest.raises(ModelFormatError, match="while it was compiled: quantized"):
        refuse_changes([model], files, {"quantized": {"weights": "2"}})
    assert model.root is not None
    change_weights(model.root)
    os.utime(model.root / "model.safetensors", ns=(1, 1))
    with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
        refuse_changes([model], files, files)


@pytest.mark.parametrize("is_list", [True, False])
def test_adapters_in_either_form(model: ModelSnapshot, tmp_path: Path, is_list: bool) -> None:
    path = folder(tmp_path / "a", weights="1")
    paths: Any = [f"a:{path}", "broken"] if is_list else {"a": str(path)}
    found = input_digests(model, {"lora_config": {"lora_ckpt_paths": paths}})
    assert set(found["lora"]["a"]) == {"weights"}
