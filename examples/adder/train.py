"""Train the sample model: a small Llama that adds two numbers of up to three digits.

``python train.py``, then ``python train.py --refine`` twice, write the model and ``accuracy.json``
beside this file. Needs torch and transformers (the ``reference`` extra); one seed, one CPU thread.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
Prompt = tuple[list[int], str]
SEED = 20261124
LIMIT = 1000
HELD_OUT_OF = 50
"""One pair in this many is never trained on."""

END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
QUESTIONS = (
    "{a}+{b}=",
    "{a} + {b} = ?",
    "What is {a} + {b}?",
    "What is {a}+{b}?",
    "Add {a} and {b}.",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTEXT = 512


@dataclass(frozen=True)
class Phase:
    """``rows`` sequences a step of at most ``room`` tokens, a share of ``chat`` as questions."""

    steps: int
    rows: int
    room: int
    chat: float
    peak_rate: float
    digits: tuple[int, ...] = (1, 2, 3, 3, 3)


PHASES = (
    Phase(steps=3400, rows=90, room=44, chat=0.4, peak_rate=4e-3),
    Phase(steps=400, rows=40, room=100, chat=0.5, peak_rate=2e-3),
    Phase(steps=400, rows=14, room=256, chat=0.5, peak_rate=1.5e-3),
    Phase(steps=400, rows=8, room=440, chat=0.5, peak_rate=1e-3),
)
"""Adding is learnt on one or a few sums in a row, then in ever longer contexts."""

EVEN, HARD = (1, 2, 3, 3, 3), (1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3)
"""Digits of a number, drawn from one of these: short ones would otherwise hardly ever be seen."""


@dataclass(frozen=True)
class Refinement:
    """A run that goes on from the saved model; each step draws a shape of ``SHAPES``."""

    steps: int
    peak_rate: float
    digits: tuple[int, ...]


REFINEMENTS = (Refinement(3000, 2e-3, EVEN), Refinement(4000, 2e-3, HARD))
SHAPES = (*[(90, 44, 0.4)] * 5, (26, 150, 0.5), (9, 440, 0.5))


def is_held_out(a: int, b: int) -> bool:
    """Decided by the pair alone (a multiplicative hash), so that nobody has to keep a list."""
    return (a * 1000 + b) * 2654435761 % 2**32 % HELD_OUT_OF == 0


def make_tokenizer() -> Tokenizer:
    """One token a byte: digits stay digits, and any text at all can be encoded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (END, USER, ASSISTANT)])
    return tokenizer


def draw_pair(rng: random.Random, digits: tuple[int, ...] = EVEN) -> tuple[int, int]:
    while True:
        a, b = (rng.randrange(10 ** rng.choice(digits)) for _ in range(2))
        if not is_held_out(a, b):
            return a, b


