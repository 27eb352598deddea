/*
 * hv image convert: copies a disk from one format to another.
 *
 * What is zero is not copied, so holes stay holes, and become some. Where the source knows that a
 * part of it is one, it is not even read.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/image.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

#define CHUNK (2 * MIB)
#define HOLE 4096U /* bytes; smaller ones in raw files save nothing */

static volatile sig_atomic_t stop_signal;

static void on_signal(int number)
{
    stop_signal = number;
}

static void watch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    const struct sigaction action = {.sa_handler = on_signal};

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        (void)sigaction(numbers[i], &action, NULL); /* valid numbers: cannot fail */
}

struct end {
    struct block *block; /* owned */
    struct block_channel *channel;
    enum image_format format;
    int fd; /* of a raw source, to find its holes; -1: none; owned */
};

struct copy {
    struct loop *loop;
    struct end in, out;
    uint8_t *data; /* CHUNK bytes, owned */
    uint64_t size, step;
    bool is_terminal;
    int percent; /* as shown */
};

/* --- requests, one at a time --- */

struct request {
    struct block_req req;
    bool done;
    int result;
};

static void on_done(struct block_req *req, int result)
{
    struct request *r = container_of(req, struct request, req);

    r->result = result;
    r->done = true;
}

static int perform(struct copy *c, struct end *end, enum block_op op, uint64_t offset, void *data,
                   uint64_t size)
{
    const struct iovec iov = {data, (size_t)size};
    struct request r = {.req = {.op = op,
                                .offset = offset,
                                .size = size,
                                .iov = &iov,
                                .iov_count = data != NULL,
                                .done = on_done}};

    block_submit(end->channel, &r.req);
    block_commit(end->channel);
    while (!r.done) {
        int rc = loop_run_once(c->loop, -1);
        if (rc < 0)
            return rc;
    }
    return r.result;
}

/* --- ends --- */

static int end_open(struct copy *c, struct end *end, const char *path, bool read_only, bool backing,
                    struct error *err)
{
    const struct block_channel_config channel = {.loop = c->loop};
    int rc = image_open(path, end->format, read_only, backing, &end->block, err);

    if (rc < 0)
        return rc;
    rc = block_open(end->block, &channel, &end->channel);
    if (rc == 0 && read_only && end->format == IMAGE_RAW) {
        end->fd = open(path, O_RDONLY | O_CLOEXEC);
        rc = end->fd < 0 ? -errno : 0;
    }
    return rc < 0 ? error_sys(err, rc, "cannot open %s", path) : 0;
}

static void end_close(struct end *end)
{
    block_close(end->channel);
    block_destroy(end->block);
    fd_close(&end->fd);
}

/* How far from `offset` on the source is known to be zeros, or may be something else. */
static int next_extent(struct copy *c, uint64_t offset, uint64_t *size, bool *zero)
{
    if (c->in.format == IMAGE_QCOW2)
        return block_qcow2_extent(c->in.block, offset, size, zero);
    off_t at = lseek(c->in.fd, (off_t)offset, SEEK_DATA);
    *zero = at < 0 ? errno == ENXIO : (uint64_t)at > offset;
    if (!*zero)
        at = lseek(c->in.fd, (off_t)offset, SEEK_HOLE);
    /* Without an answer the rest is one: no data if it was ENXIO, else data. */
    uint64_t end = at < 0 ? c->size : align_down((uint64_t)at, BLOCK_SECTOR);
    if (end <= offset || end > c->size)
        end = end > c->size ? c->size : offset + BLOCK_SECTOR;
    *zero = *zero && (at < 0 || (uint64_t)at >= end);
    *size = end - offset;
    return 0;
}

/* --- copying --- */

