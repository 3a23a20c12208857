/* Scratch: what all threads share, then a part for each thread. */
static size_t carve_scratch(char *base, int threads, int thread, scratch_t *s) {
  carver_t shared = {base, 0}, own = {NULL, 0};
  carve_shared(&shared, s);
  carve_own(&own, s);
  size_t size = shared.used + own.used * threads;
  if (base) {
    own = (carver_t){base + shared.used + own.used * thread, 0};
    carve_own(&own, s);
  }
  return size;
}
