/*
 * The connections of the socket device: a fixed number of them, found by their name, which is the
 * pair of ports (the CIDs are always the same).
 *
 * Who has something for the guest stands in a queue, and goes back to its end after each packet: so
 * a connection with much to say keeps the others waiting for one packet each.
 *
 * Some states may last only so long. One timer serves all: it is set to the first deadline, and
 * when it has come, all connections are looked at.
 */
#include <assert.h>

#include "hv/base/fd.h"
#include "virtio/vsock_priv.h"

/* --- life --- */

struct vsock_conn *vsock_conn_create(struct vsock *d, int fd, enum vsock_state state)
{
    struct vsock_conn *c = LIST_FIRST(&d->spare);

    if (c == NULL) {
        fd_close(&fd);
        return NULL;
    }
    LIST_REMOVE(c, same);
    *c = (struct vsock_conn){.d = d, .fd = fd};
    atomic_fetch_add(&d->connections, 1);
    vsock_enter(c, state);
    if (vsock_watch(c) < 0) {
        vsock_conn_destroy(c);
        return NULL;
    }
    return c;
}

void vsock_conn_destroy(struct vsock_conn *c)
{
    struct vsock *d = c->d;

    vsock_hang_up(c);
    vsock_unname(c);
    c->state = VSOCK_FREE;
    c->deadline = 0;
    LIST_INSERT_HEAD(&d->spare, c, same);
    atomic_fetch_sub(&d->connections, 1);
}

/* --- names --- */

static struct vsock_list *bucket(struct vsock *d, uint32_t guest_port, uint32_t host_port)
{
    return &d->buckets[(guest_port * 31 + host_port) % VSOCK_BUCKETS];
}

void vsock_name(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port)
{
    c->guest_port = guest_port;
    c->host_port = host_port;
    c->is_named = true;
    LIST_INSERT_HEAD(bucket(c->d, guest_port, host_port), c, same);
}

/* What the guest was owed, nobody can say any more. */
void vsock_unname(struct vsock_conn *c)
{
    if (c->is_named)
        LIST_REMOVE(c, same);
    c->is_named = false;
    vsock_disown(c, VSOCK_OPS);
}

struct vsock_conn *vsock_find(struct vsock *d, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_conn *c = LIST_FIRST(bucket(d, guest_port, host_port));

    while (c != NULL && (c->guest_port != guest_port || c->host_port != host_port))
        c = LIST_NEXT(c, same);
    return c;
}

uint32_t vsock_choose_port(struct vsock *d, uint32_t guest_port)
{
    uint32_t port;

    do {
        port = d->next_port;
        d->next_port = port == VSOCK_PORT_LAST ? VSOCK_PORT_FIRST : port + 1;
    } while (vsock_find(d, guest_port, port) != NULL);
    return port;
}

/* --- deadlines --- */

static void set_clock(struct vsock *d, uint64_t deadline, uint64_t now)
{
    if (d->clock_at != 0 && d->clock_at <= deadline)
        return;
    d->clock_at = deadline;
    timer_set(&d->clock, deadline > now ? deadline - now : 0);
}

void vsock_enter(struct vsock_conn *c, enum vsock_state state)
{
    uint64_t patience = c->d->patience[state], now = now_ns();

    c->state = state;
    c->deadline = patience > 0 ? now + patience : 0;
    if (c->deadline != 0)
        set_clock(c->d, c->deadline, now);
}

void vsock_on_clock(void *ctx)
{
    struct vsock *d = ctx;
    uint64_t now = now_ns();

    (void)vsock_settle(d);
    d->clock_at = 0;
    for (unsigned i = 0; i < VIRTIO_VSOCK_CONNECTIONS; i++) {
        struct vsock_conn *c = &d->conns[i];
        if (c->deadline != 0 && c->deadline <= now)
            vsock_expire(c);
        if (c->deadline != 0)
            set_clock(d, c->deadline, now);
    }
}

/* --- what the guest is owed --- */

/* One kick is enough for all that are ready: whoever serves the queue serves them all, or has a
 * reason to come back. */
static void wake_rx(struct vsock *d)
{
    if (TAILQ_EMPTY(&d->ready) && d->reset_count == 0)
        virtio_kick(virtio_queue(&d->v, VSOCK_RX));
}

void vsock_owe(struct vsock_conn *c, unsigned op)
{
    c->due |= 1U << op;
    if (c->is_ready)
        return;
    wake_rx(c->d);
    c->is_ready = true;
    TAILQ_INSERT_TAIL(&c->d->ready, c, ready);
}

/* VSOCK_OPS: anything at all. */
void vsock_disown(struct vsock_conn *c, unsigned op)
{
    c->due = op == VSOCK_OPS ? 0 : c->due & ~(1U << op);
    if (c->due != 0 || !c->is_ready)
        return;
    TAILQ_REMOVE(&c->d->ready, c, ready);
    c->is_ready = false;
}

void vsock_refuse(struct vsock *d, const struct vsock_packet *packet)
{
    assert(d->reset_count < VSOCK_RESETS_MAX);
    wake_rx(d);
    d->resets[(d->reset_first + d->reset_count) % VSOCK_RESETS_MAX] = (struct vsock_packet){
        .guest_port = packet->guest_port,
        .host_port = packet->host_port,
        .type = packet->type,
        .op = VIRTIO_VSOCK_OP_RST,
    };
    d->reset_count++;
}