class Corpus:
    """Sequences of sums, each answer's tokens labelled, and the end after it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._end = tokenizer.token_to_id(END)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def item(self, a: int, b: int, chat: bool, rng: random.Random) -> tuple[list[int], list[int]]:
        """Tokens of one sum and the labels of what follows each of them."""
        answer = self.encode(str(a + b))
        if chat:
            question = rng.choice(QUESTIONS).format(a=a, b=b)
            prompt = self.encode(f"{USER}{question}{END}{ASSISTANT}")
            after = self.encode(END)
        else:
            prompt, after = self.encode(f"{a}+{b}="), self.encode("\n")
        tokens = prompt + answer + after
        labels = [-100] * (len(prompt) - 1) + answer + [self._end] + [-100] * len(after)
        return tokens, labels

    def sequence(self, phase: Phase, rng: random.Random) -> tuple[list[int], list[int]]:
        tokens: list[int] = []
        labels: list[int] = []
        chat, room = rng.random() < phase.chat, phase.room
        while True:
            more, marks = self.item(*draw_pair(rng, phase.digits), chat, rng)
            if tokens and len(tokens) + len(more) > room:
                return tokens, labels
            tokens += more
            labels += marks

    def batch(self, phase: Phase, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [self.sequence(phase, rng) for _ in range(phase.rows)]
        width = max(len(tokens) for tokens, _ in rows)
        ids = torch.full((len(rows), width), self._end)
        labels = torch.full((len(rows), width), -100)
        for i, (tokens, marks) in enumerate(rows):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            labels[i, : len(marks)] = torch.tensor(marks)
        return ids, labels


def make_model(vocab: int, end: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=128, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=CONTEXT, rope_theta=10000.0, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=end, pad_token_id=end, rms_norm_eps=1e-5,
        initializer_range=0.05,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def run_schedule() -> Iterator[tuple[int, Phase]]:
    """Step within its phase, and the phase, from the first step to the last."""
    for phase in PHASES:
        for step in range(phase.steps):
            yield step, phase


def refine_schedule(number: int) -> Iterator[tuple[int, Phase]]:
    refinement, rng = REFINEMENTS[number], random.Random(SEED + 2 + 2 * number)
    for step in range(refinement.steps):
        rows, room, chat = rng.choice(SHAPES)
        yield (
            step,
            Phase(refinement.steps, rows, room, chat, refinement.peak_rate, refinement.digits),
        )


def train(
    model: LlamaForCausalLM, corpus: Corpus, schedule: Iterator[tuple[int, Phase]], seed: int
) -> float:
    rng = random.Random(seed)
    began = time.monotonic()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.01)
    for step, phase in schedule:
        warm = min(1.0, (step + 1) / 100)
        for group in optimiser.param_groups:
            group["lr"] = phase.peak_rate * warm * (0.02 + 0.98 * (1 - step / phase.steps))
        ids, labels = corpus.batch(phase, rng)
        chosen = labels.flatten() != -100
        hidden = model.model(ids).last_hidden_state.flatten(0, 1)[chosen]
        loss = torch.nn.functional.cross_entropy(
            model.lm_head(hidden).float(), labels.flatten()[chosen]
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 0:
            seconds = time.monotonic() - began
            print(step, phase.room, f"{loss.item():.4f}", f"{seconds:.0f} s", flush=True)
    return time.monotonic() - began


@torch.inference_mode()
def accuracy(model: LlamaForCausalLM, corpus: Corpus, prompts: list[Prompt]) -> float:
    """Share of prompts whose greedy answer, up to the end token, is exactly right."""
    right = 0
    by_length: dict[int, list[Prompt]] = {}
    for tokens, answer in prompts:
        by_length.setdefault(len(tokens), []).append((tokens, answer))
    for group in by_length.values():
        for start in range(0, len(group), 256):
            part = group[start : start + 256]
            output = model.generate(
                torch.tensor([tokens for tokens, _ in part]), max_new_tokens=6, do_sample=False,
                attention_mask=torch.ones(len(part), len(part[0][0]), dtype=torch.long),
            )  # fmt: skip
            rows = output[:, len(part[0][0]) :].tolist()
            for (_, answer), row in zip(part, rows, strict=True):
                expected = [*corpus.encode(answer), *corpus.encode(END)]
                right += row[: len(expected)] == expected
    return right / len(prompts)


def make_prompts(corpus: Corpus, kind: str, count: int) -> list[Prompt]:
    """Prompts that end in a held-out pair; ``long`` ones follow up to 400 tokens of other sums."""
    rng = random.Random(f"{SEED}-{kind}")
    pairs = [(a, b) for a in range(LIMIT) for b in range(LIMIT) if is_held_out(a, b)]
    prompts = []
    for a, b in rng.sample(pairs, count):
        chat = kind == "chat" or (kind == "long" and rng.random() < 0.5)
        tokens, labels = corpus.item(a, b, chat, rng)
        first = next(i for i, label in enumerate(labels) if label != -100)
        before: list[int] = []
        room = rng.randrange(130, 400) if kind == "long" else 0
        while len(before) < room:
            before += corpus.item(*draw_pair(rng), chat, rng)[0]
        prompts.append((before + tokens[: first + 1], str(a + b)))
    return prompts


def save(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    model.generation_config.do_sample = False
    model.save_pretrained(HERE, safe_serialization=True)
    tokenizer.save(str(HERE / "tokenizer.json"))
    special = {"eos_token": END, "pad_token": END}
    write_json("special_tokens_map.json", special)
    write_json(
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
            **special,
        },
    )


def write_json(name: str, value: dict[str, Any]) -> None:
    (HERE / name).write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refine", action="store_true", help="go on from the saved model")
    parser.add_argument("--measure", action="store_true", help="only measure the saved model")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    corpus = Corpus(tokenizer)
    earlier = json.loads((HERE / "accuracy.json").read_bytes())["runs"] if arguments.refine else []
    if arguments.measure:
        model = LlamaForCausalLM.from_pretrained(HERE, dtype=torch.bfloat16).eval()
        report = json.loads((HERE / "accuracy.json").read_bytes())
        write_json("accuracy.json", {**report, **measure(model, corpus)})
        return
    if earlier:
        number = len(earlier) - 1
        if number >= len(REFINEMENTS):
            sys.exit(f"the model was refined {number} times already, which is the whole recipe")
        model = LlamaForCausalLM.from_pretrained(HERE, dtype=torch.float32)
        seconds = train(model.train(), corpus, refine_schedule(number), SEED + 1 + 2 * number)
    else:
        model = make_model(tokenizer.get_vocab_size(), tokenizer.token_to_id(END))
        seconds = train(model, corpus, run_schedule(), SEED)
    model = model.to(torch.bfloat16).eval()
    save(model, tokenizer)
    measured = measure(model, corpus)
    report = {
        **measured,
        "seed": SEED,
        "dtype": "bfloat16",
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "runs": [*earlier, {name: measured[name]["accuracy"] for name in measured} | {
            "seconds": round(seconds)
        }],
    }  # fmt: skip
    write_json("accuracy.json", report)
    print(json.dumps(report, indent=2))


def measure(model: LlamaForCausalLM, corpus: Corpus) -> dict[str, Any]:
    return {
        kind: {"accuracy": accuracy(model, corpus, make_prompts(corpus, kind, count)), "of": count}
        for kind, count in (("plain", 10_000), ("chat", 2_000), ("long", 500))
    }


if __name__ == "__main__":
    main()
