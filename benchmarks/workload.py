"""What both sides generate: the same prompt, the same number of tokens, greedily."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import median, since_spawned

PROMPT = [(7 * i) % 31_000 + 3 for i in range(100)]
NEW_TOKENS = 24
ROUNDS = 3


def report(generate: Callable[[int], list[int]]) -> None:
    """Measure and print one line of JSON; ``generate(n)`` makes n tokens after the prompt."""
    generate(1)
    first = since_spawned()
    speeds = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        generate(1)
        middle = time.monotonic()
        tokens = generate(NEW_TOKENS)
        ended = time.monotonic()
        assert len(tokens) == NEW_TOKENS
        speeds.append((NEW_TOKENS - 1) / ((ended - middle) - (middle - began)))
    print(
        json.dumps(
            {
                "first_token_seconds": first,
                "decode_tokens_per_second": median(speeds),
                "peak_anonymous_mb": anonymous_megabytes(),
                "tokens": tokens,
            }
        )
    )


def anonymous_megabytes() -> float:
    """Memory that is this process's alone; mapped files are shared and not counted."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    return 0.0
