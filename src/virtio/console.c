/*
 * virtio-console, VIRTIO 1.2 §5.3: the device around its ports.
 *
 * Left out: ports that come and go (PORT_REMOVE); all are there from the start.
 */
#include "hv/virtio/console.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"
#include "virtio/console_priv.h"

#define QUEUE_SIZE 64

static struct console *console_of(struct virtio_dev *v)
{
    return container_of(v, struct console, v);
}

static struct console_port *port_of(const struct virtio_dev *v, unsigned port)
{
    struct console *c = container_of(v, struct console, v);

    return port < c->port_count ? &c->ports[port] : NULL;
}

/* --- queues, §5.3.2 --- */

/* The number of a port's first queue. */
static unsigned queue_of(unsigned port)
{
    return port == 0 ? 0 : 2 + 2 * port;
}

static bool is_multiport(struct console *c)
{
    pthread_mutex_lock(&c->lock);
    bool multiport = c->multiport;
    pthread_mutex_unlock(&c->lock);
    return multiport;
}

static void console_serve(struct virtio_dev *v, struct virtio_queue *q)
{
    struct console *c = console_of(v);
    unsigned i = q->index;

    if (i > 1 && !is_multiport(c))
        return; /* for a driver that knows of one port the other queues are not there */
    if (i == CONSOLE_CTRL_TO_DRIVER)
        console_tell_driver(c, q);
    else if (i == CONSOLE_CTRL_FROM_DRIVER)
        console_hear_driver(c, q);
    else if (i % 2 == 0)
        console_rx_serve(&c->ports[i == 0 ? 0 : i / 2 - 1]);
    else
        console_tx_serve(&c->ports[i == 1 ? 0 : i / 2 - 1]);
}

/* --- the driver's life --- */

static void console_start(struct virtio_dev *v)
{
    struct console *c = console_of(v);
    bool multiport = virtio_has(v, VIRTIO_CONSOLE_F_MULTIPORT);

    pthread_mutex_lock(&c->lock);
    c->multiport = multiport;
    pthread_mutex_unlock(&c->lock);
    if (!multiport)
        console_guest_opens(&c->ports[0], true); /* it cannot say so */
}

static void console_reset(struct virtio_dev *v)
{
    struct console *c = console_of(v);

    pthread_mutex_lock(&c->lock);
    c->multiport = false;
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < c->port_count; i++)
        console_port_reset(&c->ports[i]);
}

/* --- configuration, §5.3.4 --- */

static void console_config_read(struct virtio_dev *v, uint64_t offset, void *out, unsigned size)
{
    struct console *c = console_of(v);

    pthread_mutex_lock(&c->lock);
    const struct virtio_console_config config = {
        .cols = htole16(c->ports[0].cols),
        .rows = htole16(c->ports[0].rows),
        .max_nr_ports = htole32(c->port_count),
    };
    pthread_mutex_unlock(&c->lock);
    if (range_fits(offset, size, sizeof(config)))
        memcpy(out, (const uint8_t *)&config + offset, size);
}

/* §5.3.4.1: the lowest byte is a character, also from a guest that has not got any further. */
static void console_config_write(struct virtio_dev *v, uint64_t offset, const void *data,
                                 unsigned size)
{
    if (offset == offsetof(struct virtio_console_config, emerg_wr) && size > 0)
        console_put_now(port_of(v, 0), data, 1);
}

/* --- from outside --- */

/* There is something to say about a port, to a driver that wants to hear it. */
static void note_locked(struct console_port *p, unsigned bit)
{
    if (p->ready)
        p->due |= bit;
}

int virtio_console_resize(struct virtio_dev *v, unsigned port, uint16_t cols, uint16_t rows)
{
    struct console_port *p = port_of(v, port);

    if (p == NULL)
        return -ENOENT;
    pthread_mutex_lock(&p->c->lock);
    p->cols = cols;
    p->rows = rows;
    note_locked(p, CONSOLE_DUE_RESIZE);
    pthread_mutex_unlock(&p->c->lock);
    if (port == 0)
        virtio_config_changed(v);
    virtio_kick(virtio_queue(v, CONSOLE_CTRL_TO_DRIVER));
    return 0;
}

