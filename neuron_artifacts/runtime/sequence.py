"""Requests and the sequences they become, from the prompt to the last token."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from neuron_artifacts.errors import (
    ContextLengthError,
    EngineError,
    NeuronArtifactsError,
    RequestError,
)
from neuron_artifacts.runtime.detokenizer import Detokenizer, StopStrings
from neuron_artifacts.runtime.outputs import (
    FinishReason,
    Logprob,
    RequestTimes,
    SequenceDelta,
    TokenLogprobs,
)
from neuron_artifacts.runtime.params import SamplingParams
from neuron_artifacts.runtime.sampling import Floats, RankedLogprob, Sampler
from neuron_artifacts.runtime.tokenizer import Tokenizer

OnDelta = Callable[[SequenceDelta], None]


@dataclass(frozen=True)
class EngineRequest:
    """A prompt with its options; ``times`` is filled in by the engine as it goes."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    times: RequestTimes = field(default_factory=lambda: RequestTimes(time.monotonic()))


@dataclass(frozen=True)
class Limits:
    """What a runner takes: positions a slot holds, positions a prompt may have, token ids.

    ``samples_on_device`` says that only the chosen token is known, not its logits.
    """

    seq_len: int
    max_context_length: int
    vocab_size: int
    samples_on_device: bool = False

    def check(self, request: EngineRequest) -> None:
        """Refuse what cannot be generated.

        Raises
        ------
        ContextLengthError
            The prompt, or the prompt with ``max_tokens``, has no room.
        RequestError
            The prompt is empty, a token id lies outside the vocabulary, or an option needs
            logits and the graphs give none.
        """
        prompt, params = request.prompt_token_ids, request.params
        if self.samples_on_device:
            _check_device_options(params)
        if not prompt:
            raise RequestError("the prompt is empty", param="prompt")
        self._check_ids(prompt, "the prompt", "prompt")
        self._check_ids(params.logit_bias, "logit_bias", "logit_bias")
        length = len(prompt)
        if length > self.max_context_length:
            raise ContextLengthError(
                f"this model's maximum context length for a prompt is {self.max_context_length} "
                f"tokens, but the prompt has {length}",
                hint="shorten the prompt, or compile with a larger --max-context-length",
                param="prompt",
            )
        wanted = max(params.max_tokens or 1, params.min_tokens)
        if length + wanted > self.seq_len:
            raise ContextLengthError(
                f"this model's maximum context length is {self.seq_len} tokens, but {length} "
                f"in the prompt and {wanted} to generate make {length + wanted}",
                hint="shorten the prompt or max_tokens, or compile with a larger --seq-len",
                param="prompt" if length >= self.seq_len else "max_tokens",
            )

    def _check_ids(self, ids: list[int] | dict[int, float], what: str, param: str) -> None:
        if min(ids, default=0) < 0 or max(ids, default=0) >= self.vocab_size:
            worst = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise RequestError(
                f"{what} has token id {worst}, and the model knows 0 to {self.vocab_size - 1}",
                param=param,
            )


_NEEDS_LOGITS = (
    "logprobs", "seed", "min_p", "min_tokens", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias",
)  # fmt: skip


def _check_device_options(params: SamplingParams) -> None:
    """On-device sampling takes ``temperature``, ``top_k`` and ``top_p``, nothing else."""
    plain = SamplingParams()
    for name in _NEEDS_LOGITS:
        if getattr(params, name) != getattr(plain, name):
            raise RequestError(
                f"{name} needs logits, and this artifact was compiled to sample on the device",
                hint="leave it out, or compile without on_device_sampling_config",
                param=name,
            )


