/* Token generation: one token for each of up to ROWS slots. */
#define GROUP (HEADS / KV_HEADS)
#define QKV_WIDTH ((HEADS + 2 * KV_HEADS) * HEAD_DIM)
#define GATE_CHUNK 256
#define SCORES ((BUCKET + LANES - 1) / LANES * LANES)

typedef struct {
  float *qkv;       /* [ROWS][QKV_WIDTH] */
  act_t *attended;  /* [ROWS][HEADS * HEAD_DIM] */
  act_t *gated;     /* [ROWS][INTERMEDIATE] */
  float *update;    /* [ROWS][HIDDEN], to be added to the residual */
  /* Each thread's own: norms are cheaper computed by everybody than waited for. */
  float *residual;  /* [ROWS][HIDDEN] */
  act_t *normed;    /* [ROWS][HIDDEN] */
  float *gate, *up; /* [ROWS][GATE_CHUNK] */
  float *scores;    /* [GROUP][SCORES] */
} scratch_t;

static void carve_shared(carver_t *c, scratch_t *s) {
  s->qkv = carve(c, (size_t)ROWS * QKV_WIDTH, sizeof(float));
  s->attended = carve(c, (size_t)ROWS * HEADS * HEAD_DIM, sizeof(act_t));
  s->gated = carve(c, (size_t)ROWS * INTERMEDIATE, sizeof(act_t));
  s->update = carve(c, (size_t)ROWS * HIDDEN, sizeof(float));
}

static void carve_own(carver_t *c, scratch_t *s) {
  s->residual = carve(c, (size_t)ROWS * HIDDEN, sizeof(float));
  s->normed = carve(c, (size_t)ROWS * HIDDEN, sizeof(act_t));
  s->gate = carve(c, (size_t)ROWS * GATE_CHUNK, sizeof(float));
  s->up = carve(c, (size_t)ROWS * GATE_CHUNK, sizeof(float));
  s->scores = carve(c, (size_t)GROUP * SCORES, sizeof(float));
}

static void embed(const call_t *c, scratch_t *s) {
  for (int r = 0; r < c->rows; r++)
    embed_row(c->weights[EMBEDDING], c->tokens[r], s->residual + (size_t)r * HIDDEN);
}

static void normalise(const call_t *c, scratch_t *s, const float *weight) {
  for (int r = 0; r < c->rows; r++)
    norm_row(s->residual + (size_t)r * HIDDEN, weight, s->normed + (size_t)r * HIDDEN, HIDDEN);
}

static void add_update(const call_t *c, scratch_t *s) {
  int n = (int)c->rows * HIDDEN, i = 0;
  for (; i + LANES <= n; i += LANES) store(s->residual + i, load(s->residual + i) + load(s->update + i));
  for (; i < n; i++) s->residual[i] += s->update[i];
}

/* gated = silu(gate) * up, a chunk of both matrices at a time. */
static void gate_rows(const call_t *c, scratch_t *s, const weight_t *gate, const float *gate_bias,
                      const weight_t *up, const float *up_bias) {
  team_t *t = c->team;
  int step = least(chunk_rows(t, INTERMEDIATE, HIDDEN, ROWS), GATE_CHUNK);
  for (int chunk; (chunk = take(t, (INTERMEDIATE + step - 1) / step)) >= 0;) {
    int from = chunk * step, to = least(from + step, INTERMEDIATE);
    multiply_rows(gate, gate_bias, s->normed, s->gate, GATE_CHUNK, from, to, HIDDEN, c->rows);
    multiply_rows(up, up_bias, s->normed, s->up, GATE_CHUNK, from, to, HIDDEN, c->rows);
    for (int r = 0; r < c->rows; r++) {
      act_t *out = s->gated + (size_t)r * INTERMEDIATE + from;
      for (int i = 0; i < to - from; i += LANES) {
        vf v = silu(load(s->gate + r * GATE_CHUNK + i)) * load(s->up + r * GATE_CHUNK + i);
        if (i + LANES <= to - from)
          act_store(out + i, v);
        else
          for (int j = 0; i + j < to - from; j++) out[i + j] = float_act(v[j]);
      }
    }
  }
}

