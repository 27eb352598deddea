/*
 * The block device (VIRTIO 1.2 §5.2): a disk whose sectors are a block back end's.
 */
#ifndef HV_VIRTIO_BLK_H
#define HV_VIRTIO_BLK_H

#include "hv/base/bucket.h"
#include "hv/block/block.h"
#include "hv/mem/mem.h"
#include "hv/virtio/virtio.h"

#define VIRTIO_BLK_QUEUES_MAX 16
#define VIRTIO_BLK_SERIAL_MAX 20 /* characters that the guest can ask for, §5.2.6 GET_ID */

struct virtio_blk_setup {
    const struct mem *mem;     /* borrowed, outlives the device */
    struct block *block;       /* borrowed likewise: machines come and go, disks stay */
    struct loop *const *loops; /* one for each queue, each may be there several times; borrowed */
    unsigned queues;           /* 1 to VIRTIO_BLK_QUEUES_MAX */
    const char *serial;        /* NULL: none; what is longer is cut */
    uint64_t iops, bps;        /* operations and bytes per second; 0: no limit */
};

/* -ENOMEM, -EMFILE, or what block_open() says. */
int virtio_blk_create(const char *name, const struct virtio_blk_setup *cfg,
                      struct virtio_dev **out) HV_MUST_CHECK;

/* New limits, from now on. Any thread. */
void virtio_blk_limit(struct virtio_dev *v, uint64_t iops, uint64_t bps);

struct virtio_blk_stats {
    uint64_t reads, writes, flushes;    /* requests */
    uint64_t discards;                  /* of ranges, to be forgotten or to be zeros */
    uint64_t read_bytes, written_bytes; /* asked for */
    struct bucket_use ops, bytes;       /* the limits */
};

/* Any thread. */
void virtio_blk_stats(struct virtio_dev *v, struct virtio_blk_stats *out);

#endif
