"""The runner over a worker: what it sends, what it refuses, and sampling on the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_artifacts.backends.runner import SamplesOnDevice
from neuron_artifacts.backends.worker_runner import WorkerRunner, open_runner
from neuron_artifacts.errors import EngineError, RequestError, ServeError
from neuron_artifacts.runtime.llm import LLM
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.tokenizer import Tokenizer
from tests.runtime.toy_tokenizers import byte_level, save

FACTS = {
    "batch_size": 2, "seq_len": 32, "max_context_length": 16, "vocab_size": 8,
    "context_encoding_buckets": [4, 12], "token_generation_buckets": [32],
    "on_device_sampling": False,
}  # fmt: skip


class EchoProcess:
    """Answers each token with the next one: as logits, or as the token itself."""

    def __init__(self, **facts: Any) -> None:
        self.facts: Mapping[str, Any] = {**FACTS, **facts}
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.closed = False
        self.garbage: tuple[Mapping[str, Any], bytes] | None = None

    def call(self, method: str, payload: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        self.calls.append((method, payload))
        if self.garbage:
            return self.garbage
        if method not in ("prefill", "decode"):
            return {}, b""
        last = payload["tokens"][-1:] if method == "prefill" else payload["tokens"]
        following = [(token + 1) % self.facts["vocab_size"] for token in last]
        if self.facts["on_device_sampling"]:
            return {"tokens": following}, b""
        rows = np.zeros((len(last), self.facts["vocab_size"]), "<f4")
        rows[np.arange(len(last)), following] = 5
        return {}, rows.tobytes()

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("on_device", [False, True])
def test_both_kinds_give_rows_whose_largest_entry_is_the_token(on_device: bool) -> None:
    runner = open_runner(EchoProcess(on_device_sampling=on_device))
    assert isinstance(runner, SamplesOnDevice) == on_device
    assert runner.prefill(1, [3, 4], 0).argmax() == 5
    rows = runner.decode([1, 0], [6, 7], [2, 9])
    assert rows.shape == (2, 8)
    assert rows.argmax(axis=1).tolist() == [7, 0]


def test_a_prompt_runs_in_one_piece_bounded_by_the_largest_bucket() -> None:
    runner = open_runner(EchoProcess())
    assert runner.max_context_length == 12
    with pytest.raises(EngineError, match="one piece"):
        runner.prefill(0, [1], 4)
    with pytest.raises(EngineError, match="one piece"):
        runner.prefill(0, [1], 0, all_logits=True)


@pytest.mark.parametrize(
    ("on_device", "garbage"),
    [
        (False, ({}, b"\0" * 31)),
        (True, ({}, b"")),
        (True, ({"tokens": [8]}, b"")),
        (True, ({"tokens": [1, 2]}, b"")),
        (True, ({"tokens": ["1"]}, b"")),
    ],
)
def test_a_worker_that_answers_nonsense_is_an_error(
    on_device: bool, garbage: tuple[Mapping[str, Any], bytes]
) -> None:
    process = EchoProcess(on_device_sampling=on_device)
    runner = open_runner(process)
    process.garbage = garbage
    with pytest.raises(EngineError, match="the worker gave"):
        runner.prefill(0, [1], 0)


@pytest.mark.parametrize(
    "facts", [{"batch_size": "many"}, {"context_encoding_buckets": []}, {"vocab_size": None}]
)
def test_facts_of_no_model_close_the_worker(facts: Mapping[str, Any]) -> None:
    process = EchoProcess(**facts)
    with pytest.raises(ServeError, match="describes no model"):
        open_runner(process)
    assert process.closed


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.load(save(tmp_path, byte_level()))


def llm(process: EchoProcess, tokenizer: Tokenizer) -> LLM:
    runner: WorkerRunner = open_runner(process)
    return LLM(runner, tokenizer)


def test_each_sequence_tells_the_device_how_to_sample(tokenizer: Tokenizer) -> None:
    process = EchoProcess(on_device_sampling=True)
    with llm(process, tokenizer) as model:
        params = [
            SamplingParams(temperature=0, max_tokens=3, ignore_eos=True),
            SamplingParams(temperature=0.5, top_k=7, top_p=0.9, max_tokens=3, ignore_eos=True),
        ]
        outputs = model.generate([[1], [2, 3]], params)
    assert [list(output.outputs[0].token_ids) for output in outputs] == [[2, 3, 4], [4, 5, 6]]
    # Both may have had the same slot, one after the other.
    told = [p for method, p in process.calls if method == "sampling"]
    assert {(p["temperature"], p["top_k"], p["top_p"]) for p in told} == {
        (0.5, 7, 0.9), (1.0, 1, 1.0),
    }  # fmt: skip
    assert process.closed


@pytest.mark.parametrize(
    "options",
    [{"logprobs": 1}, {"seed": 7}, {"min_p": 0.1}, {"min_tokens": 1}, {"presence_penalty": 1.0},
     {"frequency_penalty": 1.0}, {"repetition_penalty": 1.1}, {"logit_bias": {1: 2.0}}],
)  # fmt: skip
def test_what_needs_logits_is_refused_by_name(
    options: dict[str, Any], tokenizer: Tokenizer
) -> None:
    (name,) = options
    with llm(EchoProcess(on_device_sampling=True), tokenizer) as model:
        with pytest.raises(RequestError, match=f"{name} needs logits") as caught:
            model.generate([[1]], SamplingParams(**options))
    assert caught.value.param == name
    with llm(EchoProcess(), tokenizer) as model:
        assert model.generate([[1]], SamplingParams(**options))
