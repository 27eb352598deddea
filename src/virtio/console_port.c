/*
 * The bytes of a console's port, VIRTIO 1.2 §5.3.6.
 *
 * Input changes threads in a small ring: the back end's thread fills it, as far as there is room,
 * and kicks the receive queue; the I/O thread empties it into the guest's buffers, and resumes the
 * back end. Output needs no ring of ours: the back end has one, and what does not fit there stays
 * where it is, in the guest. A chain of which a part is out goes back to the queue, and how much of
 * it is out is remembered; so a device that holds output holds no chain, and can stop at any time.
 */
#include "hv/base/num.h"
#include "virtio/console_priv.h"

#define CHUNK 4096 /* bytes that are copied at a time */

/* --- input: on the back end's thread --- */

static size_t port_room(void *ctx)
{
    struct console_port *p = ctx;

    pthread_mutex_lock(&p->c->lock);
    size_t room = p->guest_open && p->host_open ? CONSOLE_INPUT_MAX - p->count : 0;
    pthread_mutex_unlock(&p->c->lock);
    return room;
}

static void port_input(void *ctx, const uint8_t *data, size_t len)
{
    struct console_port *p = ctx;

    pthread_mutex_lock(&p->c->lock);
    for (size_t i = 0; i < len && p->count < CONSOLE_INPUT_MAX; i++)
        p->input[(p->first + p->count++) % CONSOLE_INPUT_MAX] = data[i];
    pthread_mutex_unlock(&p->c->lock);
    virtio_kick(p->rx);
}

static void port_writable(void *ctx)
{
    virtio_kick(((struct console_port *)ctx)->tx);
}

/* --- input: on the I/O thread --- */

/* A guest that has closed its end would throw input away. */
static bool has_input(struct console_port *p)
{
    pthread_mutex_lock(&p->c->lock);
    bool has = p->guest_open && p->count > 0;
    pthread_mutex_unlock(&p->c->lock);
    return has;
}

/* The oldest bytes of the ring, at most `max`. */
static size_t take_input(struct console_port *p, uint8_t *out, size_t max)
{
    pthread_mutex_lock(&p->c->lock);
    size_t n = p->count < max ? p->count : max;
    for (size_t i = 0; i < n; i++)
        out[i] = p->input[(p->first + i) % CONSOLE_INPUT_MAX];
    p->first = (unsigned)((p->first + n) % CONSOLE_INPUT_MAX);
    p->count -= (unsigned)n;
    pthread_mutex_unlock(&p->c->lock);
    return n;
}

/* §5.3.6.1: buffers to be filled have nothing to be read. One without room would be used up by no
 * byte, again and again. */
static bool is_receive_buffer(const struct vq_chain *chain)
{
    return chain->out_size == 0 && chain->in_size > 0;
}

/* Fills one buffer. False: there is none. */
static bool fill_one(struct console_port *p)
{
    struct iovec iov[CONSOLE_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = CONSOLE_PIECES};
    struct vq *vq = &p->rx->vq;
    uint8_t bytes[CONSOLE_INPUT_MAX];

    if (vq_pop(vq, &chain) <= 0)
        return false;
    if (!is_receive_buffer(&chain)) {
        vq_break(vq);
        return false;
    }
    size_t max = chain.in_size < sizeof(bytes) ? (size_t)chain.in_size : sizeof(bytes);
    size_t len = take_input(p, bytes, max);
    (void)vq_chain_write(&chain, 0, bytes, len); /* it has that much room */
    vq_push(vq, &chain, (uint32_t)len);
    console_count(&p->c->received, len);
    chr_resume(p->chr);
    return true;
}

void console_rx_serve(struct console_port *p)
{
    struct vq *vq = &p->rx->vq;

    for (unsigned chains = 0; has_input(p); chains++) {
        if (chains == CONSOLE_BUDGET_CHAINS) {
            virtio_kick(p->rx); /* to be continued */
            break;
        }
        if (!fill_one(p) && !vq_unmute(vq))
            break; /* the driver notifies when it has buffers */
    }
    virtio_publish(p->rx);
}

/* --- output --- */

static void on_stall(void *ctx)
{
    struct console_port *p = ctx;

    atomic_store(&p->expired, true);
    virtio_kick(p->tx);
}

static bool is_host_open(struct console_port *p)
{
    pthread_mutex_lock(&p->c->lock);
    bool open = p->host_open;
    pthread_mutex_unlock(&p->c->lock);
    return open;
}

/* All went out: whoever comes next waits anew. */
static void settle(struct console_port *p)
{
    if (p->waiting)
        timer_cancel(&p->stall);
    p->waiting = p->stalled = false;
}

