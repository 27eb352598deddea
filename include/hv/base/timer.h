/*
 * One-shot timers in an event loop.
 *
 * A timer belongs to its loop's thread: it is set and cancelled there, and its callback runs there.
 */
#ifndef HV_BASE_TIMER_H
#define HV_BASE_TIMER_H

#include <stdint.h>

#include "hv/base/loop.h"

struct timer {
    struct loop *loop; /* borrowed */
    int fd;            /* owned; -1 once it is gone */
    void (*fn)(void *ctx);
    void *ctx; /* borrowed */
};

/* A timer that is not set. -EMFILE, -ENOMEM: nothing is left behind, timer_fini() does no harm. */
int timer_init(struct timer *t, struct loop *loop, void (*fn)(void *ctx), void *ctx) HV_MUST_CHECK;

/* Calls fn once, `ns` nanoseconds from now (0: as soon as the loop runs). Replaces what was set. */
void timer_set(struct timer *t, uint64_t ns);
void timer_cancel(struct timer *t);

void timer_fini(struct timer *t);

#endif
