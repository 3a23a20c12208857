"""Compile seconds per graph at 2, 8 and 24 layers: they must not grow with depth."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import median, row
from benchmarks.models import make_model

LAYERS = (2, 8, 24)
ROUNDS = 3


def run(work: Path) -> list[str]:
    import neuron_artifacts

    seconds: dict[int, list[float]] = {layers: [] for layers in LAYERS}
    for _ in range(ROUNDS):
        for layers in LAYERS:
            model = make_model(
                work / f"depth-{layers}", layers=layers, hidden=256, intermediate=688
            )
            outcome = neuron_artifacts.compile(
                model, store=work / "store", seq_len=256, force=True, jobs=1, torch_dtype="float32"
            )
            seconds[layers] += [graph.seconds for graph in outcome.manifest.graphs]
    base = median(seconds[LAYERS[0]])
    lines = [
        row("layers", "seconds a graph (median)", "against 2 layers"),
        row("---", "---", "---"),
    ]
    for layers in LAYERS:
        now = median(seconds[layers])
        lines.append(row(layers, f"{now:.2f}", f"{now / base:.2f}"))
    return lines
