"""Write, or check, the golden models under ``tests/data/golden`` with transformers.

Run from the repository root in an environment with the ``reference`` extra::

    python -m tests.reference.generate                 # rewrite every golden, and the rope tables
    python -m tests.reference.generate llama-yarn      # rewrite some
    python -m tests.reference.generate --check         # recompute live and compare

A golden is a folder ``<case>/`` with the model as published checkpoints are laid out in
``model/``, ``golden.json`` (prompts, greedy continuations, versions) and ``golden.safetensors``
(logits of prompt ``i`` at ``positions[i]`` under ``<i>.float32`` and ``<i>.bfloat16``, both with
the continuation of the float32 run as their input).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.reference import rope
from tests.reference.configs import CASES, Case

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
PROMPT_LENGTHS = (1, 5, 37, 90)
NEW_TOKENS = 32
MIN_MARGIN = 0.004
"""Least gap between the two best logits of any greedy step: hundreds of times the rounding error
of float32 at these sizes, so a backend that is right chooses the same token whatever its order of
summation."""
MIN_DISTINCT = 8
"""Least number of distinct tokens in a continuation: a model that repeats itself would hide a
wrong cache line or position."""
FLOAT32_TOLERANCE = 2e-4
"""For ``--check`` and eager against sdpa: both are float32, in another order of summation."""


@dataclass(frozen=True)
class Answer:
    """What transformers makes of one prompt."""

    prompt: list[int]
    continuation: list[int]
    margin: float
    positions: list[int]
    float32: torch.Tensor
    bfloat16: torch.Tensor


# Drawing a model


def draw_weights(
    shapes: Mapping[str, Sequence[int]], *, tied: bool, seed: int
) -> dict[str, torch.Tensor]:
    """Random weights under which every part of the model matters, in float32.

    Matrices preserve the scale of a normalised input, attention scores spread by about 2, and
    logits by several units. Norm weights of a tied model take either sign, without which it would
    repeat its input.
    """
    random = np.random.default_rng(seed)
    weights = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        values = random.standard_normal(shape)
        if name.endswith("norm.weight"):
            values = 1 + 0.3 * values
            if tied and name == "model.norm.weight":
                values *= random.choice([-1.0, 1.0], shape)
        elif name.endswith("bias"):
            values *= 0.5
        elif name == "model.embed_tokens.weight":
            values *= 0.6
        elif name == "lm_head.weight":
            values *= 4 / shape[1] ** 0.5
        else:
            values *= 1.4 / shape[1] ** 0.5
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def write_model(case: Case, seed: int, folder: Path) -> None:
    """Lay ``case`` out as a checkpoint in ``folder``, with weights of ``case.storage``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(case.config), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config)
    tied = bool(config.tie_word_embeddings)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    model.load_state_dict(draw_weights(shapes, tied=tied, seed=seed), strict=False)
    model = model.to(getattr(torch, case.storage))
    model.save_pretrained(folder, max_shard_size=case.max_shard_size or "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    if case.rotary_buffers:
        _add_rotary_buffers(folder / "model.safetensors", config)


def _add_rotary_buffers(file: Path, config: Any) -> None:
    half = torch.arange(0, config.head_dim, 2) / config.head_dim
    tensors = load_file(file)
    for layer in range(config.num_hidden_layers):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = 1e4**-half
    save_file(tensors, file, metadata={"format": "pt"})


# Asking it


def load(
    folder: Path,
    compute: str = "float32",
    attention: str = "eager",
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """The model in ``folder`` as transformers loads it, with some of its configuration replaced."""
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "config.json"
        path.write_text(json.dumps({**fields, **(overrides or {})}), encoding="utf-8")
        config = transformers.AutoConfig.from_pretrained(path)
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=getattr(torch, compute), attn_implementation=attention
    ).eval()


@torch.inference_mode()
def logits_of(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Logits of every position of one sequence, ``(len(tokens), vocab)``."""
    return model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]


@torch.inference_mode()
def greedy(model: Any, prompt: Sequence[int], count: int) -> tuple[list[int], float]:
    """``count`` greedy tokens, through the cache, and the least margin between the two best."""
    tokens: list[int] = []
    margin = float("inf")
    step, cache = torch.tensor([list(prompt)]), None
    for _ in range(count):
        output = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
        step = best.indices[:1][None]
    return tokens, margin


def draw_prompts(vocab: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng([seed, vocab])
    return [random.integers(0, vocab, length).tolist() for length in PROMPT_LENGTHS]


def answer(folder: Path, prompts: Sequence[Sequence[int]]) -> list[Answer]:
    """Everything a golden says about the model in ``folder``."""
    exact, coarse = load(folder), load(folder, "bfloat16")
    answers = []
    for prompt in prompts:
        continuation, margin = greedy(exact, prompt, NEW_TOKENS)
        tokens = [*prompt, *continuation[:-1]]
        last = len(prompt) - 1
        positions = sorted({0, last // 2, last, last + NEW_TOKENS // 2, len(tokens) - 1})
        answers.append(
            Answer(
                prompt=list(prompt),
                continuation=continuation,
                margin=margin,
                positions=positions,
                float32=logits_of(exact, tokens)[positions],
                bfloat16=logits_of(coarse, tokens)[positions],
            )
        )
    return answers


# Judging it


def complaints(case: Case, folder: Path, answers: Sequence[Answer]) -> Iterator[str]:
    """Why these answers would make a poor golden; nothing if they make a good one."""
    margin = min(a.margin for a in answers)
    if margin < MIN_MARGIN:
        yield f"margin {margin:.4f}"
    for a in answers:
        if len(set(a.continuation)) < MIN_DISTINCT:
            yield f"{len(set(a.continuation))} distinct tokens after {len(a.prompt)}"
    if not same_answers(load(folder, attention="sdpa"), answers):
        yield "sdpa disagrees with eager"
    for overrides in case.without:
        if same_answers(load(folder, overrides=overrides), answers):
            yield f"nothing depends on {sorted(overrides)}"
    for kind in sorted(_vector_kinds(folder)):
        if same_answers(_neutralised(folder, kind), answers):
            yield f"nothing depends on {kind}"


def same_answers(model: Any, answers: Sequence[Answer]) -> bool:
    """Whether ``model`` chooses the same tokens, given the continuations as input."""
    return all(
        logits_of(model, [*a.prompt, *a.continuation[:-1]])[len(a.prompt) - 1 :].argmax(-1).tolist()
        == a.continuation
        for a in answers
    )


def _vector_kinds(folder: Path) -> set[str]:
    """The kinds of one-dimensional weights, such as ``self_attn.q_proj.bias``."""
    return {
        ".".join(name.split(".")[-3:])
        for name, value in load(folder).named_parameters()
        if value.dim() == 1
    }


def _neutralised(folder: Path, kind: str) -> Any:
    """The model with every weight of ``kind`` set to what makes it absent."""
    model = load(folder)
    for name, value in model.named_parameters():
        if name.endswith(kind):
            value.data.fill_(0.0 if kind.endswith("bias") else 1.0)
    return model


# Files


def write_golden(case: Case, seed: int, answers: Sequence[Answer], folder: Path) -> None:
    document = {
        "case": case.name,
        "seed": seed,
        "storage": case.storage,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "answers": [
            {
                "prompt": a.prompt,
                "continuation": a.continuation,
                "margin": round(a.margin, 6),
                "positions": a.positions,
            }
            for a in answers
        ],
    }
    (folder / "golden.json").write_text(dump_json(document) + "\n", encoding="utf-8")
    tensors = {}
    for index, a in enumerate(answers):
        tensors[f"{index}.float32"] = a.float32.contiguous()
        tensors[f"{index}.bfloat16"] = a.bfloat16.contiguous()
    save_file(tensors, folder / "golden.safetensors")


def dump_json(document: Mapping[str, Any]) -> str:
    """Indented JSON with each list of numbers on one line."""
    lists: list[str] = []

    def shelve(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shelve(item) for key, item in value.items()}
        if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
            lists.append(json.dumps(value))
            return f"@{len(lists) - 1}@"
        return [shelve(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(shelve(dict(document)), indent=1)
    for index, line in enumerate(lists):
        text = text.replace(f'"@{index}@"', line)
    return text


def make(case: Case, destination: Path, attempts: int = 200) -> str:
    """Write the golden of ``case`` with the first seed nobody complains about."""
    for seed in range(attempts):
        with tempfile.TemporaryDirectory(dir=destination, prefix=f".{case.name}-") as temporary:
            folder = Path(temporary) / "golden"
            write_model(case, seed, folder / "model")
            answers = answer(folder / "model", draw_prompts(case.config["vocab_size"], seed))
            complaint = next(complaints(case, folder / "model", answers), None)
            if complaint is None:
                write_golden(case, seed, answers, folder)
                _replace(folder, destination / case.name)
                margin = min(a.margin for a in answers)
                return f"{case.name}: seed {seed}, least margin {margin:.4f}"
            print(f"{case.name}: seed {seed} refused: {complaint}", file=sys.stderr)
    raise SystemExit(f"{case.name}: no seed below {attempts} makes a good golden")


def _replace(source: Path, destination: Path) -> None:
    if destination.exists():
        for path in sorted(destination.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        destination.rmdir()
    source.rename(destination)


def check(case: Case, golden: Path) -> Iterator[str]:
    """How the committed golden of ``case`` differs from what transformers says today."""
    document = json.loads((golden / "golden.json").read_text(encoding="utf-8"))
    config = json.loads((golden / "model" / "config.json").read_text(encoding="utf-8"))
    if config != case.config:
        yield "config.json is not the case's"
    stored = load_file(golden / "golden.safetensors")
    live = answer(golden / "model", [a["prompt"] for a in document["answers"]])
    for index, (then, now) in enumerate(zip(document["answers"], live, strict=True)):
        if then["continuation"] != now.continuation:
            yield f"prompt {index}: other greedy tokens"
            continue
        exact, coarse = stored[f"{index}.float32"], stored[f"{index}.bfloat16"].float()
        if (error := (exact - now.float32).abs().max()) > FLOAT32_TOLERANCE:
            yield f"prompt {index}: float32 logits differ by {error:.2e}"
        # Rounding to bfloat16 may fall otherwise on another CPU, within its own error.
        error = (coarse - now.bfloat16.float()).abs().max()
        if error > 2 * (coarse - exact).abs().max():
            yield f"prompt {index}: bfloat16 logits differ by {error:.2e}"
    yield from complaints(case, golden / "model", live)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("cases", nargs="*", help="names of cases; all unless given")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - {case.name for case in CASES}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    wanted = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    if not arguments.check:
        for case in wanted:
            print(make(case, GOLDEN), flush=True)
        if not arguments.cases:
            rope.write()
        return
    found = {case.name: list(check(case, GOLDEN / case.name)) for case in wanted}
    if not arguments.cases:
        found["rope"] = rope.check()
    for name, differences in found.items():
        print(f"{name}: {'; '.join(differences) or 'as committed'}")
    raise SystemExit(any(found.values()))


if __name__ == "__main__":
    main()
