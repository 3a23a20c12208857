"""The innermost loops, unrolled for a target: what a macro or a template would otherwise spell.

Written out rather than left to the optimiser, so that accumulators stay in registers and every
compiler sums in the same order.
"""

from __future__ import annotations

from neuron_artifacts.backends.cpu.targets import Target

CHAINS = 4
"""Independent sums of one dot product: enough to hide the latency of a multiply-add."""


def sum_kernel(lanes: int) -> str:
    """``sum(v)``: halves are folded onto each other until one lane holds all."""
    lines = []
    half = lanes // 2
    while half:
        order = ", ".join(str((i + half) % lanes) for i in range(lanes))
        lines.append(f"  v += SHUFFLE(v, {order});")
        half //= 2
    return "\n".join(["INLINE float sum(vf v) {", *lines, "  return v[0];", "}"])


def dot_kernels(target: Target, max_rows: int, bf16_dot: bool) -> str:
    """``dot_rows``: one weight row with any number of activation rows.

    ``max_rows`` bounds how many one pass serves. Each row's sum runs through the same chains in
    the same order however many rows share the pass: results do not depend on the company.
    """
    counts = [n for n in (4, 2, 1) if n <= min(max_rows, target.row_block)]
    body = _bf16_dot if bf16_dot else _plain_dot
    kernels = [body(count) for count in counts]
    steps = [
        f"  for (; r + {n} <= rows; r += {n})\n"
        f"    dot_{n}(w, x + (ptrdiff_t)r * depth, depth, y + r * stride, stride, bias);"
        for n in counts
    ]
    dispatch = (
        "INLINE void dot_rows(const weight_t *w, const act_t *x, int depth, int rows, float *y,\n"
        "                     ptrdiff_t stride, float bias) {\n  int r = 0;\n"
        + "\n".join(steps)
        + "\n}"
    )
    return "\n\n".join([*kernels, dispatch])


def _plain_dot(rows: int) -> str:
    lines = [_dot_head(rows), _declare(rows, "vf"), "  int k = 0;"]
    lines.append(f"  for (; k + {CHAINS} * LANES <= depth; k += {CHAINS} * LANES) {{")
    for chain in range(CHAINS):
        lines.append(f"    vf w{chain} = weight_load(w + k + {chain} * LANES);")
        for r in range(rows):
            at = f"x + (ptrdiff_t){r} * depth + k + {chain} * LANES"
            lines.append(f"    s{r}_{chain} += w{chain} * load({at});")
    lines += [
        "  }",
        "  for (; k + LANES <= depth; k += LANES) {",
        "    vf w0 = weight_load(w + k);",
    ]
    for r in range(rows):
        lines.append(f"    s{r}_0 += w0 * load(x + (ptrdiff_t){r} * depth + k);")
    lines += ["  }", *_fold(rows, "sum")]
    lines += ["  for (; k < depth; k++) {", "    float w0 = weight_float(w + k);"]
    lines += [f"    t{r} += w0 * x[(ptrdiff_t){r} * depth + k];" for r in range(rows)]
    return "\n".join([*lines, "  }", *_dot_tail(rows)])


def _bf16_dot(rows: int) -> str:
    """AVX512_BF16: pairs of bfloat16 products summed into each float32 lane."""
    lines = [_dot_head(rows), _declare(rows, "__m512"), "  int k = 0;"]
    lines.append(f"  for (; k + {CHAINS} * 32 <= depth; k += {CHAINS} * 32) {{")
    for chain in range(CHAINS):
        lines.append(f"    __m512bh w{chain} = (__m512bh)_mm512_loadu_si512(w + k + {chain} * 32);")
        for r in range(rows):
            at = f"x + (ptrdiff_t){r} * depth + k + {chain} * 32"
            value = f"(__m512bh)_mm512_loadu_si512({at})"
            lines.append(f"    s{r}_{chain} = _mm512_dpbf16_ps(s{r}_{chain}, w{chain}, {value});")
    lines += [
        "  }",
        "  for (; k < depth; k += 32) {",
        "    __mmask32 m = depth - k < 32 ? (1u << (depth - k)) - 1 : ~0u;",
        "    __m512bh w0 = (__m512bh)_mm512_maskz_loadu_epi16(m, w + k);",
    ]
    for r in range(rows):
        value = f"(__m512bh)_mm512_maskz_loadu_epi16(m, x + (ptrdiff_t){r} * depth + k)"
        lines.append(f"    s{r}_0 = _mm512_dpbf16_ps(s{r}_0, w0, {value});")
    return "\n".join([*lines, "  }", *_fold(rows, "sum"), *_dot_tail(rows)])


