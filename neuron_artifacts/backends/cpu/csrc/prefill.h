/* Rows from..to of a weight matrix, columns at..at+depth, as tile_product reads them. */
static void pack_weights(const weight_t *w, int from, int to, int width, int at, int depth,
                         panel_t *packed) {
  for (int n = from; n < from + (to - from + TILE - 1) / TILE * TILE; n++, packed += PACKED_STRIDE) {
    if (n >= to) {
      memset(packed, 0, PACKED_STRIDE * sizeof *packed);
      continue;
    }
    const weight_t *row = w + (size_t)n * width + at;
#if BF16_DOT
    memcpy(packed, row, depth * sizeof *row);
    if (depth % 2) ((uint16_t *)packed)[depth] = 0;
#else
    int k = 0;
    for (; k + LANES <= depth; k += LANES) store(packed + k, weight_load(row + k));
    for (; k < depth; k++) packed[k] = weight_float(row + k);
#endif
  }
}

/* y[p] += w x[p] for weight rows from..to; y[0] belongs to row `from`, panels lie y_stride apart.
   Blocked over columns, so that a panel's block stays in the first cache over all rows. */
static void multiply_panels(const call_t *c, scratch_t *s, const weight_t *w, int from, int to,
                            int width, const panel_t *x, float *y, size_t y_stride) {
  for (int at = 0; at < width; at += BLOCK) {
    int depth = least(BLOCK, width - at);
    pack_weights(w, from, to, width, at, depth, s->packed);
    for (int p = 0; p < panel_count(c); p++) {
      const panel_t *block = x + ((size_t)p * DEPTH(width) + DEPTH(at)) * PANEL;
      for (int n = 0; n < to - from; n += TILE)
        tile_product(panel_vectors(c, p), s->packed + (size_t)n * PACKED_STRIDE, block,
                     BF16_DOT ? DEPTH(depth) : depth, y + p * y_stride + (size_t)n * PANEL,
                     least(TILE, to - from - n));
    }
  }
}

enum { REPLACE, ADD };

static void start_rows(const call_t *c, int mode, const float *bias, int from, int to, float *y,
                       size_t y_stride) {
  if (mode == ADD && !bias) return;
  for (int p = 0; p < panel_count(c); p++)
    for (int n = from; n < to; n++) {
      float *row = y + p * y_stride + (size_t)(n - from) * PANEL;
      vf b = splat(bias ? bias[n] : 0.0f);
      for (int v = 0; v < 2; v++) store(row + v * LANES, mode == ADD ? load(row + v * LANES) + b : b);
    }
}

INLINE int panel_chunk(const team_t *t, int rows) {
  int step = rows / (t->threads == 1 ? 1 : 3 * t->threads) / (2 * TILE) * (2 * TILE);
  return most(2 * TILE, least(step, CHUNK));
}

/* As `project`, over panels; a part's y is its first row in the first panel. */
static void project_panels(const call_t *c, scratch_t *s, const part_t *parts, int count,
                           const panel_t *x, int width, size_t y_stride, int mode) {
  int total = 0, chunks = 0;
  for (int i = 0; i < count; i++) total += parts[i].n;
  int step = panel_chunk(c->team, total);
  for (int i = 0; i < count; i++) chunks += (parts[i].n + step - 1) / step;
  for (int chunk; (chunk = take(c->team, chunks)) >= 0;) {
    const part_t *part = parts;
    for (int own; chunk >= (own = (part->n + step - 1) / step); part++) chunk -= own;
    int from = chunk * step, to = least(from + step, part->n);
    float *y = part->y + (size_t)from * PANEL;
    start_rows(c, mode, part->bias, from, to, y, y_stride);
    multiply_panels(c, s, part->w, from, to, width, x, y, y_stride);
  }
}

