"""One cold process of transformers: ``python -m benchmarks.generate_peer MODEL DTYPE THREADS``."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM

from benchmarks.workload import PROMPT, report


def main() -> None:
    torch.set_num_threads(int(sys.argv[3]))
    model = AutoModelForCausalLM.from_pretrained(
        sys.argv[1], dtype=getattr(torch, sys.argv[2])
    ).eval()
    prompt = torch.tensor([PROMPT])

    def generate(count: int) -> list[int]:
        with torch.inference_mode():
            output = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count,
                min_new_tokens=count, do_sample=False, pad_token_id=0,
            )  # fmt: skip
        return list(output[0, len(PROMPT) :].tolist())

    report(generate)


if __name__ == "__main__":
    main()
