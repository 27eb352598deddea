/*
 * Statistics of the guest's memory, VIRTIO 1.2 §5.5.6.3.
 *
 * This queue is the wrong way round: the driver sends its numbers, and the buffer they came in is
 * kept. Giving it back is the question; the driver answers by sending it again. While the queue
 * stops the buffer goes back unused, and the numbers in it are simply read once more.
 */
#include <endian.h>

#include "hv/base/fd.h"
#include "virtio/balloon_priv.h"

#define ENTRIES_MAX 64 /* more is not looked at */
#define NS_PER_MS UINT64_C(1000000)

static void read_stats(const struct vq_chain *chain, struct virtio_balloon_stats *out)
{
    struct virtio_balloon_stat entries[ENTRIES_MAX];
    size_t n = vq_chain_read(chain, 0, entries, sizeof(entries)) / sizeof(entries[0]);

    *out = (struct virtio_balloon_stats){.at_ns = now_ns()};
    for (size_t i = 0; i < n; i++) {
        unsigned tag = le16toh(entries[i].tag);
        if (tag >= VIRTIO_BALLOON_S_NR)
            continue; /* §5.5.6.3.2: tags that are not known are no mistake */
        out->value[tag] = le64toh(entries[i].val);
        out->known |= 1U << tag;
    }
}

/* Takes the driver's buffer, and what is in it. */
static void take_buffer(struct balloon *b, struct virtio_queue *q)
{
    struct iovec iov[BALLOON_PIECES];
    struct virtio_balloon_stats told;

    do {
        b->buffer = (struct vq_chain){.iov = iov, .iov_max = BALLOON_PIECES};
        b->holding = vq_pop(&q->vq, &b->buffer) > 0;
    } while (!b->holding && vq_unmute(&q->vq));
    if (!b->holding)
        return;
    read_stats(&b->buffer, &told);
    b->buffer.iov = NULL; /* only its name is needed from here on */
    pthread_mutex_lock(&b->lock);
    b->told = told;
    pthread_mutex_unlock(&b->lock);
}

/* The next question is due that long after an answer. */
static void set_poll(struct balloon *b)
{
    unsigned ms = atomic_load(&b->poll_ms);

    if (ms == b->poll_set)
        return;
    b->poll_set = ms;
    if (ms > 0)
        timer_set(&b->poll, ms * NS_PER_MS);
    else
        timer_cancel(&b->poll);
}

void balloon_stats_serve(struct balloon *b, struct virtio_queue *q)
{
    if (!b->holding)
        take_buffer(b, q);
    if (!b->holding)
        return;
    if (!atomic_exchange(&b->wanted, false)) {
        set_poll(b);
        return;
    }
    vq_push(&q->vq, &b->buffer, 0);
    b->holding = false;
    virtio_publish(q);
    if (vq_unmute(&q->vq))
        virtio_kick(q); /* the answer is there already, or another buffer */
}

void balloon_stats_stop(struct balloon *b, struct virtio_queue *q)
{
    if (b->holding)
        vq_unpop(&q->vq, 1);
    b->holding = false;
}

static void on_poll(void *ctx)
{
    struct balloon *b = ctx;

    b->poll_set = 0;
    virtio_balloon_ask(&b->v);
}

int balloon_stats_init(struct balloon *b)
{
    return timer_init(&b->poll, virtio_queue(&b->v, BALLOON_STATS)->loop, on_poll, b);
}

void balloon_stats_fini(struct balloon *b)
{
    timer_fini(&b->poll);
}

void virtio_balloon_ask(struct virtio_dev *v)
{
    atomic_store(&balloon_of(v)->wanted, true);
    virtio_kick(virtio_queue(v, BALLOON_STATS));
}

void virtio_balloon_ask_every(struct virtio_dev *v, unsigned ms)
{
    atomic_store(&balloon_of(v)->poll_ms, ms);
    virtio_kick(virtio_queue(v, BALLOON_STATS));
}

void virtio_balloon_stats(const struct virtio_dev *v, struct virtio_balloon_stats *out)
{
    struct balloon *b = container_of(v, struct balloon, v);

    pthread_mutex_lock(&b->lock);
    *out = b->told;
    pthread_mutex_unlock(&b->lock);
}
