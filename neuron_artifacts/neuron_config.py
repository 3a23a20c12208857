"""The resolved Neuron configuration, in NxD Inference's vocabulary, every default filled in."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from neuron_artifacts.errors import SpecError

MIN_BUCKET = 128


@dataclass(frozen=True)
class NeuronConfig:
    """What the graphs are compiled for.

    ``seq_len`` counts positions of one slot (prompt and answer together), ``batch_size`` is the
    number of slots, bucket lists ascend.
    """

    tp_degree: int
    batch_size: int
    seq_len: int
    max_context_length: int
    enable_bucketing: bool
    context_encoding_buckets: tuple[int, ...]
    token_generation_buckets: tuple[int, ...]
    torch_dtype: str

    def document(self) -> dict[str, Any]:
        """JSON-able form, for the key document, the manifest and ``neuron_config.json``."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @property
    def max_model_len(self) -> int:
        """Positions that can really be decoded: the last token-generation bucket may be short."""
        return min(self.seq_len, self.token_generation_buckets[-1])


def generate_buckets(low: int, high: int) -> tuple[int, ...]:
    """Powers of two from ``low`` up to ``high``, ``high`` last.

    NxD Inference's rule (``modules/autobucketing.py``, ``generate_buckets``): the exponent stops
    before ``round(log2(high))``, so 5000 gives 128 … 2048, 5000 but 6000 gives 128 … 4096, 6000.
    """
    if low >= high:
        return (high,)
    stop = round(math.log2(high))
    return (*(2**i for i in range(int(math.log2(low)), stop)), high)


def default_buckets(maximum: int, *, enabled: bool) -> tuple[int, ...]:
    """The list for one phase: a single bucket where bucketing is off."""
    return generate_buckets(MIN_BUCKET, maximum) if enabled else (maximum,)


def check_buckets(name: str, buckets: tuple[int, ...], maximum: int, maximum_name: str) -> None:
    """Refuse an explicit list that NxD Inference would refuse or misread.

    Raises
    ------
    SpecError
        Empty, not positive, not ascending, or beyond ``maximum``.
    """
    shown = ", ".join(map(str, buckets))
    if not buckets or buckets[0] < 1:
        raise SpecError(f"{name} must hold positive lengths, got [{shown}]", options=(name,))
    if any(b <= a for a, b in pairwise(buckets)):
        fixed = ",".join(map(str, sorted(set(buckets))))
        raise SpecError(
            f"{name} must ascend without repeats, got [{shown}]",
            hint=f"write {fixed}",
            options=(name,),
        )
    if buckets[-1] > maximum:
        raise SpecError(
            f"{name} ends at {buckets[-1]}, beyond {maximum_name} {maximum}",
            hint=f"drop buckets over {maximum}, or raise {maximum_name}",
            options=(name,),
        )
