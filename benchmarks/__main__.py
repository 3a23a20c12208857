"""``python -m benchmarks [SECTION…]``: print the tables of README.md, or some of them."""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path

from benchmarks.measure import describe_machine

SECTIONS = ("depth", "hit", "generation", "cache_lookup", "remote")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--work", type=Path, help="keep models and artifacts there")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in arguments.sections or SECTIONS:
            module = importlib.import_module(f"benchmarks.{name}")
            print(f"\n### {module.__doc__.splitlines()[0]}\n")
            for line in module.run(work):
                print(line, flush=True)


if __name__ == "__main__":
    main()