/* Not all went out. False: the rest may wait. The clock runs from the last byte that moved. */
static bool gives_up(struct console_port *p, bool moved)
{
    bool expired = atomic_exchange(&p->expired, false);

    if (p->stall_ms == 0)
        return false;
    if (moved || !p->waiting) {
        p->stalled = false;
        p->waiting = true;
        timer_set(&p->stall, p->stall_ms * UINT64_C(1000000));
    } else if (expired) {
        p->stalled = true;
    }
    return p->stalled;
}

/* The bytes of [data, data + len) that have found their end, in the back end or nowhere. */
static size_t put(struct console_port *p, const uint8_t *data, size_t len)
{
    size_t taken = is_host_open(p) ? chr_offer(p->chr, data, len) : 0;

    console_count(&p->c->sent, taken);
    if (taken == len || !is_host_open(p))
        settle(p);
    else if (!gives_up(p, taken > 0))
        return taken;
    console_count(&p->c->dropped, len - taken);
    return len;
}

void console_put_now(struct console_port *p, const void *data, size_t len)
{
    size_t taken = chr_offer(p->chr, data, len);

    console_count(&p->c->sent, taken);
    console_count(&p->c->dropped, len - taken);
}

enum progress { SENT, HELD, TIRED };

/* Sends what is left of a chain, at most *budget bytes. */
static enum progress send_chain(struct console_port *p, const struct vq_chain *chain,
                                size_t *budget)
{
    uint8_t bytes[CHUNK];

    while (p->done < chain->out_size) {
        if (*budget == 0)
            return TIRED;
        size_t n = vq_chain_read(chain, p->done, bytes, *budget < CHUNK ? *budget : CHUNK);
        size_t gone = put(p, bytes, n);
        p->done += gone;
        *budget -= gone;
        if (gone < n)
            return HELD;
    }
    return SENT;
}

/* Takes up the next chain where it was left, and leaves it there again if it does not get through.
 * SENT: it did, or there was none: see *any. */
static enum progress send_next(struct console_port *p, size_t *budget, bool *any)
{
    struct iovec iov[CONSOLE_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = CONSOLE_PIECES};
    struct vq *vq = &p->tx->vq;
    uint16_t number = vq->next_avail;

    *any = vq_pop(vq, &chain) > 0;
    if (!*any)
        return SENT;
    if (chain.in_size > 0) {
        vq_break(vq); /* §5.3.6.1: nothing here is for us to write */
        return SENT;
    }
    if (p->done_of != number) /* the queue began anew meanwhile */
        p->done = 0;
    p->done_of = number;
    enum progress progress = send_chain(p, &chain, budget);
    if (progress != SENT) {
        vq_unpop(vq, 1);
        return progress;
    }
    vq_push(vq, &chain, 0);
    p->done = 0;
    p->done_of = vq->next_avail;
    return SENT;
}

void console_tx_serve(struct console_port *p)
{
    size_t budget = CONSOLE_BUDGET;
    bool any;

    for (unsigned chains = 0;; chains++) {
        enum progress progress =
            chains < CONSOLE_BUDGET_CHAINS ? send_next(p, &budget, &any) : TIRED;
        if (progress == TIRED)
            virtio_kick(p->tx); /* to be continued */
        if (progress != SENT || (!any && !vq_unmute(&p->tx->vq)))
            break; /* HELD: port_writable() or on_stall() kicks */
    }
    virtio_publish(p->tx);
}

/* --- life --- */

void console_guest_opens(struct console_port *p, bool open)
{
    pthread_mutex_lock(&p->c->lock);
    p->guest_open = open;
    pthread_mutex_unlock(&p->c->lock);
    if (!open)
        return;
    chr_resume(p->chr);
    virtio_kick(p->rx);
}

int console_port_init(struct console_port *p)
{
    const struct chr_front front = {
        .room = port_room, .input = port_input, .writable = port_writable, .ctx = p};
    int rc = timer_init(&p->stall, p->tx->loop, on_stall, p);

    if (rc == 0)
        chr_attach(p->chr, &front);
    return rc;
}

void console_port_fini(struct console_port *p)
{
    if (p->stall.fd >= 0)
        chr_attach(p->chr, NULL);
    timer_fini(&p->stall);
}

void console_port_reset(struct console_port *p)
{
    pthread_mutex_lock(&p->c->lock);
    p->added = p->ready = p->guest_open = false;
    p->due = 0;
    p->first = p->count = 0;
    pthread_mutex_unlock(&p->c->lock);
    p->done = p->done_of = 0;
    p->waiting = p->stalled = false;
    atomic_store(&p->expired, false);
}
