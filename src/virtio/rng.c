/*
 * virtio-rng, VIRTIO 1.2 §5.4.
 *
 * A buffer may be large and comes from the guest; one request is answered with CHUNK bytes at most,
 * as §5.4.6.2 allows, so that no guest keeps the thread for longer.
 */
#include "hv/virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "hv/base/bucket.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/timer.h"
#include "hv/base/todo.h"

#define QUEUE_SIZE 64
#define CHUNK 4096 /* bytes */
#define PIECES 64

struct rng {
    struct virtio_dev v;
    struct bucket bucket;
    struct timer refill; /* the bucket has something again */
};

/* Fills what the chain can take; returns the bytes. */
static uint32_t fill(const struct vq_chain *chain)
{
    uint8_t bytes[CHUNK];
    size_t want = chain->in_size < CHUNK ? (size_t)chain->in_size : CHUNK;
    /* Not a byte less for up to 256, and for more only while a signal is due: this thread has none.
     */
    ssize_t got = getrandom(bytes, want, 0);

    return got > 0 ? (uint32_t)vq_chain_write(chain, 0, bytes, (size_t)got) : 0;
}

static void rng_serve(struct virtio_dev *v, struct virtio_queue *q)
{
    struct rng *rng = container_of(v, struct rng, v);
    struct iovec iov[PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = PIECES};

    /* EXERCISE 7.11: a device's whole life: takes chains as long as there are any, fills and pushes
     * each with the bytes it got, publishes (virtio_publish()). While it works it wants no
     * notifications, and before it leaves it asks for them again, and looks whether something came
     * in between. Before each chain it asks the bucket (bucket_wait()): 0, or the nanoseconds until
     * there is something to give. Then it publishes what it has, sets its timer (`refill`), and
     * leaves, muted: the timer kicks. Bytes given are spent (bucket_spend()). A queue that breaks
     * is the caller's affair; what was pushed before is published all the same. */
    // SOLUTION 7.11
    do {
        vq_mute(&q->vq);
        for (;;) {
            uint64_t wait = bucket_wait(&rng->bucket, now_ns());
            if (wait > 0) {
                virtio_publish(q);
                timer_set(&rng->refill, wait);
                return; /* muted: the timer kicks */
            }
            if (vq_pop(&q->vq, &chain) <= 0)
                break;
            uint32_t written = fill(&chain);
            bucket_spend(&rng->bucket, written);
            vq_push(&q->vq, &chain, written);
        }
        virtio_publish(q);
    } while (vq_unmute(&q->vq));
    // ELSE
    // if (todo("7.11") == 0 && vq_pop(&q->vq, &chain) > 0)
    //     bucket_spend(&rng->bucket, fill(&chain));
    // END 7.11
}

static void on_refill(void *ctx)
{
    struct rng *rng = ctx;

    virtio_kick(virtio_queue(&rng->v, 0));
}

static void rng_reset(struct virtio_dev *v)
{
    (void)v; /* a timer that is still set kicks a queue that is not there: harmless */
}

static void rng_destroy(struct virtio_dev *v)
{
    struct rng *rng = container_of(v, struct rng, v);

    timer_fini(&rng->refill);
    bucket_fini(&rng->bucket);
    virtio_fini(v);
    free(rng);
}

static const struct virtio_ops rng_ops = {
    .id = VIRTIO_ID_RNG,
    .version = 1,
    .reset = rng_reset,
    .serve = rng_serve,
    .destroy = rng_destroy,
};

int virtio_rng_create(const char *name, const struct virtio_rng_setup *cfg, struct virtio_dev **out)
{
    const struct virtio_queue_config queue = {.size = QUEUE_SIZE, .loop = cfg->loop};
    struct rng *rng = calloc(1, sizeof(*rng));

    if (rng == NULL)
        return -ENOMEM;
    int rc = virtio_init(&rng->v, &rng_ops, name, cfg->mem, 0, &queue, 1);
    if (rc < 0) {
        free(rng);
        return rc;
    }
    bucket_init(&rng->bucket);
    bucket_limit(&rng->bucket, cfg->rate, 0, now_ns());
    rc = timer_init(&rng->refill, cfg->loop, on_refill, rng);
    if (rc < 0) {
        rng_destroy(&rng->v);
        return rc;
    }
    *out = &rng->v;
    return 0;
}
