"""Offline inference, in the shape of vLLM's ``LLM``."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from neuron_artifacts._files import shorten
from neuron_artifacts.backends.runner import Runner
from neuron_artifacts.errors import NeuronArtifactsError, RequestError
from neuron_artifacts.runtime.chat import render_chat
from neuron_artifacts.runtime.engine import Engine, EngineRequest
from neuron_artifacts.runtime.outputs import CompletionOutput, RequestOutput, SequenceDelta
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]
Params = SamplingParams | Sequence[SamplingParams] | None


class LLM:
    """Generates for many prompts at once and gives the results in their order.

    Owns the runner: closing the LLM closes it. Use as a context manager, or call :meth:`close`.
    ``default_sampling_params`` apply where a call gives none.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        *,
        default_sampling_params: SamplingParams | None = None,
    ) -> None:
        self._runner, self._tokenizer = runner, tokenizer
        self._default = default_sampling_params or SamplingParams()
        self._engine = Engine(runner, tokenizer, max_waiting=sys.maxsize)
        self._engine.start()
        self._ids = itertools.count()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop generating and release the runner; may be called twice."""
        self._engine.close()
        self._runner.close()

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        return self._default

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params = None,
        use_tqdm: bool = True,  # noqa: ARG002
    ) -> list[RequestOutput]:
        """Complete prompts.

        Parameters
        ----------
        prompts:
            One or a list of: a text, a list of token ids, or a dictionary with ``prompt`` or
            ``prompt_token_ids``.
        sampling_params:
            For all prompts, or one for each.
        use_tqdm:
            Accepted for vLLM's sake; nothing is printed.

        Raises
        ------
        RequestError
            One of the prompts or options cannot be honoured; nothing is generated then.
        """
        read = [self._read(prompt) for prompt in _as_list(prompts)]
        return self._generate(read, sampling_params)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        sampling_params: Params = None,
        use_tqdm: bool = True,  # noqa: ARG002
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, through the model's chat template."""
        template = chat_template or self._tokenizer.chat_template(tools=bool(tools))
        single = bool(messages) and isinstance(messages[0], Mapping)
        conversations: list[Any] = [messages] if single else list(messages)
        prompts = [
            render_chat(
                template, conversation, tools=tools, add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **{**self._tokenizer.special_tokens, **(chat_template_kwargs or {})},
            )
            for conversation in conversations
        ]  # fmt: skip
        encode = self._tokenizer.encode
        return self._generate(
            [(text, encode(text, add_special_tokens=False)) for text in prompts], sampling_params
        )

    def _read(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, Mapping):
            ids = prompt.get("prompt_token_ids")
            if ids is not None:
                return prompt.get("prompt"), list(ids)
            return self._read(prompt.get("prompt", ()))
        if isinstance(prompt, str):
            return prompt, self._tokenizer.encode(prompt)
        if not isinstance(prompt, Iterable):
            raise _no_prompt(prompt)
        return None, list(prompt)

    def _generate(
        self, prompts: list[tuple[str | None, list[int]]], sampling_params: Params
    ) -> list[RequestOutput]:
        jobs = [
            _Job(EngineRequest(str(next(self._ids)), ids, params), text)
            for (text, ids), params in zip(
                prompts, _per_prompt(sampling_params or self._default, len(prompts)), strict=True
            )
        ]
        for job in jobs:
            self._engine.check(job.request)
        try:
            for job in jobs:
                self._engine.submit(job.request, job.take)
            for job in jobs:
                job.done.wait()
        except BaseException:
            for job in jobs:
                self._engine.abort(job.request.request_id)
            raise
        return [job.result() for job in jobs]


@dataclass
class _Job:
    """One request on its way, gathered on the engine's thread."""

    request: EngineRequest
    prompt: str | None
    done: threading.Event = field(default_factory=threading.Event)
    error: NeuronArtifactsError | None = None

    def __post_init__(self) -> None:
        self.outputs = [CompletionOutput(index) for index in range(self.request.params.n)]
        self._texts: list[list[str]] = [[] for _ in self.outputs]

    def take(self, delta: SequenceDelta) -> None:
        output = self.outputs[delta.index]
        self._texts[delta.index].append(delta.text)
        output.token_ids += delta.token_ids
        if delta.logprobs is not None:
            entries = zip(delta.token_ids, delta.logprobs, strict=True)
            added = sum(entry[token].logprob for token, entry in entries)
            output.logprobs = (output.logprobs or []) + delta.logprobs
            output.cumulative_logprob = (output.cumulative_logprob or 0.0) + added
        if delta.finish_reason is not None:
            output.text = "".join(self._texts[delta.index])
            output.finish_reason, output.stop_reason = delta.finish_reason, delta.stop_reason
            self.error = self.error or delta.error
            if all(each.finished() for each in self.outputs):
                self.done.set()

    def result(self) -> RequestOutput:
        if self.error is not None:
            raise self.error
        return RequestOutput(
            self.request.request_id, self.prompt, self.request.prompt_token_ids, self.outputs,
            finished=True,
        )  # fmt: skip


def _as_list(prompts: Any) -> list[Prompt]:
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if not isinstance(prompts, Iterable):
        raise _no_prompt(prompts)
    listed = list(prompts)
    single = bool(listed) and all(isinstance(each, int) for each in listed)
    return [listed] if single else listed


def _no_prompt(value: object) -> RequestError:
    return RequestError(
        f"{shorten(value)} is no prompt: it is text, a list of token ids, or a dictionary with "
        "prompt or prompt_token_ids",
        param="prompt",
    )


def _per_prompt(
    params: SamplingParams | Sequence[SamplingParams], count: int
) -> list[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * count
    if isinstance(params, Mapping) or not all(isinstance(p, SamplingParams) for p in params):
        raise RequestError("sampling_params is a SamplingParams, or a list of one for each prompt")
    if len(params) != count:
        raise RequestError(f"{count} prompts came with {len(params)} sampling parameters")
    return list(params)
