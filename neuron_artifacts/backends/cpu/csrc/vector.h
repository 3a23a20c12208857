/* Vectors of LANES floats, and the three ways a number is stored. */
typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));
/* The same at any address: safetensors promises no alignment. */
typedef vf vf_any __attribute__((aligned(1), may_alias));
typedef vh vh_any __attribute__((aligned(1), may_alias));
typedef float f32_any __attribute__((aligned(1), may_alias));
typedef uint16_t u16_any __attribute__((aligned(1), may_alias));
typedef uint32_t u32_any __attribute__((aligned(1), may_alias));

INLINE vf splat(float f) { return f - (vf){0}; }
INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf v) { *(vf_any *)p = v; }
INLINE vf choose(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
INLINE vf larger(vf a, vf b) { return choose(a > b, a, b); }

INLINE float bits_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

INLINE uint32_t float_bits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}

/* bfloat16: the upper half of a float32; rounded to nearest, ties to even. */
INLINE float bf16_float(uint16_t h) { return bits_float((uint32_t)h << 16); }
INLINE vf bf16_load(const void *p) {
  return (vf)(__builtin_convertvector(*(const vh_any *)p, vu) << 16);
}
INLINE uint16_t float_bf16(float f) {
  uint32_t bits = float_bits(f);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE vu vector_bf16(vf v) { /* in the upper halves */
  return ((vu)v + 0x7fff + ((vu)v >> 16 & 1)) & 0xffff0000u;
}
INLINE void bf16_store(void *p, vf v) {
  *(vh_any *)p = __builtin_convertvector(vector_bf16(v) >> 16, vh);
}

INLINE float f16_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
  if ((h & 0x7c00) == 0x7c00) return bits_float(sign | 0x7f800000u | rest);
  return bits_float(sign | float_bits(bits_float(rest) * 0x1p112f));
}
INLINE vf f16_load(const void *p) {
#if defined(__x86_64__) && LANES == 16
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(p));
#elif defined(__x86_64__) && LANES == 8
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128(p));
#elif defined(__x86_64__)
  return (vf)_mm_cvtph_ps(_mm_loadl_epi64(p));
#else
  return (vf)vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
#endif
}

/* e to the x, within 2e-7 of it, for x clamped to the range of normal float32 results. */
INLINE vf exponential(vf x) {
  const vf round = splat(0x1.8p23f);
  x = larger(x, splat(-87.0f));
  x = -larger(-x, splat(-88.0f));
  vf shifted = x * 0x1.715476p+0f + round;
  vf whole = shifted - round;
  vf r = x - whole * 0x1.62e4p-1f;
  r = r - whole * 0x1.7f7d1cp-20f;
  vf p = splat(0x1.a01a02p-13f);
  p = p * r + 0x1.6c16c2p-10f;
  p = p * r + 0x1.111112p-7f;
  p = p * r + 0x1.555556p-5f;
  p = p * r + 0x1.555556p-3f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * (vf)(((vi)shifted - (vi)round + 127) << 23);
}

INLINE vf silu(vf x) { return x / (1.0f + exponential(-x)); }
INLINE float inverse_root(float x) { return 1.0f / __builtin_sqrtf(x); }

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define SHUFFLE(v, ...) __builtin_shuffle(v, (vi){__VA_ARGS__})
#endif

/* Matrices as stored. */
#if STORAGE == 32
typedef f32_any weight_t;
INLINE vf weight_load(const weight_t *p) { return *(const vf_any *)p; }
INLINE float weight_float(const weight_t *p) { return *p; }
#elif STORAGE == 16
typedef u16_any weight_t;
INLINE vf weight_load(const weight_t *p) { return f16_load(p); }
INLINE float weight_float(const weight_t *p) { return f16_float(*p); }
#else
typedef u16_any weight_t;
INLINE vf weight_load(const weight_t *p) { return bf16_load(p); }
INLINE float weight_float(const weight_t *p) { return bf16_float(*p); }
#endif

/* Activations as a matrix product reads them. */
#if BF16_DOT
typedef uint16_t act_t;
INLINE void act_store(act_t *p, vf v) { bf16_store(p, v); }
INLINE act_t float_act(float f) { return float_bf16(f); }
#else
typedef float act_t;
INLINE void act_store(act_t *p, vf v) { store(p, v); }
INLINE act_t float_act(float f) { return f; }
#endif

/* Keys and values in the cache. */
#if CACHE == 32
typedef float cache_t;
INLINE vf cache_load(const cache_t *p) { return load(p); }
INLINE float cache_float(cache_t v) { return v; }
INLINE cache_t float_cache(float f) { return f; }
#else
typedef uint16_t cache_t;
INLINE vf cache_load(const cache_t *p) { return bf16_load(p); }
INLINE float cache_float(cache_t v) { return bf16_float(v); }
INLINE cache_t float_cache(float f) { return float_bf16(f); }
#endif

INLINE size_t cache_row(const call_t *c, int layer, int slot, int head, int position) {
  return ((((size_t)layer * c->slot_count + slot) * KV_HEADS + head) * c->seq_len + position) *
         HEAD_DIM;
}
