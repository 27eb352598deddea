/*
 * Port 0xE9. It has no state: nothing is saved, and every read gives the port's own number.
 */
#include "hv/devices/debug_port.h"

#include <errno.h>
#include <stdlib.h>

#include "hv/base/num.h"

struct debug_port {
    struct device dev;
    struct chr *out; /* borrowed */
};

static uint64_t debug_port_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    (void)offset;
    (void)size;
    return DEBUG_PORT;
}

static void debug_port_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_port *port = container_of(dev, struct debug_port, dev);
    uint8_t byte = (uint8_t)value;

    (void)offset;
    (void)size;
    chr_write(port->out, &byte, 1);
}

static void debug_port_save(struct device *dev, struct codec_writer *w)
{
    (void)dev;
    (void)w;
}

static int debug_port_load(struct device *dev, struct codec_reader *r)
{
    (void)dev;
    return codec_leave(r);
}

static void debug_port_destroy(struct device *dev)
{
    struct debug_port *port = container_of(dev, struct debug_port, dev);

    dev_fini(&port->dev);
    free(port);
}

static const struct dev_ops debug_port_ops = {
    .read = debug_port_read,
    .write = debug_port_write,
    .save = debug_port_save,
    .load = debug_port_load,
    .destroy = debug_port_destroy,
    .max_access = 1,
    .version = 1,
};

int debug_port_create(const char *name, struct chr *out, struct device **dev)
{
    struct debug_port *port = calloc(1, sizeof(*port));

    if (!port)
        return -ENOMEM;
    dev_init(&port->dev, &debug_port_ops, name);
    port->out = out;
    *dev = &port->dev;
    return 0;
}
