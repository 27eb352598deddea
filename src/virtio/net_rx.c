/*
 * Receiving, VIRTIO 1.2 §5.1.6.4.
 *
 * A frame goes from the host's kernel straight into the guest's buffers. How long it is, one learns
 * when it has come; so chains are popped ahead, enough for the longest, and those that a frame did
 * not need wait for the next. They are not in flight: when the queue stops, they go back.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "hv/base/todo.h"
#include "virtio/net_priv.h"

#define PUBLISH_EVERY 32 /* frames */
#define BUDGET 256       /* frames in one go: others use this thread, too */

/* --- chains held --- */

/* Pops one more; false: none is there, or there is no room, or the queue broke. */
static bool hold_one(struct net_pair *p)
{
    struct rx_held *h = &p->held;
    struct vq *vq = &p->rx.vq->vq;
    struct vq_chain chain = {.iov = h->iov + h->pieces, .iov_max = RX_PIECES - h->pieces};

    if (h->count == RX_HELD_MAX || h->pieces > RX_PIECES / 2)
        return false;
    if (vq_pop(vq, &chain) <= 0)
        return false;
    if (chain.out_size > 0 || chain.in_size < NET_HEADER) {
        vq_break(vq); /* §5.1.6.3.1: room for the header at least, and nothing to read */
        return false;
    }
    h->chains[h->count].head = chain.head;
    h->chains[h->count].pieces = chain.in_count;
    h->chains[h->count].size = (uint32_t)chain.in_size;
    h->count++;
    h->pieces += chain.in_count;
    h->bytes += chain.in_size;
    return true;
}

/* As many as the longest frame needs, or as there are. */
static void hold(struct net_device *d, struct net_pair *p)
{
    while ((d->merges ? p->held.bytes < d->frame_max : p->held.count == 0) && hold_one(p))
        ;
}

static void drop_front(struct rx_held *h, unsigned count)
{
    unsigned pieces = 0;

    for (unsigned i = 0; i < count; i++) {
        pieces += h->chains[i].pieces;
        h->bytes -= h->chains[i].size;
    }
    h->count -= count;
    h->pieces -= pieces;
    memmove(h->chains, h->chains + count, h->count * sizeof(h->chains[0]));
    memmove(h->iov, h->iov + pieces, h->pieces * sizeof(h->iov[0]));
}

void net_rx_give_back(struct net_pair *p)
{
    vq_unpop(&p->rx.vq->vq, p->held.count);
    p->held.count = p->held.pieces = 0;
    p->held.bytes = 0;
}

/* --- a frame --- */

/* The held buffers as one chain, to read and write them by offset. */
static struct vq_chain as_chain(struct rx_held *h)
{
    return (struct vq_chain){.iov = h->iov, .in_count = h->pieces, .in_size = h->bytes};
}

/* Takes a frame behind the place of the header, which the back end does not know. */
static ssize_t receive_plain(struct net_pair *p)
{
    struct iovec iov[RX_PIECES];
    struct vq_chain chain = as_chain(&p->held);

    memcpy(iov, p->held.iov, p->held.pieces * sizeof(iov[0]));
    /* What is skipped counts as readable pieces; the pieces are the same. */
    chain = (struct vq_chain){.iov = iov, .out_count = p->held.pieces, .out_size = p->held.bytes};
    vq_chain_skip_out(&chain, NET_HEADER);
    ssize_t got = net_receive(p->net, iov, p->held.pieces);
    return got < 0 ? got : got + (ssize_t)NET_HEADER;
}

/* §5.1.6.4.1: num_buffers is always told. */
static void finish_header(const struct net_device *d, const struct vq_chain *chain,
                          unsigned buffers)
{
    struct virtio_net_hdr_v1 header = {.num_buffers = htole16((uint16_t)buffers)};
    const size_t at = offsetof(struct virtio_net_hdr_v1, num_buffers);

    if (d->has_header)
        (void)vq_chain_write(chain, at, &header.num_buffers, sizeof(header.num_buffers));
    else
        (void)vq_chain_write(chain, 0, &header, sizeof(header));
}

