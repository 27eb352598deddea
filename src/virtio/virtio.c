/*
 * The life of a virtio device, from the driver's first word to its last. Sections are of
 * VIRTIO 1.2.
 *
 * The status register is the conversation between driver and device (§3.1.1): each bit is a step,
 * may be taken only after the one before it, and is never taken back but by a reset. The steps are
 * a table; what a driver writes out of order changes nothing.
 */
#include "hv/virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

#define ACKNOWLEDGE VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK VIRTIO_CONFIG_S_DRIVER_OK
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define FAILED VIRTIO_CONFIG_S_FAILED

/* What every device offers: the rings' features, and being of version 1. */
#define COMMON_FEATURES                                                                            \
    (VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |            \
     VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX))

/* --- queues --- */

static bool is_live(const struct virtio_dev *v)
{
    uint8_t status = atomic_load(&v->status);

    return (status & DRIVER_OK) && !(status & (NEEDS_RESET | FAILED));
}

/* On the loop's thread: the driver, or virtio_kick(), asked for this queue. */
static void on_kick(void *ctx, uint32_t events)
{
    struct virtio_queue *q = ctx;
    struct virtio_dev *v = q->dev;
    eventfd_t count;

    (void)events;
    (void)eventfd_read(q->kick,
                       &count); /* EAGAIN: somebody was faster; serving once more is harmless */
    pthread_mutex_lock(&q->lock);
    counter_add(&q->kicks, 1);
    if (q->running && q->vq.enabled && is_live(v)) {
        v->ops->serve(v, q);
        if (q->vq.broken)
            virtio_needs_reset(v);
    }
    pthread_mutex_unlock(&q->lock);
}

static int init_queue(struct virtio_dev *v, unsigned index, const struct mem *mem,
                      const struct virtio_queue_config *cfg)
{
    struct virtio_queue *q = &v->queues[index];

    *q = (struct virtio_queue){.dev = v, .loop = cfg->loop, .index = index, .kick = -1};
    vq_init(&q->vq, mem, cfg->size);
    (void)pthread_mutex_init(&q->lock, NULL); /* neither fails on Linux */
    (void)pthread_cond_init(&q->idle, NULL);
    q->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q->kick < 0)
        return -errno;
    return loop_add(q->loop, q->kick, EPOLLIN, on_kick, q);
}

static void fini_queue(struct virtio_queue *q)
{
    if (q->dev == NULL) /* never begun */
        return;
    if (q->kick >= 0)
        loop_remove(q->loop, q->kick);
    fd_close(&q->kick);
    (void)pthread_cond_destroy(&q->idle);
    (void)pthread_mutex_destroy(&q->lock);
}

int virtio_init(struct virtio_dev *v, const struct virtio_ops *ops, const char *name,
                const struct mem *mem, uint64_t features, const struct virtio_queue_config *queues,
                unsigned count)
{
    *v = (struct virtio_dev){
        .ops = ops,
        .name = name,
        .offered = ops->features | features | COMMON_FEATURES,
        .queue_count = count,
    };
    v->queues = calloc(count, sizeof(*v->queues));
    if (v->queues == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        int rc = init_queue(v, i, mem, &queues[i]);
        if (rc < 0) {
            virtio_fini(v);
            return rc;
        }
    }
    return 0;
}

void virtio_fini(struct virtio_dev *v)
{
    for (unsigned i = 0; v->queues != NULL && i < v->queue_count; i++)
        fini_queue(&v->queues[i]);
    free(v->queues);
    v->queues = NULL;
}

void virtio_destroy(struct virtio_dev *v)
{
    if (v != NULL)
        v->ops->destroy(v);
}

void virtio_withhold(struct virtio_dev *v, uint64_t features)
{
    v->offered &= ~features;
}

void virtio_attach(struct virtio_dev *v, const struct virtio_port *port)
{
    v->port = *port;
}

struct virtio_queue *virtio_queue(struct virtio_dev *v, uint32_t index)
{
    return index < v->queue_count ? &v->queues[index] : NULL;
}

void virtio_kick(struct virtio_queue *q)
{
    (void)eventfd_write(q->kick, 1); /* EAGAIN: it is full of kicks already */
}

bool virtio_can_place(const struct virtio_queue *q)
{
    return !q->vq.enabled;
}

void virtio_enable_queue(struct virtio_queue *q)
{
    uint8_t status = atomic_load(&q->dev->status);

    if (!(status & FEATURES_OK) || q->vq.enabled)
        return;
    pthread_mutex_lock(&q->lock);
    int rc = vq_enable(&q->vq, q->dev->features);
    pthread_mutex_unlock(&q->lock);
    if (rc < 0)
        virtio_needs_reset(q->dev);
    else if (is_live(q->dev))
        virtio_kick(q);
}

/* --- what devices say --- */

void virtio_publish(struct virtio_queue *q)
{
    counter_add(&q->chains, q->vq.pushed);
    if (!vq_publish(&q->vq))
        return;
    counter_add(&q->interrupts, 1);
    if (q->dev->port.used)
        q->dev->port.used(q->dev->port.ctx, q->index);
}