/* gated = silu(gate) * up, a chunk of both matrices at a time. */
static void gate_panels(const call_t *c, scratch_t *s, const weight_t *gate, const float *gate_bias,
                        const weight_t *up, const float *up_bias) {
  int step = panel_chunk(c->team, INTERMEDIATE);
  size_t stride = (size_t)CHUNK * PANEL;
  for (int chunk; (chunk = take(c->team, (INTERMEDIATE + step - 1) / step)) >= 0;) {
    int from = chunk * step, to = least(from + step, INTERMEDIATE);
    start_rows(c, REPLACE, gate_bias, from, to, s->gate, stride);
    multiply_panels(c, s, gate, from, to, HIDDEN, s->normed, s->gate, stride);
    start_rows(c, REPLACE, up_bias, from, to, s->up, stride);
    multiply_panels(c, s, up, from, to, HIDDEN, s->normed, s->up, stride);
    for (int p = 0; p < panel_count(c); p++)
      for (int n = from; n < to; n += 2)
        for (int v = 0; v < panel_vectors(c, p); v++) {
          size_t at = p * stride + (size_t)(n - from) * PANEL + v * LANES;
          vf even = silu(load(s->gate + at)) * load(s->up + at), odd = splat(0.0f);
          if (n + 1 < to) odd = silu(load(s->gate + at + PANEL)) * load(s->up + at + PANEL);
          put_features(s->gated + (size_t)p * DEPTH(INTERMEDIATE) * PANEL, n, v, even, odd);
        }
  }
}

static void embed(const call_t *c, scratch_t *s) {
  for (int p; (p = take(c->team, panel_count(c))) >= 0;)
    for (int lane = 0; lane < PANEL; lane++) {
      int token = lane_token(c, p, lane);
      size_t position = (size_t)c->positions[0] + token;
      embed_row(c->weights[EMBEDDING], c->tokens[token], s->row);
      float *x = s->residual + (size_t)p * HIDDEN * PANEL + lane;
      for (int i = 0; i < HIDDEN; i++) x[(size_t)i * PANEL] = s->row[i];
      for (int i = 0; i < HEAD_DIM / 2; i++) {
        size_t at = ((size_t)p * (HEAD_DIM / 2) + i) * PANEL + lane;
        s->cosine[at] = c->cosine[position * (HEAD_DIM / 2) + i];
        s->sine[at] = c->sine[position * (HEAD_DIM / 2) + i];
      }
    }
}

/* 1 / rms of each lane over n features. */
INLINE vf inverse_rms(const float *x, int n) {
  vf squares = splat(0.0f);
  for (int i = 0; i < n; i++) {
    vf v = load(x + (size_t)i * PANEL);
    squares += v * v;
  }
  vf scale = squares / (float)n + EPSILON;
  for (int j = 0; j < LANES; j++) scale[j] = inverse_root(scale[j]);
  return scale;
}

static void normalise(const call_t *c, scratch_t *s, const float *w) {
  for (int p; (p = take(c->team, panel_count(c))) >= 0;)
    for (int v = 0; v < panel_vectors(c, p); v++) {
      const float *x = s->residual + (size_t)p * HIDDEN * PANEL + v * LANES;
      panel_t *y = s->normed + (size_t)p * DEPTH(HIDDEN) * PANEL;
      vf scale = inverse_rms(x, HIDDEN);
      for (int i = 0; i < HIDDEN; i += 2) {
        vf even = w[i] * (load(x + (size_t)i * PANEL) * scale), odd = splat(0.0f);
        if (i + 1 < HIDDEN) odd = w[i + 1] * (load(x + (size_t)(i + 1) * PANEL) * scale);
        put_features(y, i, v, even, odd);
      }
    }
}

