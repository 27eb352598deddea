/*
 * A token bucket: a rate with room for a burst.
 *
 * Tokens, bytes or operations, flow in at `rate` per second, up to `burst`. Whoever spends may go
 * into debt by one request, however large, and the next one waits until the debt is paid: so a
 * request larger than the burst is served too, and the rate holds all the same.
 *
 * Threads: any; there is a lock inside. Of several who see at the same time that something may be
 * spent, each spends.
 */
#ifndef HV_BASE_BUCKET_H
#define HV_BASE_BUCKET_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct bucket {
    pthread_mutex_t lock;  /* guards the rest */
    _Atomic uint64_t rate; /* tokens per second; 0: no limit, which is seen without the lock */
    uint64_t burst;        /* tokens that are there after a long rest */
    int64_t level;         /* tokens there now; below 0: debt */
    uint64_t at;           /* when level was right, ns of any monotonic clock */
    uint64_t rest;  /* what has flowed in since, in tokens times 10^9, not yet a whole token */
    uint64_t waits; /* times that bucket_wait() said to wait */
};

/* No limit. */
void bucket_init(struct bucket *b);
void bucket_fini(struct bucket *b);

/* New limits, from the time `now` on, with a full bucket. burst 0: what flows in during 0.1 s, at
 * least 1. */
void bucket_limit(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now);

/* False: nobody waits, and who asks need not look at the clock first, which may cost more than all
 * else that a request does. */
static inline bool bucket_has_limit(const struct bucket *b)
{
    return atomic_load_explicit(&b->rate, memory_order_relaxed) > 0;
}

/* How long to wait, in ns, until something may be spent; 0: now. */
uint64_t bucket_wait(struct bucket *b, uint64_t now);

/* Spends `n` tokens, whether they are there or not. */
void bucket_spend(struct bucket *b, uint64_t n);

/* What the limit is, and how often it held something up, also in the time of earlier limits. */
struct bucket_use {
    uint64_t rate, burst; /* rate 0: no limit */
    uint64_t waits;
};
void bucket_use(struct bucket *b, struct bucket_use *out);

#endif
