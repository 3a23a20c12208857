"""A ``compile`` that hits, against a Typer program that does nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import median, row, timed

ROUNDS = 15
BARE = "import typer\napp = typer.Typer()\n@app.command()\ndef main(): pass\napp()\n"


def run(work: Path) -> list[str]:
    model = Path(__file__).parent.parent / "examples" / "adder"
    ours = [sys.executable, "-m", "neuron_artifacts", "compile", str(model), "--store", str(work)]
    bare_file = work / "bare.py"
    bare_file.write_text(BARE)
    bare = [sys.executable, str(bare_file)]
    timed(ours)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(ROUNDS):
        times["ours"].append(timed(ours))
        times["bare"].append(timed(bare))
    hit, floor = median(times["ours"]), median(times["bare"])
    return [
        row("", "ms (median)", "against bare Typer"),
        row("---", "---", "---"),
        row("bare Typer program", f"{1000 * floor:.0f}", "1.00"),
        row("`compile` that hits", f"{1000 * hit:.0f}", f"{hit / floor:.2f}"),
    ]
