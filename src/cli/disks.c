/*
 * The disks of a session: opened once, whatever machines come and go.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/session.h"
#include "hv/base/fd.h"
#include "hv/block/qcow2.h"

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool begins_like_qcow2(const char *path)
{
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    ssize_t n = fd < 0 ? 0 : pread(fd, magic, sizeof(magic), 0);
    fd_close(&fd);
    return n == sizeof(magic) && memcmp(magic, "QFI\xfb", sizeof(magic)) == 0;
}

/* The content decides nothing: a guest with a raw disk writes what it likes there, and would be
 * given any file that an image can name. But it can show that something was forgotten. */
static int decide_format(const struct disk_options *d, enum disk_format *out, struct error *err)
{
    *out = d->format;
    if (*out != DISK_UNSAID)
        return 0;
    *out = ends_with(d->path, ".qcow2") ? DISK_QCOW2 : DISK_RAW;
    if (*out == DISK_RAW && begins_like_qcow2(d->path))
        return error_set(err, -EINVAL,
                         "it begins like a qcow2 image: say format=qcow2, or format=raw");
    return 0;
}

static int open_disk(const struct session *s, const struct disk_options *d, struct block **out,
                     struct error *err)
{
    enum disk_format format;
    const struct block_raw_config raw = {.path = d->path,
                                         .read_only = d->read_only,
                                         .direct = d->direct,
                                         .no_uring = d->no_uring,
                                         .log = &s->log};
    const struct block_qcow2_config qcow2 = {.path = d->path,
                                             .read_only = d->read_only,
                                             .direct = d->direct,
                                             .no_uring = d->no_uring,
                                             .backing = d->backing,
                                             .log = &s->log};
    int rc = decide_format(d, &format, err);

    if (rc < 0)
        return rc;
    return format == DISK_QCOW2 ? block_qcow2_create(&qcow2, out, err)
                                : block_raw_create(&raw, out, err);
}

int open_disks(struct session *s, struct error *err)
{
    for (unsigned i = 0; i < s->opt.disk_count; i++) {
        const struct disk_options *d = &s->opt.disks[i];
        int rc = open_disk(s, d, &s->disks[i], err);
        if (rc < 0)
            return error_prefix(err, rc, "--disk %s", d->path);
    }
    return 0;
}

void close_disks(struct session *s)
{
    for (unsigned i = 0; i < s->opt.disk_count; i++)
        block_destroy(s->disks[i]);
}
