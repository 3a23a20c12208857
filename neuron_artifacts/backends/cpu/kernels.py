"""The innermost loops, unrolled for a target: what a macro or a template would otherwise spell.

Written out rather than left to the optimiser, so that accumulators stay in registers and every
compiler sums in the same order.
"""

from __future__ import annotations

from neuron_artifacts.backends.cpu.targets import Target

CHAINS = 4
"""Independent sums of one dot product: enough to hide the latency of a multiply-add."""

CACHE_LINE = 64
MIXED = 8
"""Vectors of a head that attention sums at once in decode."""

PREFETCH_BYTES = 1024
"""How far ahead weights are asked for in decode."""


def sum_kernel(lanes: int) -> str:
    """``sum(v)``: halves are folded onto each other until one lane holds all."""
    lines = []
    half = lanes // 2
    while half:
        order = ", ".join(str((i + half) % lanes) for i in range(lanes))
        lines.append(f"  v += SHUFFLE(v, {order});")
        half //= 2
    return "\n".join(["INLINE float sum(vf v) {", *lines, "  return v[0];", "}"])


def dot_kernels(target: Target, max_rows: int, bf16_dot: bool, cell: int) -> str:
    """``multiply_span``: successive weight rows with a few activation rows.

    ``max_rows`` bounds the activation rows, ``cell`` is the size of a stored weight in bytes. As
    many sums run side by side as registers allow: one activation row walks several streams of
    weights at once, which keeps more of the memory busy, and many share one stream. Each sum runs
    through the same chains in the same order either way: a result does not depend on its company.
    """
    counts = [n for n in (4, 2, 1) if n <= min(max_rows, target.row_block)]
    kernel = _bf16_dot if bf16_dot else _plain_dot
    shapes = {(target.row_block // n, n) for n in counts} | {(1, n) for n in counts}
    kernels = [kernel(streams, rows, target.lanes, cell) for streams, rows in sorted(shapes)]
    return "\n\n".join([*kernels, _dot_rows(counts), _multiply_span(target.row_block, counts)])


def _dot_rows(counts: list[int]) -> str:
    lines = [
        "INLINE void dot_rows(const weight_t *w, const act_t *x, int depth, int rows, float *y,",
        "                     ptrdiff_t stride, float bias) {",
        "  int r = 0;",
    ]
    for n in counts:
        lines += [
            f"  for (; r + {n} <= rows; r += {n})",
            f"    dot_1x{n}(w, x + (ptrdiff_t)r * depth, depth, y + r * stride, 0, stride, &bias);",
        ]
    return "\n".join([*lines, "}"])


def _multiply_span(block: int, counts: list[int]) -> str:
    lines = [
        "/* y[r][i] for n weight rows; the streams start a part of the span apart. */",
        "INLINE void multiply_span(const weight_t *w, const float *bias, const act_t *x, float *y,",
        "                          ptrdiff_t stride, int n, int depth, int rows) {",
        "  int done = 0;",
    ]
    for rows in counts:
        streams = block // rows
        if streams > 1:
            biases = ", ".join(f"BIAS(i + {m} * gap)" for m in range(streams))
            lines += [
                f"  if (rows == {rows}) {{",
                f"    int gap = n / {streams};",
                "    for (int i = 0; i < gap; i++)",
                f"      dot_{streams}x{rows}(w + (size_t)i * depth, x, depth, y + i, gap, stride,",
                f"              (float[]){{{biases}}});",
                f"    done = {streams} * gap;",
                "  }",
            ]
    lines += [
        "  for (int i = done; i < n; i++)",
        "    dot_rows(w + (size_t)i * depth, x, depth, rows, y + i, stride, BIAS(i));",
    ]
    return "\n".join(["#define BIAS(i) (bias ? bias[i] : 0.0f)", *lines, "}"])


def _plain_dot(streams: int, rows: int, lanes: int, cell: int) -> str:
    lines = [*_dot_head(streams, rows, "vf"), *_step("CHAINS * LANES")]
    for chain in range(CHAINS):
        at = f"{chain} * LANES"
        for m in range(streams):
            lines += _prefetch(m, chain * lanes, cell)
            lines.append(f"    vf w{m}_{chain} = weight_load({_weight(m)} + {at});")
        for r in range(rows):
            lines.append(f"    vf x{r}_{chain} = load({_row(r)} + {at});")
            lines += [
                f"    s{m}{r}_{chain} += w{m}_{chain} * x{r}_{chain};" for m in range(streams)
            ]
    lines += ["  }", *_step("LANES")]
    for m in range(streams):
        lines.append(f"    vf w{m}_0 = weight_load({_weight(m)});")
        lines += [f"    s{m}{r}_0 += w{m}_0 * load({_row(r)});" for r in range(rows)]
    lines += ["  }", *_fold(streams, rows), "  for (; k < depth; k++) {"]
    for m in range(streams):
        lines.append(f"    float w{m}_0 = weight_float({_weight(m)});")
        # Fused by name: compilers fuse a plain sum in one of these kernels and not in the next.
        lines += [
            f"    t{m}{r} = __builtin_fmaf(w{m}_0, *({_row(r)}), t{m}{r});" for r in range(rows)
        ]
    return "\n".join([*lines, "  }", *_dot_tail(streams, rows)])


def _bf16_dot(streams: int, rows: int, lanes: int, cell: int) -> str:
    """AVX512_BF16: pairs of bfloat16 products summed into each float32 lane."""
    lines = [*_dot_head(streams, rows, "__m512"), *_step("CHAINS * 32")]
    full, masked = "(__m512bh)_mm512_loadu_si512", "(__m512bh)_mm512_maskz_loadu_epi16"
    for chain in range(CHAINS):
        at = f"{chain} * 32"
        for m in range(streams):
            lines += _prefetch(m, chain * 2 * lanes, cell)
            lines.append(f"    __m512bh w{m}_{chain} = {full}({_weight(m)} + {at});")
        for r in range(rows):
            lines.append(f"    __m512bh x{r}_{chain} = {full}({_row(r)} + {at});")
            lines += [f"    {_dpbf16(m, r, chain)}" for m in range(streams)]
    lines += [
        "  }",
        "  for (; k < depth; k += 32) {",
        "    __mmask32 tail = depth - k < 32 ? (1u << (depth - k)) - 1 : ~0u;",
    ]
    for m in range(streams):
        lines.append(f"    __m512bh w{m}_0 = {masked}(tail, {_weight(m)});")
    for r in range(rows):
        lines.append(f"    __m512bh x{r}_0 = {masked}(tail, {_row(r)});")
        lines += [f"    {_dpbf16(m, r, 0)}" for m in range(streams)]
    return "\n".join([*lines, "  }", *_fold(streams, rows), *_dot_tail(streams, rows)])


def _dpbf16(m: int, r: int, chain: int) -> str:
    total = f"s{m}{r}_{chain}"
    return f"{total} = _mm512_dpbf16_ps({total}, w{m}_{chain}, x{r}_{chain});"


def _prefetch(stream: int, at: int, cell: int) -> list[str]:
    """Ask for a cache line ahead: the processor's own prefetcher stops at the end of a page."""
    if at * cell % CACHE_LINE:
        return []
    return [f"    __builtin_prefetch({_weight(stream)} + {at + PREFETCH_BYTES // cell});"]


def _weight(stream: int) -> str:
    return "w + k" if stream == 0 else f"w{stream} + k"


def _row(r: int) -> str:
    return f"x + (ptrdiff_t){r} * depth + k"


def _step(size: str) -> list[str]:
    size = size.replace("CHAINS", str(CHAINS))
    return [f"  for (; k + {size} <= depth; k += {size}) {{"]


def _dot_head(streams: int, rows: int, kind: str) -> list[str]:
    sums = (
        f"s{m}{r}_{chain} = {{0}}"
        for m in range(streams)
        for r in range(rows)
        for chain in range(CHAINS)
    )
    return [
        f"static void dot_{streams}x{rows}(const weight_t *w, const act_t *x, int depth, float *y,",
        "                    int gap, ptrdiff_t stride, const float *bias) {",
        *(f"  const weight_t *w{m} = w + (size_t)gap * {m} * depth;" for m in range(1, streams)),
        f"  {kind} {', '.join(sums)};",
        "  int k = 0;",
    ]


def _fold(streams: int, rows: int) -> list[str]:
    names = [f"{m}{r}" for m in range(streams) for r in range(rows)]
    return [f"  float t{n} = sum((vf)((s{n}_0 + s{n}_1) + (s{n}_2 + s{n}_3)));" for n in names]


def _dot_tail(streams: int, rows: int) -> list[str]:
    stores = [
        f"  y[{m} * gap + {r} * stride] = t{m}{r} + bias[{m}];"
        for m in range(streams)
        for r in range(rows)
    ]
    return [*stores, "}"]


def mix_kernel(head_dim: int, lanes: int) -> str:
    """``mix_values``: one head's values, weighted and summed over positions.

    Several vectors of the head run side by side, or each sum would wait for itself.
    """
    lines = [
        "static void mix_values(const float *weights, int count, const cache_t *values,",
        "                       float divisor, act_t *out) {",
    ]
    full = head_dim // lanes * lanes
    for start in range(0, full, MIXED * lanes):
        offsets = range(start, min(start + MIXED * lanes, full), lanes)
        lines += [
            "  {",
            f"    vf {', '.join(f'm{at} = {{0}}' for at in offsets)};",
            "    for (int i = 0; i < count; i++) {",
            "      const cache_t *v = values + (size_t)i * HEAD_DIM;",
            "      vf w = splat(weights[i]);",
            *(f"      m{at} += w * cache_load(v + {at});" for at in offsets),
            "    }",
            *(f"    act_store(out + {at}, m{at} / divisor);" for at in offsets),
            "  }",
        ]
    lines += [
        f"  for (int d = {full}; d < HEAD_DIM; d++) {{",
        "    float mixed = 0.0f;",
        "    for (int i = 0; i < count; i++)",
        "      mixed += weights[i] * cache_float(values[(size_t)i * HEAD_DIM + d]);",
        "    out[d] = float_act(mixed / divisor);",
        "  }",
        "}",
    ]
    return "\n".join(lines)


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