static void tell_config(struct virtio_dev *v)
{
    if ((atomic_load(&v->status) & DRIVER_OK) && v->port.config)
        v->port.config(v->port.ctx);
}

void virtio_needs_reset(struct virtio_dev *v)
{
    if (!(atomic_fetch_or(&v->status, NEEDS_RESET) & NEEDS_RESET))
        tell_config(v); /* §2.1.2: only if DRIVER_OK is set */
}

void virtio_config_changed(struct virtio_dev *v)
{
    atomic_fetch_add(&v->generation, 1);
    tell_config(v);
}

void virtio_begin(struct virtio_queue *q)
{
    q->in_flight++;
}

void virtio_end(struct virtio_queue *q)
{
    if (--q->in_flight == 0)
        (void)pthread_cond_broadcast(&q->idle);
}

/* --- stopping --- */

/* Nothing is popped from here on, and nothing is held when it returns. */
static void stop_locked(struct virtio_queue *q)
{
    q->running = false;
    while (q->in_flight > 0)
        pthread_cond_wait(&q->idle, &q->lock);
    if (q->dev->ops->stop)
        q->dev->ops->stop(q->dev, q);
}

void virtio_stop(struct virtio_dev *v)
{
    for (unsigned i = 0; i < v->queue_count; i++) {
        struct virtio_queue *q = &v->queues[i];

        pthread_mutex_lock(&q->lock);
        stop_locked(q);
        pthread_mutex_unlock(&q->lock);
    }
}

void virtio_reset_queue(struct virtio_queue *q)
{
    pthread_mutex_lock(&q->lock);
    bool was_running = q->running;
    stop_locked(q);
    vq_reset(&q->vq);
    q->running = was_running;
    pthread_mutex_unlock(&q->lock);
}

void virtio_go_on(struct virtio_dev *v)
{
    if (!is_live(v))
        return;
    for (unsigned i = 0; i < v->queue_count; i++) {
        struct virtio_queue *q = &v->queues[i];

        pthread_mutex_lock(&q->lock);
        q->running = true;
        pthread_mutex_unlock(&q->lock);
        virtio_kick(q); /* what came before was not served */
    }
}

static void reset(struct virtio_dev *v)
{
    virtio_stop(v);
    for (unsigned i = 0; i < v->queue_count; i++)
        virtio_reset_queue(&v->queues[i]);
    v->features = 0;
    v->ops->reset(v);
    atomic_store(&v->status, 0);
}

/* --- features --- */

uint32_t virtio_offered(const struct virtio_dev *v, uint32_t select)
{
    return select < 2 ? (uint32_t)(v->offered >> (32 * select)) : 0;
}

uint32_t virtio_accepted(const struct virtio_dev *v, uint32_t select)
{
    return select < 2 ? (uint32_t)(v->features >> (32 * select)) : 0;
}

/* EXERCISE 7.9: what the driver wants, and whether it can have it. virtio_accept() puts 32 bits
 * where `select` says: 0 the low half, 1 the high one, others nowhere; the other half stays; and
 * once FEATURES_OK is set, nothing changes any more. are_features_good(), which is asked before
 * that step: no bit that was not offered, and VERSION_1 among them. */
// SOLUTION 7.9
void virtio_accept(struct virtio_dev *v, uint32_t select, uint32_t bits)
{
    /* §3.1.1: the driver has promised not to change them any more. */
    if (select >= 2 || (atomic_load(&v->status) & FEATURES_OK))
        return;
    v->features &= ~((uint64_t)UINT32_MAX << (32 * select));
    v->features |= (uint64_t)bits << (32 * select);
}

/* §2.2.2: a subset of what was offered, with VERSION_1, for we are no legacy device. */
static bool are_features_good(const struct virtio_dev *v)
{
    return !(v->features & ~v->offered) && virtio_has(v, VIRTIO_F_VERSION_1);
}
// ELSE
// void virtio_accept(struct virtio_dev *v, uint32_t select, uint32_t bits)
// {
//     (void)todo("7.9");
// }
//
// static bool are_features_good(const struct virtio_dev *v)
// {
//     (void)todo("7.9");
//     return true;
// }
// END 7.9

/* --- status --- */

static bool always(const struct virtio_dev *v)
{
    (void)v;
    return true;
}

static void nothing(struct virtio_dev *v)
{
    (void)v;
}

static void start(struct virtio_dev *v)
{
    if (v->ops->start)
        v->ops->start(v);
    virtio_go_on(v);
}

/* The steps of §3.1.1, in their order. */
static const struct step {
    uint8_t bit;
    uint8_t after; /* the bits that must be set before it */
    bool (*may)(
        const struct virtio_dev *v); /* false: the bit stays clear, and the driver sees it */
    void (*then)(struct virtio_dev *v);
} steps[] = {
    {ACKNOWLEDGE, 0, always, nothing},
    {DRIVER, ACKNOWLEDGE, always, nothing},
    {FEATURES_OK, ACKNOWLEDGE | DRIVER, are_features_good, nothing},
    {DRIVER_OK, ACKNOWLEDGE | DRIVER | FEATURES_OK, always, start},
    {FAILED, 0, always, virtio_stop},
};

