"""The runner: what it refuses, what it never lets interfere, and what it leaves behind."""

from __future__ import annotations

import os
import platform
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from neuron_artifacts.backends.cpu import targets
from neuron_artifacts.backends.cpu.arch import Arch, parse_arch
from neuron_artifacts.backends.cpu.compiler import compile_graph, find_compiler
from neuron_artifacts.backends.cpu.convert import convert_file
from neuron_artifacts.backends.cpu.emit import emit
from neuron_artifacts.backends.cpu.lower import lower
from neuron_artifacts.backends.cpu.runner import CpuRunner
from neuron_artifacts.backends.cpu.targets import Target, resolve_target
from neuron_artifacts.backends.cpu.weights import required_tensors
from neuron_artifacts.errors import (
    ContextLengthError,
    CorruptError,
    IncompatibleError,
    IncompleteError,
    ModelFormatError,
    NeuronArtifactsError,
    RequestError,
    ResourceError,
)

BATCH, SEQ_LEN, VOCAB = 6, 96, 211
CONTEXT, TOKEN = (8, 64), (32, 80)
NATIVE = resolve_target("native")
Names = tuple[tuple[str, int], ...]
LARGEST: Names = (("context_encoding", CONTEXT[-1]), ("token_generation", TOKEN[-1]))
ALL: Names = (*LARGEST, ("context_encoding", CONTEXT[0]), ("token_generation", TOKEN[0]))
PROMPT = [(7 * i + 3) % VOCAB for i in range(50)]


def make_arch(family: str, **fields: Any) -> Arch:
    """Sizes that no vector width divides."""
    sizes = {"hidden_size": 78, "intermediate_size": 131, "num_hidden_layers": 3,
             "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": VOCAB,
             "head_dim": 26}  # fmt: skip
    return parse_arch({"architectures": [f"{family}ForCausalLM"], **sizes, **fields})


ARCHS = {
    "llama": make_arch("Llama", attention_bias=True, mlp_bias=True),
    "mistral": make_arch("Mistral", sliding_window=19),
    "qwen3": make_arch("Qwen3", tie_word_embeddings=True),
}


