"""Which tensors are needed, which are refused, and conversion to another storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from neuron_artifacts.backends.cpu import convert
from neuron_artifacts.backends.cpu.arch import Arch, parse_arch
from neuron_artifacts.backends.cpu.convert import convert_file
from neuron_artifacts.backends.cpu.weights import (
    check_tensors,
    choose_storage,
    plan_files,
    required_tensors,
)
from neuron_artifacts.errors import ModelFormatError, UnsupportedModelError
from neuron_artifacts.model.safetensors_header import TensorInfo, read_header
from tests.reference.golden import golden_names, read_golden, read_tensors


def arch(family: str = "Llama", **fields: Any) -> Arch:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 30}  # fmt: skip
    return parse_arch({"architectures": [f"{family}ForCausalLM"], **sizes, **fields})


def infos(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, dtype, shape, 0, 0) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", golden_names())
def test_required_tensors_are_those_of_transformers(name: str) -> None:
    golden = read_golden(name)
    stored = {
        tensor: info.shape
        for path in golden.model.glob("*.safetensors")
        for tensor, info in read_header(path).items()
        if not tensor.endswith("rotary_emb.inv_freq")
    }
    assert required_tensors(parse_arch(golden.config)) == stored


def test_tensors_nobody_reads_are_ignored() -> None:
    model = arch(tie_word_embeddings=True)
    extras = {"model.layers.0.self_attn.rotary_emb.inv_freq": (2,), "lm_head.weight": (30, 16)}
    check_tensors(model, infos({**required_tensors(model), **extras}))


def test_missing_tensors_are_named_and_counted() -> None:
    shapes = required_tensors(arch())
    for name in list(shapes)[2:8]:
        del shapes[name]
    with pytest.raises(ModelFormatError, match=r"model\.norm\.weight.* and 3 more"):
        check_tensors(arch(), infos(shapes))


def test_a_wrong_shape_is_shown_with_the_right_one() -> None:
    shapes = {**required_tensors(arch()), "model.norm.weight": (17,)}
    with pytest.raises(ModelFormatError, match=r"model\.norm\.weight is \[17\] instead of \[16\]"):
        check_tensors(arch(), infos(shapes))


def test_quantised_tensors_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="F8_E4M3"):
        check_tensors(arch(), infos(required_tensors(arch()), "F8_E4M3"))


@pytest.mark.parametrize(
    ("dtypes", "compute", "storage", "actions"),
    [
        (("F32", "F32"), "float32", "F32", ("link", "link")),
        (("BF16", "BF16"), "float32", "BF16", ("link", "link")),
        (("F16", "F16"), "float32", "F16", ("link", "link")),
        (("BF16", "BF16"), "bfloat16", "BF16", ("link", "link")),
        (("F32", "F32"), "bfloat16", "BF16", ("convert", "convert")),
        (("F16", "F16"), "bfloat16", "BF16", ("convert", "convert")),
        (("F32", "BF16"), "bfloat16", "BF16", ("convert", "link")),
        (("F32", "BF16"), "float32", "F32", ("link", "convert")),
        (("F16", "BF16"), "float32", "F32", ("convert", "convert")),
    ],
)
def test_files_are_linked_where_graphs_read_them_as_they_are(
    dtypes: tuple[str, str], compute: Any, storage: str, actions: tuple[str, str]
) -> None:
    shapes = list(required_tensors(arch()).items())
    halves = (infos(dict(shapes[:9]), dtypes[0]), infos(dict(shapes[9:]), dtypes[1]))
    files = dict(zip(("a.safetensors", "b.safetensors"), halves, strict=True))
    assert choose_storage({**halves[0], **halves[1]}, compute) == storage
    assert tuple(file.action for file in plan_files(arch(), files, compute)) == actions


def test_a_file_without_a_tensor_that_is_read_is_left_out() -> None:
    files = {"model": infos(required_tensors(arch())), "optimizer": infos({"step": (1,)})}
    assert [file.name for file in plan_files(arch(), files, "float32")] == ["model"]


EDGES = np.array(
    [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 3.4e38, 1e-40,
     np.inf, -np.inf, np.nan], np.float32,
)  # fmt: skip
ROUNDED = np.array(
    [0.0, -0.0, 1, 1, 1 + 2**-6, 1 + 2**-7, -1, np.inf, 2.0**-133, np.inf, -np.inf, np.nan]
)


def test_bfloat16_rounds_to_nearest_even(tmp_path: Path) -> None:
    save_file({"w": EDGES.reshape(3, 4)}, tmp_path / "f32")
    convert_file(tmp_path / "f32", tmp_path / "bf16", "BF16")
    assert read_header(tmp_path / "bf16")["w"].dtype == "BF16"
    stored = read_tensors(tmp_path / "bf16")["w"].ravel()
    assert np.array_equal(stored, ROUNDED, equal_nan=True)
    assert np.array_equal(np.signbit(stored[:2]), [False, True])


def test_only_float_matrices_are_converted(tmp_path: Path) -> None:
    tensors = {
        "norm": np.ones(5, np.float32),
        "ids": np.arange(6, dtype=np.int64).reshape(2, 3),
        "half": np.full((2, 2), 1.5, np.float16),
    }
    save_file(tensors, tmp_path / "in")
    convert_file(tmp_path / "in", tmp_path / "out", "F32")
    found = {name: info.dtype for name, info in read_header(tmp_path / "out").items()}
    assert found == {"norm": "F32", "ids": "I64", "half": "F32"}
    data = (tmp_path / "out").read_bytes()
    ids = read_header(tmp_path / "out")["ids"]
    assert data[ids.start : ids.end] == tensors["ids"].tobytes()


def test_conversion_in_small_blocks_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(3).standard_normal((37, 11), dtype=np.float32)
    save_file({"w": values, "v": values[:3]}, tmp_path / "in")
    convert_file(tmp_path / "in", tmp_path / "whole", "BF16")
    monkeypatch.setattr(convert, "CONVERT_ELEMENTS", 5)
    convert_file(tmp_path / "in", tmp_path / "blocks", "BF16")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "blocks").read_bytes()


def test_a_file_that_shrinks_meanwhile_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"w": np.ones((8, 8), np.float32)}, tmp_path / "in")
    header = read_header(tmp_path / "in")
    monkeypatch.setattr(convert, "read_header", lambda _: header)
    with (tmp_path / "in").open("r+b") as file:
        file.truncate(header["w"].start + 12)
    with pytest.raises(ModelFormatError, match="shorter"):
        convert_file(tmp_path / "in", tmp_path / "out", "BF16")
