/*
 * virtio-vsock, VIRTIO 1.2 §5.10: the device around its connections.
 *
 * Left out: SOCK_SEQPACKET (§5.10.6.6), which is not offered; sockets between two guests.
 */
#include "hv/virtio/vsock.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/listen.h"
#include "hv/base/num.h"
#include "virtio/vsock_priv.h"

#define QUEUE_SIZE 256
#define EVENT_QUEUE_SIZE 16
#define SECONDS UINT64_C(1000000000)

static const uint64_t patience[VSOCK_STATES] = {
    [VSOCK_GREETING] = 60 * SECONDS,  /* a person may be typing */
    [VSOCK_ASKED] = 5 * SECONDS,      /* a driver answers, whether a program listens or not */
    [VSOCK_CLOSING] = 8 * SECONDS,    /* as long as Linux waits for its peer */
    [VSOCK_LINGERING] = 10 * SECONDS, /* without the program having read anything */
};

static struct vsock *vsock_of(struct virtio_dev *v)
{
    return container_of(v, struct vsock, v);
}

/* --- queues --- */

/* One packet of the driver's. It is dealt with when this returns. */
static void take_packet(struct vsock *d, struct vq_chain *chain)
{
    struct vsock_packet packet;

    if (vsock_parse(chain, d->cid, &packet))
        vsock_receive(d, &packet, chain);
    else
        vsock_count(&d->dropped);
}

/* §5.10.6.1: what the driver sends is taken even while it takes nothing; but where that would cost
 * memory, we wait for it. Each packet may need a RST. */
static void tx_pump(struct vsock *d, struct virtio_queue *q)
{
    struct iovec iov[VSOCK_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = VSOCK_PIECES};

    for (unsigned packets = 1;; packets++) {
        d->tx_waits = d->reset_count == VSOCK_RESETS_MAX;
        if (d->tx_waits) {
            (void)!vq_unmute(&q->vq); /* whatever came: vsock_rx_pump() kicks */
            break;
        }
        vq_mute(&q->vq);
        if (vq_pop(&q->vq, &chain) <= 0) {
            if (vq_unmute(&q->vq))
                continue;
            break;
        }
        take_packet(d, &chain);
        vq_push(&q->vq, &chain, 0);
        if (packets >= VSOCK_BUDGET) {
            virtio_kick(q); /* to be continued */
            break;
        }
    }
    virtio_publish(q);
}

/* §5.10.6.7. While the driver offers no buffer, the event waits. */
static void event_pump(struct vsock *d, struct virtio_queue *q)
{
    const struct virtio_vsock_event event = {htole32(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET)};
    struct iovec iov[VSOCK_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = VSOCK_PIECES};

    while (atomic_load(&d->event_due)) {
        vq_mute(&q->vq);
        if (vq_pop(&q->vq, &chain) <= 0) {
            if (vq_unmute(&q->vq))
                continue;
            return;
        }
        if (chain.in_size < sizeof(event)) {
            vq_break(&q->vq);
            return;
        }
        (void)vq_chain_write(&chain, 0, &event, sizeof(event)); /* it fits */
        vq_push(&q->vq, &chain, sizeof(event));
        atomic_store(&d->event_due, false);
        virtio_publish(q);
    }
}

static void vsock_serve(struct virtio_dev *v, struct virtio_queue *q)
{
    struct vsock *d = vsock_of(v);

    (void)vsock_settle(d);
    if (q->index == VSOCK_RX)
        vsock_rx_pump(d, q);
    else if (q->index == VSOCK_TX)
        tx_pump(d, q);
    else
        event_pump(d, q);
}

/* --- configuration, §5.10.4 --- */

static void vsock_config_read(struct virtio_dev *v, uint64_t offset, void *out, unsigned size)
{
    const struct virtio_vsock_config config = {htole64(vsock_of(v)->cid)};

    if (range_fits(offset, size, sizeof(config)))
        memcpy(out, (const uint8_t *)&config + offset, size);
}

/* --- reset --- */

/* The guest forgets its connections, all at once. Programs that have not named a port yet, and
 * those that are still reading, do not notice. */
bool vsock_settle(struct vsock *d)
{
    if (!atomic_exchange(&d->reset_due, false))
        return false;
    for (unsigned i = 0; i < VIRTIO_VSOCK_CONNECTIONS; i++) {
        struct vsock_conn *c = &d->conns[i];
        if (c->state >= VSOCK_ASKED && c->state <= VSOCK_ENDING)
            vsock_over(c);
    }
    d->reset_count = 0;
    d->tx_waits = false;
    return true;
}

static void on_wake(void *ctx, uint32_t events)
{
    struct vsock *d = ctx;
    eventfd_t count;

    (void)events;
    (void)eventfd_read(d->wake, &count); /* EAGAIN: somebody was faster */
    (void)vsock_settle(d);
}