class Bench:
    """Graphs and weights of an architecture, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def weights(self, arch: Arch, storage: str) -> Path:
        path = self.folder / f"{arch.family}-{storage}.safetensors"
        if not path.exists():
            draw = np.random.default_rng(1)
            tensors = {
                name: draw.standard_normal(shape, dtype=np.float32) * np.float32(0.3)
                for name, shape in required_tensors(arch).items()
            }
            save_file(tensors, path.with_suffix(".f32"))
            convert_file(path.with_suffix(".f32"), path, storage)  # type: ignore[arg-type]
        return path

    def graphs(
        self, arch: Arch, storage: Any, compute: Any, target: Target, names: Names = ALL
    ) -> dict[tuple[str, int], Path]:
        compiler = find_compiler(target, dict(os.environ), self.folder)
        graphs: dict[tuple[str, int], Path] = {}
        for phase, bucket in names:
            label = f"{arch.family}-{storage}-{compute}-{target.name}-{target.lanes}"
            path = self.folder / f"{label}-{phase}-{bucket}.so"
            if not path.exists():
                graph = lower(
                    arch, phase, bucket, batch_size=BATCH, storage=storage, compute=compute,
                    target=target,
                )  # type: ignore[arg-type]  # fmt: skip
                compile_graph(compiler, target, emit(graph), path)
            graphs[phase, bucket] = path
        return graphs

    def open(
        self,
        arch: Arch,
        *,
        storage: str = "F32",
        compute: Any = "float32",
        target: Target = NATIVE,
        threads: int | None = 1,
        names: Names = ALL,
        **changes: Any,
    ) -> CpuRunner:
        options: dict[str, Any] = {
            "graphs": changes.get("graphs") or self.graphs(arch, storage, compute, target, names),
            "weights": [self.weights(arch, storage)],
            "arch": arch, "batch_size": BATCH, "seq_len": SEQ_LEN, "max_context_length": SEQ_LEN,
            "compute": compute, "threads": threads, **changes,
        }  # fmt: skip
        return CpuRunner.open(**options)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def runner(bench: Bench) -> Iterator[CpuRunner]:
    runner = bench.open(ARCHS["llama"])
    yield runner
    runner.close()


KINDS = [("F32", "float32"), ("BF16", "float32"), ("F16", "float32"), ("BF16", "bfloat16")]


@pytest.mark.parametrize(("storage", "compute"), KINDS)
@pytest.mark.parametrize("family", ARCHS)
def test_a_row_is_the_same_in_any_company_and_on_any_number_of_threads(
    bench: Bench, family: str, storage: str, compute: str
) -> None:
    """To the last bit: every number of rows, in several orders, against each row alone."""
    results = []
    for threads in (1, 3):
        runner = bench.open(
            ARCHS[family], storage=storage, compute=compute, threads=threads, names=LARGEST
        )
        logits = [runner.prefill(slot, PROMPT[: 9 * slot + 1], 0) for slot in range(BATCH)]
        positions = [9 * slot + 1 for slot in range(BATCH)]
        alone = [runner.decode([s], [s + 5], [positions[s]])[0] for s in range(BATCH)]
        for count in range(1, BATCH + 1):
            slots = [(2 * count + 5 * i) % BATCH for i in range(BATCH)][:count]
            rows = runner.decode(slots, [s + 5 for s in slots], [positions[s] for s in slots])
            for slot, row in zip(slots, rows, strict=True):
                assert np.array_equal(row, alone[slot])
        results.append(np.stack(logits + alone))
        runner.close()
    assert np.array_equal(results[0], results[1])
    assert np.isfinite(results[0]).all()


def narrow(lanes: int) -> Target:
    """This machine's instructions with shorter vectors: the kernels other targets would get."""
    return replace(resolve_target("x86-64-v3"), lanes=lanes, tile_rows=8, row_block=4)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="narrows x86 vectors")
@pytest.mark.parametrize(
    ("family", "storage"),
    [*((family, "F32") for family in ARCHS), ("llama", "BF16"), ("llama", "F16")],
)
def test_every_vector_width_computes_the_same_function(
    bench: Bench, family: str, storage: str
) -> None:
    def answer(target: Target) -> np.ndarray:
        runner = bench.open(ARCHS[family], storage=storage, target=target, names=LARGEST)
        rows = [*runner.prefill(2, PROMPT[:40], 0, all_logits=True)]
        rows += [*runner.prefill(2, PROMPT[40:], 40, all_logits=True)]
        rows += [runner.decode([2], [i], [50 + i])[0] for i in range(25)]
        runner.close()
        return np.stack(rows)

    expected = answer(NATIVE)
    assert expected.std() > 0.5
    for target in (narrow(4), resolve_target("x86-64-v3")):
        np.testing.assert_allclose(answer(target), expected, rtol=0, atol=2e-4)


def test_decoding_continues_what_prefill_began(runner: CpuRunner) -> None:
    whole = runner.prefill(0, PROMPT, 0, all_logits=True)
    runner.prefill(1, PROMPT[:30], 0)
    for position in range(30, 50):
        row = runner.decode([1], [PROMPT[position]], [position])[0]
        np.testing.assert_allclose(row, whole[position], rtol=0, atol=1e-4)


def test_the_array_is_the_callers(runner: CpuRunner) -> None:
    first = runner.prefill(0, PROMPT, 0)
    kept = first.copy()
    runner.decode([0], [1], [50])
    assert np.array_equal(first, kept)
    first[:] = 0


def test_slots_do_not_touch_each_other(runner: CpuRunner) -> None:
    runner.prefill(3, PROMPT, 0)
    before = runner.decode([3], [9], [50])
    for slot in (0, 1, 2, 4, 5):
        runner.prefill(slot, PROMPT[::-1], SEQ_LEN - 50)
        runner.decode([slot], [4], [79])
    assert np.array_equal(runner.decode([3], [9], [50]), before)


