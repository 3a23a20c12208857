"""Manifests, keys, settings and safetensors headers that nobody promised to be sound."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from neuron_artifacts._files import load_json_object, load_yaml
from neuron_artifacts.artifact import FileEntry, parse_manifest
from neuron_artifacts.artifact.verify import verify_artifact
from neuron_artifacts.errors import CorruptError, IncompatibleError, ModelFormatError, SpecError
from neuron_artifacts.key import canonical_json, digest_of, make_key
from neuron_artifacts.model.safetensors_header import parse_header
from neuron_artifacts.spec import OPTION_NAMES, resolve_spec
from tests.artifact.artifacts import make_document, make_manifest, publish
from tests.fuzz.inputs import JSON, changed, damaged, fuzz, refusing
from tests.model.checkpoints import encode, tensors

MANIFEST = make_manifest(
    make_document(a=1),
    (
        FileEntry("config.json", 3, "2" * 64, "model"),
        FileEntry("graphs/a.so", 64, "3" * 64, "graph"),
    ),
).dump()

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@fuzz
@given(st.binary(max_size=200) | damaged(as_json(HEADER)) | JSON.map(as_json))
@example(b'{"a":' * 3000)
@example(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}")
@example(b'{"a": "\\ud800"}')
@example(b'{"a": ' + b"9" * 5000 + b"}")
def test_json_objects(data: bytes) -> None:
    """What is read can be written again, by any writer and at any depth of recursion."""
    try:
        value = load_json_object(data)
    except ValueError:
        return
    assert json.loads(canonical_json(value).decode("utf-8")) == value


@fuzz
@given(st.text(max_size=80) | JSON.map(yaml.safe_dump).flatmap(
    lambda text: st.just(text) | damaged(text.encode()).map(lambda b: b.decode("utf-8", "replace")))
)  # fmt: skip
@example("a: &x [1]\nb: [*x, *x]\n")
@example("&a [*a]")
@example("!!bool x")
@example("!!timestamp x")
@example("- 1998-01-01 00:00:00 +99999999999999999999")
@example("a: 0x" + "f" * 9000)
@example("[" * 3000)
def test_yaml(text: str) -> None:
    with contextlib.suppress(ValueError):
        json.dumps(load_yaml(text.encode("utf-8", "replace")), default=str)


@fuzz
@given(damaged(encode(HEADER, bytes(32))))
@example((12).to_bytes(8, "little") + b"{" + b" " * 11)
def test_damaged_safetensors(data: bytes) -> None:
    with refusing(ModelFormatError):
        found = parse_header(data, len(data), "x")
        assert sum(info.nbytes for info in found.values()) <= len(data)


@fuzz
@given(changed(HEADER))
@example({"a": {"dtype": "F32", "shape": [2] * 300_000, "data_offsets": [0, 32]}})
@example({"a": {"dtype": "F32", "shape": [10**4000] * 9_000, "data_offsets": [0, 32]}})
@example({"a": {"dtype": "F32", "shape": [0, 10**4000], "data_offsets": [0, 0]}})
def test_other_safetensors_headers(header: Any) -> None:
    """Regions that were read tile the data: none overlaps, none lies outside."""
    data = encode(header, bytes(32))
    with refusing(ModelFormatError):
        found = sorted(parse_header(data, len(data), "x").values(), key=lambda t: (t.start, t.end))
        end = len(data) - 32
        for info in found:
            assert info.start == end
            end = info.end
        assert end == len(data)


@fuzz
@given(damaged(MANIFEST))
def test_damaged_manifests(data: bytes) -> None:
    with refusing(CorruptError, IncompatibleError):
        # White space between fields may change into other white space.
        assert parse_manifest(data) == parse_manifest(MANIFEST)


@fuzz
@given(changed(json.loads(MANIFEST)))
def test_manifests_that_are_sealed_again(body: Any) -> None:
    """Somebody changed a field and the digests with it: the reader still trusts no type or path."""
    assume(isinstance(body, dict))
    body.pop("manifest_sha256", None)
    with contextlib.suppress(Exception):
        key = make_key(body["document"]["graphs"], body["document"]["weights"])
        body |= {"key": key.key, "graphs_digest": key.graphs_digest}
    body["manifest_sha256"] = digest_of(body)
    with refusing(CorruptError, IncompatibleError):
        manifest = parse_manifest(as_json(body) + b"\n")
        assert parse_manifest(manifest.dump()) == manifest
        assert not any(".." in file.path.split("/") for file in manifest.files)


@fuzz
@given(damaged(MANIFEST) | changed(json.loads(MANIFEST)).map(as_json))
def test_a_directory_with_any_manifest_gets_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    directory = publish(tmp_path_factory.mktemp("a"))
    path = directory / "artifact.json"
    path.unlink()
    path.write_bytes(data)
    assert verify_artifact(directory, "full").status in ("corrupt", "incomplete", "incompatible")


@fuzz
@given(JSON)
def test_canonical_json(value: Any) -> None:
    """One spelling: it reads back, twice gives the same bytes, and order says nothing."""
    text = canonical_json(value)
    back = json.loads(text.decode("utf-8", "surrogatepass"))
    assert back == value
    assert canonical_json(back) == text
    assert canonical_json(_turned(value)) == text


@fuzz
@given(changed({"a": [1, {"b": 2.5}], "c": "d"}), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_no_key_holds_what_is_no_number(document: Any, number: float) -> None:
    for hidden in ([document, number], {"x": [{"y": number}], "z": document}):
        with pytest.raises(ValueError, match="cannot hold"):
            digest_of(hidden)


@fuzz
@given(changed({"tp_degree": 1}, 2), changed({"files": {"a": {"sha256": "0" * 64}}}, 2))
def test_other_documents_have_other_keys(graphs: Any, weights: Any) -> None:
    assume(isinstance(graphs, dict) and isinstance(weights, dict))
    one, turned = make_key(graphs, weights), make_key(_turned(graphs), _turned(weights))
    assert one.key == turned.key
    more = make_key({**graphs, "one more": 1}, weights)
    assert more.key != one.key
    assert more.weights_digest == one.weights_digest


@fuzz
@given(
    st.dictionaries(st.sampled_from(OPTION_NAMES) | st.text(max_size=8), JSON, max_size=4),
    st.sampled_from(["flags", "environment", "file"]),
)
@example({"seq_len": 2**80}, "file")
@example({"override_neuron_config": "[" * 5000}, "flags")
@example({"override_neuron_config": '{"a": "\\ud800"}'}, "environment")
def test_specs(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any], source: str
) -> None:
    with refusing(SpecError):
        if source == "flags":
            spec = resolve_spec({"model": "m", **options}, environ={})
        elif source == "environment":
            environ = {
                f"NEURON_ARTIFACTS_{name.upper()}": str(value) for name, value in options.items()
            }
            spec = resolve_spec({"model": "m"}, environ=environ)
        else:
            path = tmp_path_factory.mktemp("spec") / "spec.yaml"
            path.write_text(yaml.safe_dump(options))
            spec = resolve_spec({"model": "m"}, environ={}, config_file=path)
        assert 1 <= spec.batch_size <= 1 << 30
        json.dumps(dict(spec.extra))


@fuzz
@given(changed({"batch_size": 2, "context_encoding_buckets": [8, 16], "other": {"a": 1}}, 2))
def test_overrides(override: Any) -> None:
    for given_as in (override, json.dumps(override)):
        with refusing(SpecError):
            spec = resolve_spec({"model": "m", "override_neuron_config": given_as}, environ={})
            digest_of(dict(spec.extra))


def _turned(value: Any) -> Any:
    """The same value with the names of every object in reverse order."""
    if isinstance(value, dict):
        return {name: _turned(entry) for name, entry in reversed(list(value.items()))}
    return [_turned(entry) for entry in value] if isinstance(value, list) else value


def test_a_long_file_of_tensors_is_no_trouble(tmp_path: Path) -> None:
    shapes: dict[str, Any] = {f"t{number}": (1,) for number in range(3000)}
    many = tensors(**shapes)
    assert len(parse_header(many, len(many), tmp_path)) == 3000
