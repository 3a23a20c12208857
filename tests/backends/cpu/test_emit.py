"""Lowering and emission: what a graph depends on, and what it must not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuron_artifacts.backends.cpu.arch import Arch, parse_arch
from neuron_artifacts.backends.cpu.emit import emit
from neuron_artifacts.backends.cpu.ir import Attend, Project, describe
from neuron_artifacts.backends.cpu.lower import lower
from neuron_artifacts.backends.cpu.targets import TARGET_NAMES, resolve_target

PHASES = ("context_encoding", "token_generation")


def arch(family: str = "Llama", **fields: Any) -> Arch:
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 101,
             "head_dim": 20}  # fmt: skip
    if family == "Qwen2":
        del sizes["head_dim"]
    return parse_arch({"architectures": [f"{family}ForCausalLM"], **sizes, **fields})


def source(model: Arch | None = None, phase: Any = "token_generation", **changes: Any) -> str:
    options: dict[str, Any] = {
        "bucket": 64, "batch_size": 2, "storage": "F32", "compute": "float32",
        "target": resolve_target("x86-64-v4-bf16"), **changes,
    }  # fmt: skip
    return emit(lower(model or arch(), phase, options.pop("bucket"), **options))


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("layers", {"num_hidden_layers": 4}, {}),
    ("intermediate", {"intermediate_size": 81}, {}),
    ("vocabulary", {"vocab_size": 102}, {}),
    ("head size", {"head_dim": 22}, {}),
    ("epsilon", {"rms_norm_eps": 1e-5}, {}),
    ("attention bias", {"attention_bias": True}, {}),
    ("mlp bias", {"mlp_bias": True}, {}),
    ("storage", {}, {"storage": "BF16"}),
    ("half storage", {}, {"storage": "F16"}),
    ("compute", {}, {"compute": "bfloat16", "storage": "BF16"}),
    ("bucket", {}, {"bucket": 65}),
    ("target", {}, {"target": resolve_target("x86-64-v3")}),
]


@pytest.mark.parametrize("phase", PHASES)
def test_every_change_gives_another_source(phase: str) -> None:
    sources = [source(arch(**fields), phase, **options) for _, fields, options in CHANGES]
    sources.append(source(phase=phase))
    assert len(set(sources)) == len(sources)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_position_embeddings": 1 << 20},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 5.0},
        {"tie_word_embeddings": True},
    ],
)
@pytest.mark.parametrize("phase", PHASES)
def test_what_a_run_brings_along_is_not_compiled_in(phase: str, fields: dict[str, Any]) -> None:
    assert source(arch(**fields), phase) == source(phase=phase)


def test_only_token_generation_knows_the_batch() -> None:
    assert source(batch_size=2) != source(batch_size=3)
    assert source(phase="context_encoding", batch_size=2) == source(
        phase="context_encoding", batch_size=3
    )


def test_windows_are_compiled_in_layer_by_layer() -> None:
    window = {"use_sliding_window": True, "sliding_window": 9}
    first = source(arch("Qwen2", **window, max_window_layers=1))
    assert "{2147483647, 9, 9}" in first
    assert first != source(arch("Qwen2", **window, max_window_layers=2))
    assert source(arch("Qwen2", **window, max_window_layers=3)) == source(arch("Qwen2"))


@pytest.mark.parametrize("target", TARGET_NAMES)
@pytest.mark.parametrize("phase", PHASES)
def test_sources_are_plain_and_self_contained(phase: str, target: str) -> None:
    text = source(phase=phase, target=resolve_target(target))
    assert text.isascii()
    includes = set(re.findall(r"#include (.*)", text))
    assert includes == {
        "<pthread.h>", "<stdatomic.h>", "<stddef.h>", "<stdint.h>", "<stdlib.h>",
        "<string.h>", "<immintrin.h>", "<arm_neon.h>",
    }  # fmt: skip
    assert "__FILE__" not in text
    assert "__DATE__" not in text


def test_length_does_not_grow_with_depth() -> None:
    shallow, deep = source(arch(num_hidden_layers=2)), source(arch(num_hidden_layers=64))
    assert len(deep) - len(shallow) < 10


def test_another_process_emits_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import hashlib; from tests.backends.cpu.test_emit import source; "
        "print(hashlib.sha256(source(phase='context_encoding').encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


def test_a_graph_describes_itself() -> None:
    graph = lower(
        arch("Qwen3"), "context_encoding", 32, batch_size=2, storage="BF16", compute="bfloat16",
        target=resolve_target("x86-64-v4-bf16"),
    )  # fmt: skip
    document = json.loads(json.dumps(describe(graph)))
    assert [op["op"] for op in document["layer"]] == [
        "norm", "project", "attend", "project", "norm", "gate", "project",
    ]  # fmt: skip
    project, attend = graph.layer[1], graph.layer[2]
    assert isinstance(project, Project)
    assert isinstance(attend, Attend)
    assert [(m.rows, m.columns) for m in project.matrices] == [(80, 48), (40, 48), (40, 48)]
    assert project.out.shape == attend.source.shape == (32, 160)
    assert attend.norms == ("Q_NORM", "K_NORM")
    assert (project.source.dtype, project.out.dtype) == ("bfloat16", "float32")


def test_activations_are_bfloat16_only_where_the_target_multiplies_them() -> None:
    for target, dtype in (("x86-64-v4", "float32"), ("x86-64-v4-bf16", "bfloat16")):
        graph = lower(
            arch(), "token_generation", 32, batch_size=1, storage="BF16", compute="bfloat16",
            target=resolve_target(target),
        )  # fmt: skip
        assert isinstance(graph.layer[1], Project)
        assert graph.layer[1].source.dtype == dtype
