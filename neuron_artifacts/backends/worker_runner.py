"""The engine's runner over a worker: graphs and weights live in the toolchain's own process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from neuron_artifacts.errors import EngineError, ServeError

if TYPE_CHECKING:
    from neuron_artifacts.backends.runner import Logits


class Process(Protocol):
    """A worker that serves; :class:`neuron_artifacts.worker.WorkerProcess` is one."""

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def call(self, method: str, payload: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]: ...

    def close(self) -> None: ...


def open_runner(process: Process) -> WorkerRunner:
    """The runner for a worker that has loaded its artifact.

    Raises
    ------
    ServeError
        The worker's facts are not those of a model that can be served.
    """
    try:
        is_device = bool(process.facts["on_device_sampling"])
        return (DeviceSamplingRunner if is_device else WorkerRunner)(process)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        process.close()
        raise ServeError(f"the worker describes no model that can be served: {error!r}") from None


class WorkerRunner:
    """Forwards each call. Positions, slots and shapes are as :class:`.runner.Runner` has them."""

    def __init__(self, process: Process) -> None:
        facts = process.facts
        self._process = process
        self.batch_size = int(facts["batch_size"])
        self.seq_len = int(facts["seq_len"])
        self.vocab_size = int(facts["vocab_size"])
        self.context_encoding_buckets = tuple(map(int, facts["context_encoding_buckets"]))
        self.token_generation_buckets = tuple(map(int, facts["token_generation_buckets"]))
        # A prompt runs in one piece there, so the largest bucket bounds it.
        self.max_context_length = min(
            int(facts["max_context_length"]), max(self.context_encoding_buckets)
        )

    def prefill(
        self, slot: int, tokens: Sequence[int], start: int, *, all_logits: bool = False
    ) -> Logits:
        if start or all_logits:
            raise EngineError("a Neuron prompt runs in one piece and gives its last logits only")
        payload = {"slot": slot, "tokens": list(tokens), "start": start}
        row: Logits = self._logits("prefill", payload, rows=1)[0]
        return row

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> Logits:
        payload = {"slots": list(slots), "tokens": list(tokens), "positions": list(positions)}
        return self._logits("decode", payload, rows=len(slots))

    def warm_up(self) -> None:
        self._process.call("warm_up", {})

    def close(self) -> None:
        self._process.close()

    def _logits(self, method: str, payload: Mapping[str, Any], *, rows: int) -> Logits:
        """Shape ``(rows, vocab_size)``, float32, little-endian on the wire."""
        import numpy as np

        _, data = self._process.call(method, payload)
        wanted = rows * self.vocab_size * 4
        if len(data) != wanted:
            raise EngineError(f"the worker gave {len(data)} bytes of logits instead of {wanted}")
        flat = np.frombuffer(data, dtype="<f4").astype(np.float32)
        return flat.reshape(rows, self.vocab_size)


class DeviceSamplingRunner(WorkerRunner):
    """Graphs that sample: each row of logits holds 1 at the chosen token."""

    def set_sampling(self, slot: int, *, temperature: float, top_k: int, top_p: float) -> None:
        """NxD Inference samples greedily with ``top_k`` 1, and has no temperature of 0."""
        greedy = temperature < 1e-5
        payload = {
            "slot": slot,
            "temperature": 1.0 if greedy else temperature,
            "top_k": 1 if greedy else top_k,
            "top_p": 1.0 if greedy else top_p,
        }
        self._process.call("sampling", payload)

    def _logits(self, method: str, payload: Mapping[str, Any], *, rows: int) -> Logits:
        import numpy as np

        answer, _ = self._process.call(method, payload)
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or len(tokens) != rows:
            raise EngineError(f"the worker gave {tokens!r} instead of {rows} tokens")
        if not all(isinstance(token, int) and 0 <= token < self.vocab_size for token in tokens):
            raise EngineError(f"the worker gave a token outside the vocabulary: {tokens}")
        logits = np.zeros((rows, self.vocab_size), np.float32)
        logits[np.arange(rows), tokens] = 1.0
        return logits
