"""The body of a graph: one call for each operation, and barriers where threads must meet."""

from __future__ import annotations

from collections.abc import Callable

from neuron_artifacts.backends.cpu.ir import (
    Attend,
    Embed,
    Gate,
    Graph,
    Matrix,
    Norm,
    Op,
    Project,
    Value,
)

BARRIER = "barrier(t);"
Writer = Callable[[Op, frozenset[str]], list[str]]


def run_function(graph: Graph) -> str:
    """``run(job, thread)``, which every thread of the team executes."""
    writer = _decode if graph.phase == "token_generation" else _prefill
    names = frozenset(graph.global_slots)

    def block(ops: tuple[Op, ...], indent: str) -> list[str]:
        return [indent + line for op in ops for line in writer(op, names)]

    return "\n".join(
        [
            "static void run(const void *job, int thread) {",
            "  const call_t *c = job;",
            "  team_t *t = c->team;",
            "  const void *const *g = c->weights;",
            "  scratch_t s;",
            "  carve_scratch(c->scratch, t->threads, thread, &s);",
            *block(graph.before, "  "),
            "  for (int layer = 0; layer < LAYERS; layer++) {",
            "    const void *const *w = g + GLOBALS + (size_t)layer * PER_LAYER;",
            *block(graph.layer, "    "),
            "  }",
            *block(graph.after, "  "),
            "}",
        ]
    )


def _decode(op: Op, names: frozenset[str]) -> list[str]:
    """The residual stream and norms are each thread's own, so they need no barrier."""
    if isinstance(op, Embed):
        return ["embed(c, &s);"]
    if isinstance(op, Norm):
        return [f"normalise(c, &s, {_pointer(op.weight, names)});"]
    if isinstance(op, Attend):
        return [f"attend(c, &s, layer, {_norms(op)});", BARRIER]
    if isinstance(op, Gate):
        return [f"gate_rows(c, &s, {_gate_arguments(op, names)});", BARRIER]
    if isinstance(op, Project):
        out = "s.update" if op.accumulate else _place(op.out)
        added = ["add_update(c, &s);"] if op.accumulate else []
        return [*_project_rows(op, out, "(int)c->rows", names), BARRIER, *added]
    raise TypeError(f"token generation has no {type(op).__name__}")


def _prefill(op: Op, names: frozenset[str]) -> list[str]:
    if isinstance(op, Embed):
        return ["embed(c, &s);", BARRIER]
    if isinstance(op, Norm):
        return [f"normalise(c, &s, {_pointer(op.weight, names)});", BARRIER]
    if isinstance(op, Attend):
        prepare = f"prepare(c, &s, layer, {_norms(op)});"
        return [prepare, BARRIER, "attend(c, &s, layer);", BARRIER]
    if isinstance(op, Gate):
        return [f"gate_panels(c, &s, {_gate_arguments(op, names)});", BARRIER]
    if isinstance(op, Project):
        if op.out.name == "logits":
            return [*_project_rows(op, "c->logits", "(int)c->logit_rows", names), BARRIER]
        return [*_project_panels(op, names), BARRIER]
    return [f"select_rows(c, &s, {_pointer(op.weight, names)});", BARRIER]


def _project_rows(op: Project, out: str, rows: str, names: frozenset[str]) -> list[str]:
    width = op.out.shape[1]
    return [
        f"project(t, (part_t[]){{{_parts(op, out, 1, names)}}}, {len(op.matrices)},",
        f"        {_place(op.source)}, {op.source.shape[1]}, {rows}, {width});",
    ]


def _project_panels(op: Project, names: frozenset[str]) -> list[str]:
    place, width = _place(op.out), op.out.shape[1]
    mode = "ADD" if op.accumulate else "REPLACE"
    return [
        f"project_panels(c, &s, (part_t[]){{{_parts(op, place, 'PANEL', names)}}},",
        f"               {len(op.matrices)}, {_place(op.source)}, {op.source.shape[1]},",
        f"               (size_t){width} * PANEL, {mode});",
    ]


def _parts(op: Project, out: str, feature: int | str, names: frozenset[str]) -> str:
    """Initialisers of ``part_t``; results lie side by side, ``feature`` cells for each row."""
    parts, offset = [], 0
    for matrix in op.matrices:
        weight, bias = _matrix(matrix, names)
        parts.append(f"{{{weight}, {bias}, {out} + {offset} * {feature}, {matrix.rows}}}")
        offset += matrix.rows
    return ", ".join(parts)


def _norms(op: Attend) -> str:
    return ", ".join(f"w[{slot}]" for slot in op.norms) if op.norms else "NULL, NULL"


def _gate_arguments(op: Gate, names: frozenset[str]) -> str:
    return ", ".join((*_matrix(op.gate, names), *_matrix(op.up, names)))


def _matrix(matrix: Matrix, names: frozenset[str]) -> tuple[str, str]:
    bias = _pointer(matrix.bias, names) if matrix.bias else "NULL"
    return _pointer(matrix.slot, names), bias


def _pointer(slot: str, names: frozenset[str]) -> str:
    return f"{'g' if slot in names else 'w'}[{slot}]"


def _place(value: Value) -> str:
    return "c->logits" if value.name == "logits" else f"s.{value.name}"