def _dot_head(rows: int) -> str:
    return (
        f"static void dot_{rows}(const weight_t *w, const act_t *x, int depth, float *y,\n"
        "                  ptrdiff_t stride, float bias) {"
    )


def _declare(rows: int, kind: str) -> str:
    names = (f"s{r}_{chain} = {{0}}" for r in range(rows) for chain in range(CHAINS))
    return f"  {kind} {', '.join(names)};"


def _fold(rows: int, fold: str) -> list[str]:
    return [
        f"  float t{r} = {fold}((vf)((s{r}_0 + s{r}_1) + (s{r}_2 + s{r}_3)));" for r in range(rows)
    ]


def _dot_tail(rows: int) -> list[str]:
    return [*(f"  y[{r} * stride] = t{r} + bias;" for r in range(rows)), "}"]


def tile_kernels(target: Target, head_dim: int, packed_stride: int, bf16_dot: bool) -> str:
    """The three products of context encoding, ``y[TILE][PANEL] += w[TILE][depth] x[depth][PANEL]``.

    They differ in where the next row and the next column of ``w`` lie: a packed block of weights,
    a block of keys, a block of values read by columns.
    """
    product = _Tile("product", packed_stride, 1, bf16_dot)
    scores = _Tile("scores", head_dim, 1)
    mix = _Tile("mix", 1, head_dim)
    return "\n\n".join(tile.emit(target.tile_rows) for tile in (product, scores, mix))


class _Tile:
    def __init__(self, name: str, row: int, column: int, pairs: bool = False) -> None:
        self.name, self.row, self.column, self.pairs = name, row, column, pairs
        self.cell = "panel_t" if name == "product" else "float"

    def emit(self, rows: int) -> str:
        dispatch = (
            f"INLINE void tile_{self.name}(int vectors, const {self.cell} *w, const {self.cell} *x,"
            " int depth,\n                  float *y, int valid) {\n"
            "  if (vectors == 2)\n"
            f"    tile_{self.name}_2(w, x, depth, y, valid);\n"
            "  else\n"
            f"    tile_{self.name}_1(w, x, depth, y, valid);\n"
            "}"
        )
        return "\n\n".join([self.kernel(rows, 2), self.kernel(rows, 1), dispatch])

    def kernel(self, rows: int, vectors: int) -> str:
        kind = "__m512" if self.pairs else "vf"
        sums = ", ".join(f"s{r}_{v} = {{0}}" for r in range(rows) for v in range(vectors))
        lines = [
            f"static void tile_{self.name}_{vectors}(const {self.cell} *w, const {self.cell} *x,"
            " int depth, float *y,\n                  int valid) {",
            f"  {kind} {sums};",
            f"  for (int k = 0; k < depth; k++, w += {self.column}, x += PANEL) {{",
            *(f"    {self._load(v)}" for v in range(vectors)),
        ]
        for r in range(rows):
            lines.append(f"    {self._broadcast(r)}")
            lines += [f"    {self._multiply(r, v)}" for v in range(vectors)]
        lines.append("  }")
        for r in range(rows):
            lines.append(f"  if ({r} < valid) {{")
            for v in range(vectors):
                at = f"y + {r} * PANEL + {v} * LANES"
                lines.append(f"    store({at}, load({at}) + (vf)s{r}_{v});")
            lines.append("  }")
        return "\n".join([*lines, "}"])

    def _load(self, v: int) -> str:
        if self.pairs:
            return f"__m512bh x{v} = (__m512bh)_mm512_loadu_si512(x + {v} * LANES);"
        return f"vf x{v} = load(x + {v} * LANES);"

    def _broadcast(self, r: int) -> str:
        cell = f"w[{r * self.row}]"
        if self.pairs:
            return f"__m512bh w{r} = (__m512bh)_mm512_set1_epi32((int){cell});"
        return f"vf w{r} = splat({cell});"

    def _multiply(self, r: int, v: int) -> str:
        if self.pairs:
            return f"s{r}_{v} = _mm512_dpbf16_ps(s{r}_{v}, w{r}, x{v});"
        return f"s{r}_{v} += w{r} * x{v};"
