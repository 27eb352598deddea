/*
 * The balloon's parts: balloon.c the device, balloon_pages.c pages that come and go,
 * balloon_stats.c what the guest tells of itself.
 */
#ifndef HV_VIRTIO_BALLOON_PRIV_H
#define HV_VIRTIO_BALLOON_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "hv/base/num.h"
#include "hv/base/timer.h"
#include "hv/virtio/balloon.h"

#define BALLOON_PIECES 128 /* of one chain */

/* §5.5.2 */
enum balloon_queue { BALLOON_INFLATE, BALLOON_DEFLATE, BALLOON_STATS, BALLOON_QUEUES = 5 };

/* A chain may be longer than one turn of the thread: how far the next one of a queue has come.
 * Guarded by the queue's lock. */
struct balloon_place {
    uint64_t done; /* bytes */
    uint16_t of;   /* the queue's next_avail, which says what chain that is */
};

struct balloon {
    struct virtio_dev v;
    const struct mem *mem; /* borrowed */
    const struct log *log; /* borrowed */
    _Atomic uint32_t target, actual;
    _Atomic uint64_t held, inflated, deflated, reported, no_ram, again, torn, refused;

    /* Of the I/O thread, or of whoever stopped the queues. */
    bool complained; /* once is enough for the log */
    struct balloon_place places[BALLOON_QUEUES];
    uint64_t pages;   /* of RAM, numbered through all its regions */
    uint64_t *inside; /* owned; a bit for each of them: it is in the balloon */

    /* Statistics. `holding` is guarded by their queue's lock. */
    bool holding; /* the driver's buffer, which to give back is to ask */
    struct vq_chain buffer;
    struct timer poll;
    unsigned poll_set; /* what the timer runs for, ms; 0: it does not. The I/O thread's */
    _Atomic unsigned poll_ms;
    _Atomic bool wanted;
    pthread_mutex_t lock; /* guards told */
    struct virtio_balloon_stats told;
};

static inline struct balloon *balloon_of(struct virtio_dev *v)
{
    return container_of(v, struct balloon, v);
}

static inline void balloon_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed); /* nothing is ordered by it */
}

/* --- balloon_pages.c --- */

/* -ENOMEM */
int balloon_pages_init(struct balloon *b) HV_MUST_CHECK;

/* The words of b->inside. */
size_t balloon_words(const struct balloon *b);

/* Under the queue's lock. */
void balloon_pages_serve(struct balloon *b, struct virtio_queue *q);
void balloon_report_serve(struct balloon *b, struct virtio_queue *q);

/* --- balloon_stats.c --- */

int balloon_stats_init(struct balloon *b) HV_MUST_CHECK;
void balloon_stats_fini(struct balloon *b);

/* Under the queue's lock. */
void balloon_stats_serve(struct balloon *b, struct virtio_queue *q);
void balloon_stats_stop(struct balloon *b, struct virtio_queue *q);

#endif
