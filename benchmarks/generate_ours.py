"""One cold process of ours: ``python -m benchmarks.generate_ours ARTIFACT THREADS``."""

from __future__ import annotations

import sys

import neuron_artifacts
from benchmarks.workload import PROMPT, report


def main() -> None:
    llm = neuron_artifacts.load(sys.argv[1], threads=int(sys.argv[2]))

    def generate(count: int) -> list[int]:
        params = neuron_artifacts.SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        return list(llm.generate([PROMPT], params)[0].outputs[0].token_ids)

    report(generate)
    llm.close()


if __name__ == "__main__":
    main()
