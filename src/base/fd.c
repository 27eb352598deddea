#include "hv/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int fd_read_full(int fd, void *buf, size_t len)
{
    uint8_t *p = buf;

    while (len > 0) {
        ssize_t n = read(fd, p, len);
        if (n == 0)
            return -ENODATA;
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int fd_write_full(int fd, const void *buf, size_t len)
{
    const uint8_t *p = buf;

    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int fd_set_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

void fd_close(int *fd)
{
    /* Nothing can be done about a failure, and the number is free either way. */
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

/* Opens `path` if it is a regular, non-empty file of at most `max` bytes. */
static int open_regular(const char *path, uint64_t max, int *fd, size_t *size, struct error *err)
{
    struct stat st;
    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    int f = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc;

    if (f < 0)
        return error_sys(err, -errno, "%s", path);
    if (fstat(f, &st) < 0)
        rc = error_sys(err, -errno, "%s", path);
    else if (S_ISDIR(st.st_mode))
        rc = error_set(err, -EISDIR, "%s: is a directory", path);
    else if (!S_ISREG(st.st_mode))
        rc = error_set(err, -EINVAL, "%s: not a regular file", path);
    else if (st.st_size == 0)
        rc = error_set(err, -EINVAL, "%s: is empty", path);
    else if ((uint64_t)st.st_size > max)
        rc = error_set(err, -EFBIG, "%s: %llu bytes, more than the %llu that are allowed", path,
                       (unsigned long long)st.st_size, (unsigned long long)max);
    else
        rc = 0;
    if (rc < 0) {
        fd_close(&f);
        return rc;
    }
    *fd = f;
    *size = (size_t)st.st_size;
    return 0;
}

int file_read_all(const char *path, uint64_t max, struct file_bytes *out, struct error *err)
{
    int fd = -1;
    size_t size = 0;
    int rc = open_regular(path, max, &fd, &size, err);

    if (rc < 0)
        return rc;
    uint8_t *data = malloc(size);
    if (data == NULL) {
        rc = error_set(err, -ENOMEM, "%s: no memory for its %zu bytes", path, size);
        goto done;
    }
    rc = fd_read_full(fd, data, size);
    if (rc == -ENODATA)
        (void)error_set(err, rc, "%s: became shorter while it was read", path);
    else if (rc < 0)
        (void)error_sys(err, rc, "%s", path);
done:
    fd_close(&fd);
    if (rc < 0) {
        free(data);
        return rc;
    }
    *out = (struct file_bytes){.data = data, .size = size};
    return 0;
}

void file_fini(struct file_bytes *file)
{
    free(file->data);
    *file = (struct file_bytes){0};
}

uint64_t now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}
