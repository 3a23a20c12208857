"""Headers of safetensors files, well and ill formed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from neuron_artifacts.errors import ModelFormatError
from neuron_artifacts.model.safetensors_header import (
    MAX_HEADER_BYTES,
    TensorInfo,
    header_end,
    parse_header,
    read_header,
)
from tests.model.checkpoints import encode, tensors


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


EIGHT = b"12345678"


def test_it_agrees_with_the_reference_implementation(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.arange(5, dtype=np.float16),
        "scalar": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "flag": np.array([True, False]),
    }
    save_file(arrays, path, metadata={"format": "pt"})
    header = read_header(path)
    data = path.read_bytes()
    assert set(header) == set(arrays)
    for name, array in arrays.items():
        info = header[name]
        assert (info.name, info.shape, info.nbytes) == (name, array.shape, array.nbytes)
        assert data[info.start : info.end] == array.tobytes()
    with safetensors.safe_open(path, framework="np") as opened:
        for name in arrays:
            assert opened.get_slice(name).get_dtype() == header[name].dtype


def test_offsets_are_from_the_start_of_the_file(tmp_path: Path) -> None:
    data = tensors(a=(2, 3), b=(4,))
    start = header_end(data, len(data), "x")
    assert parse_header(data, len(data), "x") == {
        "a": TensorInfo("a", "F32", (2, 3), start, start + 24),
        "b": TensorInfo("b", "F32", (4,), start + 24, start + 40),
    }


GOOD: list[tuple[str, bytes]] = [
    ("no tensors", encode({})),
    ("padded with spaces", encode(json.dumps({"a": entry()}).encode() + b"   ", EIGHT)),
    ("metadata", encode({"__metadata__": {"format": "pt"}, "a": entry()}, EIGHT)),
    ("four-bit pair", encode({"a": entry("F4", [2], [0, 1])}, b"1")),
    ("empty tensor", encode({"a": entry(shape=[0], offsets=[0, 0])})),
]


@pytest.mark.parametrize("data", [case[1] for case in GOOD], ids=[case[0] for case in GOOD])
def test_well_formed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert read_header(path) == parse_header(data, len(data), "a")


BAD: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is 0 bytes long"),
    ("seven bytes", b"1234567", "is 7 bytes long"),
    ("text", b"version https://git-lfs.github.com/spec/v1\n", "no safetensors file"),
    ("huge header", (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "no safetensors file"),
    ("largest length", b"\xff" * 8 + b"{}", "no safetensors file"),
    ("header longer than the file", (50).to_bytes(8, "little") + b"{}", "cut short"),
    ("no JSON", encode(b"{'a': 1}"), "unreadable header"),
    ("no UTF-8", encode(b'{"\xff": 1}'), "unreadable header"),
    ("UTF-16", encode(json.dumps({"a": entry()}).encode("utf-16"), EIGHT), "unreadable header"),
    ("a list", encode([]), "not a JSON object"),
    ("too deep", encode(b"[" * 100_000), "unreadable header"),
    ("NaN", encode(b'{"__metadata__": {"a": NaN}}'), "NaN"),
    ("same name twice", encode(b'{"a": 1, "a": 2}'), "twice"),
    (
        "same field twice",
        encode(b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [], "data_offsets": [0, 4]}}'),
        "twice",
    ),
    ("metadata of numbers", encode({"__metadata__": {"a": 1}}), "__metadata__"),
    ("metadata is a list", encode({"__metadata__": []}), "__metadata__"),
    ("entry is null", encode({"a": None}), "malformed entry"),
    ("entry is text", encode({"a": "F32"}), "malformed entry"),
    ("entry is a list", encode({"a": []}), "malformed entry"),
    ("no dtype", encode({"a": {"shape": [], "data_offsets": [0, 4]}}), "malformed entry"),
    ("no offsets", encode({"a": {"shape": [], "dtype": "F32"}}), "malformed entry"),
    ("one offset", encode({"a": entry(offsets=[0])}), "malformed entry"),
    ("three offsets", encode({"a": entry(offsets=[0, 4, 8])}), "malformed entry"),
    ("offsets as text", encode({"a": entry(offsets="08")}, EIGHT), "malformed shape or offset"),
    ("negative offset", encode({"a": entry(offsets=[-8, 0])}), "malformed shape or offset"),
    ("float offset", encode({"a": entry(offsets=[0, 8.0])}, EIGHT), "malformed shape or offset"),
    ("boolean offset", encode({"a": entry("U8", [1], [False, True])}, b"1"), "malformed shape"),
    ("negative shape", encode({"a": entry(shape=[-2, -1])}, EIGHT), "malformed shape or offset"),
    ("shape is a number", encode({"a": entry(shape=2)}, EIGHT), "malformed shape or offset"),
    ("shape of text", encode({"a": entry(shape=["2"])}, EIGHT), "malformed shape or offset"),
    ("unknown dtype", encode({"a": entry("F31")}, EIGHT), "unknown dtype 'F31'"),
    ("dtype is a list", encode({"a": entry(["F32"])}, EIGHT), "unknown dtype"),
    ("dtype is a number", encode({"a": entry(32)}, EIGHT), "unknown dtype"),
    ("too few bytes", encode({"a": entry(shape=[3])}, EIGHT), "bytes do not match its shape"),
    ("backwards", encode({"a": entry(offsets=[8, 0])}, EIGHT), "bytes do not match its shape"),
    ("half a byte", encode({"a": entry("F4", [1], [0, 1])}, b"1"), "bytes do not match its shape"),
    ("overflow", encode({"a": entry(shape=[1 << 62, 4], offsets=[0, 0])}), "do not match"),
    ("endless product", encode({"a": entry(shape=[2] * 200_000)}, EIGHT), "do not match"),
    ("product of giants", encode({"a": entry(shape=[10**4000] * 9000)}, EIGHT), "do not match"),
    ("gap at the start", encode({"a": entry(offsets=[4, 12])}, EIGHT + b"1234"), "gap or overlap"),
    (
        "gap between",
        encode({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)),
        "gap or overlap before tensor 'b'",
    ),
    (
        "overlap",
        encode({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
        "gap or overlap before tensor 'b'",
    ),
    ("same region twice", encode({"a": entry(), "b": entry()}, EIGHT), "gap or overlap"),
    ("one byte short", tensors(a=(2, 3))[:-1], "cut short"),
    ("half", tensors(a=(200, 3))[:1200], "cut short"),
    ("one byte more", tensors(a=(2, 3)) + b"x", "longer than its header says"),
]


@pytest.mark.parametrize(
    ("data", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_ill_formed(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelFormatError, match=message):
        parse_header(data, len(data), "org/name/a.safetensors")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ModelFormatError, match="cannot be read"):
            read_header(path)


def test_a_head_that_ends_early() -> None:
    data = tensors(a=(2, 3))
    with pytest.raises(ModelFormatError, match="its header ends after 20 bytes"):
        parse_header(data[:20], len(data), "x")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage_is_refused_or_harmless(draw: st.DataObject) -> None:
    """Whatever one byte or a cut does, the answer is a whole header or a ModelFormatError."""
    good = tensors(a=(2, 3), b=(4,))
    at = draw.draw(st.integers(0, len(good) - 1))
    if draw.draw(st.booleans()):
        data = good[:at]
    else:
        data = good[:at] + bytes([draw.draw(st.integers(0, 255))]) + good[at + 1 :]
    try:
        header = parse_header(data, len(data), "x")
    except ModelFormatError:
        return
    assert sum(info.nbytes for info in header.values()) + header_end(data, len(data), "x") == len(
        data
    )
