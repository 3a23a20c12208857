"""Prometheus metrics under the names and labels of vLLM, so that dashboards and routers fit.

What happens to a request is counted on the engine's thread as it happens; the engine's own state
is read when scraped. A prompt counts once however many answers it gets; each answer counts as a
finished request of its own. All slots are static, so there is neither preemption nor a prefix
cache: those counters stay at zero because there is nothing to count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from neuron_artifacts.backends import compiles
from neuron_artifacts.backends.runner import Runner
from neuron_artifacts.runtime.engine import EngineRequest, EngineStats, Step
from neuron_artifacts.runtime.outputs import SequenceDelta

ENGINE = "0"
FINISH_REASONS = ("stop", "length", "abort", "error")

# The bounds are vLLM's, with finer ones below for models that answer sooner.
TOKEN_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
FIRST_TOKEN_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
REQUEST_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0,
    30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
TOKEN_COUNTS = tuple(m * 10**e for e in range(6) for m in (1, 2, 5))
STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": ("From arrival to the first token.", FIRST_TOKEN_SECONDS),
    "inter_token_latency_seconds": ("Between two tokens of one answer.", TOKEN_SECONDS),
    "request_time_per_output_token_seconds": (
        "Mean time between the tokens of one answer.", TOKEN_SECONDS,
    ),
    "e2e_request_latency_seconds": ("From arrival to the last token.", REQUEST_SECONDS),
    "request_queue_time_seconds": ("From arrival to a free slot.", REQUEST_SECONDS),
    "request_prefill_time_seconds": ("From the slot to the first token.", REQUEST_SECONDS),
    "request_decode_time_seconds": ("From the first token to the last.", REQUEST_SECONDS),
    "request_inference_time_seconds": ("From the slot to the last token.", REQUEST_SECONDS),
    "request_prompt_tokens": ("Tokens of a prompt.", TOKEN_COUNTS),
    "request_generation_tokens": ("Tokens of an answer.", TOKEN_COUNTS),
    "iteration_tokens_total": ("Tokens in one step of the engine.", STEP_TOKENS),
}  # fmt: skip


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self, model_name: str, *, seconds: Mapping[str, float]) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": ENGINE}
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts that were read.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.finished = self._finished_counters()
        self.histograms = {
            name: Histogram(
                f"vllm:{name}", text, list(self._labels), registry=self.registry, buckets=bounds
            ).labels(**self._labels)
            for name, (text, bounds) in _HISTOGRAMS.items()
        }
        self._show_load_seconds(seconds)
        ProcessCollector(registry=self.registry)

    def observe_engine(self, stats: Callable[[], EngineStats], runner: Runner) -> None:
        """Show an engine's state at each scrape, and its fixed sizes."""
        self.registry.register(_EngineCollector(stats, self._labels))
        sizes = {
            "block_size": str(runner.seq_len),
            "num_gpu_blocks": str(runner.batch_size),
            "enable_prefix_caching": "False",
            "engine": ENGINE,
        }
        self._gauge("vllm:cache_config_info", "One block is one slot.", sizes).set(1)
        adapters = dict.fromkeys(
            ("max_lora", "waiting_lora_adapters", "running_lora_adapters"), ""
        ) | {"max_lora": "0"}
        self._gauge("vllm:lora_requests_info", "No adapters are served.", adapters).set(time.time())

    def follow(self, request: EngineRequest) -> RequestMeter:
        """A meter for one request's deltas."""
        return RequestMeter(self, request)

    def record_step(self, step: Step) -> None:
        """Count one step of the engine."""
        self.observe("iteration_tokens_total", step.prompt_tokens + step.generation_tokens)

    def observe(self, name: str, value: float) -> None:
        self.histograms[name].observe(value)

    def render(self) -> tuple[bytes, str]:
        """The text to scrape and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _finished_counters(self) -> dict[str, Counter]:
        counter = Counter(
            "vllm:request_success", "Answers that ended, by reason.",
            [*self._labels, "finished_reason"], registry=self.registry,
        )  # fmt: skip
        return {
            reason: counter.labels(**self._labels, finished_reason=reason)
            for reason in FINISH_REASONS
        }

    def _show_load_seconds(self, seconds: Mapping[str, float]) -> None:
        name = "neuron_artifacts_load_seconds"
        gauge = Gauge(
            name, "Time to verify, load and warm up.", [*self._labels, "phase"],
            registry=self.registry,
        )  # fmt: skip
        for phase, took in seconds.items():
            gauge.labels(**self._labels, phase=phase).set(took)
        mirrored = {"startup": sum(seconds.values()), "model_load": seconds.get("load", 0.0)}
        for what, took in mirrored.items():
            text = "As vllm-neuron names it."
            self._gauge(f"vllm_neuron:{what}_time_seconds", text, self._labels).set(took)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"vllm:{name}", text, list(self._labels), registry=self.registry)
        return counter.labels(**self._labels)

    def _gauge(self, name: str, text: str, labels: Mapping[str, str]) -> Gauge:
        return Gauge(name, text, list(labels), registry=self.registry).labels(**labels)


class RequestMeter:
    """Follows one request on the engine's thread."""

    def __init__(self, metrics: Metrics, request: EngineRequest) -> None:
        self._metrics = metrics
        self._times = request.times
        self._prompt_tokens = len(request.prompt_token_ids)
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._tokens: dict[int, int] = {}

    def record(self, delta: SequenceDelta) -> None:
        """Count what a delta says; the engine has stamped the request's times before."""
        if delta.token_ids:
            self._record_tokens(delta.index, len(delta.token_ids))
        if delta.finish_reason is not None:
            self._record_end(delta)

    def _record_tokens(self, index: int, count: int) -> None:
        now = self._times.last_token or time.monotonic()
        if not self._tokens:
            self._record_first_token()
        self._metrics.generation_tokens.inc(count)
        if index in self._last:
            self._metrics.observe("inter_token_latency_seconds", now - self._last[index])
        self._first.setdefault(index, now)
        self._last[index] = now
        self._tokens[index] = self._tokens.get(index, 0) + count

    def _record_first_token(self) -> None:
        metrics, times = self._metrics, self._times
        metrics.prompt_tokens.inc(self._prompt_tokens)
        metrics.observe("request_prompt_tokens", self._prompt_tokens)
        if times.scheduled is None or times.first_token is None:
            return
        metrics.observe("request_queue_time_seconds", times.scheduled - times.arrived)
        metrics.observe("request_prefill_time_seconds", times.first_token - times.scheduled)
        metrics.observe("time_to_first_token_seconds", times.first_token - times.arrived)

    def _record_end(self, delta: SequenceDelta) -> None:
        metrics, times, index = self._metrics, self._times, delta.index
        reason = "error" if delta.error is not None else delta.finish_reason
        metrics.finished[reason or "error"].inc()
        if index not in self._last:
            return
        first, last, tokens = self._first[index], self._last[index], self._tokens[index]
        metrics.observe("request_generation_tokens", tokens)
        metrics.observe("e2e_request_latency_seconds", last - times.arrived)
        metrics.observe("request_decode_time_seconds", last - first)
        if times.scheduled is not None:
            metrics.observe("request_inference_time_seconds", last - times.scheduled)
        if tokens > 1:
            mean = (last - first) / (tokens - 1)
            metrics.observe("request_time_per_output_token_seconds", mean)


class _EngineCollector(Collector):
    """Reads the engine when scraped."""

    def __init__(self, stats: Callable[[], EngineStats], labels: Mapping[str, str]) -> None:
        self._stats, self._labels = stats, labels
        self._compiled_before = compiles.count()

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        compiled = compiles.count() - self._compiled_before
        gauges = {
            "vllm:num_requests_running": ("Sequences that hold a slot.", stats.running),
            "vllm:num_requests_waiting": ("Sequences that wait for one.", stats.waiting),
            "vllm:kv_cache_usage_perc": ("Share of positions in use.", stats.kv_cache_usage),
        }
        counters = {
            "vllm:num_preemptions": ("Sequences that lost their slot.", stats.preemptions),
            "vllm:prefix_cache_queries": ("Tokens looked up in a prefix cache.", 0),
            "vllm:prefix_cache_hits": ("Tokens found in a prefix cache.", 0),
            "neuron_artifacts_compiles": ("Graphs compiled while serving.", compiled),
        }
        for kind, rows in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, (text, value) in rows.items():
                family = kind(name, text, labels=list(self._labels))
                family.add_metric(list(self._labels.values()), value)
                yield family
