/*
 * isa-debug-exit: how a test kernel ends its machine with a result.
 *
 * As in QEMU, a write of any width to any of the ports counts, and reads give 0. There is no state.
 */
#include "hv/devices/debug_exit.h"

#include <errno.h>
#include <stdlib.h>

#include "hv/base/num.h"

struct debug_exit {
    struct device dev;
    debug_exit_fn *fn;
    void *ctx; /* borrowed */
};

static uint64_t debug_exit_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    (void)offset;
    (void)size;
    return 0;
}

static void debug_exit_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_exit *d = container_of(dev, struct debug_exit, dev);

    (void)offset;
    (void)size;
    d->fn(d->ctx, (uint32_t)value);
}

static void debug_exit_save(struct device *dev, struct codec_writer *w)
{
    (void)dev;
    (void)w;
}

static int debug_exit_load(struct device *dev, struct codec_reader *r)
{
    (void)dev;
    return codec_leave(r);
}

static void debug_exit_destroy(struct device *dev)
{
    struct debug_exit *d = container_of(dev, struct debug_exit, dev);

    dev_fini(&d->dev);
    free(d);
}

static const struct dev_ops debug_exit_ops = {
    .read = debug_exit_read,
    .write = debug_exit_write,
    .save = debug_exit_save,
    .load = debug_exit_load,
    .destroy = debug_exit_destroy,
    .max_access = 4,
    .version = 1,
};

int debug_exit_create(const char *name, debug_exit_fn *fn, void *ctx, struct device **dev)
{
    struct debug_exit *d = calloc(1, sizeof(*d));

    if (!d)
        return -ENOMEM;
    dev_init(&d->dev, &debug_exit_ops, name);
    d->fn = fn;
    d->ctx = ctx;
    *dev = &d->dev;
    return 0;
}