class Sequence:
    """One of the ``n`` answers to a request, in a slot of its own once it is admitted.

    ``position`` counts the positions of the slot that are written: the next token goes there.
    """

    def __init__(
        self,
        request: EngineRequest,
        index: int,
        on_delta: OnDelta,
        tokenizer: Tokenizer,
        limits: Limits,
    ) -> None:
        params = request.params
        self.request, self.index, self.on_delta = request, index, on_delta
        self.slot: int | None = None
        self.position = 0
        self.last_token = -1
        self.produced = 0
        self.finished = False
        self._tokenizer = tokenizer
        room = limits.seq_len - len(request.prompt_token_ids)
        self._max_tokens = room if params.max_tokens is None else params.max_tokens
        self._eos = frozenset(() if params.ignore_eos else tokenizer.eos_token_ids)
        self._stop_ids = frozenset(params.stop_token_ids)
        # The device has chosen already: the host takes the token that is marked.
        chosen = params.with_changes(temperature=0.0) if limits.samples_on_device else params
        self._sampler = Sampler(
            chosen, prompt_token_ids=request.prompt_token_ids,
            forbidden_early=self._eos | self._stop_ids, index=index,
        )  # fmt: skip
        self._detokenizer = Detokenizer(
            tokenizer, prompt_token_ids=request.prompt_token_ids,
            skip_special_tokens=params.skip_special_tokens,
        )  # fmt: skip
        self._stops = StopStrings(params.stop, include=params.include_stop_str_in_output)

    @property
    def prompt(self) -> list[int]:
        return self.request.prompt_token_ids

    @property
    def held_slot(self) -> int:
        """The slot, of a sequence that was admitted."""
        if self.slot is None:
            raise EngineError("a sequence without a slot was scheduled")
        return self.slot

    @property
    def in_prompt(self) -> bool:
        """Whether part of the prompt is still to be run."""
        return self.position < len(self.prompt)

    def accept(self, logits: Floats) -> SequenceDelta:
        """Choose the next token from its logits, and say what it adds to the answer."""
        token, ranked = self._sampler.sample(logits)
        self.last_token = token
        self.produced += 1
        text, reason, stop = self._judge(token)
        self.finished = reason is not None
        return SequenceDelta(
            request_id=self.request.request_id, index=self.index, token_ids=[token], text=text,
            logprobs=None if ranked is None else [self._name(ranked)],
            finish_reason=reason, stop_reason=stop,
        )  # fmt: skip

    def give_up(self, error: NeuronArtifactsError | None = None) -> SequenceDelta:
        """The last delta of a sequence that is aborted or has failed."""
        self.finished = True
        return SequenceDelta(
            request_id=self.request.request_id, index=self.index, token_ids=[], text="",
            finish_reason="abort", error=error,
        )  # fmt: skip

    def _judge(self, token: int) -> tuple[str, FinishReason | None, str | int | None]:
        """The text a token lets out, and whether the sequence ends with it."""
        enough = self.produced >= self.request.params.min_tokens
        if enough and token in self._stop_ids | self._eos:
            return self._end_at(token)
        match = self._stops.push(self._detokenizer.push(token), search=enough)
        if match.stop is not None:
            return match.text, "stop", match.stop
        if self.produced < self._max_tokens:
            return match.text, None, None
        last = self._stops.push(self._detokenizer.finish(), search=enough)
        if last.stop is not None:
            return match.text + last.text, "stop", last.stop
        return match.text + last.text + self._stops.finish(), "length", None

    def _end_at(self, token: int) -> tuple[str, FinishReason, int | None]:
        """End at an end-of-text or stop token, whose own text is left out unless asked for."""
        text = ""
        if self.request.params.include_stop_str_in_output:
            text = self._detokenizer.push(token)
        text += self._detokenizer.finish()
        match = self._stops.push(text, search=False)
        return match.text + self._stops.finish(), "stop", None if token in self._eos else token

    def _name(self, ranked: list[RankedLogprob]) -> TokenLogprobs:
        return {
            entry.token_id: Logprob(
                entry.logprob, entry.rank,
                self._tokenizer.decode([entry.token_id], skip_special_tokens=False),
            )
            for entry in ranked
        }  # fmt: skip
