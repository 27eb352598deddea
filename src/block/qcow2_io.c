/*
 * Reading and writing an image's file on the calling thread: tables, new clusters, and all that is
 * not worth a request of its own.
 *
 * With O_DIRECT the file takes whole, aligned blocks only, so a transfer that is not goes through a
 * buffer of whole ones. Bytes behind the end of the file, as far as it was known, read as zeros: a
 * file may end inside its last cluster. A file that ends before that has shrunk.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"

static int read_piece(const struct qcow2_image *img, uint8_t *data, size_t len, uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pread(img->fd, data, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0 && offset < img->file_end)
            return -EIO;
        if (n == 0) {
            memset(data, 0, len);
            return 0;
        }
        data += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_piece(const struct qcow2_image *img, const uint8_t *data, size_t len,
                       uint64_t offset)
{
    while (len > 0) {
        ssize_t n = pwrite(img->fd, data, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EFBIG || errno == EDQUOT ? -ENOSPC : -errno;
        data += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* True if the file takes this transfer as it is. */
static bool is_fit(const struct qcow2_image *img, const void *data, size_t len, uint64_t offset)
{
    return img->align <= BLOCK_SECTOR ||
           ((uintptr_t)data % img->align == 0 && len % img->align == 0 && offset % img->align == 0);
}

/* The aligned blocks around a transfer, in memory of their own. */
struct bounce {
    uint8_t *data; /* owned */
    uint64_t offset;
    size_t len, skip;
};

static int bounce_read(const struct qcow2_image *img, size_t len, uint64_t offset,
                       struct bounce *out)
{
    struct bounce b = {.offset = align_down(offset, img->align)};

    b.skip = (size_t)(offset - b.offset);
    b.len = (b.skip + len + img->align - 1) & ~((size_t)img->align - 1);
    b.data = aligned_alloc(img->align, b.len);
    if (b.data == NULL)
        return -ENOMEM;
    int rc = read_piece(img, b.data, b.len, b.offset);
    if (rc < 0)
        free(b.data);
    else
        *out = b;
    return rc;
}

int qcow2_io_read(const struct qcow2_image *img, void *data, size_t len, uint64_t offset)
{
    struct bounce b;

    if (is_fit(img, data, len, offset))
        return read_piece(img, data, len, offset);
    int rc = bounce_read(img, len, offset, &b);
    if (rc < 0)
        return rc;
    memcpy(data, b.data + b.skip, len);
    free(b.data);
    return 0;
}

int qcow2_io_write(struct qcow2_image *img, const void *data, size_t len, uint64_t offset)
{
    struct bounce b;
    int rc;

    if (is_fit(img, data, len, offset)) {
        rc = write_piece(img, data, len, offset);
    } else {
        rc = bounce_read(img, len, offset, &b);
        if (rc < 0)
            return rc;
        memcpy(b.data + b.skip, data, len);
        rc = write_piece(img, b.data, b.len, b.offset);
        free(b.data);
    }
    if (rc == 0 && offset + len > img->file_end)
        img->file_end = offset + len;
    return rc;
}

int qcow2_io_sync(struct qcow2_image *img)
{
    if (fdatasync(img->fd) == 0)
        return 0;
    /* What the kernel could not write it may have forgotten by now: nothing can be relied on. */
    return qcow2_damaged(img, "cannot sync: %s", strerror(errno));
}

int qcow2_io_grow(struct qcow2_image *img, uint64_t end)
{
    if (end <= img->file_end)
        return 0;
    if (img->is_device)
        return -ENOSPC;
    if (ftruncate(img->fd, (off_t)end) < 0)
        return errno == EFBIG || errno == EDQUOT ? -ENOSPC : -errno;
    img->file_end = end;
    return 0;
}

void qcow2_io_punch(struct qcow2_image *img, uint64_t offset, uint64_t len)
{
    if (img->no_punch)
        return;
    if (fallocate(img->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) <
        0)
        img->no_punch = true; /* it only saves room */
}
