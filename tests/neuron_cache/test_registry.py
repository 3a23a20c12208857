"""Paths and entries of every layout, and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_artifacts.neuron_cache.match import CacheRequest, Subject
from neuron_artifacts.neuron_cache.outcome import judge
from neuron_artifacts.neuron_cache.registry import (
    Entry,
    covers,
    is_development,
    normalise_dtype,
    normalise_target,
    parse_entry,
    parse_path,
    version_key,
)
from tests.neuron_cache.caches import RELEASES, Cache
from tests.neuron_cache.model_configs import LLAMA, PIPELINE

DIGEST = "ab" * 32
NAME = "0123456789abcdef0123.json"
AT = "neuronxcc-2.21.33363.0+82129205/0_REGISTRY/0.4.5"


def entries(cache: Cache) -> list[Entry]:
    paths = [(parse_path(path), data) for path, data in cache.files.items()]
    return [parse_entry(at, data) for at, data in paths if at]


PATHS = [
    (f"{AT}/{DIGEST}/{NAME}", (False, DIGEST, None, None)),
    (f"{AT}/llama/org/model/{NAME}", (False, None, "llama", "org/model")),
    (f"{AT}/gpt2/gpt2/{NAME}", (False, None, "gpt2", "gpt2")),
    (f"{AT}/inference/llama/org/model/{NAME}", (False, None, "llama", "org/model")),
    (f"{AT}/training/llama/org/model/{NAME}", (True, None, "llama", "org/model")),
    (f"{AT}/llama/home/me/model/{NAME}", (False, None, "llama", "home/me/model")),
    (f"{AT}/llama/{NAME}", None),
    (f"{AT}/{NAME}", None),
    (f"{AT}/inference/{NAME}", None),
    (f"{AT}/llama/org/model/model.lock", None),
    (f"{AT}/llama/org/model/README.md", None),
    ("neuronxcc-2.12/MODULE_1+d41d8cd9/model.neff", None),
    ("neuronxcc-2.12/MODULE_ab/0_REGISTRY/0.4.5/a/config.json", None),
    (f"neuronxcc-/0_REGISTRY/0.4.5/{DIGEST}/{NAME}", None),
    ("inference-cache-config/trn1/llama.json", None),
    ("README.md", None),
    ("", None),
]


@pytest.mark.parametrize(("path", "expected"), PATHS)
def test_paths(path: str, expected: Any) -> None:
    at = parse_path(path)
    assert (at and (at.training, at.digest, at.model_type, at.model_id)) == expected


@pytest.mark.parametrize("release", RELEASES)
def test_decoders_of_every_release(release: str) -> None:
    cache = Cache()
    model = "small" if RELEASES[release][1] == "4.36.2" else "llama"
    cache.add(release, model, "org/model", batch_size=4, sequence_length=2048, tp_degree=2,
              torch_dtype="float16")  # fmt: skip
    for entry in entries(cache):
        assert (entry.kind, entry.task) == ("decoder", "text-generation")
        assert (entry.batch_size, entry.sequence_length, entry.tp_degree) == (4, 2048, 2)
        assert (entry.dtype, entry.target) == ("float16", "trn1")
        assert entry.at.release == release
        assert entry.at.compiler == RELEASES[release][0]
        assert entry.model_ids == ("org/model",)
        assert entry.revision
        assert "neuron" not in entry.configs[""]


@pytest.mark.parametrize("release", ["0.0.23", "0.1.0", "0.2.0", "0.4.5"])
def test_traced_models_and_pipelines(release: str) -> None:
    cache = Cache()
    cache.add_traced(release, "bert", "org/bert", "fill-mask", static_sequence_length=128)
    cache.add_pipeline(release, "org/sd")
    traced = [entry for entry in entries(cache) if entry.kind == "traced"]
    pipelines = [entry for entry in entries(cache) if entry.kind == "pipeline"]
    assert {(e.batch_size, e.sequence_length, e.task) for e in traced} == {(1, 128, "fill-mask")}
    assert {tuple(e.configs) for e in pipelines} == {("text_encoder", "unet")}
    assert all(e.neuron["static_height"] == 512 for e in pipelines)


def test_training_is_told_apart() -> None:
    cache = Cache()
    cache.add("0.0.28", "llama", "org/model", mode="training", precision="bfloat16")
    [entry] = entries(cache)
    assert entry.kind == "training"
    assert (entry.dtype, entry.tp_degree) == ("bfloat16", 8)


def test_a_transformers_neuronx_entry_of_0_2() -> None:
    cache = Cache()
    cache.add("0.2.0", "llama", "org/model", _serialized_key="HloNeuronConfig")
    [entry] = entries(cache)
    assert (entry.dtype, entry.target, entry.tp_degree) == ("bfloat16", "trn1", 8)


NO_ENTRIES = [
    (b"", "Expecting value"),
    (b'{"model_type": "llama", "neuron": {"batch_', "Unterminated"),
    (b"[]", "not a JSON object"),
    (b'{"hello": "world"}', "no Neuron configuration"),
    (b'{"neuron": {"batch_size": 1}}', "no model_type"),
    (b'{"model_type": "llama", "neuron": 3}', "no Neuron configuration"),
    (b'{"model_type": "llama", "neuron": {}}', "no batch_size"),
    (b'{"model_type": "l", "neuron": {"batch_size": true}}', "batch_size is True"),
    (b'{"model_type": "l", "neuron": {"batch_size": "1"}}', "batch_size is '1'"),
    (b'{"model_type": "l", "neuron": {"batch_size": 1}}', "no sequence_length"),
    (b'{"model_type": "l", "neuron": {"static_batch_size": -1}}', "static_batch_size is -1"),
    (b'{"a": NaN}', "NaN"),
    (b'{"a": 1, "a": 2}', "twice"),
    (b"\xff\xfe", "utf-8"),
    (b"[" * 100_000, "nested"),
]


@pytest.mark.parametrize(("data", "reason"), NO_ENTRIES, ids=range(len(NO_ENTRIES)))
def test_what_is_no_entry_says_why(data: bytes, reason: str) -> None:
    at = parse_path(f"{AT}/{DIGEST}/{NAME}")
    assert at
    with pytest.raises(ValueError, match=reason):
        parse_entry(at, data)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)
FIELDS = st.sampled_from([
    "batch_size", "sequence_length", "tp_degree", "num_cores", "torch_dtype", "auto_cast_type",
    "target", "instance_type", "static_batch_size", "static_sequence_length", "float_dtype",
    "dynamic_batch_size", "tensor_parallel_size", "task", "checkpoint_id", "checkpoint_revision",
    "num_neuron_cores_per_node", "precision", "_serialized_key",
])  # fmt: skip
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "model_type": JSON, "neuron": st.dictionaries(FIELDS, JSON) | JSON, "_model_id": JSON,
        "_task": JSON, "_entry_class": JSON, "hidden_size": JSON, "text_config": JSON,
        "unet": st.dictionaries(st.just("neuron"), st.dictionaries(FIELDS, JSON)) | JSON,
        "encoder": JSON,
    },
)  # fmt: skip


@given(DOCUMENTS, st.sampled_from([path for path, told in PATHS if told]))
def test_no_document_breaks_the_reader(document: dict[str, Any], path: str) -> None:
    at = parse_path(path)
    assert at
    try:
        entry = parse_entry(at, json.dumps(document).encode())
    except ValueError:
        return
    for count in (entry.batch_size, entry.sequence_length, entry.tp_degree):
        assert count is None or (isinstance(count, int) and count > 0)
    assert all(isinstance(name, str) for name in entry.model_ids)
    request = CacheRequest(batch_size=2, sequence_length=64, tp_degree=2, dtype="bf16")
    for config in (LLAMA, PIPELINE, document):
        found = judge(request, Subject(config, "org/model"), [entry], [entry])
        json.dumps([row.document() for row in found.rows] + [found.nearest.document()])


@given(st.text())
def test_no_path_breaks_the_reader(path: str) -> None:
    at = parse_path(path)
    assert at is None or at.path == path


def mixed(names: list[str]) -> list[str]:
    return names[1::2] + names[::2]


def test_versions_are_ordered_as_they_were_released() -> None:
    ordered = ["0.0.9", "0.0.28", "0.1.0.dev1", "0.1.0", "0.4.5", "0.4.6.dev4", "0.4.6.dev10",
               "0.4.6"]  # fmt: skip
    assert sorted(mixed(ordered), key=version_key) == ordered
    assert [is_development(v) for v in ("0.4.6.dev4", "0.5.0rc1", "0.4.5", "main")] == [
        True, True, False, True,
    ]  # fmt: skip
    compilers = ["2.9.0.16+abc", "2.12.68.0+4480452af", "2.21.18209.0", "2.21.33363.0+82129205"]
    assert sorted(mixed(compilers), key=version_key) == compilers
    assert covers("2.21", "2.21.33363.0+82129205")
    assert covers("2.21.33363.0", "2.21.33363.0+82129205")
    assert covers("", "2.21")
    assert not covers("2.2", "2.21.33363.0")


def test_names_of_targets_and_number_formats() -> None:
    told = ["inf2", "trn1n", "trn1", "trn2", "inf2.48xlarge", "trn2u", None, "trn3"]
    assert [normalise_target(name) for name in told] == [
        "trn1", "trn1", "trn1", "trn2", "trn1", "trn2", "trn1", "trn3",
    ]  # fmt: skip
    formats = ["bf16", "torch.bfloat16", "FP16", "half", "fp32", "float8_e4m3", None, 3]
    assert [normalise_dtype(name) for name in formats] == [
        "bfloat16", "bfloat16", "float16", "float16", "float32", "float8_e4m3", None, None,
    ]  # fmt: skip