/* Norm, rotation and scale of one head over one vector of tokens, in place. */
INLINE void prepare_head(float *x, const float *norm, const float *cosine, const float *sine,
                         float scale) {
  if (QK_NORM) {
    vf rms = inverse_rms(x, HEAD_DIM);
    for (int i = 0; i < HEAD_DIM; i++)
      store(x + i * PANEL, norm[i] * (load(x + i * PANEL) * rms));
  }
  for (int i = 0; i < HEAD_DIM / 2; i++) {
    float *low = x + i * PANEL, *high = low + HEAD_DIM / 2 * PANEL;
    vf a = load(low), b = load(high), cos = load(cosine + i * PANEL), sin = load(sine + i * PANEL);
    store(low, (a * cos - b * sin) * scale);
    store(high, (b * cos + a * sin) * scale);
  }
}

/* Heads of one group and panel: rotate, and write keys and values to the cache. */
static void prepare_group(const call_t *c, scratch_t *s, int layer, const float *q_norm,
                          const float *k_norm, int p, int head) {
  float *base = s->qkv + (size_t)p * QKV_WIDTH * PANEL;
  float *k = base + (size_t)(HEADS + head) * HEAD_DIM * PANEL;
  const float *v = k + (size_t)KV_HEADS * HEAD_DIM * PANEL;
  const float *cosine = s->cosine + (size_t)p * (HEAD_DIM / 2) * PANEL;
  const float *sine = s->sine + (size_t)p * (HEAD_DIM / 2) * PANEL;
  for (int at = 0; at < panel_vectors(c, p) * LANES; at += LANES) {
    for (int g = 0; g < GROUP; g++)
      prepare_head(base + (size_t)(head * GROUP + g) * HEAD_DIM * PANEL + at, q_norm, cosine + at,
                   sine + at, ATTENTION_SCALE);
    prepare_head(k + at, k_norm, cosine + at, sine + at, 1.0f);
  }
  size_t row = cache_row(c, layer, c->slots[0], head, c->positions[0] + p * PANEL);
  cache_t *keys = (cache_t *)c->keys + row, *values = (cache_t *)c->values + row;
  for (int lane = 0; lane < least(PANEL, (int)c->rows - p * PANEL); lane++)
    for (int i = 0; i < HEAD_DIM; i++) {
      keys[lane * HEAD_DIM + i] = float_cache(k[i * PANEL + lane]);
      values[lane * HEAD_DIM + i] = float_cache(v[i * PANEL + lane]);
    }
}

static void prepare(const call_t *c, scratch_t *s, int layer, const float *q_norm,
                    const float *k_norm) {
  for (int task; (task = take(c->team, panel_count(c) * KV_HEADS)) >= 0;)
    prepare_group(c, s, layer, q_norm, k_norm, task / KV_HEADS, task % KV_HEADS);
}

static void fetch_cache(const cache_t *from, int count, float *to) {
  int n = count * HEAD_DIM, i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, cache_load(from + i));
  for (; i < n; i++) to[i] = cache_float(from[i]);
}

/* Scores of `count` keys to weights, in place, under a running maximum and sum (the online softmax
   of https://arxiv.org/abs/2205.14135); returns the factor for what was mixed before. */
INLINE vf soften(float *scores, int count, int key, vi position, int window, int masked,
                 float *highest, float *total) {
  vf old = load(highest), top = old;
  for (int i = 0; i < count; i++) {
    vf v = load(scores + i * PANEL);
    if (masked) {
      vi at = (vi){} + (key + i);
      v = choose((at > position) | (at <= position - window), splat(-1e30f), v);
      store(scores + i * PANEL, v);
    }
    top = larger(top, v);
  }
  vf factor = exponential(old - top), sum = load(total) * factor;
  for (int i = 0; i < count; i++) {
    vf e = exponential(load(scores + i * PANEL) - top);
    store(scores + i * PANEL, e);
    sum += e;
  }
  store(highest, top);
  store(total, sum);
  return factor;
}

