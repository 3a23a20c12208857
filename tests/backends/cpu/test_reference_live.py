"""The cpu backend against transformers in the same process, on models nobody chose."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.backends.cpu.compiled import Shape, Workshop
from tests.backends.cpu.test_reference import (
    BFLOAT16_LARGEST,
    BFLOAT16_RMS,
    FLOAT32_TOLERANCE,
    rms,
)
from tests.reference.configs import Case

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.reference import generate

pytestmark = pytest.mark.reference

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
STORAGES = ("float32", "bfloat16", "float16")
DRAWS = len(FAMILIES) * len(STORAGES)
WEIGHTS_SEED = 7
WINDOWS = (2, 60)
"""Not 1: with a window of one token, transformers' cache keeps every key, against its own mask."""
PROMPT, CHUNK, LENGTH = 45, 29, 64


def draw_case(seed: int) -> Case:
    """A random member of the four families, in the spelling of transformers 5."""
    draw = random.Random(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    kv_heads = draw.randint(1, 3)
    heads = kv_heads * draw.randint(1, 3)
    head_dim = 2 * draw.randint(3, 17)
    layers = draw.randint(1, 4)
    config: dict[str, Any] = {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        # Qwen2 has no head_dim of its own.
        "hidden_size": heads * head_dim if family == "Qwen2" else heads * draw.randint(4, 16),
        "intermediate_size": draw.randint(20, 120),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": draw.randint(50, 300),
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": draw.choice([1e-6, 1e-5, 1e-3]),
        "rope_parameters": draw_rope(draw),
        "tie_word_embeddings": draw.random() < 0.5,
    }
    if family != "Qwen2":
        config["head_dim"] = head_dim
    if family in ("Llama", "Qwen3"):
        config["attention_bias"] = draw.random() < 0.5
    if family == "Llama":
        config["mlp_bias"] = draw.random() < 0.5
    if family == "Mistral":
        config["sliding_window"] = draw.choice([None, draw.randint(*WINDOWS)])
    if family.startswith("Qwen"):
        config["use_sliding_window"] = draw.random() < 0.7
        config["sliding_window"] = draw.randint(*WINDOWS)
        config["max_window_layers"] = draw.randint(0, layers)
    storage = STORAGES[seed % len(STORAGES)]
    return Case(f"draw-{seed}", config, storage, draw.choice([None, "20KB"]))


def draw_rope(draw: random.Random) -> dict[str, Any]:
    scaling: dict[str, Any] = {
        "rope_type": draw.choice(["default", "linear", "llama3", "yarn"]),
        "rope_theta": draw.choice([1e3, 1e4, 5e5, 1e6]),
    }
    if scaling["rope_type"] == "default":
        return scaling
    scaling["factor"] = draw.choice([2.0, 4.5, 8.0])
    if scaling["rope_type"] == "linear":
        return scaling
    scaling["original_max_position_embeddings"] = draw.choice([24, 32, 64])
    if scaling["rope_type"] == "llama3":
        return {**scaling, "low_freq_factor": 1.0, "high_freq_factor": draw.choice([2.0, 4.0])}
    if draw.random() < 0.5:
        scaling["attention_factor"] = draw.choice([0.9, 1.2])
    elif draw.random() < 0.5:
        scaling |= {"mscale": 1.3, "mscale_all_dim": 0.7}
    return scaling


@pytest.fixture(scope="module", params=range(DRAWS))
def case(request: pytest.FixtureRequest) -> Case:
    return draw_case(request.param)


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(case.name)
    generate.write_model(case, WEIGHTS_SEED, folder)
    return folder


def run(workshop: Workshop, folder: Path, compute: str, tokens: list[int]) -> np.ndarray:
    """Logits of every token: two chunks of prefill, then decode."""
    shape = Shape(compute=compute, context=(32,), token=(LENGTH,), batch_size=2, seq_len=LENGTH)
    with workshop.open(folder, shape) as runner:
        rows = [
            *runner.prefill(1, tokens[:CHUNK], 0, all_logits=True),
            *runner.prefill(1, tokens[CHUNK:PROMPT], CHUNK, all_logits=True),
        ]
        for position in range(PROMPT, LENGTH):
            rows.append(runner.decode([1], [tokens[position]], [position])[0])
    return np.stack(rows)


def test_logits_are_those_of_transformers(case: Case, folder: Path, workshop: Workshop) -> None:
    print(json.dumps(case.config), case.storage)
    prompt = generate.draw_prompts(case.config["vocab_size"], 1)[-1][:PROMPT]
    exact = generate.load(folder)
    continuation, margin = generate.greedy(exact, prompt, LENGTH - PROMPT)
    tokens = [*prompt, *continuation]
    expected = generate.logits_of(exact, tokens).numpy()

    logits = run(workshop, folder, "float32", tokens)

    np.testing.assert_allclose(logits, expected, rtol=0, atol=FLOAT32_TOLERANCE)
    if margin > 2 * FLOAT32_TOLERANCE:
        assert logits[PROMPT - 1 : -1].argmax(-1).tolist() == continuation

    coarse = generate.logits_of(generate.load(folder, "bfloat16"), tokens).float().numpy()
    error = run(workshop, folder, "bfloat16", tokens) - expected
    unit = coarse - expected
    print(rms(error) / rms(unit), np.abs(error).max() / np.abs(unit).max())
    assert rms(error) <= BFLOAT16_RMS * rms(unit)
    assert np.abs(error).max() <= BFLOAT16_LARGEST * np.abs(unit).max()
