"""From one row of logits to one token, with vLLM's options in vLLM's order.

``min_tokens`` and ``logit_bias`` first, then penalties, temperature, ``min_p``, ``top_k`` and
``top_p``. A sequence has its own generator and draws one number a token, so its text depends
neither on its neighbours in the batch nor on when it ran.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuron_artifacts.errors import EngineError
from neuron_artifacts.runtime.params import SamplingParams

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing by them would overflow float32."""


@dataclass(frozen=True)
class RankedLogprob:
    """A token's log-probability under the model's own distribution; ``rank`` is 1-based."""

    token_id: int
    logprob: float
    rank: int


class Sampler:
    """Chooses the tokens of one sequence; holds its generator and the tokens it has seen.

    Parameters
    ----------
    prompt_token_ids:
        What the repetition penalty counts as seen beside the output.
    forbidden_early:
        The ids that would end the sequence: excluded until ``min_tokens`` are out.
    index:
        Which of a request's ``n`` sequences; added to the seed.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt_token_ids: Sequence[int] = (),
        forbidden_early: Collection[int] = (),
        index: int = 0,
    ) -> None:
        seed = secrets.randbits(64) if params.seed is None else (params.seed + index) % 2**64
        self._params = params
        self._generator = np.random.Generator(np.random.Philox(key=seed))
        counted = prompt_token_ids if params.repetition_penalty != 1 else ()
        self._prompt = np.unique(np.asarray(counted, np.int64))
        self._forbidden = np.array(sorted(forbidden_early), np.int64)
        self._bias_ids = np.array(list(params.logit_bias), np.int64)
        self._bias = np.array(list(params.logit_bias.values()), np.float32)
        self._counts: dict[int, int] = {}
        self._produced = 0

    def sample(self, logits: Floats) -> tuple[int, list[RankedLogprob] | None]:
        """The next token, and with ``logprobs=k`` that token's entry and then the k likeliest.

        Parameters
        ----------
        logits:
            Shape ``(vocab_size,)``; left as it was.

        Raises
        ------
        EngineError
            The logits hold NaN or infinity, or leave no token to choose.
        """
        _check_finite(logits)
        token = self._choose(self._adjust(logits))
        wanted = self._params.logprobs
        ranked = None if wanted is None else rank_logprobs(logits, token, wanted)
        self._counts[token] = self._counts.get(token, 0) + 1
        self._produced += 1
        return token, ranked

    def _adjust(self, logits: Floats) -> Floats:
        """Apply what may change even the likeliest token; copies only if something applies."""
        params = self._params
        early = self._produced < params.min_tokens and self._forbidden.size
        repeated = params.repetition_penalty != 1 and (self._prompt.size or self._counts)
        counted = self._counts and (params.presence_penalty or params.frequency_penalty)
        if not (early or self._bias.size or repeated or counted):
            return logits
        logits = logits.copy()
        if early:
            logits[self._forbidden[self._forbidden < logits.size]] = -np.inf
        if self._bias.size:
            logits[self._bias_ids] += self._bias
        if repeated:
            self._discourage_repeats(logits)
        if counted:
            ids, counts = self._output()
            logits[ids] -= params.frequency_penalty * counts + np.float32(params.presence_penalty)
        _check_finite(logits)
        return logits

    def _discourage_repeats(self, logits: Floats) -> None:
        seen = np.union1d(self._prompt, self._output()[0])
        values = logits[seen]
        penalty = np.float32(self._params.repetition_penalty)
        logits[seen] = np.where(values > 0, values / penalty, values * penalty)

    def _output(self) -> tuple[Ids, Floats]:
        size = len(self._counts)
        return (
            np.fromiter(self._counts, np.int64, size),
            np.fromiter(self._counts.values(), np.float32, size),
        )

    def _choose(self, logits: Floats) -> int:
        params = self._params
        if params.temperature < GREEDY_BELOW:
            return int(logits.argmax())
        ids, weights = keep_candidates(
            logits, params.temperature, params.top_k, params.top_p, params.min_p
        )
        cumulated = np.cumsum(weights, dtype=np.float64)
        drawn = self._generator.random() * cumulated[-1]
        place = min(int(np.searchsorted(cumulated, drawn, side="right")), cumulated.size - 1)
        return int(place if ids is None else ids[place])


def keep_candidates(
    logits: Floats, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[Ids | None, Floats]:
    """Which tokens may be drawn, in order of id, and their weights (not normalised).

    ``None`` for the ids stands for the whole vocabulary. Tokens that tie with the last one
    ``top_k`` keeps are kept too; of those that tie at the edge of ``top_p``, the lower ids.
    """
    scaled = (logits - logits.max()) / np.float32(temperature)
    weights = np.exp(scaled)
    ids: Ids | None = None
    if min_p > 0:
        ids = np.flatnonzero(weights >= min_p)
    if 0 < top_k < (weights.size if ids is None else ids.size):
        among = scaled if ids is None else scaled[ids]
        kept = np.flatnonzero(among >= _nth_largest(among, top_k))
        ids = kept if ids is None else ids[kept]
    if top_p < 1:
        among = weights if ids is None else weights[ids]
        kept = _nucleus(among, top_p)
        ids = kept if ids is None else ids[kept]
    return ids, weights if ids is None else weights[ids]


def _nucleus(weights: Floats, top_p: float) -> Ids:
    """The fewest likeliest places that hold ``top_p`` of the mass, sorted by place."""
    total = weights.sum(dtype=np.float64)
    # All weights below this together are less than what may be left out.
    small = (1 - top_p) * total / weights.size
    ordered = np.sort(weights[weights >= small])[::-1]
    cumulated = np.cumsum(ordered, dtype=np.float64)
    count = min(int(np.searchsorted(cumulated, top_p * total)) + 1, ordered.size)
    return _largest(weights, ordered[count - 1], count)


def _largest(values: Floats, edge: np.float32, count: int) -> Ids:
    """Places of the ``count`` largest values, down to ``edge``; the lower ones among equals."""
    kept = values > edge
    level = np.flatnonzero(values == edge)
    kept[level[: count - int(kept.sum())]] = True
    return np.flatnonzero(kept)


def _likeliest(values: Floats, count: int) -> Ids:
    """Places of the ``count`` largest values, largest first, lower places first among equals."""
    places = _largest(values, _nth_largest(values, count), count)
    return places[np.lexsort((places, -values[places]))]


def _nth_largest(values: Floats, n: int) -> np.float32:
    edge: np.float32 = np.partition(values, values.size - n)[values.size - n]
    return edge


def rank_logprobs(logits: Floats, token: int, count: int) -> list[RankedLogprob]:
    """Log-probabilities of ``token`` and of the ``count`` likeliest, under the raw logits.

    The token comes first; it is not repeated where it is among the likeliest. Equal logits rank
    by id.
    """
    top = logits.max()
    log_total = float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
    value = logits[token]
    rank = int((logits > value).sum() + (logits[:token] == value).sum()) + 1
    ranked = [RankedLogprob(token, float(value) - log_total, rank)]
    for place, other in enumerate(_likeliest(logits, min(count, logits.size)) if count else ()):
        if other != token:
            entry = RankedLogprob(int(other), float(logits[other]) - log_total, place + 1)
            ranked.append(entry)
    return ranked


def _check_finite(logits: Floats) -> None:
    # The maximum is NaN if any value is; single values of minus infinity only exclude a token.
    if not np.isfinite(logits.max()):
        raise EngineError(
            "the model's logits are not finite numbers, so no token can be chosen",
            hint="check the weights, or compile with --torch-dtype float32 if they overflow bf16",
        )