static void norm_head(float *x, const float *w) {
  float squares = 0.0f;
  for (int i = 0; i < HEAD_DIM; i++) squares += x[i] * x[i];
  float scale = inverse_root(squares / HEAD_DIM + EPSILON);
  for (int i = 0; i < HEAD_DIM; i++) x[i] = w[i] * (x[i] * scale);
}

static void rotate_head(float *x, const float *cosine, const float *sine) {
  for (int i = 0; i < HEAD_DIM / 2; i++) {
    float a = x[i], b = x[i + HEAD_DIM / 2];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + HEAD_DIM / 2] = b * cosine[i] + a * sine[i];
  }
}

INLINE float score(const float *q, const cache_t *k) {
  vf partial = splat(0.0f);
  float rest = 0.0f;
  int i = 0;
  for (; i + LANES <= HEAD_DIM; i += LANES) partial += load(q + i) * cache_load(k + i);
  for (; i < HEAD_DIM; i++) rest += q[i] * cache_float(k[i]);
  return (HEAD_DIM >= LANES ? sum(partial) : 0.0f) + rest;
}

/* Scores to weights, in place; returns what they must be divided by. */
static float soften(float *scores, int count) {
  vf top = splat(-1e30f), total = splat(0.0f);
  float highest = -1e30f;
  for (int i = count; i % LANES; i++) scores[i] = -1e30f;
  for (int i = 0; i < count; i += LANES) top = larger(top, load(scores + i));
  for (int j = 0; j < LANES; j++) highest = top[j] > highest ? top[j] : highest;
  for (int i = 0; i < count; i += LANES) {
    vf e = exponential(load(scores + i) - highest);
    total += e;
    store(scores + i, e);
  }
  return sum(total);
}

/* One row's queries that share a key/value head: nobody else reads or writes what this touches. */
static void attend_group(const call_t *c, scratch_t *s, int layer, const float *q_norm,
                         const float *k_norm, int row, int head) {
  int slot = c->slots[row], position = c->positions[row];
  float *q = s->qkv + (size_t)row * QKV_WIDTH + head * GROUP * HEAD_DIM;
  float *k = s->qkv + (size_t)row * QKV_WIDTH + (HEADS + head) * HEAD_DIM;
  float *v = k + KV_HEADS * HEAD_DIM;
  const float *cosine = c->cosine + (size_t)position * (HEAD_DIM / 2);
  const float *sine = c->sine + (size_t)position * (HEAD_DIM / 2);
  if (QK_NORM) {
    for (int g = 0; g < GROUP; g++) norm_head(q + g * HEAD_DIM, q_norm);
    norm_head(k, k_norm);
  }
  for (int g = 0; g < GROUP; g++) rotate_head(q + g * HEAD_DIM, cosine, sine);
  rotate_head(k, cosine, sine);
  cache_t *keys = (cache_t *)c->keys + cache_row(c, layer, slot, head, 0);
  cache_t *values = (cache_t *)c->values + cache_row(c, layer, slot, head, 0);
  for (int i = 0; i < HEAD_DIM; i++) {
    keys[(size_t)position * HEAD_DIM + i] = float_cache(k[i]);
    values[(size_t)position * HEAD_DIM + i] = float_cache(v[i]);
  }
  int first = most(0, position + 1 - WINDOW(layer)), count = position + 1 - first;
  keys += (size_t)first * HEAD_DIM;
  values += (size_t)first * HEAD_DIM;
  for (int i = 0; i < count; i++)
    for (int g = 0; g < GROUP; g++)
      s->scores[(size_t)g * SCORES + i] =
          score(q + g * HEAD_DIM, keys + (size_t)i * HEAD_DIM) * ATTENTION_SCALE;
  act_t *out = s->attended + ((size_t)row * HEADS + head * GROUP) * HEAD_DIM;
  for (int g = 0; g < GROUP; g++) {
    float *scores = s->scores + (size_t)g * SCORES;
    float divisor = soften(scores, count);
    mix_values(scores, count, values, divisor, out + g * HEAD_DIM);
  }
}

static void attend(const call_t *c, scratch_t *s, int layer, const float *q_norm,
                   const float *k_norm) {
  for (int task; (task = take(c->team, (int)c->rows * KV_HEADS)) >= 0;)
    attend_group(c, s, layer, q_norm, k_norm, task / KV_HEADS, task % KV_HEADS);
}