/* From a vCPU's thread: connections are the loop's, so it is asked to let go of them. No packet is
 * served before it has. */
static void forget_connections(struct vsock *d)
{
    atomic_store(&d->reset_due, true);
    (void)eventfd_write(d->wake, 1); /* EAGAIN: it is about to wake anyway */
}

static void vsock_reset(struct virtio_dev *v)
{
    atomic_store(&vsock_of(v)->event_due, false);
    forget_connections(vsock_of(v));
}

/* Nothing of the device's own is saved: what a guest remembers of its connections when it wakes up
 * is taken from it. */
static int vsock_load(struct virtio_dev *v, struct codec_reader *r)
{
    int rc = codec_leave(r);

    if (rc < 0)
        return rc;
    forget_connections(vsock_of(v));
    atomic_store(&vsock_of(v)->event_due, true);
    return 0;
}

void virtio_vsock_stats(const struct virtio_dev *v, struct virtio_vsock_stats *out)
{
    const struct vsock *d = container_of(v, struct vsock, v);

    *out = (struct virtio_vsock_stats){
        .connections = atomic_load(&d->connections),
        .opened = atomic_load(&d->opened),
        .refused = atomic_load(&d->refused),
        .broken = atomic_load(&d->broken),
        .dropped = atomic_load(&d->dropped),
    };
}

/* --- life --- */

static void vsock_destroy(struct virtio_dev *v)
{
    struct vsock *d = vsock_of(v);

    for (unsigned i = 0; i < VIRTIO_VSOCK_CONNECTIONS; i++)
        if (d->conns[i].state != VSOCK_FREE)
            vsock_conn_destroy(&d->conns[i]);
    timer_fini(&d->clock);
    timer_fini(&d->hear);
    if (d->wake >= 0)
        loop_remove(d->loop, d->wake);
    fd_close(&d->wake);
    if (d->listener >= 0) {
        loop_remove(d->loop, d->listener);
        unlisten_unix(d->path, &d->listener);
    }
    virtio_fini(v);
    free(d);
}

static const struct virtio_ops vsock_ops = {
    .id = VIRTIO_ID_VSOCK,
    .version = 1,
    .reset = vsock_reset,
    .serve = vsock_serve,
    .config_read = vsock_config_read,
    .load = vsock_load,
    .destroy = vsock_destroy,
};

static void init_connections(struct vsock *d)
{
    d->next_port = VSOCK_PORT_FIRST;
    memcpy(d->patience, patience, sizeof(patience));
    TAILQ_INIT(&d->ready);
    LIST_INIT(&d->spare);
    for (unsigned i = VIRTIO_VSOCK_CONNECTIONS; i-- > 0;)
        LIST_INSERT_HEAD(&d->spare, &d->conns[i], same);
}

static int init_wake(struct vsock *d)
{
    d->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return d->wake < 0 ? -errno : loop_add(d->loop, d->wake, EPOLLIN, on_wake, d);
}

static int init_device(struct vsock *d, const char *name, const struct virtio_vsock_setup *setup)
{
    const struct virtio_queue_config queues[VSOCK_QUEUES] = {
        [VSOCK_RX] = {QUEUE_SIZE, setup->loop},
        [VSOCK_TX] = {QUEUE_SIZE, setup->loop},
        [VSOCK_EVENT] = {EVENT_QUEUE_SIZE, setup->loop},
    };
    int rc = virtio_init(&d->v, &vsock_ops, name, setup->mem, 0, queues, VSOCK_QUEUES);

    if (rc == 0)
        rc = timer_init(&d->clock, d->loop, vsock_on_clock, d);
    if (rc == 0)
        rc = timer_init(&d->hear, d->loop, vsock_on_hear, d);
    if (rc == 0)
        rc = init_wake(d);
    if (rc < 0)
        return rc;
    d->listener = setup->listener;
    rc = vsock_listen_on(d);
    if (rc < 0)
        d->listener = -1; /* the caller's again */
    return rc;
}

int virtio_vsock_create(const char *name, const struct virtio_vsock_setup *setup,
                        struct virtio_dev **out)
{
    struct vsock *d;

    if (setup->cid < VIRTIO_VSOCK_CID_MIN || setup->cid > VIRTIO_VSOCK_CID_MAX)
        return -EINVAL;
    if (strlen(setup->path) >= sizeof(d->path))
        return -ENAMETOOLONG;
    d = calloc(1, sizeof(*d));
    if (d == NULL)
        return -ENOMEM;
    d->cid = setup->cid;
    d->loop = setup->loop;
    d->listener = d->wake = d->clock.fd = d->hear.fd = -1;
    memcpy(d->path, setup->path, strlen(setup->path));
    init_connections(d);
    int rc = init_device(d, name, setup);
    if (rc < 0) {
        vsock_destroy(&d->v);
        return rc;
    }
    *out = &d->v;
    return 0;
}
