/*
 * Output to a log file, up to a size that the user chose, so that a guest cannot fill the disk; or
 * to any descriptor that somebody else has opened.
 *
 * Every write goes to the kernel at once: what the guest said last is what one wants to read after
 * a crash.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "chr/chr_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

struct chr_file {
    struct chr chr;
    int fd;
    bool owned;           /* fd is ours to close */
    pthread_mutex_t lock; /* guards room */
    uint64_t room;        /* bytes that may still be written */
};

/* One write() that was not interrupted: the bytes written, or -errno. */
static ssize_t write_once(int fd, const void *data, size_t len)
{
    ssize_t n;

    do
        n = write(fd, data, len);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t file_write(struct chr *chr, const void *data, size_t len)
{
    struct chr_file *f = container_of(chr, struct chr_file, chr);
    const char *bytes = data;
    size_t done = 0;
    ssize_t n = 0;

    pthread_mutex_lock(&f->lock);
    if (len > f->room)
        len = (size_t)f->room;
    while (done < len && (n = write_once(f->fd, bytes + done, len - done)) > 0)
        done += (size_t)n;
    f->room -= done;
    pthread_mutex_unlock(&f->lock);
    if (n == -EAGAIN) /* a FIFO or terminal in the file's place that is full now */
        return (ssize_t)done;
    return n < 0 ? n : (ssize_t)done;
}

static void file_destroy(struct chr *chr)
{
    struct chr_file *f = container_of(chr, struct chr_file, chr);

    if (f->owned)
        fd_close(&f->fd);
    (void)pthread_mutex_destroy(&f->lock); /* fails only for a locked mutex: a bug of ours */
    free(f);
}

static const struct chr_ops file_ops = {.write = file_write, .destroy = file_destroy};

static struct chr_file *create(void)
{
    struct chr_file *f = calloc(1, sizeof(*f));

    if (f) {
        chr_init(&f->chr, &file_ops);
        (void)pthread_mutex_init(&f->lock, NULL); /* cannot fail on Linux */
        f->room = UINT64_MAX;
    }
    return f;
}

int chr_fd_create(int fd, struct chr **out)
{
    struct chr_file *f = create();

    if (!f)
        return -ENOMEM;
    f->fd = fd;
    *out = &f->chr;
    return 0;
}

int chr_file_create(const char *path, uint64_t max_bytes, struct chr **out, struct error *err)
{
    struct chr_file *f = create();

    if (!f)
        return error_sys(err, -ENOMEM, "%s", path);
    /* O_NONBLOCK means nothing to a regular file; a FIFO must not hold up the monitor. */
    f->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        int code = error_sys(err, -errno, "%s", path);
        file_destroy(&f->chr);
        return code;
    }
    f->owned = true;
    if (max_bytes)
        f->room = max_bytes;
    *out = &f->chr;
    return 0;
}
