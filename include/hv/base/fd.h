/*
 * File descriptors: transfers that survive EINTR and short counts, and the flags everyone forgets.
 */
#ifndef HV_BASE_FD_H
#define HV_BASE_FD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"

/* Reads or writes exactly `len` bytes. -ENODATA: end of file came first. Else -errno. */
int fd_read_full(int fd, void *buf, size_t len) HV_MUST_CHECK;
int fd_write_full(int fd, const void *buf, size_t len) HV_MUST_CHECK;

/* Adds O_NONBLOCK. */
int fd_set_nonblock(int fd) HV_MUST_CHECK;

/* Closes *fd unless it is -1, and sets it to -1. */
void fd_close(int *fd);

/* A whole file in memory. Owned by whoever read it; free with file_fini(). */
struct file_bytes {
    uint8_t *data; /* NULL while empty */
    size_t size;   /* bytes */
};

/* Reads a regular file. Errors name the path: -ENOENT, -EISDIR, -EACCES, -EINVAL (empty, or not a
 * regular file), -EFBIG (above `max` bytes), -ENOMEM, -EIO. */
int file_read_all(const char *path, uint64_t max, struct file_bytes *out,
                  struct error *err) HV_MUST_CHECK;
void file_fini(struct file_bytes *file);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t now_ns(void);

#endif
