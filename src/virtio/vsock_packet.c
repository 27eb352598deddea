/*
 * Packets of the socket device, VIRTIO 1.2 §5.10.6: a header of 44 bytes, and in those that carry
 * data a payload.
 *
 * What of a header can be wrong is decided here, once. Addresses that are not this guest's and the
 * host's: the packet is nobody's, and is dropped, because an answer would have to go there. An
 * operation that there is not, or a length beyond the buffer: the packet is kept, with an operation
 * that no state of a connection allows, and so it meets the answer to every breach of the rules.
 */
#include <assert.h>
#include <endian.h>
#include <linux/vm_sockets.h>

#include "virtio/vsock_priv.h"

static_assert(sizeof(struct virtio_vsock_hdr) == 44, "VIRTIO 1.2 §5.10.6");
static_assert(offsetof(struct virtio_vsock_hdr, op) == 30, "VIRTIO 1.2 §5.10.6");

static struct vsock_packet decode(const struct virtio_vsock_hdr *h)
{
    return (struct vsock_packet){
        .guest_port = le32toh(h->src_port),
        .host_port = le32toh(h->dst_port),
        .type = le16toh(h->type),
        .op = le16toh(h->op),
        .len = le32toh(h->len),
        .flags = le32toh(h->flags),
        .buf_alloc = le32toh(h->buf_alloc),
        .fwd_cnt = le32toh(h->fwd_cnt),
    };
}

/* Drops what is behind the first `len` readable bytes. */
static void cut(struct vq_chain *chain, uint64_t len)
{
    for (unsigned i = 0; i < chain->out_count; i++) {
        if (chain->iov[i].iov_len > len)
            chain->iov[i].iov_len = len;
        len -= chain->iov[i].iov_len;
        chain->out_size = i == 0 ? chain->iov[i].iov_len : chain->out_size + chain->iov[i].iov_len;
    }
}

bool vsock_parse(struct vq_chain *chain, uint64_t cid, struct vsock_packet *out)
{
    struct virtio_vsock_hdr h;

    if (vq_chain_read(chain, 0, &h, sizeof(h)) != sizeof(h))
        return false;
    if (le64toh(h.src_cid) != cid || le64toh(h.dst_cid) != VMADDR_CID_HOST)
        return false;
    vq_chain_skip_out(chain, sizeof(h));
    *out = decode(&h);
    if (out->op == VIRTIO_VSOCK_OP_RST) /* never answered, so it cannot be wrong */
        return true;
    if (out->op >= VSOCK_OPS || out->len > chain->out_size)
        out->op = VIRTIO_VSOCK_OP_INVALID;
    else
        cut(chain, out->len); /* §5.10.6: buffers may be longer than the payload */
    return true;
}

struct virtio_vsock_hdr vsock_header(const struct vsock_packet *p, uint64_t cid)
{
    return (struct virtio_vsock_hdr){
        .src_cid = htole64(VMADDR_CID_HOST),
        .dst_cid = htole64(cid),
        .src_port = htole32(p->host_port),
        .dst_port = htole32(p->guest_port),
        .len = htole32(p->len),
        .type = htole16(p->type),
        .op = htole16(p->op),
        .flags = htole32(p->flags),
        .buf_alloc = htole32(p->buf_alloc),
        .fwd_cnt = htole32(p->fwd_cnt),
    };
}
