"""Offline inference: the shapes vLLM's callers know, in the order they asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.errors import ContextLengthError, EngineError, RequestError
from neuron_artifacts.runtime.llm import LLM
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.tokenizer import Tokenizer
from tests.runtime.toy_runner import ToyRunner
from tests.runtime.toy_tokenizers import byte_level, save

SHORT = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.load(save(tmp_path, byte_level()))


@pytest.fixture
def runner(tokenizer: Tokenizer) -> ToyRunner:
    return ToyRunner(vocab_size=tokenizer.vocab_size)


@pytest.fixture
def llm(runner: ToyRunner, tokenizer: Tokenizer) -> Iterator[LLM]:
    with LLM(runner, tokenizer) as llm:
        yield llm


IDS = [292, 1, 2]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("Hello", [("Hello", None)]),
        (["Hello", " world"], [("Hello", None), (" world", None)]),
        (IDS, [(None, IDS)]),
        ([IDS, [5]], [(None, IDS), (None, [5])]),
        ((IDS, "Hello"), [(None, IDS), ("Hello", None)]),
        ({"prompt": "Hello"}, [("Hello", None)]),
        ({"prompt_token_ids": IDS}, [(None, IDS)]),
        ([{"prompt_token_ids": IDS, "prompt": "shown"}, {"prompt": "a"}],
         [("shown", IDS), ("a", None)]),
        ([], []),
    ],
)  # fmt: skip
def test_every_form_of_prompt(
    llm: LLM, tokenizer: Tokenizer, runner: ToyRunner, prompts: Any, expected: list[Any]
) -> None:
    results = llm.generate(prompts, SHORT)
    assert len(results) == len(expected)
    for result, (text, ids) in zip(results, expected, strict=True):
        assert result.prompt == text
        assert result.prompt_token_ids == (ids or tokenizer.encode(text))
        assert result.finished
        (output,) = result.outputs
        assert output.token_ids[0] == int(runner.reference(result.prompt_token_ids).argmax())
        assert (len(output.token_ids), output.finish_reason, output.index) == (6, "length", 0)
        whole = tokenizer.decode(result.prompt_token_ids + output.token_ids)
        assert whole.endswith(output.text)
    assert len({result.request_id for result in results}) == len(results)


def test_many_prompts_keep_their_order(llm: LLM) -> None:
    prompts = [[i % 90, i // 90] for i in range(200)]
    together = llm.generate(prompts, SHORT)
    assert [result.prompt_token_ids for result in together] == prompts
    for place in range(0, 200, 37):
        (alone,) = llm.generate([prompts[place]], SHORT)
        assert alone.outputs == together[place].outputs


def test_options_for_each_prompt(llm: LLM) -> None:
    options = [SHORT.with_changes(max_tokens=count, n=count) for count in (1, 2, 3)]
    results = llm.generate(["a", "b", "c"], options)
    assert [len(result.outputs) for result in results] == [1, 2, 3]
    assert [len(result.outputs[0].token_ids) for result in results] == [1, 2, 3]
    (many,) = llm.generate(["a"], SHORT.with_changes(n=9))
    assert [len(output.token_ids) for output in many.outputs] == [6] * 9
    with pytest.raises(RequestError, match="2 prompts came with 3"):
        llm.generate(["a", "b"], options)


def test_the_default_is_vllms(llm: LLM, tokenizer: Tokenizer, runner: ToyRunner) -> None:
    assert llm.get_default_sampling_params() == SamplingParams()
    other = LLM(runner, tokenizer, default_sampling_params=SHORT)
    runner._thread = None
    (result,) = other.generate("a")
    assert result.outputs[0].token_ids == llm_free_answer(runner, result.prompt_token_ids)
    other.close()


def llm_free_answer(runner: ToyRunner, prompt: list[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(6):
        tokens.append(int(runner.reference(tokens).argmax()))
    return tokens[len(prompt) :]


def test_logprobs_add_up(llm: LLM) -> None:
    (result,) = llm.generate([[3]], SHORT.with_changes(logprobs=2, n=2))
    for output in result.outputs:
        assert output.logprobs is not None
        pairs = zip(output.token_ids, output.logprobs, strict=True)
        total = sum(entry[token].logprob for token, entry in pairs)
        assert output.cumulative_logprob == pytest.approx(total)
    (plain,) = llm.generate([[3]], SHORT)
    assert (plain.outputs[0].logprobs, plain.outputs[0].cumulative_logprob) == (None, None)


CHAT = [{"role": "user", "content": "Hello"}]


def test_chat(llm: LLM, tokenizer: Tokenizer) -> None:
    (single,) = llm.chat(CHAT, SHORT)
    assert single.prompt == "<s><|user|>Hello</s><|assistant|>"
    assert single.prompt_token_ids == tokenizer.encode(single.prompt, add_special_tokens=False)
    many = llm.chat([CHAT, CHAT], SHORT)
    assert [result.outputs for result in many] == [single.outputs] * 2
    (other,) = llm.chat(
        CHAT, SHORT, chat_template="{{ bos_token }}{{ x }}", chat_template_kwargs={"x": "é"}
    )
    assert other.prompt == "<s>é"
    (open_,) = llm.chat(CHAT, SHORT, add_generation_prompt=False, continue_final_message=True)
    assert open_.prompt == "<s><|user|>Hello"


@pytest.mark.parametrize(
    ("prompts", "error"),
    [
        (["a", [1] * 40], ContextLengthError),
        (["a", [10**6]], RequestError),
        (["a", []], RequestError),
        ({}, RequestError),
    ],
)
def test_one_bad_prompt_refuses_all(
    llm: LLM, runner: ToyRunner, prompts: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        llm.generate(prompts, SHORT)
    assert runner.calls == []


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        (5, SHORT, "5 is no prompt"),
        (None, SHORT, "None is no prompt"),
        (["Hello", 5.5], SHORT, r"5\.5 is no prompt"),
        ("Hello", {"temperature": 0}, "sampling_params is a SamplingParams"),
        (["a", "b"], [SHORT, 5], "sampling_params is a SamplingParams"),
        ("Hello", [SHORT, SHORT], "1 prompts came with 2"),
    ],
)
def test_what_is_no_prompt_and_no_options(
    llm: LLM, prompts: Any, params: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        llm.generate(prompts, params)


def test_trouble_while_generating_is_raised(llm: LLM, runner: ToyRunner) -> None:
    runner.poison = 100
    with pytest.raises(EngineError, match="no token can be chosen"):
        llm.generate([[1], [100]], SHORT)
    assert len(llm.generate([[1]], SHORT)) == 1


def test_closing_closes_the_runner(runner: ToyRunner, tokenizer: Tokenizer) -> None:
    llm = LLM(runner, tokenizer)
    llm.close()
    llm.close()
    assert runner.closed
