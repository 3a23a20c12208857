"""Metrics under vLLM's names, with totals that agree with what clients were told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.runtime.server.harness import (
    RunningServer,
    eventually,
    posted,
    read_events,
    running,
    toy_state,
)

NAMES = {
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total",
    "vllm:num_preemptions_total", "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total", "vllm:cache_config_info", "vllm:lora_requests_info",
    "vllm:time_to_first_token_seconds_count", "vllm:inter_token_latency_seconds_count",
    "vllm:request_time_per_output_token_seconds_count", "vllm:e2e_request_latency_seconds_count",
    "vllm:request_queue_time_seconds_count", "vllm:request_inference_time_seconds_count",
    "vllm:request_prefill_time_seconds_count", "vllm:request_decode_time_seconds_count",
    "vllm:request_prompt_tokens_count", "vllm:request_generation_tokens_count",
    "vllm:iteration_tokens_total_count", "neuron_artifacts_compiles_total",
    "neuron_artifacts_load_seconds", "vllm_neuron:startup_time_seconds",
    "vllm_neuron:model_load_time_seconds",
}  # fmt: skip
UNLABELLED = {"vllm:cache_config_info", "vllm:lora_requests_info"}


def test_names_and_labels(server: RunningServer) -> None:
    response = httpx.get(server.url + "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = [s for f in text_string_to_metric_families(response.text) for s in f.samples]
    assert {sample.name for sample in samples} >= NAMES
    for sample in samples:
        if sample.name in NAMES - UNLABELLED:
            assert sample.labels["model_name"] == "toy"
            assert sample.labels["engine"] == "0"


def test_what_does_not_change(server: RunningServer) -> None:
    metrics = server.metrics()
    assert metrics["neuron_artifacts_compiles_total"] == 0
    assert metrics["neuron_artifacts_load_seconds{phase=load}"] == 0.5
    assert metrics["neuron_artifacts_load_seconds{phase=warm-up}"] == 0.125
    assert metrics["vllm_neuron:startup_time_seconds"] == 0.875
    info = "block_size=256,enable_prefix_caching=False,num_gpu_blocks=4"
    assert metrics["vllm:cache_config_info{" + info + "}"] == 1


def test_totals(folder: Path) -> None:
    """Requests of every kind; the counters say what their usage said."""
    text, chat = "/v1/completions", "/v1/chat/completions"
    messages = [{"role": "user", "content": "12 + 30"}]
    usage = {"include_usage": True}
    requests: list[tuple[str, dict[str, Any]]] = [
        (text, {"prompt": "Hello", "max_tokens": 7, "ignore_eos": True}),
        (text, {"prompt": ["a", [1, 2, 3]], "n": 3, "seed": 1, "max_tokens": 9}),
        (text, {"prompt": [7] * 150, "max_tokens": 5, "stream": True, "stream_options": usage}),
        (chat, {"messages": messages, "max_tokens": 20, "temperature": 0}),
        (chat, {"messages": messages, "n": 2, "stream": True, "stream_options": usage}),
    ]
    answers: list[dict[str, Any]] = []
    prompts = choices = 0
    with running(toy_state(folder)) as server:
        eos = server.state.tokenizer.eos_token_ids[0]
        requests.append((text, {"prompt": "x", "temperature": 0, "logit_bias": {str(eos): 100}}))
        for path, body in requests:
            response = httpx.post(server.url + path, json=body)
            answers += read_events(response.text) if body.get("stream") else [response.json()]
            several = len(body["prompt"]) if body.get("prompt") == ["a", [1, 2, 3]] else 1
            prompts += several
            choices += several * body.get("n", 1)
        metrics = server.metrics()
    told = [answer["usage"] for answer in answers if answer.get("usage")]
    reasons = [c["finish_reason"] for a in answers for c in a["choices"] if c["finish_reason"]]
    assert len(told) == len(requests)
    assert len(reasons) == choices
    generated = sum(usage["completion_tokens"] for usage in told)
    assert metrics["vllm:prompt_tokens_total"] == sum(usage["prompt_tokens"] for usage in told)
    assert metrics["vllm:generation_tokens_total"] == generated
    for reason in ("stop", "length", "abort", "error"):
        name = "vllm:request_success_total{finished_reason=" + reason + "}"
        assert metrics[name] == reasons.count(reason), reason
    assert reasons.count("stop") > 0
    counts = {
        "time_to_first_token_seconds": prompts,
        "request_queue_time_seconds": prompts,
        "request_prefill_time_seconds": prompts,
        "request_prompt_tokens": prompts,
        "request_generation_tokens": choices,
        "e2e_request_latency_seconds": choices,
        "request_inference_time_seconds": choices,
        "request_decode_time_seconds": choices,
        "inter_token_latency_seconds": generated - choices,
    }
    assert {name: metrics[f"vllm:{name}_count"] for name in counts} == counts
    assert metrics["vllm:request_generation_tokens_sum"] == generated
    assert metrics["vllm:iteration_tokens_total_sum"] >= generated
    assert metrics["vllm:num_requests_running"] == metrics["vllm:num_requests_waiting"] == 0


def test_running_and_waiting(folder: Path) -> None:
    with running(toy_state(folder, runner={"batch_size": 2})) as server:
        server.runner.hold()
        body = {"prompt": [5] * 10, "n": 2, "max_tokens": 4, "ignore_eos": True}
        with posted(server, "/v1/completions", body), posted(server, "/v1/completions", body):
            eventually(lambda: server.load() == 2)
            eventually(lambda: (server.running(), server.waiting()) == (2, 2))
            server.runner.pace = 0.05
            server.runner.release()
            eventually(lambda: server.metrics()["vllm:kv_cache_usage_perc"] > 0)
            eventually(lambda: server.load() == 0)
        assert (server.running(), server.waiting()) == (0, 0)
        assert server.metrics()["vllm:kv_cache_usage_perc"] == 0


@pytest.mark.parametrize("status", [400, 404])
def test_refused_requests_count_nothing(server: RunningServer, status: int) -> None:
    before = server.metrics()
    body = {"prompt": "x", "n": 0} if status == 400 else {"prompt": "x", "model": "other"}
    assert httpx.post(server.url + "/v1/completions", json=body).status_code == status
    after = server.metrics()
    assert {n: v for n, v in after.items() if n.startswith("vllm:")} == {
        n: v for n, v in before.items() if n.startswith("vllm:")
    }
