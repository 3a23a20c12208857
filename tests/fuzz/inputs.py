"""What strangers may send: any JSON, sound documents changed in places, damaged bytes.

``FUZZ_EXAMPLES`` sets how many examples each test draws, other ones every time; by default they
are few and always the same, so that the folder runs along with all other tests.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from neuron_artifacts.errors import NeuronArtifactsError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
MAX_MESSAGE = 4000

fuzz = settings(
    max_examples=EXAMPLES, deadline=None, derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture,
                           HealthCheck.data_too_large, HealthCheck.filter_too_much],
)  # fmt: skip

NASTY_TEXT = st.sampled_from([
    "", "..", "../../etc/passwd", "/etc/passwd", "a/../b", ".", "\x00", "\n", "\x1b[2J", "\u202e",
    "\ud800", "x" * 5000, '"; system("true"); //', "*/ #error /*", "\\\n#include", "${jndi:x}",
    "{{ 7 * 7 }}", "%s%n", "constructor", "__class__", "None", "NaN", "1e999", "0x10", "-0",
])  # fmt: skip
NASTY_NUMBERS = st.sampled_from([
    0, -1, 1, 2, 3, 7, 2**31, 2**31 - 1, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64, 10**400, 0.0,
    -0.0, 5e-324, 1.7e308, 0.5, 1e-9,
])  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | NASTY_NUMBERS | NASTY_TEXT
    | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12)
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | NASTY_TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """``document`` with some of its values replaced, removed, or joined by others."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        parent, key = draw(st.sampled_from(list(_places(document)) or [(None, None)]))
        if parent is None:
            return draw(JSON)
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "replace":
            parent[key] = draw(JSON)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=6) | NASTY_TEXT)] = draw(JSON)
        else:
            parent.append(draw(JSON))
    return document


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with bytes changed, cut out, doubled, or replaced by any."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        to = draw(st.integers(at, min(len(data), at + 64)))
        middle = draw(st.binary(max_size=16) | st.just(b"") | st.just(data[at:to] * 2))
        data = data[:at] + middle + data[to:]
    return data


@contextlib.contextmanager
def refusing(*kinds: type[NeuronArtifactsError]) -> Iterator[None]:
    """Whatever happens inside, it passes or is refused by one of ``kinds``, in words to print."""
    refused = None
    try:
        yield
    except kinds as error:
        refused = error.message
    if refused is not None:
        assert refused
        first, *more = lines = refused.split("\n")
        # Several wrong options are told in a line each; nothing else takes more than one.
        assert not more or first == f"{len(more)} options are wrong:", repr(refused[:200])
        for line in lines:
            assert line.isprintable(), repr(line[:200])
            assert len(line) < MAX_MESSAGE, line[:200]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, inner in entries:
        yield value, key
        yield from _places(inner)