int virtio_console_set_open(struct virtio_dev *v, unsigned port, bool open)
{
    struct console_port *p = port_of(v, port);

    if (p == NULL)
        return -ENOENT;
    pthread_mutex_lock(&p->c->lock);
    if (p->host_open != open)
        note_locked(p, CONSOLE_DUE_OPEN);
    p->host_open = open;
    pthread_mutex_unlock(&p->c->lock);
    virtio_kick(virtio_queue(v, CONSOLE_CTRL_TO_DRIVER));
    virtio_kick(p->tx); /* what was held has nobody to wait for */
    chr_resume(p->chr);
    return 0;
}

bool virtio_console_is_open(const struct virtio_dev *v, unsigned port)
{
    struct console_port *p = port_of(v, port);

    if (p == NULL)
        return false;
    pthread_mutex_lock(&p->c->lock);
    bool open = p->guest_open;
    pthread_mutex_unlock(&p->c->lock);
    return open;
}

void virtio_console_stats(const struct virtio_dev *v, struct virtio_console_stats *out)
{
    const struct console *c = container_of(v, struct console, v);

    *out = (struct virtio_console_stats){
        .received = atomic_load(&c->received),
        .sent = atomic_load(&c->sent),
        .dropped = atomic_load(&c->dropped),
        .ignored = atomic_load(&c->ignored),
    };
}

/* --- state --- */

enum flag { ADDED = 1 << 0, READY = 1 << 1, GUEST_OPEN = 1 << 2, HOST_OPEN = 1 << 3, FLAGS = 15 };

static void save_port(const struct console_port *p, struct codec_writer *w)
{
    codec_put_u8(w, (uint8_t)((p->added ? ADDED : 0) | (p->ready ? READY : 0) |
                              (p->guest_open ? GUEST_OPEN : 0) | (p->host_open ? HOST_OPEN : 0)));
    codec_put_u8(w, (uint8_t)p->due);
    codec_put_u16(w, p->cols);
    codec_put_u16(w, p->rows);
    codec_put_u64(w, p->done);
    codec_put_u16(w, p->done_of);
    codec_put_u16(w, (uint16_t)p->count);
    for (unsigned i = 0; i < p->count; i++)
        codec_put_u8(w, p->input[(p->first + i) % CONSOLE_INPUT_MAX]);
}

static void console_save(struct virtio_dev *v, struct codec_writer *w)
{
    struct console *c = console_of(v);

    codec_put_u8(w, (uint8_t)c->port_count);
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < c->port_count; i++)
        save_port(&c->ports[i], w);
    pthread_mutex_unlock(&c->lock);
}

/* What is loaded of a port. */
struct port_state {
    uint8_t flags, due;
    uint16_t cols, rows, done_of, count;
    uint64_t done;
    uint8_t input[CONSOLE_INPUT_MAX];
};

static bool load_port(struct port_state *s, struct codec_reader *r)
{
    s->flags = codec_get_u8(r);
    s->due = codec_get_u8(r);
    s->cols = codec_get_u16(r);
    s->rows = codec_get_u16(r);
    s->done = codec_get_u64(r);
    s->done_of = codec_get_u16(r);
    s->count = codec_get_u16(r);
    if (s->count > CONSOLE_INPUT_MAX || (s->flags & ~FLAGS) || (s->due & ~CONSOLE_DUE_ALL))
        return false;
    codec_get_bytes(r, s->input, s->count);
    return true;
}

static void take_port(struct console_port *p, const struct port_state *s)
{
    p->added = s->flags & ADDED;
    p->ready = s->flags & READY;
    p->guest_open = s->flags & GUEST_OPEN;
    p->host_open = s->flags & HOST_OPEN;
    p->due = s->due;
    p->cols = s->cols;
    p->rows = s->rows;
    p->done = s->done;
    p->done_of = s->done_of;
    p->waiting = p->stalled = false;
    p->first = 0;
    p->count = s->count;
    memcpy(p->input, s->input, s->count);
}

