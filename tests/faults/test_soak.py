"""A server under mixed load for a while: no growth, and totals that equal what clients saw.

``SOAK_SECONDS`` says how long; an hour is what ``docs/reliability.md`` reports.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Measure, Record
from tests.faults.test_server_abuse import Victim, _eventually, _idle, victim

__all__ = ["victim"]

SECONDS = float(os.environ.get("SOAK_SECONDS", "10"))
CLIENTS = 8
SLACK = 24 << 20
"""Bytes between the first and the last third: what the allocator moves back and forth."""


@pytest.mark.slow
@pytest.mark.timeout(int(SECONDS) + 300)
def test_a_soak_leaves_nothing_behind(
    victim: Victim, rng: random.Random, record: Record, measure: Measure
) -> None:
    before = victim.metrics()
    samples, seen = asyncio.run(_load(victim, rng.randrange(1 << 30)))
    _eventually(lambda: _idle(victim))
    after = victim.metrics()
    third = len(samples) // 3
    early, late = samples[third : 2 * third], samples[-third:]
    for index, name, slack in ((0, "bytes", SLACK), (1, "descriptors", 4), (2, "threads", 1)):
        first, last = (max(row[index] for row in rows) for rows in (early, late))
        measure(f"soak: most {name}, second and last third", f"{first:,} and {last:,}")
        assert last <= first + slack, f"{name} grew from {first} to {last}"
    for reason in ("stop", "length"):
        name = f"vllm:request_success_total{{finished_reason={reason}}}"
        assert after.get(name, 0) - before.get(name, 0) == seen[reason], reason
    for kind in ("generation", "prompt"):
        name = f"vllm:{kind}_tokens_total"
        assert after[name] - before[name] == seen[f"{kind} tokens"], kind
        measure(f"soak: {kind} tokens, server and clients", f"{seen[f'{kind} tokens']:,} each")
    measure("soak: requests", f"{seen['requests']:,}, {seen['refused']:,} of them absurd")
    measure("soak: answers, server and clients", f"{seen['stop'] + seen['length']:,} each")
    record(f"soak of {SECONDS:.0f} s with {CLIENTS} clients", "no growth; totals agree")


async def _load(victim: Victim, seed: int) -> tuple[list[tuple[int, int, int]], Counter[str]]:
    end = time.monotonic() + SECONDS
    seen: Counter[str] = Counter()
    samples: list[tuple[int, int, int]] = []
    async with httpx.AsyncClient(base_url=victim.url, timeout=600) as client:
        jobs = [_client(client, random.Random(seed + n), end, seen) for n in range(CLIENTS)]
        await asyncio.gather(_watch(victim, end, samples), *jobs)
    return samples, seen


async def _watch(victim: Victim, end: float, samples: list[tuple[int, int, int]]) -> None:
    threads = Path(f"/proc/{victim.process.pid}/task")
    while time.monotonic() < end:
        count = len(list(threads.iterdir()))
        samples.append((victim.memory(), victim.descriptors(), count))
        await asyncio.sleep(max(SECONDS / 300, 0.05))


async def _client(
    client: httpx.AsyncClient, rng: random.Random, end: float, seen: Counter[str]
) -> None:
    while time.monotonic() < end:
        body: dict[str, Any] = {
            "prompt": rng.choice(["Hello", "The quick brown fox", "x" * rng.randrange(1, 150)]),
            "max_tokens": rng.randrange(1, 40), "temperature": rng.choice([0, 1.0]),
            "n": rng.choice([1, 1, 3]), "stream": rng.random() < 0.5,
        }  # fmt: skip
        seen["requests"] += 1
        if rng.random() < 0.1:
            seen["refused"] += 1
            body["max_tokens"] = -1
            response = await client.post("/v1/completions", json=body)
            assert response.status_code == 400
        elif body["stream"]:
            body["stream_options"] = {"include_usage": True}
            await _stream(client, body, seen)
        else:
            answer = (await client.post("/v1/completions", json=body)).json()
            _count(seen, answer["choices"], answer["usage"])


async def _stream(client: httpx.AsyncClient, body: dict[str, Any], seen: Counter[str]) -> None:
    async with client.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                ended = [choice for choice in event["choices"] if choice["finish_reason"]]
                _count(seen, ended, event.get("usage"))


def _count(seen: Counter[str], choices: list[Any], usage: Any) -> None:
    """The server counts a request once for each of its ``n`` answers, by how it ended."""
    for choice in choices:
        seen[choice["finish_reason"]] += 1
    if usage:
        seen["generation tokens"] += usage["completion_tokens"]
        seen["prompt tokens"] += usage["prompt_tokens"]
