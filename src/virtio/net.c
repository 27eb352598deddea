/*
 * virtio-net, VIRTIO 1.2 §5.1: the device around its queues.
 *
 * Left out: VLAN filters, receive-side scaling, hash reports, notification coalescing.
 */
#include "hv/virtio/net.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "virtio/net_priv.h"

#define QUEUE_SIZE 256
#define CTRL_QUEUE_SIZE 64
#define PLAIN_FRAME_MAX 2048 /* bytes, with header: what comes where segments are not taken */
#define QUEUES_MAX (2 * VIRTIO_NET_PAIRS_MAX + 1)

static struct net_device *device_of(struct virtio_dev *v)
{
    return container_of(v, struct net_device, v);
}

/* --- limits and wake-ups --- */

static void on_refill(void *ctx)
{
    virtio_kick(((struct net_queue *)ctx)->vq);
}

uint64_t net_limit_wait(struct net_queue *q)
{
    if (!bucket_has_limit(&q->limit->packets) && !bucket_has_limit(&q->limit->bytes))
        return 0;
    uint64_t now = now_ns();
    uint64_t packets = bucket_wait(&q->limit->packets, now);
    uint64_t bytes = bucket_wait(&q->limit->bytes, now);
    uint64_t wait = packets > bytes ? packets : bytes;

    if (wait > 0)
        timer_set(&q->refill, wait);
    return wait;
}

void net_limit_spend(struct net_queue *q, uint64_t bytes)
{
    bucket_spend(&q->limit->packets, 1);
    bucket_spend(&q->limit->bytes, bytes);
    counter_add(&q->moved, bytes);
}

void net_listen_for(struct net_pair *p, bool readable, bool writable)
{
    if (readable != p->wants_read || writable != p->wants_write)
        net_listen(p->net, readable, writable);
    p->wants_read = readable;
    p->wants_write = writable;
}

/* The back end has frames. While the queue does not run nobody takes them, and they must not wake
 * us again and again. */
static void on_readable(void *ctx)
{
    struct net_pair *p = ctx;
    struct virtio_queue *vq = p->rx.vq;

    pthread_mutex_lock(&vq->lock);
    if (vq->running && vq->vq.enabled && !vq->vq.broken) {
        net_rx_pump(p->rx.d, p);
        if (vq->vq.broken)
            virtio_needs_reset(vq->dev);
    } else {
        net_listen_for(p, false, p->wants_write);
    }
    pthread_mutex_unlock(&vq->lock);
}

static void on_writable(void *ctx)
{
    struct net_pair *p = ctx;

    net_listen_for(p, p->wants_read, false);
    virtio_kick(p->tx.vq);
}

/* --- pairs --- */

/* §5.1.2: without VIRTIO_NET_F_MQ a driver knows of one pair, behind which it looks for the control
 * queue; that this device has more changes nothing for it. */
static unsigned known_pairs(const struct net_device *d)
{
    return virtio_has(&d->v, VIRTIO_NET_F_MQ) ? d->pair_count : 1;
}

/* Pairs `first` to `end` - 1 are beyond the number: no frame comes there from here on. */
static void leave_pairs(struct net_device *d, unsigned first, unsigned end)
{
    for (unsigned i = first; i < end; i++) {
        pthread_mutex_lock(&d->pairs[i].rx.vq->lock); /* whoever saw the old number is done now */
        pthread_mutex_unlock(&d->pairs[i].rx.vq->lock);
        (void)!net_set_active(d->pairs[i].net, false); /* fails if it is gone for good */
    }
}

int net_use_pairs(struct net_device *d, unsigned pairs)
{
    for (unsigned i = 1; i < pairs; i++) {
        int rc = net_set_active(d->pairs[i].net, true);
        if (rc < 0) {
            unsigned before = atomic_load(&d->active);
            leave_pairs(d, before, i);
            return rc;
        }
    }
    atomic_store(&d->active, pairs);
    leave_pairs(d, pairs, d->pair_count);
    for (unsigned i = 1; i < pairs; i++)
        virtio_kick(d->pairs[i].rx.vq); /* buffers may be there that were not looked at */
    return 0;
}

/* --- the driver's life --- */

