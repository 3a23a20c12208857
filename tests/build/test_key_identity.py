"""Same inputs, same key; every other input another key, or a written word that it is irrelevant."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.cpu.arch import GRAPH_FIELDS, IRRELEVANT_FIELDS, SERVING_FIELDS
from neuron_artifacts.build import resolve_request
from neuron_artifacts.errors import NeuronArtifactsError
from neuron_artifacts.key import ArtifactKey, make_key
from neuron_artifacts.spec import CompileSpec, resolve_spec
from tests.models import GOLDEN, SMALL, change_config, change_weights, copy_model

FAMILIES = ("llama-gqa-tied-llama3", "mistral-window", "qwen2-window-from-layer-1", "qwen3-tied")

IRRELEVANT_OPTIONS = {
    "model": "where the model lies; its files are in the key",
    "revision": "names files that are in the key themselves",
    "store": "where the artifact is put",
    "output": "where the artifact is put",
    "jobs": "how many compilers run at once",
    "python": "which interpreter; what it holds is in the key itself",
    "origins": "where each value came from",
}
"""Fields of a request that never enter a key."""


def key_of(model: Path, **options: Any) -> ArtifactKey:
    spec = resolve_spec({"model": str(model), **SMALL, **options}, environ={})
    return resolve_request(spec).key


def test_path_user_and_time_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = key_of(copy_model(tmp_path / "a"))
    second = copy_model(tmp_path / "deep" / "er" / "b")
    for file in second.iterdir():
        os.utime(file, (0, 0))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.chdir(tmp_path)
    assert key_of(second) == first
    assert key_of(Path("deep/er/b")) == first


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_python_version_and_hash_seed_do_not_matter(tmp_path: Path, version: str) -> None:
    """Another Python is used where the machine has one; this one always is, under two seeds."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = sys.executable if version == ours else shutil.which(f"python{version}")
    if not interpreter or not _imports(interpreter):
        pytest.skip(f"no Python {version} that can import the base dependencies")
    model = copy_model(tmp_path / "m")
    expected = key_of(model).key
    for seed in ("0", "31337"):
        command = [interpreter, "-m", "neuron_artifacts", "key", str(model)]
        for name, value in SMALL.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        result = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        assert result.stdout.strip() == expected