/* One head's queries of one panel against a block of keys and values. */
static void attend_block(const call_t *c, scratch_t *s, int p, int head, int g, int key, int count,
                         int window) {
  const float *q = s->qkv + ((size_t)p * QKV_WIDTH + (head * GROUP + g) * HEAD_DIM) * PANEL;
  float *mixed = s->mixed + (size_t)g * HEAD_DIM * PANEL;
  int vectors = panel_vectors(c, p), first = c->positions[0] + p * PANEL;
  int last = c->positions[0] + lane_token(c, p, PANEL - 1);
  int masked = key + count - 1 > first || key <= last - window;
  memset(s->scores, 0, (size_t)count * PANEL * sizeof(float));
  for (int i = 0; i < count; i += TILE)
    tile_scores(vectors, s->keys + i * HEAD_DIM, q, HEAD_DIM, s->scores + i * PANEL,
                least(TILE, count - i));
  for (int v = 0; v < vectors; v++) {
    vi position;
    for (int j = 0; j < LANES; j++)
      position[j] = c->positions[0] + lane_token(c, p, v * LANES + j);
    size_t at = (size_t)g * PANEL + v * LANES;
    vf factor = soften(s->scores + v * LANES, count, key, position, window, masked,
                       s->highest + at, s->total + at);
    for (int i = 0; i < HEAD_DIM; i++) {
      float *x = mixed + i * PANEL + v * LANES;
      store(x, load(x) * factor);
    }
  }
  for (int i = 0; i < HEAD_DIM; i += TILE)
    tile_mix(vectors, s->values + i, s->scores, count, mixed + i * PANEL, least(TILE, HEAD_DIM - i));
}

static void attend_group(const call_t *c, scratch_t *s, int layer, int p, int head) {
  int first = c->positions[0] + p * PANEL, window = WINDOW(layer);
  int end = c->positions[0] + lane_token(c, p, PANEL - 1) + 1;
  memset(s->mixed, 0, (size_t)GROUP * HEAD_DIM * PANEL * sizeof(float));
  memset(s->total, 0, (size_t)GROUP * PANEL * sizeof(float));
  for (int i = 0; i < GROUP * PANEL; i++) s->highest[i] = -1e30f;
  for (int key = most(0, first + 1 - window); key < end; key += KEYS) {
    int count = least(KEYS, end - key);
    size_t row = cache_row(c, layer, c->slots[0], head, key);
    fetch_cache((const cache_t *)c->keys + row, count, s->keys);
    fetch_cache((const cache_t *)c->values + row, count, s->values);
    for (int g = 0; g < GROUP; g++) attend_block(c, s, p, head, g, key, count, window);
  }
  panel_t *y = s->attended + (size_t)p * DEPTH(HEADS * HEAD_DIM) * PANEL;
  for (int g = 0; g < GROUP; g++)
    for (int v = 0; v < panel_vectors(c, p); v++) {
      vf inverse = 1.0f / load(s->total + (size_t)g * PANEL + v * LANES);
      const float *x = s->mixed + (size_t)g * HEAD_DIM * PANEL + v * LANES;
      for (int i = 0; i < HEAD_DIM; i += 2)
        put_features(y, (head * GROUP + g) * HEAD_DIM + i, v, load(x + i * PANEL) * inverse,
                     load(x + (i + 1) * PANEL) * inverse);
    }
}

static void attend(const call_t *c, scratch_t *s, int layer) {
  for (int task; (task = take(c->team, panel_count(c) * KV_HEADS)) >= 0;)
    attend_group(c, s, layer, task / KV_HEADS, task % KV_HEADS);
}

/* Rows for the head: the last logit_rows tokens, out of their lanes and normed. */
static void select_rows(const call_t *c, scratch_t *s, const float *w) {
  for (int r; (r = take(c->team, (int)c->logit_rows)) >= 0;) {
    int token = (int)(c->rows - c->logit_rows) + r;
    const float *x = s->residual + (size_t)(token / PANEL) * HIDDEN * PANEL + token % PANEL;
    for (int i = 0; i < HIDDEN; i++) s->row[i] = x[(size_t)i * PANEL];
    norm_row(s->row, w, s->last + (size_t)r * HIDDEN, HIDDEN);
  }
}
