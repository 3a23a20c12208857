/* A few threads that run one function together. Between runs they sleep. */
#define MOST_SPINS 4096 /* before a thread sleeps: some tens of microseconds */
#define LEAST_SPINS 128

typedef struct team {
  _Alignas(ALIGN) atomic_int next;     /* the next chunk of the current phase */
  _Alignas(ALIGN) atomic_int arrived;
  _Alignas(ALIGN) atomic_uint epoch;   /* barriers passed */
  _Alignas(ALIGN) atomic_uint started; /* runs begun */
  _Alignas(ALIGN) atomic_int sleepers; /* threads asleep at a barrier */
  _Alignas(ALIGN) atomic_int patience; /* turns to spin before sleeping */
  int threads, stop;
  void (*work)(const void *, int);
  const void *job;
  pthread_mutex_t lock;
  pthread_cond_t wake, passed;
  pthread_t ids[];
} team_t;

typedef struct {
  team_t *team;
  int index;
} member_t;

INLINE void relax(void) {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Whether `value` left `old` while we spun. Patience that paid is doubled, that did not is halved:
   where threads must share a core, spinning only keeps the others from it. */
INLINE int spin_until_changed(team_t *t, atomic_uint *value, unsigned old) {
  int patience = atomic_load_explicit(&t->patience, memory_order_relaxed);
  for (int spin = 0; spin < patience; spin++) {
    if (atomic_load_explicit(value, memory_order_acquire) != old) {
      if (patience < MOST_SPINS)
        atomic_store_explicit(&t->patience, 2 * patience, memory_order_relaxed);
      return 1;
    }
    relax();
  }
  if (patience > LEAST_SPINS)
    atomic_store_explicit(&t->patience, patience / 2, memory_order_relaxed);
  return 0;
}

/* A core that others need is better given away: the thread we wait for may be after it. */
static void sleep_until_passed(team_t *t, unsigned epoch) {
  pthread_mutex_lock(&t->lock);
  atomic_fetch_add(&t->sleepers, 1);
  while (atomic_load(&t->epoch) == epoch) pthread_cond_wait(&t->passed, &t->lock);
  atomic_fetch_sub(&t->sleepers, 1);
  pthread_mutex_unlock(&t->lock);
}

/* Waits for all threads; afterwards chunks count from 0 again. */
static void barrier(team_t *t) {
  unsigned epoch = atomic_load_explicit(&t->epoch, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) < t->threads - 1) {
    if (!spin_until_changed(t, &t->epoch, epoch)) sleep_until_passed(t, epoch);
    return;
  }
  atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
  atomic_store_explicit(&t->next, 0, memory_order_relaxed);
  atomic_store(&t->epoch, epoch + 1);
  if (atomic_load(&t->sleepers)) {
    pthread_mutex_lock(&t->lock);
    pthread_cond_broadcast(&t->passed);
    pthread_mutex_unlock(&t->lock);
  }
}

/* The next chunk of this phase, or -1. Whoever is free takes it, so a thread that lost its core
   delays nobody by more than one chunk; what a chunk computes depends on its number alone. */
INLINE int take(team_t *t, int chunks) {
  int chunk = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
  return chunk < chunks ? chunk : -1;
}

static void *member_main(void *argument) {
  member_t member = *(member_t *)argument;
  team_t *t = member.team;
  free(argument);
  for (unsigned seen = 0;;) {
    spin_until_changed(t, &t->started, seen);
    pthread_mutex_lock(&t->lock);
    while (atomic_load_explicit(&t->started, memory_order_relaxed) == seen)
      pthread_cond_wait(&t->wake, &t->lock);
    seen = atomic_load_explicit(&t->started, memory_order_relaxed);
    int stop = t->stop;
    pthread_mutex_unlock(&t->lock);
    if (stop) return NULL;
    t->work(t->job, member.index);
  }
}

static void start(team_t *t, void (*work)(const void *, int), const void *job, int stop) {
  pthread_mutex_lock(&t->lock);
  t->work = work;
  t->job = job;
  t->stop = stop;
  atomic_fetch_add_explicit(&t->started, 1, memory_order_release);
  pthread_cond_broadcast(&t->wake);
  pthread_mutex_unlock(&t->lock);
}

/* Runs `work` on every thread, the caller's among them; `work` ends with a barrier. */
static void run_together(team_t *t, void (*work)(const void *, int), const void *job) {
  if (t->threads > 1) start(t, work, job, 0);
  work(job, 0);
}

EXPORT void team_close(team_t *t) {
  start(t, NULL, NULL, 1);
  for (int i = 1; i < t->threads; i++) pthread_join(t->ids[i], NULL);
  pthread_cond_destroy(&t->wake);
  pthread_cond_destroy(&t->passed);
  pthread_mutex_destroy(&t->lock);
  free(t);
}

/* Null where the system refuses memory; fewer threads than asked where it refuses threads. */
EXPORT team_t *team_open(int threads) {
  size_t size = sizeof(team_t) + (size_t)threads * sizeof(pthread_t);
  team_t *t = aligned_alloc(ALIGN, (size + ALIGN - 1) / ALIGN * ALIGN);
  if (!t) return NULL;
  memset(t, 0, size);
  t->patience = MOST_SPINS;
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->wake, NULL);
  pthread_cond_init(&t->passed, NULL);
  for (t->threads = 1; t->threads < threads; t->threads++) {
    member_t *member = malloc(sizeof *member);
    if (!member) break;
    *member = (member_t){t, t->threads};
    if (pthread_create(&t->ids[t->threads], NULL, member_main, member)) {
      free(member);
      break;
    }
  }
  return t;
}

EXPORT int team_threads(const team_t *t) { return t->threads; }
