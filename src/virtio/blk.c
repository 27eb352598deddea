/*
 * virtio-blk, VIRTIO 1.2 §5.2.
 *
 * A chain is a header, data, and one byte for the status, the last that the device may write. It
 * becomes one request of the block's, answered whenever that is done. What a request may be is
 * checked here as far as the header goes, and by the block for the rest: whatever is wrong with it,
 * the guest reads a status. Only a chain without room for the status breaks the queue, since nobody
 * could be told.
 *
 * A queue has a fixed pool of requests, as many as it has entries. A driver that offers the same
 * descriptors again before they are used could ask for more; then the queue waits for an answer.
 *
 * Left out: SCSI commands, multiple discard segments, life time, secure erase, zones.
 */
#include "hv/virtio/blk.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/timer.h"
#include "hv/base/todo.h"

#define QUEUE_SIZE 256
#define SEGMENTS_MAX 126           /* data buffers of one request that the driver is told of */
#define PIECES (SEGMENTS_MAX + 10) /* and header, status, and buffers that cross a region's end */
#define DISCARD_SECTORS_MAX (UINT32_C(1) << 22) /* 2 GiB at once */

struct blk_queue;

/* One chain on its way. */
struct request {
    struct block_req io;
    struct blk_queue *q; /* borrowed */
    struct request *next_free;
    struct vq_chain chain;
    uint32_t data_written; /* bytes for the guest, if it goes well */
    struct iovec iov[PIECES];
};

struct blk_queue {
    struct virtio_queue *vq;       /* borrowed */
    struct block_channel *channel; /* owned */
    struct timer refill;           /* a limit has something again */
    struct request *requests;      /* owned */
    struct request *free;          /* those that wait for a chain */
    bool starved;                  /* one was missing; guarded by the queue's lock */
    /* Statistics, by enum block_op: requests, and the bytes of those that move some. */
    _Atomic uint64_t begun[BLOCK_ZERO + 1], moved[BLOCK_WRITE + 1];
};

struct blk {
    struct virtio_dev v;
    struct block *block; /* borrowed */
    struct blk_queue *queues;
    struct bucket ops, bytes; /* what the limits allow */
    char serial[VIRTIO_BLK_SERIAL_MAX];
};

/* --- answers --- */

