/*
 * A file or a block device, byte for byte.
 *
 * Two kinds of channels carry requests out: io_uring, and threads where a host or a sandbox forbids
 * that. Both come here for what is rare: the rest of a transfer that the kernel cut short, and
 * memory that O_DIRECT does not take.
 */
#include "block/raw_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

#define PAGE 4096

/* --- requests, on the calling thread --- */

int raw_fallocate_mode(const struct block_req *req)
{
    bool punch = req->op == BLOCK_DISCARD || req->may_unmap;

    return FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

bool raw_needs_bounce(const struct raw_block *raw, const struct block_req *req)
{
    if (!raw->direct || (req->op != BLOCK_READ && req->op != BLOCK_WRITE))
        return false;
    for (unsigned i = 0; i < req->iov_count; i++)
        if ((uintptr_t)req->iov[i].iov_base % raw->align || req->iov[i].iov_len % raw->align)
            return true;
    return false;
}

/* EXERCISE 8.3: all of it. transfer() moves one piece of memory between `data` and byte `offset` of
 * the file, completely: pread() and pwrite() may move less than they were asked for, and a signal
 * may come before they have moved anything. An error is -errno; a file that ends before the block
 * does has shrunk, which is -EIO and not zeros. transfer_iov() does that for all pieces of a
 * request, from byte `done` of it on: what is before that was moved already and is left alone, and
 * `done` may be at a piece's end or in the middle of one. */
// SOLUTION 8.3
static int transfer(int fd, bool write, void *data, uint64_t size, uint64_t offset)
{
    uint8_t *p = data;

    while (size > 0) {
        ssize_t n = write ? pwrite(fd, p, size, (off_t)offset) : pread(fd, p, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        offset += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return 0;
}

static int transfer_iov(const struct raw_block *raw, const struct block_req *req, uint64_t done)
{
    uint64_t offset = req->offset;

    for (unsigned i = 0; i < req->iov_count; i++) {
        const struct iovec *v = &req->iov[i];
        uint64_t skip = done < v->iov_len ? done : v->iov_len;
        int rc = transfer(raw->fd, req->op == BLOCK_WRITE, (uint8_t *)v->iov_base + skip,
                          v->iov_len - skip, offset + skip);
        if (rc < 0)
            return rc;
        done -= skip;
        offset += v->iov_len;
    }
    return 0;
}
// ELSE
// static int transfer(int fd, bool write, void *data, uint64_t size, uint64_t offset)
// {
//     return todo("8.3");
// }
//
// static int transfer_iov(const struct raw_block *raw, const struct block_req *req, uint64_t done)
// {
//     return todo("8.3");
// }
// END 8.3

static void copy_iov(const struct block_req *req, uint8_t *bounce)
{
    for (unsigned i = 0; i < req->iov_count; i++) {
        const struct iovec *v = &req->iov[i];
        if (req->op == BLOCK_WRITE)
            memcpy(bounce, v->iov_base, v->iov_len);
        else
            memcpy(v->iov_base, bounce, v->iov_len);
        bounce += v->iov_len;
    }
}

static int transfer_bounced(const struct raw_block *raw, const struct block_req *req)
{
    uint8_t *bounce = aligned_alloc(raw->align, (size_t)req->size);

    if (bounce == NULL)
        return -ENOMEM;
    if (req->op == BLOCK_WRITE)
        copy_iov(req, bounce);
    int rc = transfer(raw->fd, req->op == BLOCK_WRITE, bounce, req->size, req->offset);
    if (rc == 0 && req->op == BLOCK_READ)
        copy_iov(req, bounce);
    free(bounce);
    return rc;
}

int raw_perform(const struct raw_block *raw, const struct block_req *req, uint64_t done)
{
    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return raw_needs_bounce(raw, req) ? transfer_bounced(raw, req)
                                          : transfer_iov(raw, req, done);
    case BLOCK_FLUSH:
        return fdatasync(raw->fd) < 0 ? -errno : 0;
    default:
        if (fallocate(raw->fd, raw_fallocate_mode(req), (off_t)req->offset, (off_t)req->size) == 0)
            return 0;
        return errno == EOPNOTSUPP ? -ENOTSUP : -errno;
    }
}

/* --- the file --- */

void raw_destroy(struct block *b)
{
    struct raw_block *raw = container_of(b, struct raw_block, block);

    fd_close(&raw->fd); /* and with it the locks */
    free(raw);
}

static int find_size(int fd, const struct stat *st, uint64_t *size)
{
    if (S_ISREG(st->st_mode)) {
        *size = (uint64_t)st->st_size;
        return 0;
    }
    if (!S_ISBLK(st->st_mode))
        return -EINVAL;
    return ioctl(fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
}

/* The smallest request that the storage takes with O_DIRECT; without it the page cache takes any.
 */
static uint32_t find_alignment(int fd, const struct stat *st, bool direct)
{
    int sector;

    if (S_ISBLK(st->st_mode) && ioctl(fd, BLKSSZGET, &sector) == 0 && sector >= BLOCK_SECTOR)
        return (uint32_t)sector;
    return direct ? PAGE
                  : BLOCK_SECTOR; /* file systems don't tell everywhere; a page always does */
}

/* What of a file the device is: its size in whole blocks, and what it can do. */
static int describe(struct raw_block *raw, const char *path, bool read_only, bool any_size,
                    struct error *err)
{
    struct stat st;
    uint64_t size;

    if (fstat(raw->fd, &st) < 0)
        return error_sys(err, -errno, "%s", path);
    int rc = find_size(raw->fd, &st, &size);
    if (rc == -EINVAL)
        return error_set(err, rc, "%s is neither a file nor a block device", path);
    if (rc < 0)
        return error_sys(err, rc, "cannot tell the size of %s", path);
    raw->align = find_alignment(raw->fd, &st, raw->direct);
    if (any_size)
        size = align_down(INT64_MAX, raw->align);
    if (size == 0 || size % raw->align != 0)
        return error_set(err, -EINVAL,
                         "%s has %llu bytes, which is no multiple of %u: truncate --size=%%%u %s",
                         path, (unsigned long long)size, raw->align, raw->align, path);
    raw->block = (struct block){
        .ops = raw->block.ops,
        .size = size,
        .logical_size = raw->align,
        .physical_size = PAGE,
        .read_only = read_only,
        .can_discard = !read_only,
        .can_zero = !read_only,
    };
    return 0;
}

static int open_file(const struct block_raw_config *cfg, int *fd, struct error *err)
{
    int flags = O_CLOEXEC | (cfg->read_only ? O_RDONLY : O_RDWR) | (cfg->direct ? O_DIRECT : 0);

    *fd = open(cfg->path, flags);
    if (*fd >= 0)
        return 0;
    int rc = -errno;
    if (rc == -EINVAL && cfg->direct)
        return error_set(err, rc, "%s: its file system does not know O_DIRECT", cfg->path);
    return error_sys(err, rc, "cannot open %s%s", cfg->path, cfg->read_only ? "" : " for writing");
}

int raw_open(const struct block_raw_config *cfg, bool any_size, struct block **out,
             struct error *err)
{
    struct raw_block *raw = calloc(1, sizeof(*raw));

    if (raw == NULL)
        return error_sys(err, -ENOMEM, "%s", cfg->path);
    raw->direct = cfg->direct;
    raw->block.ops = &raw_uring_ops;
    if (cfg->no_uring || !raw_has_uring()) {
        raw->block.ops = &raw_threads_ops;
        log_msg(cfg->log, LOG_INFO, "%s: without io_uring, threads do its work", cfg->path);
    }
    int rc = open_file(cfg, &raw->fd, err);
    if (rc < 0) {
        free(raw);
        return rc;
    }
    rc = describe(raw, cfg->path, cfg->read_only, any_size, err);
    if (rc == 0) {
        rc = raw_lock(raw->fd, cfg->read_only);
        if (rc == -EBUSY)
            rc = error_set(err, rc, "%s is in use by another machine or tool", cfg->path);
        else if (rc < 0)
            rc = error_sys(err, rc, "cannot lock %s", cfg->path);
    }
    if (rc < 0) {
        raw_destroy(&raw->block);
        return rc;
    }
    *out = &raw->block;
    return 0;
}

int block_raw_create(const struct block_raw_config *cfg, struct block **out, struct error *err)
{
    return raw_open(cfg, false, out, err);
}
