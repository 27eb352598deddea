/*
 * A split virtqueue, the device's side (VIRTIO 1.2 §2.6, §2.7).
 *
 * The driver, inside the guest, writes descriptors and makes chains of them available; the device
 * takes a chain, reads the buffers it may read, writes those it may write, and gives the chain back
 * as used. All three areas lie in guest memory and may change at any moment, so every number is
 * fetched once, checked, and only the copy is used.
 *
 *     struct iovec iov[N];
 *     struct vq_chain chain = {.iov = iov, .iov_max = N};
 *     while (vq_pop(vq, &chain) > 0) {
 *         … serve it …
 *         vq_push(vq, &chain, bytes_written);
 *     }
 *     if (vq_publish(vq))
 *         … interrupt the driver …
 *
 * A driver that breaks the rules breaks its queue: vq_pop() returns -EPROTO, now and until the
 * queue is reset, and the device asks to be reset (§2.1.2). Chains taken before may still be
 * pushed.
 *
 * Threads: one thread at a time uses a queue, whichever its device chose; nothing here is locked.
 *
 * Left out: packed rings (§2.8); the driver is not offered them.
 */
#ifndef HV_VIRTIO_QUEUE_H
#define HV_VIRTIO_QUEUE_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/base/codec.h"
#include "hv/base/err.h"
#include "hv/mem/mem.h"

#define VQ_SIZE_MAX 1024 /* entries of any queue of ours; §2.7 allows 32768 */

/* Where the driver put a queue; guest-physical addresses, §2.7.1 on names. */
struct vq_layout {
    uint16_t size;   /* entries, a power of two */
    uint64_t desc;   /* descriptor table: 16 bytes each, aligned to 16 */
    uint64_t driver; /* available ring: aligned to 2 */
    uint64_t device; /* used ring: aligned to 4 */
};

struct vq {
    const struct mem *mem; /* borrowed */
    uint16_t size_max;     /* entries that the device offers, a power of two */
    struct vq_layout at;   /* as the driver wrote it; size is size_max after a reset */
    bool enabled;
    bool broken;         /* the driver broke the rules */
    bool event_idx;      /* VIRTIO_RING_F_EVENT_IDX was negotiated */
    bool indirect;       /* VIRTIO_RING_F_INDIRECT_DESC was */
    uint16_t next_avail; /* the available entry to take next, modulo 2^16 as all three */
    uint16_t next_used;  /* the used entry to fill next */
    uint16_t signalled;  /* next_used when the driver was last told, or was last not interested */
    uint16_t pushed;     /* used entries filled since vq_publish() */
    /* The areas in host memory while enabled. */
    const struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
};

/* One request of the driver's. The caller provides iov. */
struct vq_chain {
    struct iovec *iov; /* borrowed; first the pieces to read, then those to write */
    unsigned iov_max;
    uint16_t head;      /* what the used ring says it by */
    unsigned out_count; /* pieces that the device reads */
    unsigned in_count;  /* pieces that it writes */
    uint64_t out_size;  /* bytes of either */
    uint64_t in_size;
};

void vq_init(struct vq *vq, const struct mem *mem, uint16_t size_max);

/* As after vq_init(): disabled, empty, nothing negotiated. */
void vq_reset(struct vq *vq);

/* Takes the layout in vq->at into use. -EINVAL: the size is 0, above size_max or no power of two;
 * an area is unaligned, not all in RAM, or overlaps another. -EALREADY: it is enabled. The queue
 * stays as it was. FEATURES: what was negotiated. */
int vq_enable(struct vq *vq, uint64_t features) HV_MUST_CHECK;

/* Takes the next available chain. 1: *chain describes it. 0: there is none, or the queue is not
 * enabled. -EPROTO: the queue is broken, see above; also for a chain of more than iov_max pieces.
 */
int vq_pop(struct vq *vq, struct vq_chain *chain) HV_MUST_CHECK;

/* Gives a chain back, in any order. WRITTEN: bytes written to its buffers, from the first on. The
 * driver sees it at the next vq_publish(). */
void vq_push(struct vq *vq, const struct vq_chain *chain, uint32_t written);

/* For a chain that its device cannot even answer: the driver broke the rules, and with it the
 * queue. */
void vq_break(struct vq *vq);

/* Puts the last `count` chains taken back, so that vq_pop() takes them again: for a device that has
 * no use for them yet. Only if none of them was pushed, and nothing was popped since. */
void vq_unpop(struct vq *vq, unsigned count);

/* Shows the driver what was pushed. True: it wants an interrupt for it. */
bool vq_publish(struct vq *vq) HV_MUST_CHECK;

/* Asks the driver not to notify, while the device looks at the queue anyway. A wish: it may all the
 * same. */
void vq_mute(struct vq *vq);

/* Asks for notifications again. True: something became available meanwhile, and no notification
 * will come for it: look once more. */
bool vq_unmute(struct vq *vq) HV_MUST_CHECK;

/* Is something available? Costs one read of guest memory. */
bool vq_has_work(const struct vq *vq);

/* Copying between the chain's buffers and a structure of ours; OFFSET counts from the chain's first
 * readable (writable) byte. Returns the bytes copied, fewer than LEN where the chain is too short.
 */
size_t vq_chain_read(const struct vq_chain *chain, uint64_t offset, void *out, size_t len);
size_t vq_chain_write(const struct vq_chain *chain, uint64_t offset, const void *data, size_t len);

/* Takes the chain's readable (writable) pieces apart: drops `bytes` from their front, or from their
 * back. There must be as many. */
void vq_chain_skip_out(struct vq_chain *chain, uint64_t bytes);
void vq_chain_trim_in(struct vq_chain *chain, uint64_t bytes);

/* State, as fields of the device's open section. load: -EINVAL for what no queue of ours saved;
 * -ENODATA and -EBADMSG are codec_leave()'s to tell. An enabled queue is enabled again; what
 * features it had is in it. */
void vq_save(const struct vq *vq, struct codec_writer *w);
int vq_load(struct vq *vq, struct codec_reader *r) HV_MUST_CHECK;

#endif