static uint8_t status_of(int result)
{
    if (result == 0)
        return VIRTIO_BLK_S_OK;
    return result == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* EXERCISE 8.8: an answer, some time later. answer_locked(), under the queue's lock: the status
 * (status_of()) into the byte that reserve_status() set aside, the chain back to the driver, the
 * request back to those that are free, and virtio_end(). The driver is told how many bytes were
 * written: the data, if it went well, and the status in any case. on_done(), on the queue's loop
 * and without the lock, answers. on_batch_end() comes after one or more of these: the driver hears
 * of all at once (virtio_publish()); and if take_all() left chains in the ring for want of
 * requests, the queue is kicked, once, now that there are some. */
// SOLUTION 8.8
static void answer_locked(struct request *r, int result)
{
    struct blk_queue *q = r->q;
    uint8_t *status = r->iov[r->chain.out_count + r->chain.in_count].iov_base;
    uint32_t written = (result == 0 ? r->data_written : 0) + 1;

    *status = status_of(result);
    vq_push(&q->vq->vq, &r->chain, written);
    r->next_free = q->free;
    q->free = r;
    virtio_end(q->vq);
}

static void on_done(struct block_req *io, int result)
{
    struct request *r = container_of(io, struct request, io);
    struct virtio_queue *vq = r->q->vq;

    pthread_mutex_lock(&vq->lock);
    answer_locked(r, result);
    pthread_mutex_unlock(&vq->lock);
}

static void on_batch_end(void *ctx)
{
    struct blk_queue *q = ctx;

    pthread_mutex_lock(&q->vq->lock);
    virtio_publish(q->vq);
    if (q->starved)
        virtio_kick(q->vq);
    q->starved = false;
    pthread_mutex_unlock(&q->vq->lock);
}
// ELSE
// static void answer_locked(struct request *r, int result)
// {
//     if (todo("8.8") == 0)
//         *(uint8_t *)r->iov[0].iov_base = status_of(result);
// }
//
// static void on_done(struct block_req *io, int result)
// {
//     answer_locked(container_of(io, struct request, io), result);
// }
//
// static void on_batch_end(void *ctx)
// {
//     (void)todo("8.8");
// }
// END 8.8

/* --- requests, §5.2.6 --- */

/* EXERCISE 8.6: what a chain means. reserve_status(): the status is the last byte that the device
 * may write, wherever the driver has cut its buffers (§2.7.4): in the last piece that has one. It
 * becomes a piece of its own, iov[out_count + in_count], and is no longer part of the data
 * (vq_chain_trim_in()). False: the chain has no such byte, or there is no room for the piece.
 * parse_transfer(): the rest is data; of a read what the device may write, of a write what it
 * reads. Fills in io.op, offset and size (bytes), iov and iov_count, and data_written, which is
 * what the guest finds in its memory if all goes well. -EINVAL: a sector whose offset in bytes is
 * no number of 64 bits. All else the block checks. */
// SOLUTION 8.6
static bool reserve_status(struct request *r)
{
    struct vq_chain *c = &r->chain;
    unsigned last = c->out_count + c->in_count;

    if (c->in_size == 0 || last == PIECES)
        return false;
    struct iovec *v = &r->iov[last - 1];
    while (v->iov_len == 0)
        v--;
    r->iov[last] = (struct iovec){(uint8_t *)v->iov_base + v->iov_len - 1, 1};
    vq_chain_trim_in(c, 1);
    return true;
}

static int parse_transfer(struct request *r, enum block_op op, uint64_t sector)
{
    struct vq_chain *c = &r->chain;
    bool read = op == BLOCK_READ;

    if (sector > UINT64_MAX / BLOCK_SECTOR)
        return -EINVAL;
    r->io.op = op;
    r->io.offset = sector * BLOCK_SECTOR;
    r->io.size = read ? c->in_size : c->out_size;
    r->io.iov = read ? c->iov + c->out_count : c->iov;
    r->io.iov_count = read ? c->in_count : c->out_count;
    r->data_written = read ? (uint32_t)c->in_size : 0;
    return 0;
}
// ELSE
// static bool reserve_status(struct request *r)
// {
//     return todo("8.6") == 0;
// }
//
// static int parse_transfer(struct request *r, enum block_op op, uint64_t sector)
// {
//     return todo("8.6");
// }
// END 8.6

/* §5.2.6.1: one segment, for that is what the configuration allows. */
static int parse_range(struct request *r, enum block_op op)
{
    struct virtio_blk_discard_write_zeroes range;

    if (r->chain.out_size != sizeof(range))
        return -EINVAL;
    (void)vq_chain_read(&r->chain, 0, &range, sizeof(range));
    uint64_t sector = le64toh(range.sector);
    uint32_t count = le32toh(range.num_sectors), flags = le32toh(range.flags);
    if (flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
        return -ENOTSUP;
    if (op == BLOCK_DISCARD && flags != 0)
        return -ENOTSUP;
    if (sector > UINT64_MAX / BLOCK_SECTOR || count > DISCARD_SECTORS_MAX)
        return -EINVAL;
    r->io.op = op;
    r->io.may_unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    r->io.offset = sector * BLOCK_SECTOR;
    r->io.size = (uint64_t)count * BLOCK_SECTOR;
    return 0;
}

/* What this chain asks of the block. 0: r->io says it. Else the answer is known: -errno, or 1 for
 * one that went well already. */
static int parse(struct blk *blk, struct request *r)
{
    struct virtio_blk_outhdr header;

    if (vq_chain_read(&r->chain, 0, &header, sizeof(header)) != sizeof(header))
        return -EINVAL;
    vq_chain_skip_out(&r->chain, sizeof(header));
    switch (le32toh(header.type)) {
    case VIRTIO_BLK_T_IN:
        return parse_transfer(r, BLOCK_READ, le64toh(header.sector));
    case VIRTIO_BLK_T_OUT:
        return parse_transfer(r, BLOCK_WRITE, le64toh(header.sector));
    case VIRTIO_BLK_T_FLUSH:
        r->io.op = BLOCK_FLUSH;
        return 0;
    case VIRTIO_BLK_T_DISCARD:
        return parse_range(r, BLOCK_DISCARD);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return parse_range(r, BLOCK_ZERO);
    case VIRTIO_BLK_T_GET_ID:
        r->data_written = (uint32_t)vq_chain_write(&r->chain, 0, blk->serial, sizeof(blk->serial));
        return 1;
    default:
        return -ENOTSUP;
    }
}

/* A chain for r, if there is one; false: not now. */
static bool take(struct virtio_queue *vq, struct request *r)
{
    r->chain = (struct vq_chain){.iov = r->iov, .iov_max = PIECES - 1};
    r->io = (struct block_req){.done = on_done};
    r->data_written = 0;
    if (vq_pop(&vq->vq, &r->chain) <= 0)
        return false;
    if (reserve_status(r))
        return true;
    vq_break(&vq->vq);
    return false;
}

static void begin(struct blk *blk, struct blk_queue *q, struct request *r)
{
    int rc = parse(blk, r);

    virtio_begin(q->vq);
    if (rc != 0) {
        answer_locked(r, rc < 0 ? rc : 0);
        return;
    }
    bucket_spend(&blk->ops, 1);
    counter_add(&q->begun[r->io.op], 1);
    if (r->io.op == BLOCK_READ || r->io.op == BLOCK_WRITE) { /* no other moves its bytes */
        bucket_spend(&blk->bytes, r->io.size);
        counter_add(&q->moved[r->io.op], r->io.size);
    }
    block_submit(q->channel, &r->io);
}

/* EXERCISE 8.7: as many requests as there are. limit_wait(): nanoseconds until both limits, `ops`
 * and `bytes`, allow another request; 0: now. take_all() begins one chain after the other, each
 * with a request of the pool (take(), begin()), until there are no more chains: true. Or until
 * something else is short, which is asked for before a chain is taken: the limits say to wait, then
 * the timer is set and comes back; or no request is free, then `starved` says so, and whoever
 * answers one comes back. False, both times. A request that got no chain is still free. */
// SOLUTION 8.7
static uint64_t limit_wait(struct blk *blk)
{
    if (!bucket_has_limit(&blk->ops) && !bucket_has_limit(&blk->bytes))
        return 0;
    uint64_t now = now_ns();
    uint64_t ops = bucket_wait(&blk->ops, now), bytes = bucket_wait(&blk->bytes, now);

    return ops > bytes ? ops : bytes;
}

static bool take_all(struct blk *blk, struct blk_queue *q)
{
    while (q->free != NULL) {
        struct request *r = q->free;
        uint64_t wait = limit_wait(blk);
        if (wait > 0) {
            timer_set(&q->refill, wait);
            return false;
        }
        if (!take(q->vq, r))
            return true;
        q->free = r->next_free;
        begin(blk, q, r);
    }
    q->starved = true; /* on_batch_end() comes back */
    return false;
}
// ELSE
// static bool take_all(struct blk *blk, struct blk_queue *q)
// {
//     struct request *r = q->free;
//
//     if (r == NULL || !take(q->vq, r)) /* the first chain of each notification, so far */
//         return true;
//     q->free = r->next_free;
//     begin(blk, q, r);
//     return vq_has_work(&q->vq->vq) && todo("8.7") == 0;
// }
// END 8.7

static void blk_serve(struct virtio_dev *v, struct virtio_queue *vq)
{
    struct blk *blk = container_of(v, struct blk, v);
    struct blk_queue *q = &blk->queues[vq->index];
    bool more;

    do {
        vq_mute(&vq->vq);
        more = take_all(blk, q) && vq_unmute(&vq->vq);
    } while (more);
    block_commit(q->channel);
    virtio_publish(vq);
}

static void on_refill(void *ctx)
{
    virtio_kick(((struct blk_queue *)ctx)->vq);
}

/* --- configuration, §5.2.4 --- */

static void describe(const struct blk *blk, struct virtio_blk_config *out)
{
    const struct block *b = blk->block;

    *out = (struct virtio_blk_config){
        .capacity = htole64(atomic_load(&b->size) / BLOCK_SECTOR),
        .seg_max = htole32(SEGMENTS_MAX),
        .blk_size = htole32(b->logical_size),
        .physical_block_exp = (uint8_t)__builtin_ctz(b->physical_size / b->logical_size),
        .min_io_size = htole16((uint16_t)(b->physical_size / b->logical_size)),
        .num_queues = htole16((uint16_t)blk->v.queue_count),
        .max_discard_sectors = htole32(DISCARD_SECTORS_MAX),
        .max_discard_seg = htole32(1),
        .discard_sector_alignment = htole32(b->logical_size / BLOCK_SECTOR),
        .max_write_zeroes_sectors = htole32(DISCARD_SECTORS_MAX),
        .max_write_zeroes_seg = htole32(1),
        .write_zeroes_may_unmap = b->can_discard,
    };
}

static void blk_config_read(struct virtio_dev *v, uint64_t offset, void *out, unsigned size)
{
    struct virtio_blk_config config;

    describe(container_of(v, struct blk, v), &config);
    if (range_fits(offset, size, sizeof(config)))
        memcpy(out, (const uint8_t *)&config + offset, size);
}

static uint64_t features_of(const struct virtio_blk_setup *cfg)
{
    const struct block *b = cfg->block;
    uint64_t f = VIRTIO_FEATURE(VIRTIO_BLK_F_SEG_MAX) | VIRTIO_FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
                 VIRTIO_FEATURE(VIRTIO_BLK_F_TOPOLOGY) | VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH);

    if (b->read_only)
        f |= VIRTIO_FEATURE(VIRTIO_BLK_F_RO);
    if (b->can_discard)
        f |= VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD);
    if (b->can_zero)
        f |= VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
    if (cfg->queues > 1)
        f |= VIRTIO_FEATURE(VIRTIO_BLK_F_MQ);
    return f;
}

