/*
 * Messages about ports, VIRTIO 1.2 §5.3.6.2: both sides say which ports there are, what they are
 * called, and who is there at their ends.
 *
 * The driver's messages are few and change bits; ours are made from those bits when the driver has
 * a buffer for them. So a driver that asks without end, or never listens, costs nothing.
 *
 * In a resize message the columns come first, as §5.3.6.2 has it, and Linux since 2025; older
 * kernels take the two the other way round.
 */
#include <assert.h>
#include <endian.h>
#include <string.h>

#include "hv/base/num.h"
#include "virtio/console_priv.h"

/* §5.3.6.2 */
struct message {
    struct virtio_console_control head;
    union {
        char name[VIRTIO_CONSOLE_NAME_MAX]; /* without a NUL */
        struct {
            uint16_t cols, rows;
        } size;
    };
};

static_assert(sizeof(struct virtio_console_control) == 8, "VIRTIO 1.2 5.3.6.2");
static_assert(offsetof(struct message, size) == 8, "VIRTIO 1.2 5.3.6.2");

/* --- to the driver --- */

/* The port that has the next message, or NULL. */
static struct console_port *next_due_locked(struct console *c)
{
    for (unsigned i = 0; i < c->port_count; i++)
        if (c->ports[i].due)
            return &c->ports[i];
    return NULL;
}

static bool has_due(struct console *c)
{
    pthread_mutex_lock(&c->lock);
    bool has = next_due_locked(c) != NULL;
    pthread_mutex_unlock(&c->lock);
    return has;
}

/* Writes the message that BIT stands for; returns its bytes. */
static size_t compose_locked(const struct console_port *p, unsigned bit, struct message *m)
{
    uint16_t event, value = 1;
    size_t more = 0;

    switch (bit) {
    case CONSOLE_DUE_ADD:
        event = VIRTIO_CONSOLE_PORT_ADD;
        break;
    case CONSOLE_DUE_CONSOLE:
        event = VIRTIO_CONSOLE_CONSOLE_PORT;
        break;
    case CONSOLE_DUE_NAME:
        event = VIRTIO_CONSOLE_PORT_NAME;
        more = strlen(p->name);
        memcpy(m->name, p->name, more);
        break;
    case CONSOLE_DUE_RESIZE:
        event = VIRTIO_CONSOLE_RESIZE;
        more = sizeof(m->size);
        m->size.cols = htole16(p->cols);
        m->size.rows = htole16(p->rows);
        break;
    default:
        event = VIRTIO_CONSOLE_PORT_OPEN;
        value = p->host_open;
        break;
    }
    m->head.id = htole32(p->number);
    m->head.event = htole16(event);
    m->head.value = htole16(value);
    return sizeof(m->head) + more;
}

/* Takes the next message; returns its bytes. There is one, for only this thread takes any. */
static size_t take_message(struct console *c, struct message *m)
{
    pthread_mutex_lock(&c->lock);
    struct console_port *p = next_due_locked(c);
    unsigned bit = p->due & -p->due;
    size_t size = compose_locked(p, bit, m);
    p->due &= ~bit;
    pthread_mutex_unlock(&c->lock);
    return size;
}

/* Sends one message. False: there is no buffer. */
static bool tell_one(struct console *c, struct vq *vq)
{
    struct iovec iov[CONSOLE_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = CONSOLE_PIECES};
    struct message m;

    if (vq_pop(vq, &chain) <= 0)
        return false;
    if (chain.in_size < sizeof(m)) {
        vq_break(vq); /* what cannot hold any message would hold a part of one */
        return false;
    }
    size_t size = take_message(c, &m);
    (void)vq_chain_write(&chain, 0, &m, size); /* it has that much room */
    vq_push(vq, &chain, (uint32_t)size);
    return true;
}

void console_tell_driver(struct console *c, struct virtio_queue *q)
{
    while (has_due(c))
        if (!tell_one(c, &q->vq) && !vq_unmute(&q->vq))
            break;
    virtio_publish(q);
}

/* --- from the driver --- */

/* §5.3.6.2.1: a port is added once. */
static void add_ports_locked(struct console *c)
{
    for (unsigned i = 0; i < c->port_count; i++) {
        struct console_port *p = &c->ports[i];
        if (!p->added)
            p->due |= CONSOLE_DUE_ADD;
        p->added = true;
    }
}

/* §5.3.5: all else that there is to say about a port. */
static void describe_locked(struct console_port *p)
{
    if (p->number == 0)
        p->due |= CONSOLE_DUE_CONSOLE;
    if (p->name[0] != '\0')
        p->due |= CONSOLE_DUE_NAME;
    if (p->cols != 0 || p->rows != 0)
        p->due |= CONSOLE_DUE_RESIZE;
    if (p->host_open)
        p->due |= CONSOLE_DUE_OPEN;
}

/* False: it is about no port that the driver can know. */
static bool heed_port(struct console *c, uint32_t id, uint16_t event, bool value)
{
    struct console_port *p = id < c->port_count ? &c->ports[id] : NULL;

    if (p == NULL)
        return false;
    pthread_mutex_lock(&c->lock);
    bool known = p->added;
    if (known && event == VIRTIO_CONSOLE_PORT_READY) {
        p->ready = value;
        if (value)
            describe_locked(p);
    }
    pthread_mutex_unlock(&c->lock);
    if (known && event == VIRTIO_CONSOLE_PORT_OPEN)
        console_guest_opens(p, value);
    return known;
}

/* False: it makes no sense. */
static bool heed(struct console *c, const struct virtio_console_control *m)
{
    uint16_t event = le16toh(m->event);
    bool value = m->value != 0;

    switch (event) {
    case VIRTIO_CONSOLE_DEVICE_READY: /* or not, and then there is nothing that we could do */
        pthread_mutex_lock(&c->lock);
        if (value)
            add_ports_locked(c);
        pthread_mutex_unlock(&c->lock);
        return true;
    case VIRTIO_CONSOLE_PORT_READY:
    case VIRTIO_CONSOLE_PORT_OPEN:
        return heed_port(c, le32toh(m->id), event, value);
    default:
        return false;
    }
}

/* Takes one message. False: there is none. */
static bool hear_one(struct console *c, struct vq *vq)
{
    struct iovec iov[CONSOLE_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = CONSOLE_PIECES};
    struct virtio_console_control m;

    if (vq_pop(vq, &chain) <= 0)
        return false;
    if (vq_chain_read(&chain, 0, &m, sizeof(m)) != sizeof(m) || !heed(c, &m)) {
        console_count(&c->ignored, 1);
        log_limited(c->log, &c->ignored_limit, LOG_WARN,
                    "%s: the driver sent a control message that makes no sense", c->v.name);
    }
    vq_push(vq, &chain, 0);
    return true;
}

void console_hear_driver(struct console *c, struct virtio_queue *q)
{
    for (unsigned chains = 0;; chains++) {
        if (chains == CONSOLE_BUDGET_CHAINS) {
            virtio_kick(q); /* to be continued */
            break;
        }
        if (!hear_one(c, &q->vq) && !vq_unmute(&q->vq))
            break;
    }
    virtio_publish(q);
    virtio_kick(virtio_queue(&c->v, CONSOLE_CTRL_TO_DRIVER)); /* with the answers */
}
