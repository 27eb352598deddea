/*
 * What the parts of the raw back end share: raw.c (the file), raw_lock.c (who else may use it), and
 * its two kinds of channels, raw_uring.c and raw_threads.c.
 */
#ifndef BLOCK_RAW_PRIV_H
#define BLOCK_RAW_PRIV_H

#include "hv/block/block.h"

struct raw_block {
    struct block block;
    int fd;         /* owned */
    bool direct;    /* opened with O_DIRECT: memory and offsets have to be aligned */
    uint32_t align; /* bytes */
};

/* block_raw_create(). With `any_size` for what is inside a file that may grow, and whose size may
 * be odd: the block has no end then, and who uses it knows where the file's is. */
int raw_open(const struct block_raw_config *cfg, bool any_size, struct block **out,
             struct error *err) HV_MUST_CHECK;

/* Carries a request out on the calling thread, from byte `done` of it on; 0 or -errno. */
int raw_perform(const struct raw_block *raw, const struct block_req *req, uint64_t done);

/* Must it go through raw_perform(), because its memory is not aligned as O_DIRECT wants it? */
bool raw_needs_bounce(const struct raw_block *raw, const struct block_req *req);

/* How fallocate() does what req asks for. */
int raw_fallocate_mode(const struct block_req *req);

/* -EBUSY: somebody else uses the file in a way that excludes ours. */
int raw_lock(int fd, bool read_only) HV_MUST_CHECK;

/* destroy() of both kinds. */
void raw_destroy(struct block *b);

/* The two kinds. */
extern const struct block_ops raw_uring_ops;
extern const struct block_ops raw_threads_ops;

/* Does this host, or a sandbox around us, allow io_uring? */
bool raw_has_uring(void);

#endif