/* --- life --- */

static void blk_reset(struct virtio_dev *v)
{
    (void)v; /* nothing is in flight, and nothing was negotiated that is kept here */
}

/* The disk's size, so that no machine wakes up with another disk than it went to sleep with. */
static void blk_save(struct virtio_dev *v, struct codec_writer *w)
{
    codec_put_u64(w, atomic_load(&container_of(v, struct blk, v)->block->size));
}

static int blk_load(struct virtio_dev *v, struct codec_reader *r)
{
    uint64_t size = codec_get_u64(r);
    int rc = codec_leave(r);

    if (rc < 0)
        return rc;
    return size == atomic_load(&container_of(v, struct blk, v)->block->size) ? 0 : -EINVAL;
}

void virtio_blk_limit(struct virtio_dev *v, uint64_t iops, uint64_t bps)
{
    struct blk *blk = container_of(v, struct blk, v);
    uint64_t now = now_ns();

    bucket_limit(&blk->ops, iops, 0, now);
    bucket_limit(&blk->bytes, bps, 0, now);
    for (unsigned i = 0; i < v->queue_count; i++)
        virtio_kick(&v->queues[i]); /* it may be waiting for what is there now */
}

void virtio_blk_stats(struct virtio_dev *v, struct virtio_blk_stats *out)
{
    struct blk *blk = container_of(v, struct blk, v);

    *out = (struct virtio_blk_stats){0};
    for (unsigned i = 0; i < v->queue_count; i++) {
        const struct blk_queue *q = &blk->queues[i];
        out->reads += atomic_load(&q->begun[BLOCK_READ]);
        out->writes += atomic_load(&q->begun[BLOCK_WRITE]);
        out->flushes += atomic_load(&q->begun[BLOCK_FLUSH]);
        out->discards += atomic_load(&q->begun[BLOCK_DISCARD]) + atomic_load(&q->begun[BLOCK_ZERO]);
        out->read_bytes += atomic_load(&q->moved[BLOCK_READ]);
        out->written_bytes += atomic_load(&q->moved[BLOCK_WRITE]);
    }
    bucket_use(&blk->ops, &out->ops);
    bucket_use(&blk->bytes, &out->bytes);
}