static void net_serve(struct virtio_dev *v, struct virtio_queue *q)
{
    struct net_device *d = device_of(v);
    unsigned pair = q->index / 2, pairs = known_pairs(d);

    if (q->index == 2 * pairs)
        net_ctrl_serve(d, q);
    else if (pair >= pairs)
        return; /* there is no such queue for this driver */
    else if (q->index % 2 == 0)
        net_rx_pump(d, &d->pairs[pair]);
    else
        net_tx_pump(d, &d->pairs[pair]);
}

static void net_stop(struct virtio_dev *v, struct virtio_queue *q)
{
    struct net_device *d = device_of(v);

    if (q->index / 2 < d->pair_count && q->index % 2 == 0)
        net_rx_give_back(&d->pairs[q->index / 2]);
}

/* What the guest's driver takes without our having to finish it. */
static unsigned accepted_offloads(const struct virtio_dev *v)
{
    unsigned offloads = 0;

    if (!virtio_has(v, VIRTIO_NET_F_GUEST_CSUM))
        return 0;
    offloads |= NET_OFFLOAD_CSUM;
    offloads |= virtio_has(v, VIRTIO_NET_F_GUEST_TSO4) ? NET_OFFLOAD_TSO4 : 0;
    offloads |= virtio_has(v, VIRTIO_NET_F_GUEST_TSO6) ? NET_OFFLOAD_TSO6 : 0;
    return offloads;
}

/* Called before the queues run, with the driver's last word. */
static void net_start(struct virtio_dev *v)
{
    struct net_device *d = device_of(v);
    unsigned offloads = accepted_offloads(v);

    d->has_header = true;
    for (unsigned i = 0; i < d->pair_count; i++)
        if (net_set_offloads(d->pairs[i].net, NET_HEADER, offloads) < 0)
            d->has_header = false;
    for (unsigned i = 0; !d->has_header && i < d->pair_count; i++)
        (void)!net_set_offloads(d->pairs[i].net, 0, 0); /* every back end has plain frames */
    d->merges = virtio_has(v, VIRTIO_NET_F_MRG_RXBUF);
    d->frame_max = offloads & ~NET_OFFLOAD_CSUM ? NET_FRAME_MAX + NET_HEADER : PLAIN_FRAME_MAX;
    if (d->mtu + 64U > d->frame_max)
        d->frame_max = d->mtu + 64U;
    /* The number may come from a saved state. Frames come to those pairs that can be had. */
    (void)!net_use_pairs(d, virtio_has(v, VIRTIO_NET_F_MQ) ? atomic_load(&d->active) : 1);
}

static void net_reset(struct virtio_dev *v)
{
    struct net_device *d = device_of(v);

    pthread_mutex_lock(&d->filter_lock);
    net_filter_reset(&d->filter, d->mac);
    pthread_mutex_unlock(&d->filter_lock);
    (void)!net_use_pairs(d, 1); /* to use fewer cannot fail */
}

/* --- configuration, §5.1.4 --- */

static void net_config_read(struct virtio_dev *v, uint64_t offset, void *out, unsigned size)
{
    struct net_device *d = device_of(v);
    struct virtio_net_config config = {
        .status = htole16(atomic_load(&d->link_up) ? VIRTIO_NET_S_LINK_UP : 0),
        .max_virtqueue_pairs = htole16((uint16_t)d->pair_count),
        .mtu = htole16(d->mtu),
    };

    pthread_mutex_lock(&d->filter_lock);
    memcpy(config.mac, d->filter.mac, sizeof(config.mac));
    pthread_mutex_unlock(&d->filter_lock);
    if (range_fits(offset, size, sizeof(config)))
        memcpy(out, (const uint8_t *)&config + offset, size);
}

void virtio_net_set_link(struct virtio_dev *v, bool up)
{
    if (atomic_exchange(&device_of(v)->link_up, up) != up)
        virtio_config_changed(v);
}

static void set_limit(struct net_limit *l, const struct virtio_net_limits *to)
{
    uint64_t now = now_ns();

    bucket_limit(&l->packets, to->packets, 0, now);
    bucket_limit(&l->bytes, to->bytes, 0, now);
}

