/*
 * Transmitting, VIRTIO 1.2 §5.1.6.2.
 *
 * The header says what the receiver of a frame has still to do. It is copied and judged, and the
 * copy is sent: a guest that rewrites it meanwhile changes nothing. A frame that is malformed is
 * dropped, and counted; the chain is used all the same.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "hv/base/todo.h"
#include "virtio/net_priv.h"

#define PUBLISH_EVERY 32 /* frames */
#define BUDGET 256       /* frames in one go: others use this thread, too */

/* EXERCISE 9.11: may this header go on to the back end, before a frame of `frame` bytes? It is a
 * copy, its fields are little-endian, and the host's kernel will believe it. gso_type: none; or
 * TCPV4 or TCPV6, if that was negotiated (VIRTIO_NET_F_HOST_TSO4, …_TSO6). A segment to be cut has
 * a gso_size, and a checksum to be made. hdr_len is no more than the frame. A checksum to be made
 * (VIRTIO_NET_HDR_F_NEEDS_CSUM) was negotiated (VIRTIO_NET_F_CSUM), and its 16 bits at csum_start +
 * csum_offset lie in the frame. §5.1.6.2.1 */
// SOLUTION 9.11
/* §5.1.6.2.1: what the driver must not ask for. */
static bool is_gso_good(const struct net_device *d, const struct virtio_net_hdr_v1 *h)
{
    switch (h->gso_type) {
    case VIRTIO_NET_HDR_GSO_NONE:
        return true;
    case VIRTIO_NET_HDR_GSO_TCPV4:
        return virtio_has(&d->v, VIRTIO_NET_F_HOST_TSO4);
    case VIRTIO_NET_HDR_GSO_TCPV6:
        return virtio_has(&d->v, VIRTIO_NET_F_HOST_TSO6);
    default:
        return false;
    }
}

static bool is_header_good(const struct net_device *d, const struct virtio_net_hdr_v1 *h,
                           uint64_t frame)
{
    bool needs_csum = h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;

    if (!is_gso_good(d, h))
        return false;
    if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE && (le16toh(h->gso_size) == 0 || !needs_csum))
        return false;
    if (le16toh(h->hdr_len) > frame)
        return false;
    if (!needs_csum)
        return true;
    return virtio_has(&d->v, VIRTIO_NET_F_CSUM) &&
           (uint64_t)le16toh(h->csum_start) + le16toh(h->csum_offset) + sizeof(uint16_t) <= frame;
}
// ELSE
// static bool is_header_good(const struct net_device *d, const struct virtio_net_hdr_v1 *h,
//                            uint64_t frame)
// {
//     return todo("9.11") == 0;
// }
// END 9.11

/* Sends what the chain holds. 0: it is sent, or dropped; -EAGAIN: later. iov[0] is free for the
 * header, the chain's pieces begin behind it. */
static int send_one(struct net_device *d, struct net_pair *p, struct vq_chain *chain,
                    struct iovec *iov)
{
    struct virtio_net_hdr_v1 header;

    if (vq_chain_read(chain, 0, &header, sizeof(header)) != sizeof(header))
        goto drop;
    vq_chain_skip_out(chain, sizeof(header));
    uint64_t frame = chain->out_size;
    if (frame < NET_FRAME_MIN || frame > NET_FRAME_MAX || !is_header_good(d, &header, frame))
        goto drop;
    header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM; /* the others are for devices to set */
    header.num_buffers = 0;
    iov[0] = (struct iovec){&header, sizeof(header)};
    ssize_t sent = d->has_header ? net_send(p->net, iov, chain->out_count + 1)
                                 : net_send(p->net, chain->iov, chain->out_count);
    if (sent == -EAGAIN)
        return -EAGAIN;
    if (sent < 0)
        goto drop;
    net_limit_spend(&p->tx, frame);
    net_count(&d->sent);
    return 0;

drop:
    net_count(&d->dropped_out);
    return 0;
}

void net_tx_pump(struct net_device *d, struct net_pair *p)
{
    struct virtio_queue *vq = p->tx.vq;
    struct iovec iov[TX_PIECES + 1];
    struct vq_chain chain = {.iov = iov + 1, .iov_max = TX_PIECES};
    bool full = false;

    for (unsigned frames = 1; net_limit_wait(&p->tx) == 0; frames++) {
        vq_mute(&vq->vq);
        if (vq_pop(&vq->vq, &chain) <= 0) {
            if (vq_unmute(&vq->vq))
                continue;
            break;
        }
        full = send_one(d, p, &chain, iov) == -EAGAIN;
        if (full) {
            vq_unpop(&vq->vq, 1);
            break;
        }
        vq_push(&vq->vq, &chain, 0);
        if (frames == BUDGET) {
            virtio_kick(vq); /* to be continued */
            break;
        }
        if (frames % PUBLISH_EVERY == 0)
            virtio_publish(vq);
    }
    virtio_publish(vq);
    net_listen_for(p, p->wants_read, full);
}
