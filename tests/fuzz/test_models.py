"""Model folders of strangers: indexes, links, configurations; no value of theirs becomes code."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuron_artifacts.backends.cpu.adapter import CpuBackend
from neuron_artifacts.backends.cpu.arch import GRAPH_FIELDS, SUPPORTED, parse_arch
from neuron_artifacts.backends.cpu.emit import emit
from neuron_artifacts.backends.cpu.lower import lower
from neuron_artifacts.backends.cpu.rope import rope_tables
from neuron_artifacts.backends.cpu.targets import resolve_target
from neuron_artifacts.errors import ModelError, ModelFormatError, RefusedError, SpecError
from neuron_artifacts.model.snapshot import read_folder
from neuron_artifacts.spec import resolve_spec
from tests.fuzz.inputs import JSON, NASTY_TEXT, SCALARS, changed, damaged, fuzz, refusing
from tests.model.checkpoints import lay, sharded
from tests.models import GOLDEN, TINY, copy_model

CONFIG = json.loads((GOLDEN / TINY / "model" / "config.json").read_bytes())
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128,
}  # fmt: skip
ROPES = (
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
)  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {},
    optional={name: SCALARS for name in GRAPH_FIELDS if name != "architectures"}
    | {"rope_scaling": st.sampled_from(ROPES).flatmap(changed)},
)
INDEX = "model.safetensors.index.json"

_NUMBER = re.compile(r"\b0x[0-9a-f.]+p[+-]\d+f|\b\d[\w.]*")
_WORD = re.compile(r"[A-Za-z_]\w*|\"[^\"\n]*\"?")


def sources(config: dict[str, Any]) -> list[str]:
    arch = parse_arch(config)
    phases: Any = ("context_encoding", "token_generation")
    return [
        emit(
            lower(
                arch, phase, 16, batch_size=1, storage="F32", compute="float32",
                target=resolve_target("x86-64-v3"),
            )
        )
        for phase in phases
    ]  # fmt: skip


def words(source: str) -> set[str]:
    """Its identifiers and its strings, all numbers alike, also those inside of names."""
    return {re.sub(r"\d+", "0", word) for word in _WORD.findall(_NUMBER.sub("0", source))}


@functools.cache
def own_words() -> frozenset[str]:
    """All that we write ourselves, in every family, with and without what is optional."""
    found: set[str] = set()
    for name in SUPPORTED:
        for more in ({}, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}):
            for biases in (True, False):
                config = {**SIZES, "architectures": [name], "attention_bias": biases,
                          "mlp_bias": biases, **(more if "Qwen" in name else {})}  # fmt: skip
                found.update(*map(words, sources(config)))
    return frozenset(found)


@fuzz
@given(st.sampled_from(SUPPORTED), FIELDS)
@example(SUPPORTED[0], {"rope_theta": 10**400})
@example(SUPPORTED[0], {"rope_scaling": {**ROPES[1], "beta_fast": 5e-324}})
def test_only_numbers_reach_the_source(family: str, fields: dict[str, Any]) -> None:
    config = {**SIZES, **fields, "architectures": [family]}
    with refusing(ModelFormatError, RefusedError):
        for source in sources(json.loads(json.dumps(config))):
            assert words(source) <= own_words()
            assert source.isascii()


@fuzz
@given(st.sampled_from(SUPPORTED), FIELDS)
@example(SUPPORTED[0], {"rope_scaling": {**ROPES[1], "beta_fast": 5e-324}})
@example(SUPPORTED[0], {"rope_scaling": {**ROPES[1], "mscale": 1e-9, "mscale_all_dim": 5e-324}})
@example(SUPPORTED[0], {"rope_theta": 1e-3, "head_dim": 2})
def test_rotary_tables_are_numbers(family: str, fields: dict[str, Any]) -> None:
    config = {**SIZES, **fields, "architectures": [family]}
    with refusing(ModelFormatError, RefusedError):
        for table in rope_tables(parse_arch(config), 4):
            assert np.isfinite(table).all()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_model(tmp_path_factory.mktemp("model"))


@fuzz
@given(changed(CONFIG) | changed({**CONFIG, "quantization_config": {"bits": 4}}))
@example({**CONFIG, "rope_theta": 10**400})
@example({**CONFIG, "a field that nobody knows": "\ud800"})
@example({**CONFIG, "eos_token_id": {"deep": [[[]]]}})
def test_configurations(model: Path, config: Any) -> None:
    """Resolved to a key, or refused by name; whatever was kept can be written down."""
    (model / "config.json").write_text(json.dumps(config))
    spec = resolve_spec({"model": "m", "backend": "cpu", "seq_len": 32}, environ={})
    with refusing(ModelError, RefusedError, SpecError):
        resolved = CpuBackend().resolve(spec, read_folder(model), dict(os.environ))
        json.dumps(resolved.key.document, allow_nan=False, ensure_ascii=False).encode()


NAMES = NASTY_TEXT | st.sampled_from([
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    "../outside.safetensors", "/outside.safetensors", "x/../../outside.safetensors",
    "..\\outside.safetensors", "C:outside.safetensors", "pipe.safetensors", "zero.safetensors",
    "link.safetensors", "folder.safetensors", "\x1b[2J.safetensors",
])  # fmt: skip


@fuzz
@given(
    st.fixed_dictionaries({"weight_map": st.dictionaries(st.sampled_from("abc") | NAMES, NAMES)})
    | changed({"metadata": {"total_size": 40}, "weight_map": {"a": "x", "b": "y"}})
    | JSON
)  # fmt: skip
def test_indexes(tmp_path_factory: pytest.TempPathFactory, index: Any) -> None:
    """No file outside the folder is ever opened: those that lie there are not even weights."""
    base = tmp_path_factory.mktemp("index")
    (base / "outside.safetensors").write_bytes(b"not to be read")
    root = lay(base / "model", sharded())
    os.mkfifo(root / "pipe.safetensors")
    (root / "zero.safetensors").symlink_to("/dev/zero")
    (root / "link.safetensors").symlink_to(root / "nothing")
    (root / "folder.safetensors").mkdir()
    (root / INDEX).write_text(json.dumps(index))
    with refusing(ModelError):
        snapshot = read_folder(root)
        assert all(file.path and file.path.parent == root for file in snapshot.weight_files)


@pytest.mark.parametrize("name", ["config.json", INDEX, "tokenizer.json"])
@pytest.mark.parametrize("kind", ["/dev/zero", "pipe"])
def test_files_without_end(tmp_path: Path, name: str, kind: str) -> None:
    root = lay(tmp_path, sharded())
    (root / name).unlink()
    if kind == "pipe":
        os.mkfifo(root / name)
    else:
        (root / name).symlink_to(kind)
    with refusing(ModelError):
        read_folder(root)


@fuzz
@given(st.data())
def test_damaged_files(model: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["config.json", "model.safetensors"]))
    (model / "config.json").write_text(json.dumps(CONFIG))
    whole = (model / name).read_bytes()
    try:
        (model / name).write_bytes(data.draw(damaged(whole[:2000])) + whole[2000:])
        with refusing(ModelError):
            read_folder(model)
    finally:
        (model / name).write_bytes(whole)
