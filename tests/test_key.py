from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_artifacts.key import canonical_json, diff_documents, digest_of, make_key

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        ({"é": "ü"}, '{"é":"ü"}'),
        (1e4, "10000.0"),
        (10000, "10000"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-05, "1e-05"),
        ((1, 2), "[1,2]"),
    ],
)
def test_canonical_spelling(value: Any, text: str) -> None:
    assert canonical_json(value) == text.encode()


@given(JSON)
def test_canonical_json_reads_back(value: Any) -> None:
    assert json.loads(canonical_json(value).decode("utf-8", "surrogatepass")) == value


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_order_of_names_does_not_matter(document: dict[str, Any]) -> None:
    turned = dict(reversed(list(document.items())))
    assert canonical_json(document) == canonical_json(turned)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_numbers_without_a_spelling_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1: 2}, {"a": b"bytes"}, {"a": {1, 2}}])
def test_values_without_a_spelling_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot hold"):
        canonical_json(value)


def test_key_is_the_digest_of_both_digests() -> None:
    key = make_key({"a": 1}, {"b": 2})
    assert key.graphs_digest == hashlib.sha256(b'{"a":1}').hexdigest()
    assert key.weights_digest == hashlib.sha256(b'{"b":2}').hexdigest()
    assert key.key == digest_of(
        {"schema": 1, "graphs": key.graphs_digest, "weights": key.weights_digest}
    )
    assert make_key({"a": 1}, {"b": 3}).graphs_digest == key.graphs_digest
    assert make_key({"a": 1}, {"b": 3}).key != key.key


def test_a_stored_document_does_not_differ_from_itself() -> None:
    key = make_key({"a": (1, (2, None))}, {"b": {"c": ()}})
    assert diff_documents(key.document, json.loads(json.dumps(key.document))) == []


def test_diff_puts_what_costs_most_first() -> None:
    left = {"graphs": {"n": {"a": 1, "b": [1]}}, "weights": {"files": {"x": {"sha256": "1"}}}}
    right = {
        "graphs": {"n": {"a": 2, "b": [1], "c": 0}},
        "weights": {"files": {"x": {"sha256": "2"}}},
    }
    rows = diff_documents(left, right)
    assert [(row.field, row.cost) for row in rows] == [
        ("graphs.n.a", "recompile"),
        ("graphs.n.c", "recompile"),
        ("weights.files.x.sha256", "relink"),
    ]
    assert repr(rows[1].left) == "(absent)"
    assert rows[1].right == 0
    assert diff_documents(left, left) == []


def test_key_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "from neuron_artifacts.key import make_key\n"
        "names = {'alpha', 'beta', 'gamma', 'delta'}\n"
        "print(make_key({n: [1.5, {n: True}] for n in names}, {n: None for n in names}).key)"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(keys) == 1