static void fini_queue(struct blk_queue *q)
{
    if (q->vq == NULL) /* never begun */
        return;
    timer_fini(&q->refill);
    block_close(q->channel);
    free(q->requests);
}

static void blk_destroy(struct virtio_dev *v)
{
    struct blk *blk = container_of(v, struct blk, v);

    for (unsigned i = 0; blk->queues != NULL && i < v->queue_count; i++)
        fini_queue(&blk->queues[i]);
    free(blk->queues);
    bucket_fini(&blk->ops);
    bucket_fini(&blk->bytes);
    virtio_fini(v);
    free(blk);
}

static const struct virtio_ops blk_ops = {
    .id = VIRTIO_ID_BLOCK,
    .version = 1,
    .reset = blk_reset,
    .serve = blk_serve,
    .config_read = blk_config_read,
    .save = blk_save,
    .load = blk_load,
    .destroy = blk_destroy,
};

static int init_queue(struct blk *blk, unsigned index)
{
    struct blk_queue *q = &blk->queues[index];
    struct virtio_queue *vq = virtio_queue(&blk->v, index);
    const struct block_channel_config cfg = {.loop = vq->loop, .batch_end = on_batch_end, .ctx = q};

    *q = (struct blk_queue){.vq = vq, .refill.fd = -1};
    q->requests = calloc(QUEUE_SIZE, sizeof(*q->requests));
    if (q->requests == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < QUEUE_SIZE; i++) {
        q->requests[i].q = q;
        q->requests[i].next_free = q->free;
        q->free = &q->requests[i];
    }
    int rc = timer_init(&q->refill, vq->loop, on_refill, q);
    return rc < 0 ? rc : block_open(blk->block, &cfg, &q->channel);
}

