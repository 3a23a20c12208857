"""The port between the engine and a backend's compiled graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:  # the command line reads this port, and starts without numpy
    import numpy as np
    from numpy.typing import NDArray

Logits: TypeAlias = "NDArray[np.float32]"


class Runner(Protocol):
    """Compiled graphs with their weights and key/value cache, ready to run.

    A slot is one row of the static batch (``0 <= slot < batch_size``) with its own cache of
    ``seq_len`` positions. Not thread-safe: one thread drives it. A call's result for one row never
    depends on which other rows share the call.
    """

    @property
    def batch_size(self) -> int: ...

    @property
    def seq_len(self) -> int: ...

    @property
    def max_context_length(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_encoding_buckets(self) -> tuple[int, ...]: ...

    @property
    def token_generation_buckets(self) -> tuple[int, ...]: ...

    def prefill(
        self, slot: int, tokens: Sequence[int], start: int, *, all_logits: bool = False
    ) -> Logits:
        """Run ``tokens`` of one sequence at positions ``start, start + 1, …`` of ``slot``.

        At most the largest context-encoding bucket at once; longer prompts come in several
        calls. Returns float32 logits of the last token, shape ``(vocab_size,)``, or of every
        token, shape ``(len(tokens), vocab_size)``, with ``all_logits``. The array is the caller's.
        """
        ...

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        """One token for each of several slots; returns ``(len(slots), vocab_size)`` logits."""
        ...

    def warm_up(self) -> None:
        """Touch every graph and weight page once, leaving no trace in any slot."""
        ...

    def close(self) -> None:
        """Release graphs, maps and threads; the runner is unusable afterwards."""
        ...


@runtime_checkable
class SamplesOnDevice(Protocol):
    """A runner whose graphs choose the token themselves and give no logits.

    Its rows of logits hold 1 at the chosen token and 0 elsewhere.
    """

    def set_sampling(self, slot: int, *, temperature: float, top_k: int, top_p: float) -> None:
        """How the tokens of the sequence that now has ``slot`` are chosen."""
        ...
