/*
 * Block back ends: where a disk's sectors are.
 *
 * A block is opened once and used through channels, one for each thread that does I/O. Requests
 * are submitted to a channel and answered on its loop, later and in any order; a flush covers what
 * was answered before it was submitted, and nothing else (as VIRTIO 1.2 §5.2.6.2 has it). A write
 * that was answered has reached the host; that it survives the host's death is what a flush is for.
 *
 *     block_submit(c, req) …; block_commit(c);            … req->done(req, 0); … batch_end(ctx)
 *
 * Back ends stack: qcow2 keeps its clusters in another block, fault spoils another one's answers.
 *
 * Threads: a channel belongs to its loop's thread. block_size() and the like from any.
 */
#ifndef HV_BLOCK_BLOCK_H
#define HV_BLOCK_BLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#define BLOCK_SECTOR 512 /* bytes; every offset and size is a multiple */

struct block;
struct block_channel;

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,
    BLOCK_DISCARD, /* the range's content does not matter any more */
    BLOCK_ZERO,    /* the range reads as zeros afterwards */
};

struct block_req {
    enum block_op op;
    bool may_unmap;          /* BLOCK_ZERO: by giving the storage back, if that is easier */
    uint64_t offset;         /* bytes */
    uint64_t size;           /* bytes; of iov for reads and writes; 0 for a flush */
    const struct iovec *iov; /* reads and writes: borrowed until it is done */
    unsigned iov_count;
    /* On the channel's loop, never inside block_submit() or block_commit(). 0 or -errno: -EIO,
     * -ENOSPC, -EINVAL (outside the block, or no multiple of a sector), -EROFS, -ENOTSUP. After an
     * error the range holds old bytes, new bytes, or both. */
    void (*done)(struct block_req *req, int result);
    /* The back end's, while it has the request. */
    struct block_req *next;
    int result;
};

struct block_channel_config {
    struct loop *loop; /* borrowed */
    /* After one or more done() in a row: the time to tell the guest. May be NULL. */
    void (*batch_end)(void *ctx);
    void *ctx; /* borrowed */
};

struct block_ops {
    int (*open)(struct block *b, const struct block_channel_config *cfg,
                struct block_channel **out);
    /* Takes the request over; it was checked against the block's size and abilities. */
    void (*submit)(struct block_channel *c, struct block_req *req);
    void (*commit)(struct block_channel *c); /* NULL: submit() does not wait for it */
    void (*close)(struct block_channel *c);  /* no request is under way */
    void (*destroy)(struct block *b);        /* no channel is open */
};

/* Every back end begins with one. */
struct block {
    const struct block_ops *ops;
    _Atomic uint64_t size;  /* bytes, a multiple of BLOCK_SECTOR */
    uint32_t logical_size;  /* smallest request the storage takes: 512 or 4096 */
    uint32_t physical_size; /* smallest it writes without reading first; at least logical_size */
    bool read_only;
    bool can_discard;
    bool can_zero; /* without being sent the zeros */
};

/* And every channel with one of these. */
struct block_channel {
    struct block *block; /* borrowed */
    struct block_channel_config cfg;
    struct block_req *finished; /* answers that wait for the loop, oldest first */
    struct block_req **finished_end;
    int bell; /* eventfd of the loop: there are some */
};

/* --- for users --- */

int block_open(struct block *b, const struct block_channel_config *cfg,
               struct block_channel **out) HV_MUST_CHECK;
void block_submit(struct block_channel *c, struct block_req *req);
void block_commit(struct block_channel *c); /* what was submitted may be on its way from here on */
void block_close(struct block_channel *c);  /* takes NULL */
void block_destroy(struct block *b);        /* takes NULL */

/* --- for back ends --- */

int block_channel_init(struct block_channel *c, struct block *b,
                       const struct block_channel_config *cfg) HV_MUST_CHECK;
void block_channel_fini(struct block_channel *c);

/* Answers a request from the loop, soon. On the channel's thread. */
void block_finish(struct block_channel *c, struct block_req *req, int result);

/* --- back ends --- */

/* A disk in memory, zeroed. */
int block_mem_create(uint64_t size, struct block **out) HV_MUST_CHECK;

struct block_raw_config {
    const char *path;
    bool read_only;
    bool direct;           /* O_DIRECT: past the host's page cache */
    bool no_uring;         /* use threads even where io_uring is allowed */
    const struct log *log; /* borrowed; may be NULL */
};

/* A file or a block device, byte for byte. It is locked, as QEMU locks its images: -EBUSY if
 * somebody else writes it, or reads it when we want to write. -EINVAL: its size is no multiple of a
 * sector. Errors name the path. */
int block_raw_create(const struct block_raw_config *cfg, struct block **out,
                     struct error *err) HV_MUST_CHECK;

/* What a faulty disk does: to the `nth` request of kind `op` (from 1), and if `always`, to all
 * after it. */
struct block_fault {
    enum block_op op;
    uint64_t nth;
    bool always;
    int result;    /* 0: it works, late */
    bool never;    /* it is not answered before block_fault_release() */
    uint32_t torn; /* writes: only so many bytes are written before it fails */
};

/* Takes `under` over, also when it fails. */
int block_fault_create(struct block *under, const struct block_fault *faults, unsigned count,
                       struct block **out) HV_MUST_CHECK;
void block_fault_release(struct block *b);

#endif