uint8_t virtio_status(const struct virtio_dev *v)
{
    return atomic_load(&v->status);
}

void virtio_set_status(struct virtio_dev *v, uint8_t status)
{
    /* EXERCISE 7.8: what the driver writes to the status register. 0 is a reset. Else every step of
     * the table, in its order, is taken if the driver asks for it, it is not taken yet, all steps
     * that it has to come `after` are (one write may bring several), and it `may` be; then its bit
     * is set, and after that what belongs to it is done (`then`). Bits are never cleared here, and
     * those that are no step of the driver's (NEEDS_RESET, or none of ours) never set; other
     * threads may set NEEDS_RESET meanwhile. */
    // SOLUTION 7.8
    if (status == 0) {
        reset(v);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++) {
        const struct step *s = &steps[i];
        uint8_t now = atomic_load(&v->status);

        if (!(status & s->bit) || (now & s->bit) || (now & s->after) != s->after || !s->may(v))
            continue;
        atomic_fetch_or(&v->status, s->bit);
        s->then(v);
    }
    // ELSE
    // for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
    //     if (todo("7.8") == 0)
    //         reset(v);
    // END 7.8
}

/* --- configuration space --- */

void virtio_config_read(struct virtio_dev *v, uint64_t offset, void *out, unsigned size)
{
    memset(out, 0, size);
    if (v->ops->config_read)
        v->ops->config_read(v, offset, out, size);
}

void virtio_config_write(struct virtio_dev *v, uint64_t offset, const void *data, unsigned size)
{
    if (v->ops->config_write)
        v->ops->config_write(v, offset, data, size);
}

/* --- state --- */

void virtio_save(struct virtio_dev *v, struct codec_writer *w)
{
    codec_put_u64(w, v->features);
    codec_put_u8(w, atomic_load(&v->status));
    codec_put_u32(w, atomic_load(&v->generation));
    codec_put_u16(w, (uint16_t)v->queue_count);
    for (unsigned i = 0; i < v->queue_count; i++)
        vq_save(&v->queues[i].vq, w);
    codec_put_u32(w, v->ops->version);
    if (v->ops->save)
        v->ops->save(v, w);
}

/* No driver could have brought a device of ours there. */
static bool is_valid_state(const struct virtio_dev *v, uint64_t features, uint8_t status)
{
    uint8_t known = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | NEEDS_RESET | FAILED;

    if (status & ~known)
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
        if ((status & steps[i].bit) && (status & steps[i].after) != steps[i].after)
            return false;
    return !(status & FEATURES_OK) ||
           (!(features & ~v->offered) && (features & VIRTIO_FEATURE(VIRTIO_F_VERSION_1)));
}

/* Reads the state of all queues into LOADED. */
static int load_queues(struct virtio_dev *v, struct codec_reader *r, struct vq *loaded)
{
    if (codec_get_u16(r) != v->queue_count)
        return -EINVAL;
    for (unsigned i = 0; i < v->queue_count; i++) {
        const struct vq *vq = &v->queues[i].vq;
        vq_init(&loaded[i], vq->mem, vq->size_max);
        int rc = vq_load(&loaded[i], r);
        if (rc < 0)
            return rc;
    }
    return codec_get_u32(r) == v->ops->version ? 0 : -EINVAL;
}

static void take_queues(struct virtio_dev *v, const struct vq *loaded)
{
    for (unsigned i = 0; i < v->queue_count; i++) {
        pthread_mutex_lock(&v->queues[i].lock);
        v->queues[i].vq = loaded[i];
        pthread_mutex_unlock(&v->queues[i].lock);
    }
}

int virtio_load(struct virtio_dev *v, struct codec_reader *r)
{
    uint64_t features = codec_get_u64(r);
    uint8_t status = codec_get_u8(r);
    uint32_t generation = codec_get_u32(r);
    struct vq *loaded = calloc(v->queue_count, sizeof(*loaded));

    if (loaded == NULL)
        return -ENOMEM;
    int rc = is_valid_state(v, features, status) ? load_queues(v, r, loaded) : -EINVAL;
    if (r->failed)
        rc = r->failed; /* too short: what is missing was read as 0 */
    if (rc < 0)
        goto done;
    virtio_stop(v);
    rc = v->ops->load ? v->ops->load(v, r) : codec_leave(r);
    if (rc < 0) {
        virtio_go_on(v);
        goto done;
    }
    take_queues(v, loaded); /* from here on nothing fails */
    v->features = features;
    atomic_store(&v->generation, generation);
    atomic_store(&v->status, status);
    if (is_live(v))
        start(v);

done:
    free(loaded);
    return rc;
}
