/* Context encoding: up to BUCKET tokens of one slot at successive positions.

   Tokens lie across the lanes. A panel is two vectors of tokens; activations are [panel][feature]
   [PANEL], so a weight is broadcast, sums run along features, and no feature count has a tail. */
#define PANEL (2 * LANES)
#define PANELS ((BUCKET + PANEL - 1) / PANEL)
#define GROUP (HEADS / KV_HEADS)
#define QKV_WIDTH ((HEADS + 2 * KV_HEADS) * HEAD_DIM)
#define CHUNK 96 /* weight rows packed at once; a multiple of every TILE */
#define KEYS 48  /* keys attended to at once; a multiple of every TILE */

/* Activations as a product reads them: float32, or pairs of successive features in bfloat16. */
#if BF16_DOT
typedef uint32_t panel_t;
#define DEPTH(k) (((k) + 1) / 2)
#else
typedef float panel_t;
#define DEPTH(k) (((k) + 1) / 2 * 2)
#endif

typedef struct {
  float *residual;   /* [PANELS][HIDDEN][PANEL] */
  panel_t *normed;   /* [PANELS][DEPTH(HIDDEN)][PANEL] */
  float *qkv;        /* [PANELS][QKV_WIDTH][PANEL] */
  panel_t *attended; /* [PANELS][DEPTH(HEADS * HEAD_DIM)][PANEL] */
  panel_t *gated;    /* [PANELS][DEPTH(INTERMEDIATE)][PANEL] */
  float *cosine, *sine; /* [PANELS][HEAD_DIM / 2][PANEL] */
  act_t *last;       /* [BUCKET][HIDDEN], normed for the head */
  /* Each thread's own. */
  panel_t *packed;   /* [CHUNK][PACKED_STRIDE] */
  float *gate, *up;  /* [PANELS][CHUNK][PANEL] */
  float *keys, *values; /* [KEYS][HEAD_DIM], and a tile's overhang */
  float *scores;     /* [KEYS][PANEL] */
  float *mixed;      /* [GROUP][HEAD_DIM][PANEL] */
  float *highest, *total; /* [GROUP][PANEL] */
  float *row;        /* [HIDDEN] */
} scratch_t;

static void carve_shared(carver_t *c, scratch_t *s) {
  size_t tokens = (size_t)PANELS * PANEL;
  s->residual = carve(c, tokens * HIDDEN, sizeof(float));
  s->normed = carve(c, tokens * DEPTH(HIDDEN), sizeof(panel_t));
  s->qkv = carve(c, tokens * QKV_WIDTH, sizeof(float));
  s->attended = carve(c, tokens * DEPTH(HEADS * HEAD_DIM), sizeof(panel_t));
  s->gated = carve(c, tokens * DEPTH(INTERMEDIATE), sizeof(panel_t));
  s->cosine = carve(c, tokens * (HEAD_DIM / 2), sizeof(float));
  s->sine = carve(c, tokens * (HEAD_DIM / 2), sizeof(float));
  s->last = carve(c, (size_t)BUCKET * HIDDEN, sizeof(act_t));
}

static void carve_own(carver_t *c, scratch_t *s) {
  size_t tokens = (size_t)PANELS * PANEL;
  s->packed = carve(c, (size_t)CHUNK * PACKED_STRIDE, sizeof(panel_t));
  s->gate = carve(c, tokens * CHUNK, sizeof(float));
  s->up = carve(c, tokens * CHUNK, sizeof(float));
  s->keys = carve(c, (size_t)KEYS * HEAD_DIM, sizeof(float));
  s->values = carve(c, (size_t)KEYS * HEAD_DIM + TILE, sizeof(float));
  s->scores = carve(c, (size_t)KEYS * PANEL, sizeof(float));
  s->mixed = carve(c, (size_t)GROUP * HEAD_DIM * PANEL, sizeof(float));
  s->highest = carve(c, (size_t)GROUP * PANEL, sizeof(float));
  s->total = carve(c, (size_t)GROUP * PANEL, sizeof(float));
  s->row = carve(c, HIDDEN, sizeof(float));
}

INLINE int panel_count(const call_t *c) { return ((int)c->rows + PANEL - 1) / PANEL; }

/* Vectors of panel p that hold tokens: 1 or 2. */
INLINE int panel_vectors(const call_t *c, int p) { return c->rows - p * PANEL > LANES ? 2 : 1; }

/* Lanes beyond the last token repeat it: they compute what nobody reads, from sound numbers. */
INLINE int lane_token(const call_t *c, int p, int lane) {
  return least(p * PANEL + lane, (int)c->rows - 1);
}

INLINE void put_features(panel_t *y, int k, int v, vf even, vf odd) {
#if BF16_DOT
  vu pair = vector_bf16(even) >> 16 | vector_bf16(odd);
  store((float *)(y + (size_t)(k / 2) * PANEL + v * LANES), (vf)pair);
#else
  store(y + (size_t)k * PANEL + v * LANES, even);
  store(y + (size_t)(k + 1) * PANEL + v * LANES, odd);
#endif
}

