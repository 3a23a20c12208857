/* Products of a matrix with a few rows of activations: every weight is read once. What a row gets
   never depends on the others. */

#define ROW_SPAN 16   /* rows served per pass over a chunk of weights */
#define SPAN_BYTES (256 << 10)

/* Rows from..to of the matrix; y[0] is the result of row `from`. */
static void multiply_rows(const weight_t *w, const float *bias, const act_t *x, float *y,
                          ptrdiff_t stride, int from, int to, int depth, int rows) {
  for (int r = 0; r < rows; r += ROW_SPAN)
    multiply_span(w + (size_t)from * depth, bias ? bias + from : NULL, x + (size_t)r * depth,
                  y + r * stride, stride, to - from, depth, least(ROW_SPAN, rows - r));
}

/* Weight rows a thread takes at once: whole cache lines of results, several turns for each. */
static int chunk_rows(const team_t *t, int total, int depth, int rows) {
  int turns = t->threads == 1 ? 1 : 6 * t->threads;
  int chunk = total / turns / 16 * 16;
  if (rows > ROW_SPAN) chunk = least(chunk, SPAN_BYTES / (depth * (int)sizeof(weight_t)) / 16 * 16);
  return most(chunk, 16);
}

typedef struct {
  const weight_t *w;
  const float *bias;
  float *y;
  int n;
} part_t;

/* y[r] = w x[r] + bias for several matrices that read the same activations. */
static void project(team_t *t, const part_t *parts, int count, const act_t *x, int depth, int rows,
                    ptrdiff_t stride) {
  int total = 0, chunks = 0;
  for (int i = 0; i < count; i++) total += parts[i].n;
  int step = chunk_rows(t, total, depth, rows);
  for (int i = 0; i < count; i++) chunks += (parts[i].n + step - 1) / step;
  for (int chunk; (chunk = take(t, chunks)) >= 0;) {
    const part_t *part = parts;
    for (int own; chunk >= (own = (part->n + step - 1) / step); part++) chunk -= own;
    int from = chunk * step, to = least(from + step, part->n);
    multiply_rows(part->w, part->bias, x, part->y + from, stride, from, to, depth, rows);
  }
}

/* RMSNorm of one row: y = w * (x / rms(x)). */
static void norm_row(const float *x, const float *w, act_t *y, int n) {
  vf squares[2] = {splat(0.0f), splat(0.0f)};
  float rest = 0.0f;
  int i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES)
    for (int j = 0; j < 2; j++) {
      vf v = load(x + i + j * LANES);
      squares[j] += v * v;
    }
  for (; i < n; i++) rest += x[i] * x[i];
  float scale = inverse_root((sum(squares[0] + squares[1]) + rest) / n + EPSILON);
  for (i = 0; i + LANES <= n; i += LANES) act_store(y + i, load(w + i) * (load(x + i) * scale));
  for (; i < n; i++) y[i] = float_act(w[i] * (x[i] * scale));
}

static void embed_row(const weight_t *table, int32_t token, float *x) {
  const weight_t *row = table + (size_t)token * HIDDEN;
  int i = 0;
  for (; i + LANES <= HIDDEN; i += LANES) store(x + i, weight_load(row + i));
  for (; i < HIDDEN; i++) x[i] = weight_float(row + i);
}