void virtio_net_limit(struct virtio_dev *v, const struct virtio_net_limits *limits)
{
    struct net_device *d = device_of(v);

    set_limit(&d->in, limits);
    set_limit(&d->out, limits);
    for (unsigned i = 0; i < d->pair_count; i++) { /* they may be waiting for what is there now */
        virtio_kick(d->pairs[i].rx.vq);
        virtio_kick(d->pairs[i].tx.vq);
    }
}

void virtio_net_limits(struct virtio_dev *v, struct virtio_net_limits *out)
{
    struct bucket_use packets, bytes;

    bucket_use(&device_of(v)->out.packets, &packets);
    bucket_use(&device_of(v)->out.bytes, &bytes);
    *out = (struct virtio_net_limits){packets.rate, bytes.rate};
}

static uint64_t waits_of(struct net_limit *l)
{
    struct bucket_use packets, bytes;

    bucket_use(&l->packets, &packets);
    bucket_use(&l->bytes, &bytes);
    return packets.waits + bytes.waits;
}

void virtio_net_stats(struct virtio_dev *v, struct virtio_net_stats *out)
{
    struct net_device *d = device_of(v);

    *out = (struct virtio_net_stats){
        .received = atomic_load(&d->received),
        .sent = atomic_load(&d->sent),
        .dropped_in = atomic_load(&d->dropped_in),
        .dropped_out = atomic_load(&d->dropped_out),
        .filtered = atomic_load(&d->filtered),
    };
    for (unsigned i = 0; i < d->pair_count; i++) {
        out->received_bytes += atomic_load(&d->pairs[i].rx.moved);
        out->sent_bytes += atomic_load(&d->pairs[i].tx.moved);
    }
    out->waits = waits_of(&d->in) + waits_of(&d->out);
}

/* --- state --- */

static void net_save(struct virtio_dev *v, struct codec_writer *w)
{
    struct net_device *d = device_of(v);
    const struct net_filter *f = &d->filter; /* the queues are stopped: nobody changes it */
    unsigned stored = f->count < NET_MACS_MAX ? f->count : NET_MACS_MAX;

    codec_put_u16(w, (uint16_t)atomic_load(&d->active));
    codec_put_bytes(w, f->mac, sizeof(f->mac));
    codec_put_u8(w, f->promiscuous);
    codec_put_u8(w, f->all_multicast);
    codec_put_u8(w, (uint8_t)f->count);
    codec_put_bytes(w, f->macs, (size_t)stored * VIRTIO_NET_MAC);
}

static int net_load(struct virtio_dev *v, struct codec_reader *r)
{
    struct net_device *d = device_of(v);
    struct net_filter f = {0};
    uint16_t active = codec_get_u16(r);

    codec_get_bytes(r, f.mac, sizeof(f.mac));
    f.promiscuous = codec_get_u8(r);
    f.all_multicast = codec_get_u8(r);
    f.count = codec_get_u8(r);
    if (f.count > NET_MACS_MAX + 1)
        return r->failed ? r->failed : -EINVAL;
    codec_get_bytes(r, f.macs,
                    (size_t)(f.count < NET_MACS_MAX ? f.count : NET_MACS_MAX) * VIRTIO_NET_MAC);
    int rc = codec_leave(r);
    if (rc < 0)
        return rc;
    if (active < 1 || active > d->pair_count)
        return -EINVAL;
    d->filter = f;
    atomic_store(&d->active, active);
    return 0;
}

/* --- life --- */

static void init_limit(struct net_limit *l)
{
    bucket_init(&l->packets);
    bucket_init(&l->bytes);
}

static void fini_limit(struct net_limit *l)
{
    bucket_fini(&l->packets);
    bucket_fini(&l->bytes);
}

static void net_device_destroy(struct virtio_dev *v)
{
    struct net_device *d = device_of(v);

    for (unsigned i = 0; d->pairs != NULL && i < d->pair_count; i++) {
        struct net_pair *p = &d->pairs[i];
        if (p->net != NULL)
            (void)!net_watch(p->net, NULL); /* to stop cannot fail */
        if (p->rx.d != NULL)                /* it was begun with */
            timer_fini(&p->rx.refill);
        if (p->tx.d != NULL)
            timer_fini(&p->tx.refill);
    }
    free(d->pairs);
    fini_limit(&d->in);
    fini_limit(&d->out);
    (void)pthread_mutex_destroy(&d->filter_lock);
    virtio_fini(v);
    free(d);
}

