from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_artifacts.artifact import FileEntry, parse_manifest
from neuron_artifacts.errors import CorruptError, IncompatibleError, NeuronArtifactsError
from neuron_artifacts.key import digest_of
from tests.artifact.artifacts import make_document, make_manifest

FILES = (
    FileEntry("config.json", 3, "2" * 64, "model"),
    FileEntry("graphs/a.so", 64, "3" * 64, "graph"),
)


def dump(**changes: Any) -> bytes:
    return make_manifest(make_document(a=1), FILES, **changes).dump()


def reseal(change: Any) -> bytes:
    """A manifest changed by somebody who also fixes its own digest."""
    body = json.loads(dump())
    body.pop("manifest_sha256")
    change(body)
    body["manifest_sha256"] = digest_of(body)
    return json.dumps(body).encode() + b"\n"


def test_reads_back_what_was_written() -> None:
    manifest = make_manifest(make_document(a=1), FILES)
    assert parse_manifest(manifest.dump()) == manifest
    assert manifest.total_bytes == 67


def test_the_golden_manifest_of_schema_1_is_still_read() -> None:
    """Written by release 0.1.0 and never changed since: old artifacts stay readable."""
    golden = Path(__file__).parent.parent / "data" / "manifests" / "schema-1.json"
    manifest = parse_manifest(golden.read_bytes())
    assert manifest.backend == "cpu"
    assert [graph.bucket for graph in manifest.graphs] == [16]


@settings(max_examples=60)
@given(st.data())
def test_no_flipped_bit_passes(data: st.DataObject) -> None:
    raw = bytearray(dump())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = parse_manifest(bytes(raw))
    except NeuronArtifactsError:
        return
    # White space between fields may flip into other white space: the content is then the same.
    assert changed == parse_manifest(dump())


@pytest.mark.parametrize("cut", [0, 1, 100, -2])
def test_a_cut_manifest_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptError, match="damaged"):
        parse_manifest(dump()[:cut])


def test_another_schema_is_refused_by_number() -> None:
    with pytest.raises(IncompatibleError, match="schema 2"):
        parse_manifest(reseal(lambda body: body.update(schema=2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(schema="1"), "names no schema"),
        (lambda b: b.update(extra=1), "unknown field 'extra'"),
        (lambda b: b.pop("backend"), "backend"),
        (lambda b: b.update(backend=3), "'backend' has the wrong type"),
        (lambda b: b["files"][0].update(size=-1), "negative"),
        (lambda b: b["files"][0].update(size=True), "wrong type"),
        (lambda b: b.update(files={}), "must be lists"),
        (lambda b: b["files"][0].update(path="../x"), "outside the artifact"),
        (lambda b: b["files"][0].update(path="/etc/passwd"), "outside the artifact"),
        (lambda b: b["files"][0].update(path="artifact.json"), "outside the artifact"),
        (lambda b: b["files"][0].update(path="graphs/a.so"), "lists a file twice"),
        (lambda b: b["files"][0].update(role="evil"), "unknown role"),
        (lambda b: b["graphs"][0].update(file="graphs/b.so"), "graph without a file"),
        (lambda b: b["document"]["graphs"].update(a=2), "not the digest of its document"),
        (lambda b: b.update(document={}), "holds no key document"),
    ],
)
def test_a_wrong_manifest_is_corrupt_even_if_resealed(change: Any, message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        parse_manifest(reseal(change))


@pytest.mark.parametrize(
    "raw", [b"[]", b"null", b"{" * 100_000, b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff\xfe"]
)
def test_other_json_is_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptError, match="damaged"):
        parse_manifest(raw)
