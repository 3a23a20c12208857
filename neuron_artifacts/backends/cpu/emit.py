"""From a graph description to one self-contained C file.

Only numbers and names of our own reach the text; nothing of a model's files does. The same graph
gives the same bytes.
"""

from __future__ import annotations

import struct
from functools import cache
from importlib import resources

from neuron_artifacts.backends.cpu.abi import STORAGE_CODES, cache_bits, signature
from neuron_artifacts.backends.cpu.ir import Attend, Graph
from neuron_artifacts.backends.cpu.kernels import dot_kernels, mix_kernel, sum_kernel, tile_kernels
from neuron_artifacts.backends.cpu.schedule import run_function

BLOCK_CELLS = 256
"""Depth of a block of context encoding in cells of 4 bytes: 32 KB of cache for 32 tokens."""

PACKED_STRIDE = BLOCK_CELLS + 16
"""Cells from one packed row to the next; the odd rest keeps rows of a tile in different sets."""

NO_WINDOW = 0x7FFFFFFF


def emit(graph: Graph) -> str:
    """C11 source of a graph, complete but for the standard headers."""
    bf16_dot = _bf16_dot(graph)
    parts = [
        _constants(graph),
        _text("prelude.h"),
        _text("team.h"),
        _text("vector.h"),
        sum_kernel(graph.target.lanes),
        dot_kernels(graph.target, graph.rows, bf16_dot, 4 if graph.storage == "F32" else 2),
        _text("rows.h"),
        _windows(graph),
    ]
    if graph.phase == "token_generation":
        parts += [mix_kernel(graph.arch.head_dim, graph.target.lanes), _text("decode.h")]
    else:
        tiles = tile_kernels(graph.target, graph.arch.head_dim, PACKED_STRIDE, bf16_dot)
        parts += [_text("panels.h"), tiles, _text("prefill.h")]
    parts += [_text("frame.h"), run_function(graph), _exports(graph)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


@cache
def _text(name: str) -> str:
    return (resources.files(__package__) / "csrc" / name).read_text(encoding="utf-8")


def _bf16_dot(graph: Graph) -> bool:
    return graph.compute == "bfloat16" and graph.target.bf16_dot


def _constants(graph: Graph) -> str:
    arch, bf16_dot = graph.arch, _bf16_dot(graph)
    numbers: dict[str, int | str] = {
        "BUCKET": graph.bucket,
        "ROWS": graph.rows,
        "LAYERS": arch.num_layers,
        "HIDDEN": arch.hidden_size,
        "INTERMEDIATE": arch.intermediate_size,
        "HEADS": arch.num_heads,
        "KV_HEADS": arch.num_kv_heads,
        "HEAD_DIM": arch.head_dim,
        "VOCAB": arch.vocab_size,
        "EPSILON": _literal(arch.rms_norm_eps),
        "ATTENTION_SCALE": _literal(float(arch.head_dim) ** -0.5),
        "QK_NORM": int(arch.qk_norm),
        "STORAGE": STORAGE_CODES[graph.storage],
        "CACHE": cache_bits(graph.compute),
        "BF16_DOT": int(bf16_dot),
        "LANES": graph.target.lanes,
        "TILE": graph.target.tile_rows,
        "BLOCK": BLOCK_CELLS * (2 if bf16_dot else 1),
        "PACKED_STRIDE": PACKED_STRIDE,
        "GLOBALS": len(graph.global_slots),
        "PER_LAYER": len(graph.layer_slots),
    }
    lines = [f"#define {name} {value}" for name, value in numbers.items()]
    for slots in (graph.global_slots, graph.layer_slots):
        lines.append(f"enum {{ {', '.join(slots)} }};")
    return "\n".join(lines)


def _literal(value: float) -> str:
    """The nearest float32, as a hexadecimal literal every compiler reads alike."""
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return f"{rounded.hex()}f"


def _windows(graph: Graph) -> str:
    windows = next(op.windows for op in graph.layer if isinstance(op, Attend))
    if windows is None:
        return f"#define WINDOW(layer) {NO_WINDOW}"
    lengths = ", ".join(str(window or NO_WINDOW) for window in windows)
    return (
        f"static const int32_t windows[LAYERS] = {{{lengths}}};\n"
        "#define WINDOW(layer) windows[layer]"
    )


def _exports(graph: Graph) -> str:
    numbers = signature(
        graph.arch, graph.phase, graph.bucket, graph.rows, graph.storage, graph.compute
    )
    return "\n".join(
        [
            f"EXPORT const int64_t graph_signature[] = {{{', '.join(map(str, numbers))}}};",
            f'EXPORT const char graph_target[] = "{graph.target.name}";',
            "EXPORT int64_t graph_scratch(int threads) {",
            "  scratch_t s;",
            "  return (int64_t)carve_scratch(NULL, threads, 0, &s);",
            "}",
            "EXPORT void graph_run(const call_t *c) { run_together(c->team, run, c); }",
        ]
    )