static const struct virtio_ops net_device_ops = {
    .id = VIRTIO_ID_NET,
    .features = VIRTIO_FEATURE(VIRTIO_NET_F_MAC) | VIRTIO_FEATURE(VIRTIO_NET_F_STATUS) |
                VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF) | VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ) |
                VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_RX) | VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR),
    .version = 1,
    .start = net_start,
    .reset = net_reset,
    .stop = net_stop,
    .serve = net_serve,
    .config_read = net_config_read,
    .save = net_save,
    .load = net_load,
    .destroy = net_device_destroy,
};

/* What the back ends can do, all of them. */
static uint64_t features_of(const struct virtio_net_setup *setup)
{
    unsigned offloads = ~0U;
    uint64_t f = 0;

    for (unsigned i = 0; i < setup->pair_count; i++)
        offloads &= setup->pairs[i].net->offloads;
    if (offloads & NET_OFFLOAD_CSUM)
        f |= VIRTIO_FEATURE(VIRTIO_NET_F_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM);
    if (offloads & NET_OFFLOAD_TSO4)
        f |= VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO4) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO4);
    if (offloads & NET_OFFLOAD_TSO6)
        f |= VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO6) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO6);
    if (setup->pair_count > 1)
        f |= VIRTIO_FEATURE(VIRTIO_NET_F_MQ);
    if (setup->mtu != 0)
        f |= VIRTIO_FEATURE(VIRTIO_NET_F_MTU);
    return f;
}

static int init_net_queue(struct net_device *d, struct net_queue *q, unsigned index,
                          struct net_limit *limit)
{
    *q = (struct net_queue){
        .d = d, .vq = virtio_queue(&d->v, index), .limit = limit, .refill.fd = -1};
    return timer_init(&q->refill, q->vq->loop, on_refill, q);
}

static int init_pair(struct net_device *d, unsigned index, const struct virtio_net_pair *setup)
{
    struct net_pair *p = &d->pairs[index];
    const struct net_watch watch = {
        .loop = setup->loop, .readable = on_readable, .writable = on_writable, .ctx = p};
    int rc = init_net_queue(d, &p->rx, 2 * index, &d->in);

    if (rc == 0)
        rc = init_net_queue(d, &p->tx, 2 * index + 1, &d->out);
    if (rc == 0)
        rc = net_watch(setup->net, &watch);
    if (rc == 0)
        p->net = setup->net;
    return rc;
}

static int init_queues(struct net_device *d, const char *name, const struct virtio_net_setup *setup)
{
    struct virtio_queue_config queues[QUEUES_MAX];
    unsigned count = 0;

    for (unsigned i = 0; i < setup->pair_count; i++)
        for (unsigned way = 0; way < 2; way++)
            queues[count++] = (struct virtio_queue_config){QUEUE_SIZE, setup->pairs[i].loop};
    queues[count++] = (struct virtio_queue_config){CTRL_QUEUE_SIZE, setup->pairs[0].loop};
    return virtio_init(&d->v, &net_device_ops, name, setup->mem, features_of(setup), queues, count);
}

int virtio_net_create(const char *name, const struct virtio_net_setup *setup,
                      struct virtio_dev **out)
{
    struct net_device *d = calloc(1, sizeof(*d));

    if (d == NULL)
        return -ENOMEM;
    (void)pthread_mutex_init(&d->filter_lock, NULL); /* does not fail on Linux */
    memcpy(d->mac, setup->mac, sizeof(d->mac));
    net_filter_reset(&d->filter, d->mac);
    d->mtu = setup->mtu;
    d->link_up = true;
    d->active = 1;
    init_limit(&d->in);
    init_limit(&d->out);
    int rc = init_queues(d, name, setup);
    if (rc == 0)
        d->pairs = calloc(setup->pair_count, sizeof(*d->pairs));
    if (rc == 0 && d->pairs == NULL)
        rc = -ENOMEM;
    d->pair_count = setup->pair_count;
    for (unsigned i = 0; rc == 0 && i < setup->pair_count; i++)
        rc = init_pair(d, i, &setup->pairs[i]);
    if (rc < 0) {
        net_device_destroy(&d->v);
        return rc;
    }
    virtio_net_limit(&d->v, &setup->limits);
    *out = &d->v;
    return 0;
}
