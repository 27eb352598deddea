/*
 * Bytes of the guest's that its peer on the host has not read yet: a ring of fixed size, whose
 * memory is there only while something is in it. Most programs read as fast as the guest writes,
 * and never need one.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "virtio/vsock_priv.h"

int vsock_buf_put(struct vsock_buf *b, const struct vq_chain *chain, uint64_t offset)
{
    uint64_t len = chain->out_size - offset;

    assert(len <= VIRTIO_VSOCK_BUFFER - b->len);
    if (b->bytes == NULL)
        b->bytes = malloc(VIRTIO_VSOCK_BUFFER);
    if (b->bytes == NULL)
        return -ENOMEM;
    while (len > 0) {
        uint32_t at = (b->first + b->len) % VIRTIO_VSOCK_BUFFER;
        uint32_t here = VIRTIO_VSOCK_BUFFER - at;
        if (here > len)
            here = (uint32_t)len;
        (void)vq_chain_read(chain, offset, b->bytes + at, here); /* the chain has as many */
        b->len += here;
        offset += here;
        len -= here;
    }
    return 0;
}

unsigned vsock_buf_pieces(const struct vsock_buf *b, struct iovec iov[2])
{
    uint32_t to_end = VIRTIO_VSOCK_BUFFER - b->first;
    uint32_t straight = b->len < to_end ? b->len : to_end;

    iov[0] = (struct iovec){b->bytes + b->first, straight};
    iov[1] = (struct iovec){b->bytes, b->len - straight};
    return (straight > 0) + (b->len > straight);
}

void vsock_buf_drop(struct vsock_buf *b, uint32_t bytes)
{
    assert(bytes <= b->len);
    b->first = (b->first + bytes) % VIRTIO_VSOCK_BUFFER;
    b->len -= bytes;
    if (b->len > 0)
        return;
    free(b->bytes);
    *b = (struct vsock_buf){0};
}