int virtio_blk_create(const char *name, const struct virtio_blk_setup *cfg, struct virtio_dev **out)
{
    struct virtio_queue_config queues[VIRTIO_BLK_QUEUES_MAX];
    struct blk *blk = calloc(1, sizeof(*blk));

    if (blk == NULL)
        return -ENOMEM;
    blk->block = cfg->block;
    bucket_init(&blk->ops);
    bucket_init(&blk->bytes);
    for (unsigned i = 0; i < cfg->queues; i++)
        queues[i] = (struct virtio_queue_config){.size = QUEUE_SIZE, .loop = cfg->loops[i]};
    int rc = virtio_init(&blk->v, &blk_ops, name, cfg->mem, features_of(cfg), queues, cfg->queues);
    blk->queues = rc == 0 ? calloc(cfg->queues, sizeof(*blk->queues)) : NULL;
    if (rc == 0 && blk->queues == NULL)
        rc = -ENOMEM;
    for (unsigned i = 0; rc == 0 && i < cfg->queues; i++)
        rc = init_queue(blk, i);
    if (rc < 0) {
        blk_destroy(&blk->v);
        return rc;
    }
    if (cfg->serial)
        memcpy(blk->serial, cfg->serial, strnlen(cfg->serial, sizeof(blk->serial)));
    virtio_blk_limit(&blk->v, cfg->iops, cfg->bps);
    *out = &blk->v;
    return 0;
}
