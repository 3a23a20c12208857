"""Cold start to first token, and decode speed, against transformers on the same random model."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.measure import median, row, run_child
from benchmarks.models import make_model

ROUNDS = 3
DTYPES = {"float32": "F32", "bfloat16": "BF16"}


def run(work: Path) -> list[str]:
    import neuron_artifacts

    lines = [
        row("", "threads", "ours", "transformers", "ratio"),
        row("---", "---", "---", "---", "---"),
    ]
    for dtype, stored in DTYPES.items():
        model = make_model(work / f"llama-500m-{stored.lower()}", layers=24, dtype=stored)
        outcome = neuron_artifacts.compile(
            model, store=work / "store", seq_len=256, torch_dtype=dtype, batch_size=1
        )
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            lines += _compare(str(outcome.path), str(model), dtype, threads)
    return lines


def _compare(artifact: str, model: str, dtype: str, threads: int) -> list[str]:
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(run_child("benchmarks.generate_ours", artifact, str(threads), threads=threads))
        theirs.append(
            run_child("benchmarks.generate_peer", model, dtype, str(threads), threads=threads)
        )

    def both(name: str) -> tuple[float, float]:
        return median([r[name] for r in ours]), median([r[name] for r in theirs])

    first, peer_first = both("first_token_seconds")
    speed, peer_speed = both("decode_tokens_per_second")
    memory, peer_memory = both("peak_anonymous_mb")
    return [
        row(f"{dtype}: cold start to first token, s", threads, f"{first:.2f}", f"{peer_first:.2f}",
            f"{peer_first / first:.1f} times sooner"),
        row(f"{dtype}: decode, tokens/s", threads, f"{speed:.1f}", f"{peer_speed:.1f}",
            f"{speed / peer_speed:.1f} times faster"),
        row(f"{dtype}: private memory, MB", threads, f"{memory:.0f}", f"{peer_memory:.0f}",
            f"{peer_memory / memory:.1f} times less"),
    ]  # fmt: skip