def test_warm_up_leaves_no_trace(runner: CpuRunner) -> None:
    runner.prefill(0, PROMPT, 0)
    before = runner.decode([0], [9], [50])
    runner.warm_up()
    assert np.array_equal(runner.decode([0], [9], [50]), before)


BAD_PREFILLS: list[tuple[tuple[Any, ...], type[Exception]]] = [
    ((-1, [1], 0), RequestError),
    ((BATCH, [1], 0), RequestError),
    ((0, [VOCAB], 0), RequestError),
    ((0, [3, -1], 0), RequestError),
    ((0, [2**40], 0), RequestError),
    ((0, [], 0), ContextLengthError),
    ((0, [1] * 65, 0), ContextLengthError),
    ((0, [1], -1), ContextLengthError),
    ((0, [1, 2], SEQ_LEN - 1), ContextLengthError),
]


@pytest.mark.parametrize(("arguments", "error"), BAD_PREFILLS, ids=str)
def test_a_bad_prefill_never_reaches_memory(
    runner: CpuRunner, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        runner.prefill(*arguments)


@pytest.mark.parametrize(
    ("slots", "tokens", "positions"),
    [
        ([], [], []),
        ([0, 0], [1, 1], [1, 1]),
        ([0], [1, 2], [1]),
        ([0], [1], []),
        ([0, BATCH], [1, 1], [1, 1]),
        ([-1], [1], [1]),
        ([0], [VOCAB], [1]),
        ([0], [1], [-1]),
        ([0], [1], [80]),
        ([0], [1], [2**33]),
        (list(range(BATCH + 1)), [1] * (BATCH + 1), [1] * (BATCH + 1)),
    ],
)
def test_a_bad_decode_never_reaches_memory(
    runner: CpuRunner, slots: list[int], tokens: list[int], positions: list[int]
) -> None:
    with pytest.raises(RequestError):
        runner.decode(slots, tokens, positions)


def test_it_says_what_it_is(runner: CpuRunner) -> None:
    assert (runner.batch_size, runner.seq_len, runner.vocab_size) == (BATCH, SEQ_LEN, VOCAB)
    assert runner.context_encoding_buckets == CONTEXT
    assert runner.token_generation_buckets == TOKEN


def count_threads() -> int:
    return len([*Path("/proc/self/task").iterdir()])


def test_threads_end_with_the_runner(bench: Bench) -> None:
    before = count_threads()
    runner = bench.open(ARCHS["llama"], threads=4)
    assert count_threads() == before + 3
    runner.close()
    runner.close()
    assert count_threads() == before


def test_small_models_get_one_thread(bench: Bench) -> None:
    runner = bench.open(ARCHS["llama"], threads=None)
    assert runner.threads == 1
    runner.close()


def test_two_runners_may_run_at_once(bench: Bench) -> None:
    """Nothing in a graph is shared between runners of the same file."""
    expected = bench.open(ARCHS["llama"])
    answer = expected.prefill(0, PROMPT, 0, all_logits=True)
    expected.close()
    wrong: list[int] = []

    def work(index: int) -> None:
        runner = bench.open(ARCHS["llama"], threads=2)
        for _ in range(20):
            if not np.array_equal(runner.prefill(index, PROMPT, 0, all_logits=True), answer):
                wrong.append(index)
        runner.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def opening_fails(
    bench: Bench, error: type[NeuronArtifactsError], match: str, **changes: Any
) -> None:
    tasks = count_threads()
    with pytest.raises(error, match=match):
        bench.open(ARCHS["llama"], **changes)
    assert count_threads() == tasks


def changed(bench: Bench, **paths: Path) -> Mapping[tuple[str, int], Path]:
    graphs = bench.graphs(ARCHS["llama"], "F32", "float32", NATIVE)
    return {**graphs, **{(phase, CONTEXT[0]): path for phase, path in paths.items()}}


def test_a_graph_of_another_model_is_refused(bench: Bench) -> None:
    other = bench.graphs(ARCHS["mistral"], "F32", "float32", NATIVE)
    opening_fails(bench, IncompatibleError, "another graph", graphs=other)
    opening_fails(bench, IncompatibleError, "another graph", seq_len=SEQ_LEN, batch_size=BATCH + 1)
    opening_fails(bench, IncompatibleError, "another graph",
                  weights=[bench.weights(ARCHS["llama"], "BF16")])  # fmt: skip


def test_files_that_are_no_graphs_are_refused(bench: Bench, tmp_path: Path) -> None:
    """A library cut short must not reach the loader, which would end the process."""
    graph = bench.graphs(ARCHS["llama"], "F32", "float32", NATIVE)["context_encoding", CONTEXT[0]]
    data = graph.read_bytes()
    graphs = changed(bench, context_encoding=tmp_path / "graph.so")
    opening_fails(bench, CorruptError, "cannot be read", graphs=graphs)
    for content in (b"", b"hello", bytes(200), data[:40], data[:100], data[:5000], data[:-1]):
        (tmp_path / "graph.so").write_bytes(content)
        opening_fails(bench, CorruptError, "cut short|no shared object", graphs=graphs)


def test_a_graph_for_another_processor_is_refused(bench: Bench, tmp_path: Path) -> None:
    graph = bench.graphs(ARCHS["llama"], "F32", "float32", NATIVE)["context_encoding", CONTEXT[0]]
    data = bytearray(graph.read_bytes())
    data[18:20] = (243).to_bytes(2, "little")  # RISC-V
    (tmp_path / "graph.so").write_bytes(data)
    graphs = changed(bench, context_encoding=tmp_path / "graph.so")
    opening_fails(bench, IncompatibleError, "ELF machine 243", graphs=graphs)


@pytest.mark.parametrize("text", ["int x;", 'const char graph_target[32] = "vax";'])
def test_a_library_that_is_no_graph_is_refused(bench: Bench, tmp_path: Path, text: str) -> None:
    compiler = find_compiler(NATIVE, dict(os.environ), bench.folder)
    text = f'__attribute__((visibility("default"))) {text}\n'
    compile_graph(compiler, NATIVE, text, tmp_path / "graph.so")
    graphs = changed(bench, context_encoding=tmp_path / "graph.so")
    opening_fails(bench, CorruptError, "names no target", graphs=graphs)


def test_a_graph_this_cpu_cannot_run_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.graphs(ARCHS["llama"], "F32", "float32", NATIVE)
    machine, flags = targets.read_cpu()
    monkeypatch.setattr(targets, "read_cpu", lambda: (machine, flags - {"fma", "asimd"}))
    opening_fails(bench, IncompatibleError, "this CPU lacks (fma|asimd)")


def test_a_phase_without_a_graph_is_refused(bench: Bench) -> None:
    graphs = bench.graphs(ARCHS["llama"], "F32", "float32", NATIVE)
    left = {key: path for key, path in graphs.items() if key[0] != "token_generation"}
    opening_fails(bench, IncompleteError, "token_generation", graphs=left)
    opening_fails(bench, IncompatibleError, "phase", graphs={("x", 8): next(iter(left.values()))})


def test_weights_that_do_not_fit_are_refused(bench: Bench, tmp_path: Path) -> None:
    opening_fails(bench, ModelFormatError, "weights lack", weights=[])
    shutil.copy(bench.weights(ARCHS["llama"], "F32"), tmp_path / "cut")
    os.truncate(tmp_path / "cut", 3000)
    opening_fails(bench, ModelFormatError, "cut", weights=[tmp_path / "cut"])


def test_memory_that_cannot_be_had_is_refused(bench: Bench) -> None:
    opening_fails(bench, ResourceError, "key/value cache", seq_len=1 << 50)