/* EXERCISE 9.12: a frame of `bytes` bytes, its header included, lies in the held buffers, from the
 * first one's beginning on (p->held: `count` chains, of chains[i].size bytes each). buffers_for():
 * how many of them it fills, wholly or in part; 0 if it does not fit, which without mergeable
 * buffers (d->merges) means: into one. push() gives so many back (vq_push(); a struct vq_chain with
 * the head is enough), each with the number of bytes of the frame that lie in it, and forgets them
 * (drop_front()). What is behind them was popped too early, and waits for the next frame. */
// SOLUTION 9.12
/* The buffers that `bytes` fill; 0: they do not fit. */
static unsigned buffers_for(const struct net_device *d, const struct rx_held *h, uint64_t bytes)
{
    uint64_t room = 0;

    for (unsigned i = 0; i < h->count; i++) {
        room += h->chains[i].size;
        if (room >= bytes)
            return i + 1;
        if (!d->merges)
            return 0;
    }
    return 0;
}

static void push(struct net_pair *p, unsigned buffers, uint64_t bytes)
{
    for (unsigned i = 0; i < buffers; i++) {
        uint32_t here = p->held.chains[i].size < bytes ? p->held.chains[i].size : (uint32_t)bytes;
        const struct vq_chain chain = {.head = p->held.chains[i].head};
        vq_push(&p->rx.vq->vq, &chain, here);
        bytes -= here;
    }
    drop_front(&p->held, buffers);
}
// ELSE
// static unsigned buffers_for(const struct net_device *d, const struct rx_held *h, uint64_t bytes)
// {
//     return (unsigned)(todo("9.12") == 0);
// }
//
// static void push(struct net_pair *p, unsigned buffers, uint64_t bytes)
// {
//     drop_front(&p->held, buffers);
// }
// END 9.12

/* A frame of `bytes` with its header lies in the held buffers: the guest's, or nobody's, in which
 * case the next one overwrites it. */
static void deliver(struct net_device *d, struct net_pair *p, uint64_t bytes)
{
    struct vq_chain chain = as_chain(&p->held);
    unsigned buffers = buffers_for(d, &p->held, bytes);
    uint8_t to[VIRTIO_NET_MAC];
    struct vq_chain readable = {.iov = p->held.iov, .out_count = p->held.pieces};

    if (buffers == 0 || bytes < NET_HEADER + NET_FRAME_MIN) {
        net_count(&d->dropped_in);
        return;
    }
    (void)vq_chain_read(&readable, NET_HEADER, to, sizeof(to)); /* there are as many: see above */
    if (!net_filter_wants(d, to)) {
        net_count(&d->filtered);
        return;
    }
    finish_header(d, &chain, buffers);
    push(p, buffers, bytes);
    net_limit_spend(&p->rx, bytes - NET_HEADER);
    net_count(&d->received);
}

/* Takes one frame. False: there is none, or there will be none. */
static bool receive_one(struct net_device *d, struct net_pair *p)
{
    ssize_t got =
        d->has_header ? net_receive(p->net, p->held.iov, p->held.pieces) : receive_plain(p);

    if (got >= 0)
        deliver(d, p, (uint64_t)got);
    else if (got == -EMSGSIZE)
        net_count(&d->dropped_in);
    return got >= 0 || got == -EMSGSIZE;
}

/* Until there is nothing to receive (then the back end is listened to), no buffer (then the
 * driver's notification is waited for), or nothing left of the limit (then the timer is). A pair
 * that the driver does not use waits until it does, and is kicked then. */
void net_rx_pump(struct net_device *d, struct net_pair *p)
{
    struct virtio_queue *vq = p->rx.vq;
    bool readable = false;

    if (p >= d->pairs + atomic_load(&d->active)) {
        net_listen_for(p, false, p->wants_write);
        return;
    }
    for (unsigned frames = 1;; frames++) {
        if (net_limit_wait(&p->rx) > 0)
            break;
        vq_mute(&vq->vq);
        hold(d, p);
        if (p->held.count == 0 && !vq_unmute(&vq->vq))
            break;
        if (p->held.count > 0 && (!receive_one(d, p) || frames == BUDGET)) {
            readable = true;
            break;
        }
        if (frames % PUBLISH_EVERY == 0)
            virtio_publish(vq);
    }
    virtio_publish(vq);
    net_listen_for(p, readable, p->wants_write);
}