static int load_ports(const struct console *c, struct port_state *loaded, struct codec_reader *r)
{
    if (codec_get_u8(r) != c->port_count)
        return r->failed ? r->failed : -EINVAL;
    for (unsigned i = 0; i < c->port_count; i++)
        if (!load_port(&loaded[i], r))
            return r->failed ? r->failed : -EINVAL;
    return codec_leave(r);
}

static int console_load(struct virtio_dev *v, struct codec_reader *r)
{
    struct console *c = console_of(v);
    struct port_state *loaded = calloc(c->port_count, sizeof(*loaded));

    if (loaded == NULL)
        return -ENOMEM;
    int rc = load_ports(c, loaded, r);
    if (rc == 0) {
        pthread_mutex_lock(&c->lock);
        for (unsigned i = 0; i < c->port_count; i++)
            take_port(&c->ports[i], &loaded[i]);
        pthread_mutex_unlock(&c->lock);
        for (unsigned i = 0; i < c->port_count; i++)
            chr_resume(c->ports[i].chr);
    }
    free(loaded);
    return rc;
}

/* --- life --- */

static void console_destroy(struct virtio_dev *v)
{
    struct console *c = console_of(v);

    for (unsigned i = 0; i < c->port_count; i++)
        if (c->ports[i].c != NULL)
            console_port_fini(&c->ports[i]);
    (void)pthread_mutex_destroy(&c->lock);
    virtio_fini(v);
    free(c);
}

static const struct virtio_ops console_ops = {
    .id = VIRTIO_ID_CONSOLE,
    .features = VIRTIO_FEATURE(VIRTIO_CONSOLE_F_SIZE) | VIRTIO_FEATURE(VIRTIO_CONSOLE_F_MULTIPORT) |
                VIRTIO_FEATURE(VIRTIO_CONSOLE_F_EMERG_WRITE),
    .version = 1,
    .start = console_start,
    .reset = console_reset,
    .serve = console_serve,
    .config_read = console_config_read,
    .config_write = console_config_write,
    .save = console_save,
    .load = console_load,
    .destroy = console_destroy,
};

static bool is_name_good(const struct virtio_console_setup *setup, unsigned port)
{
    const char *name = setup->ports[port].name;

    if (name == NULL || name[0] == '\0')
        return true;
    if (strlen(name) > VIRTIO_CONSOLE_NAME_MAX)
        return false;
    for (unsigned i = 0; i < port; i++)
        if (setup->ports[i].name != NULL && strcmp(setup->ports[i].name, name) == 0)
            return false;
    return true;
}

static int init_port(struct console *c, unsigned number, const struct virtio_console_port *setup)
{
    struct console_port *p = &c->ports[number];

    *p = (struct console_port){
        .c = c,
        .number = number,
        .chr = setup->chr,
        .rx = virtio_queue(&c->v, queue_of(number)),
        .tx = virtio_queue(&c->v, queue_of(number) + 1),
        .stall_ms = setup->stall_ms,
        .stall.fd = -1,
        .host_open = true,
    };
    if (setup->name != NULL)
        memcpy(p->name, setup->name, strlen(setup->name));
    return console_port_init(p);
}

int virtio_console_create(const char *name, const struct virtio_console_setup *setup,
                          struct virtio_dev **out)
{
    struct virtio_queue_config queues[2 * VIRTIO_CONSOLE_PORTS_MAX + 2];
    unsigned count = 2 * setup->port_count + 2;

    for (unsigned i = 0; i < setup->port_count; i++)
        if (!is_name_good(setup, i))
            return -EINVAL;
    struct console *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    (void)pthread_mutex_init(&c->lock, NULL); /* does not fail on Linux */
    c->log = setup->log;
    c->port_count = setup->port_count;
    for (unsigned i = 0; i < count; i++)
        queues[i] = (struct virtio_queue_config){.size = QUEUE_SIZE, .loop = setup->loop};
    int rc = virtio_init(&c->v, &console_ops, name, setup->mem, 0, queues, count);
    for (unsigned i = 0; rc == 0 && i < setup->port_count; i++)
        rc = init_port(c, i, &setup->ports[i]);
    if (rc < 0) {
        console_destroy(&c->v);
        return rc;
    }
    c->ports[0].cols = setup->cols;
    c->ports[0].rows = setup->rows;
    *out = &c->v;
    return 0;
}
