/*
 * Packets for the guest, VIRTIO 1.2 §5.10.6.4.
 *
 * A packet is made when there is a buffer for it, not before: what is owed is noted in the
 * connections, and data stays in the programs' sockets. So nothing is queued, nothing can be lost,
 * and each packet carries the newest credit. The exception is a RST for what is no connection,
 * which has no other place to be remembered.
 */
#include <errno.h>
#include <string.h>

#include "virtio/vsock_priv.h"

/* What comes first. Data before SHUTDOWN: when the data ends, one SHUTDOWN closes all. */
static const uint8_t order[] = {
    VIRTIO_VSOCK_OP_RST,
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
};

static uint16_t first_due(const struct vsock_conn *c)
{
    const uint8_t *op = order;

    while (!(c->due & 1U << *op))
        op++;
    return *op;
}

/* Reads data of the program's into the chain, behind the place of the header. */
static ssize_t read_payload(struct vsock_conn *c, const struct vq_chain *chain)
{
    struct iovec iov[VSOCK_PIECES];
    uint32_t max = vsock_credit(c) < VSOCK_PACKET_MAX ? vsock_credit(c) : VSOCK_PACKET_MAX;
    struct vq_chain room = {.iov = iov, .in_count = chain->in_count, .in_size = chain->in_size};

    memcpy(iov, chain->iov, chain->in_count * sizeof(iov[0]));
    if (room.in_size > VSOCK_HEADER + max)
        vq_chain_trim_in(&room, room.in_size - VSOCK_HEADER - max);
    /* What is skipped counts as readable pieces; the pieces are the same. */
    room = (struct vq_chain){.iov = iov, .out_count = room.in_count, .out_size = room.in_size};
    vq_chain_skip_out(&room, VSOCK_HEADER);
    return vsock_take(c, iov, room.out_count);
}

/* The payload of an RW packet, if there is some; -EAGAIN: there is none, and the connection is not
 * owed one any more. */
static ssize_t make_payload(struct vsock_conn *c, const struct vq_chain *chain)
{
    ssize_t n = read_payload(c, chain);

    if (n > 0) {
        c->sent += (uint32_t)n;
        return n;
    }
    c->is_readable = false;
    vsock_offer_data(c);
    if (n == 0)
        vsock_host_shuts(c, VIRTIO_VSOCK_SHUTDOWN_SEND);
    return -EAGAIN;
}

/* Makes the packet that comes first. Returns its bytes, 0: there is none after all. */
static uint32_t fill_from(struct vsock_conn *c, const struct vq_chain *chain)
{
    struct vsock_packet p = {
        .guest_port = c->guest_port,
        .host_port = c->host_port,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = first_due(c),
        .buf_alloc = VIRTIO_VSOCK_BUFFER,
        .fwd_cnt = c->forwarded,
    };
    ssize_t n = p.op == VIRTIO_VSOCK_OP_RW ? make_payload(c, chain) : 0;

    if (n < 0)
        return 0;
    p.len = (uint32_t)n;
    p.flags = p.op == VIRTIO_VSOCK_OP_SHUTDOWN ? c->host_shut : 0;
    const struct virtio_vsock_hdr h = vsock_header(&p, c->d->cid);
    (void)vq_chain_write(chain, 0, &h, sizeof(h)); /* it fits, see is_good() */
    vsock_sent(c, p.op);
    return VSOCK_HEADER + p.len;
}

static uint32_t fill_reset(struct vsock *d, const struct vq_chain *chain)
{
    const struct virtio_vsock_hdr h = vsock_header(&d->resets[d->reset_first], d->cid);

    (void)vq_chain_write(chain, 0, &h, sizeof(h)); /* it fits, see is_good() */
    d->reset_first = (d->reset_first + 1) % VSOCK_RESETS_MAX;
    d->reset_count--;
    return VSOCK_HEADER;
}

static bool has_work(const struct vsock *d)
{
    return d->reset_count > 0 || !TAILQ_EMPTY(&d->ready);
}

static uint32_t fill(struct vsock *d, const struct vq_chain *chain)
{
    struct vsock_conn *c = TAILQ_FIRST(&d->ready);

    if (d->reset_count > 0)
        return fill_reset(d, chain);
    TAILQ_REMOVE(&d->ready, c, ready); /* its turn is over, whatever comes of it */
    TAILQ_INSERT_TAIL(&d->ready, c, ready);
    return fill_from(c, chain);
}

/* §5.10.6.4.1: buffers for received packets are only written; and data must fit behind a header. */
static bool is_good(const struct vq_chain *chain)
{
    return chain->out_size == 0 && chain->in_size > VSOCK_HEADER;
}

/* One packet. False: the driver has no buffer for it. */
static bool send_one(struct vsock *d, struct vq *vq)
{
    struct iovec iov[VSOCK_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = VSOCK_PIECES};

    vq_mute(vq);
    if (vq_pop(vq, &chain) <= 0)
        return vq_unmute(vq);
    if (!is_good(&chain)) {
        vq_break(vq);
        return false;
    }
    uint32_t written = fill(d, &chain);
    if (written > 0)
        vq_push(vq, &chain, written);
    else
        vq_unpop(vq, 1);
    return true;
}

/* Until nothing is owed, or there is no buffer: then the driver's notification is waited for. */
void vsock_rx_pump(struct vsock *d, struct virtio_queue *q)
{
    unsigned packets = 0;

    while (has_work(d) && packets++ < VSOCK_BUDGET)
        if (!send_one(d, &q->vq))
            break;
    if (packets > VSOCK_BUDGET)
        virtio_kick(q); /* to be continued */
    virtio_publish(q);
    if (d->tx_waits && d->reset_count < VSOCK_RESETS_MAX)
        virtio_kick(virtio_queue(&d->v, VSOCK_TX));
}
