/* One compiled graph: a C11 program with GCC vector extensions and no dependency but libc. */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define ALIGN 64

struct team;

/* What the host passes for one run. Layout shared with runner.py; VERSION counts its changes. */
typedef struct {
  const void *const *weights;      /* GLOBALS pointers, then PER_LAYER for each layer */
  const float *cosine, *sine;      /* [seq_len][HEAD_DIM / 2] */
  void *keys, *values;             /* [LAYERS][slot_count][KV_HEADS][seq_len][HEAD_DIM] */
  float *logits;                   /* [logit_rows][VOCAB] */
  const int32_t *tokens, *slots, *positions;
  char *scratch;                   /* graph_scratch(threads) bytes, aligned to ALIGN */
  struct team *team;
  int64_t seq_len, slot_count, rows, logit_rows;
} call_t;

INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE int most(int a, int b) { return a > b ? a : b; }

/* Hands out parts of the scratch; with a null base it only measures. */
typedef struct {
  char *base;
  size_t used;
} carver_t;

static void *carve(carver_t *c, size_t count, size_t size) {
  size_t at = c->used;
  c->used += (count * size + ALIGN - 1) / ALIGN * ALIGN;
  return c->base ? c->base + at : NULL;
}
