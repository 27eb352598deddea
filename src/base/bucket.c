#include "hv/base/bucket.h"

#define NS_PER_S UINT64_C(1000000000)
#define LEVEL_MAX (INT64_MAX / 2) /* of burst and of debt: no sum of the two overflows */

void bucket_init(struct bucket *b)
{
    *b = (struct bucket){0};
    (void)pthread_mutex_init(&b->lock, NULL); /* does not fail on Linux */
}

void bucket_fini(struct bucket *b)
{
    (void)pthread_mutex_destroy(&b->lock);
}

void bucket_limit(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now)
{
    if (burst == 0)
        burst = rate / 10 > 0 ? rate / 10 : 1;
    if (burst > LEVEL_MAX)
        burst = LEVEL_MAX;
    pthread_mutex_lock(&b->lock);
    b->rate = rate;
    b->burst = burst;
    b->level = (int64_t)burst;
    b->at = now;
    b->rest = 0;
    pthread_mutex_unlock(&b->lock);
}

/* Lets in what has come since b->at. */
static void fill_locked(struct bucket *b, uint64_t now)
{
    uint64_t passed = now > b->at ? now - b->at : 0;
    __uint128_t flow = (__uint128_t)passed * b->rate + b->rest;
    __uint128_t tokens = flow / NS_PER_S;
    __uint128_t room = (__uint128_t)((int64_t)b->burst - b->level);

    b->at = now;
    if (tokens >= room) {
        b->level = (int64_t)b->burst;
        b->rest = 0;
    } else {
        b->level += (int64_t)tokens;
        b->rest = (uint64_t)(flow % NS_PER_S);
    }
}

uint64_t bucket_wait(struct bucket *b, uint64_t now)
{
    uint64_t wait = 0;

    if (!bucket_has_limit(b))
        return 0;
    pthread_mutex_lock(&b->lock);
    if (b->rate > 0) { /* still */
        fill_locked(b, now);
        if (b->level <= 0) { /* until there is one whole token */
            __uint128_t missing = (__uint128_t)(1 - b->level) * NS_PER_S - b->rest;
            wait = (uint64_t)((missing + b->rate - 1) / b->rate);
            b->waits++;
        }
    }
    pthread_mutex_unlock(&b->lock);
    return wait;
}

void bucket_spend(struct bucket *b, uint64_t n)
{
    if (!bucket_has_limit(b))
        return;
    pthread_mutex_lock(&b->lock);
    if (b->rate > 0) {
        if (n > LEVEL_MAX)
            n = LEVEL_MAX;
        b->level -= (int64_t)n;
        if (b->level < -LEVEL_MAX)
            b->level = -LEVEL_MAX;
    }
    pthread_mutex_unlock(&b->lock);
}

void bucket_use(struct bucket *b, struct bucket_use *out)
{
    pthread_mutex_lock(&b->lock);
    *out = (struct bucket_use){.rate = b->rate, .burst = b->burst, .waits = b->waits};
    pthread_mutex_unlock(&b->lock);
}
