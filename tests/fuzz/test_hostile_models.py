"""Model folders made to do harm, compiled in earnest: refused by name, and nothing stays behind."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import neuron_artifacts
from neuron_artifacts.errors import ModelError, RefusedError, SpecError
from tests.fuzz.inputs import refusing
from tests.models import SMALL, change_config, copy_model

Change = Callable[[Path], Any]


def config(**fields: Any) -> Change:
    return lambda root: change_config(root, **fields)


def content(name: str, data: bytes) -> Change:
    return lambda root: (root / name).write_bytes(data)


def header(**tensors: Any) -> Change:
    """Weights whose header says this, over 64 bytes of data."""
    text = json.dumps({"__metadata__": {}, **tensors}).encode()
    return content("model.safetensors", struct.pack("<Q", len(text)) + text + bytes(64))


def link(name: str, target: str) -> Change:
    def change(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)

    return change


def index(*names: str) -> Change:
    body = {"weight_map": {f"t{number}": name for number, name in enumerate(names)}}
    return content("model.safetensors.index.json", json.dumps(body).encode())


TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
HOSTILE: dict[str, Change] = {
    "code in the architecture": config(architectures=['X"); system("touch /tmp/x"); //']),
    "code in the activation": config(hidden_act="silu\n#include </etc/passwd>\n"),
    "code in the rotary type": config(rope_scaling={"rope_type": "*/ #error /*", "factor": 2.0}),
    "code where a number belongs": config(hidden_size="32*system(0)"),
    "an architecture that is a list of lists": config(architectures=[["LlamaForCausalLM"]]),
    "a width beyond memory": config(hidden_size=2**40),
    "a vocabulary beyond memory": config(vocab_size=2**62),
    "a billion layers": config(num_hidden_layers=10**9),
    "no heads": config(num_attention_heads=0),
    "negative heads": config(num_key_value_heads=-4),
    "heads that are not a number": config(num_attention_heads=1e400),
    "a number of ten thousand digits": content("config.json", b'{"a":' + b"9" * 10_000 + b"}"),
    "a configuration too deep": content("config.json", b'{"a":' + b"[" * 10**5 + b"]" * 10**5),
    "a configuration without end": link("config.json", "/dev/zero"),
    "a configuration that is not text": content("config.json", bytes(range(256))),
    "a name twice": content("config.json", b'{"vocab_size": 1, "vocab_size": 2}'),
    "a header of an exabyte": content("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "a header that is cut": content("model.safetensors", b"\x10\0\0\0\0\0\0\0{"),
    "tensors over each other": header(a=TENSOR, b={**TENSOR, "data_offsets": [8, 24]}),
    "a tensor beyond the file": header(a={**TENSOR, "data_offsets": [0, 2**40]}),
    "a tensor that ends before it begins": header(a={**TENSOR, "data_offsets": [16, 0]}),
    "a shape that overflows": header(a={**TENSOR, "shape": [2**63, 2**63]}),
    "a tensor of negative size": header(a={**TENSOR, "shape": [-4]}),
    "weights above the folder": index("../outside.safetensors"),
    "weights from the root": index("/outside.safetensors"),
    "weights by another drive": index("C:\\outside.safetensors"),
    "weights with a NUL": index("a\0.safetensors"),
    "weights through a link": link("model.safetensors", "../secret"),
    "a vocabulary through a link": link("vocab.json", "../secret"),
    "a pickle": lambda root: (root / "model.safetensors").rename(root / "pytorch_model.bin"),
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_it_is_refused(tmp_path: Path, change: Change) -> None:
    (tmp_path / "secret").write_text("TOP SECRET")
    (tmp_path / "outside.safetensors").write_bytes(b"not to be read")
    root = copy_model(tmp_path / "model")
    change(root)
    store = tmp_path / "store"
    with refusing(ModelError, RefusedError, SpecError):
        neuron_artifacts.compile(root, backend="cpu", store=store, **SMALL)
        pytest.fail("it was compiled")
    assert not [path for path in store.rglob("*") if path.is_file()]
    assert {path.name for path in tmp_path.iterdir()} <= {
        "secret", "outside.safetensors", "model", "store",
    }  # fmt: skip