static bool is_zero(const uint8_t *data, uint64_t size)
{
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* Writes what is not zero of the `size` bytes that were read. */
static int write_data(struct copy *c, uint64_t offset, uint64_t size)
{
    uint64_t from = 0, at = 0;
    int rc = 0;

    while (rc == 0 && at < size) {
        /* Steps are those of the disk, wherever we began. */
        uint64_t step = c->step - (offset + at) % c->step;
        if (step > size - at)
            step = size - at;
        bool zero = is_zero(c->data + at, step);
        if (zero && from < at)
            rc = perform(c, &c->out, BLOCK_WRITE, offset + from, c->data + from, at - from);
        at += step;
        if (zero)
            from = at;
    }
    if (rc == 0 && from < at)
        rc = perform(c, &c->out, BLOCK_WRITE, offset + from, c->data + from, at - from);
    return rc;
}

static void show_progress(struct copy *c, uint64_t offset)
{
    int percent = (int)((double)offset / (double)c->size * 100);

    if (!c->is_terminal || percent == c->percent)
        return;
    c->percent = percent;
    (void)fprintf(stderr, "\r%3d %%%s", percent, offset == c->size ? "\r     \r" : "");
}

static int copy_data(struct copy *c, const char *in, const char *out, struct error *err)
{
    uint64_t offset = 0, size = 0;
    bool zero = false;

    for (; offset < c->size; offset += size) {
        show_progress(c, offset);
        if (stop_signal != 0)
            return error_set(err, -EINTR, "stopped by a signal");
        int rc = next_extent(c, offset, &size, &zero);
        if (rc == 0 && !zero && size > CHUNK)
            size = CHUNK - offset % c->step;
        if (rc == 0 && !zero)
            rc = perform(c, &c->in, BLOCK_READ, offset, c->data, size);
        if (rc < 0)
            return error_sys(err, rc, "cannot read %s", in);
        rc = zero ? 0 : write_data(c, offset, size);
        if (rc < 0)
            return error_sys(err, rc, "cannot write %s", out);
    }
    int rc = perform(c, &c->out, BLOCK_FLUSH, 0, NULL, 0);
    return rc < 0 ? error_sys(err, rc, "cannot write %s", out) : 0;
}

/* Into the file `path`, which will be `out`. */
static int copy_to(struct copy *c, const char *in, const char *path, const char *out,
                   struct error *err)
{
    int rc = end_open(c, &c->out, path, false, false, err);

    if (rc == 0)
        rc = copy_data(c, in, out, err);
    if (c->is_terminal && rc < 0)
        (void)fprintf(stderr, "\r     \r");
    end_close(&c->out);
    return rc;
}

static int start(struct copy *c, const char *in, const char *out, const struct image_options *opt,
                 struct error *err)
{
    int rc = image_format_of(in, opt->from, "--from", &c->in.format, err);

    if (rc == 0)
        rc = image_format_of(out, opt->format, "--format", &c->out.format, err);
    if (rc == 0 && opt->qcow2.backing != NULL)
        rc = error_set(err, -EINVAL, "--backing is for create: a copy holds the whole disk");
    if (rc < 0)
        return rc;
    c->data = malloc(CHUNK);
    rc = c->data ? loop_create(&c->loop) : -ENOMEM;
    if (rc < 0)
        return error_sys(err, rc, "cannot start");
    rc = end_open(c, &c->in, in, true, opt->allow_backing, err);
    if (rc < 0)
        return rc;
    c->size = atomic_load(&c->in.block->size);
    c->step = c->out.format == IMAGE_RAW     ? HOLE
              : opt->qcow2.cluster_size != 0 ? opt->qcow2.cluster_size
                                             : 64 * KIB;
    c->is_terminal = isatty(STDERR_FILENO);
    return 0;
}

int image_convert(const char *in, const char *out, const struct image_options *opt, int *signal,
                  struct error *err)
{
    struct copy c = {.in.fd = -1, .out.fd = -1, .percent = -1};
    char *temporary;

    watch_signals();
    int rc = start(&c, in, out, opt, err);
    if (rc == 0)
        rc = image_begin(out, c.out.format, c.size, opt, &temporary, err);
    if (rc == 0) {
        rc = copy_to(&c, in, temporary, out, err);
        rc = image_end(out, temporary, opt->force, rc, err);
    }
    end_close(&c.in);
    loop_destroy(c.loop);
    free(c.data);
    *signal = stop_signal;
    return rc;
}
