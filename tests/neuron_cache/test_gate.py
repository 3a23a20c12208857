"""Which vanilla models may be compiled, decided from what caches answered."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from neuron_artifacts.errors import ExitCode, RefusedError
from neuron_artifacts.neuron_cache import (
    Admission,
    CacheAnswer,
    CacheOptions,
    CacheRequest,
    Hub,
    Inquiry,
    PreExported,
    SourceOutcome,
    may_compile,
)
from neuron_artifacts.neuron_cache.outcome import Near, Nearest, Row
from tests.neuron_cache.cache_hub import CacheHub
from tests.neuron_cache.caches import REPO, Cache
from tests.neuron_cache.model_configs import LLAMA

ASKED = CacheRequest(batch_size=4, target="inf2")


def near(batch_size: int, release: str = "0.4.5") -> Near:
    shape = {"batch_size": batch_size, "sequence_length": 4096, "tp_degree": 8,
             "dtype": "bfloat16", "target": "trn1"}  # fmt: skip
    return Near(Row("decoder", None, shape, (), (), release, "2.21"), ())


def answer(*outcomes: SourceOutcome, pre_exported: PreExported | None = None) -> CacheAnswer:
    return CacheAnswer(ASKED, outcomes, pre_exported)


def compiled(complete: bool | None) -> PreExported:
    return PreExported("decoder", {}, (), complete)


HIT = SourceOutcome("org/b", "hit")
MISS = SourceOutcome("org/a", "miss")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (answer(MISS, HIT), Admission("cached", "org/b")),
        (answer(MISS, pre_exported=compiled(True)), Admission("pre-exported")),
        (answer(MISS, pre_exported=compiled(None)), Admission("pre-exported")),
    ],
)
@pytest.mark.parametrize("allowed", [True, False])
def test_what_is_compiled_already_is_admitted(
    found: CacheAnswer, expected: Admission, allowed: bool
) -> None:
    assert may_compile(found, allow_compile=allowed) == expected


@pytest.mark.parametrize(
    ("nearest", "said"),
    [
        (Nearest(sufficient=near(8), below=near(1), other_release=(near(4, "0.4.4"),)),
         "cached is: batch_size=8"),
        (Nearest(below=near(1), other_release=(near(4, "0.4.4"),)),
         "probably reusable is: batch_size=4"),
        (Nearest(below=near(1), other_target=(near(4),)), "cached is: batch_size=1"),
        (Nearest(other_target=(near(2),)), "cached is: batch_size=2"),
        (Nearest(), "nothing of its architecture is cached"),
    ],
)  # fmt: skip
def test_what_is_not_is_refused_with_the_nearest(nearest: Nearest, said: str) -> None:
    found = answer(SourceOutcome("org/a", "near", nearest=nearest))
    with pytest.raises(RefusedError, match=r"batch_size 4.*org/a") as caught:
        may_compile(found, allow_compile=False)
    assert said in str(caught.value.hint)
    assert "--allow-compile" in str(caught.value.hint)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert may_compile(found, allow_compile=True) == Admission("allowed")


def test_a_compiled_model_without_its_graphs_is_not_compiled() -> None:
    with pytest.raises(RefusedError):
        may_compile(answer(MISS, pre_exported=compiled(False)), allow_compile=False)


def test_a_cache_that_could_not_be_asked_is_named() -> None:
    found = answer(MISS, SourceOutcome("org/b", "error", error="it is gone"))
    with pytest.raises(RefusedError) as caught:
        may_compile(found, allow_compile=False)
    assert "org/b could not be asked (it is gone)" in str(caught.value.hint)


def test_a_real_answer(hub: CacheHub, connect: Callable[[], Hub]) -> None:
    cache = Cache()
    cache.add("0.4.5", "llama", "org/llama", batch_size=4)
    hub.commit(REPO, cache.files)
    hub.commit("org/llama", {"config.json": json.dumps(LLAMA).encode()})
    inquiry = Inquiry("org/llama", ASKED, connect(), options=CacheOptions(repos=(REPO,)))
    assert may_compile(inquiry.ask(), allow_compile=False) == Admission("cached", REPO)