def _imports(interpreter: str) -> bool:
    command = [interpreter, "-c", "import typer, yaml, filelock, numpy, neuron_artifacts"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_config_field_changes_the_key_or_is_declared_irrelevant(
    tmp_path: Path, family: str
) -> None:
    model = copy_model(tmp_path / "m", family)
    base = key_of(model)
    config = json.loads((model / "config.json").read_bytes())
    names = {*config, *GRAPH_FIELDS, *SERVING_FIELDS, *IRRELEVANT_FIELDS, "never_heard_of"}
    for name in sorted(names):
        for value in _mutations(config.get(name)):
            change_config(model, **{name: value})
            try:
                key = key_of(model)
            except NeuronArtifactsError:
                continue  # refused by name: nothing wrong is built
            finally:
                (model / "config.json").write_text(json.dumps(config))
            if name in IRRELEVANT_FIELDS or name == "architectures":
                # Of the architectures only the first counts, and another first one is refused.
                assert key.key == base.key, name
            elif name in SERVING_FIELDS:
                assert key.key != base.key, name
                assert key.graphs_digest == base.graphs_digest, name
            elif name not in _UNREAD.get(family, ()):
                assert key.graphs_digest != base.graphs_digest, (name, value)


_UNREAD = {
    "llama-gqa-tied-llama3": {
        "use_sliding_window", "max_window_layers", "layer_types", "sliding_window",
        "rope_parameters", "partial_rotary_factor",
    },
    "mistral-window": {
        "attention_bias", "mlp_bias", "use_sliding_window", "max_window_layers",
        "original_max_position_embeddings", "rope_parameters", "partial_rotary_factor",
    },
    "qwen2-window-from-layer-1": {
        "attention_bias", "mlp_bias", "original_max_position_embeddings", "rope_parameters",
        "partial_rotary_factor", "max_window_layers",
    },
    "qwen3-tied": {
        "mlp_bias", "original_max_position_embeddings", "max_window_layers", "sliding_window",
        "rope_parameters", "partial_rotary_factor", "use_sliding_window",
    },
}  # fmt: skip
"""Graph fields that transformers' class of this family, in this configuration, does not read."""


def _mutations(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, max(0, value - 1)]
    if isinstance(value, float):
        return [value * 2]
    if isinstance(value, str):
        return [f"{value}x"]
    if isinstance(value, list):
        return [[*value, "x"]]
    if isinstance(value, dict):
        return [{**value, name: entry} for name in value for entry in _mutations(value[name])]
    return [7, True, "x", {"rope_type": "linear", "factor": 2.0}]


def test_every_option_changes_the_key_or_is_declared_irrelevant(tmp_path: Path) -> None:
    model = copy_model(tmp_path / "m")
    spec = resolve_spec({"model": str(model), **SMALL}, environ={})
    base = resolve_request(spec).key
    other = copy_model(tmp_path / "elsewhere")
    changes: dict[str, list[Any]] = {
        "model": [str(other)], "revision": [], "store": ["x"], "output": ["y"], "jobs": [3],
        "origins": [{}], "backend": ["nxdi"], "target": ["x86-64-v3", "aarch64"],
        "tp_degree": [2], "batch_size": [2], "seq_len": [128], "max_context_length": [32],
        "enable_bucketing": [False], "context_encoding_buckets": [(32,), (16, 64)],
        "token_generation_buckets": [(32, 64)], "torch_dtype": ["float32"],
        "extra": [{"fused_qkv": True}], "speculative_model": [str(other)],
        "num_speculative_tokens": [3], "speculative_method": ["eagle"],
        "vllm_loader": ["vllm-main"], "allow_compile": [True], "python": ["/nowhere/python"],
    }  # fmt: skip
    assert set(changes) == set(CompileSpec.__dataclass_fields__), "a new field must be judged"
    for name, values in changes.items():
        for value in values:
            mutant: Any = {name: value}
            try:
                key = resolve_request(replace(spec, **mutant), environ=dict(os.environ)).key
            except NeuronArtifactsError:
                assert name not in IRRELEVANT_OPTIONS
                continue
            assert (key.key == base.key) == (name in IRRELEVANT_OPTIONS), (name, value)


def test_every_leaf_of_the_document_is_in_the_key(tmp_path: Path) -> None:
    key = key_of(copy_model(tmp_path / "m"))
    count = 0
    for half in ("graphs", "weights"):
        for path in _leaves(key.document[half]):
            document = json.loads(json.dumps(key.document))
            _change(document[half], path)
            assert make_key(document["graphs"], document["weights"]).key != key.key, path
            count += 1
    assert count > 30


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for name in value for leaf in _leaves(value[name], (*path, name))]
    if isinstance(value, list):
        return [leaf for i, entry in enumerate(value) for leaf in _leaves(entry, (*path, i))]
    return [path]


def _change(document: Any, path: tuple[Any, ...]) -> None:
    for name in path[:-1]:
        document = document[name]
    document[path[-1]] = "changed"


def test_weights_and_model_files_are_in_the_second_digest_only(tmp_path: Path) -> None:
    model = copy_model(tmp_path / "m")
    base = key_of(model)
    change_weights(model)
    tuned = key_of(model)
    assert tuned.graphs_digest == base.graphs_digest
    assert tuned.weights_digest != base.weights_digest
    (model / "tokenizer.json").write_text("{}")
    assert key_of(model).graphs_digest == base.graphs_digest
    assert key_of(model).weights_digest != tuned.weights_digest


def test_the_document_names_no_place_or_person(tmp_path: Path) -> None:
    text = json.dumps(key_of(copy_model(tmp_path / "m")).document)
    for word in (str(tmp_path), os.uname().nodename, str(Path.home()), "/usr", "/tmp"):
        assert word not in text
    assert GOLDEN.name not in text
