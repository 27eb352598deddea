/*
 * The life of a connection, VIRTIO 1.2 §5.10.6.5.
 *
 *     GREETING ── CONNECT ──▶ ASKED ── RESPONSE ──▶ OPEN ── both told shut ──▶ CLOSING
 *     a guest's REQUEST ───────────────────────────▶ OPEN
 *     any of them, for whatever reason we end it ──▶ ENDING ── RST sent ──▶ (over)
 *     any of them ── RST received ──▶ (over)
 *     (over) ──▶ FREE, or first LINGERING, while the program reads what the guest has sent
 *
 * What a packet of the guest's does is a table, of state and operation. Where the table has
 * nothing, the guest's driver has broken the rules: the connection ends with a RST, no other is
 * affected.
 *
 * Each direction of an open connection is closed by its sender (SEND), who has no more, or by its
 * receiver (RCV), who wants no more. The guest says so in a SHUTDOWN. On the host, the end of
 * what can be read is SEND, a failing write is RCV, a program that is gone is both.
 */
#include <errno.h>

#include "virtio/vsock_priv.h"

#define RCV VIRTIO_VSOCK_SHUTDOWN_RCV
#define SEND VIRTIO_VSOCK_SHUTDOWN_SEND

/* --- ends --- */

void vsock_over(struct vsock_conn *c)
{
    if (c->in.len == 0) {
        vsock_conn_destroy(c);
        return;
    }
    vsock_unname(c);
    vsock_enter(c, VSOCK_LINGERING);
}

/* The guest gets a RST. What it sent before is still the program's. */
static void end(struct vsock_conn *c)
{
    if (c->in.len == 0)
        vsock_hang_up(c);
    vsock_disown(c, VSOCK_OPS);
    vsock_enter(c, VSOCK_ENDING);
    vsock_owe(c, VIRTIO_VSOCK_OP_RST);
}

static void break_off(struct vsock_conn *c)
{
    vsock_count(&c->d->broken);
    vsock_hang_up(c);
    end(c);
}

/* --- credit, §5.10.6.3 --- */

uint32_t vsock_credit(const struct vsock_conn *c)
{
    uint32_t on_its_way = c->sent - c->guest_forwarded;

    return on_its_way < c->guest_alloc ? c->guest_alloc - on_its_way : 0;
}

static bool has_data(const struct vsock_conn *c)
{
    return c->state == VSOCK_OPEN && c->is_readable && !(c->host_shut & SEND) &&
           !(c->guest_shut & RCV);
}

void vsock_offer_data(struct vsock_conn *c)
{
    bool wants = has_data(c), may = wants && vsock_credit(c) > 0;

    if (may)
        vsock_owe(c, VIRTIO_VSOCK_OP_RW);
    else
        vsock_disown(c, VIRTIO_VSOCK_OP_RW);
    if (wants && !may && !c->has_asked)
        vsock_owe(c, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    else if (!wants || may)
        vsock_disown(c, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    c->has_asked = wants && !may;
}

/* A guest that believes its peer to be full waits; one that is told of every byte has no time for
 * anything else. */
void vsock_offer_credit(struct vsock_conn *c)
{
    if (c->state == VSOCK_OPEN && c->forwarded - c->told_forwarded >= VIRTIO_VSOCK_BUFFER / 2)
        vsock_owe(c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

/* More than we promised to take: what waits here, and what it does not know to be gone. */
static bool exceeds_credit(const struct vsock_conn *c, uint32_t len)
{
    return len > VIRTIO_VSOCK_BUFFER - (c->received - c->told_forwarded);
}

/* --- packets --- */

typedef void action_fn(struct vsock_conn *c, const struct vsock_packet *p,
                       struct vq_chain *payload);

static void ignore(struct vsock_conn *c, const struct vsock_packet *p, struct vq_chain *payload)
{
    (void)c, (void)p, (void)payload;
}

static void on_response(struct vsock_conn *c, const struct vsock_packet *p,
                        struct vq_chain *payload)
{
    (void)p, (void)payload;
    if (vsock_greet(c) < 0) {
        end(c);
        return;
    }
    vsock_count(&c->d->opened);
    vsock_enter(c, VSOCK_OPEN);
    c->is_readable = true; /* it may have gone on without waiting for the answer */
    vsock_offer_data(c);
}

static void on_refusal(struct vsock_conn *c, const struct vsock_packet *p, struct vq_chain *payload)
{
    (void)p, (void)payload;
    vsock_count(&c->d->refused);
    vsock_over(c);
}

static void on_reset(struct vsock_conn *c, const struct vsock_packet *p, struct vq_chain *payload)
{
    (void)p, (void)payload;
    vsock_over(c);
}

/* §5.10.6.5: "hints are permanent": bits that are clear take nothing back. */
static void on_shutdown(struct vsock_conn *c, const struct vsock_packet *p,
                        struct vq_chain *payload)
{
    (void)payload;
    c->guest_shut |= p->flags & VSOCK_SHUT_BOTH;
    if (c->guest_shut == VSOCK_SHUT_BOTH) {
        end(c);
        return;
    }
    vsock_shut(c);
    vsock_offer_data(c);
}

static void on_data(struct vsock_conn *c, const struct vsock_packet *p, struct vq_chain *payload)
{
    if ((c->guest_shut & SEND) || exceeds_credit(c, p->len)) {
        break_off(c);
        return;
    }
    c->received += p->len;
    int rc = c->host_shut & RCV ? -EPIPE : vsock_give(c, payload);
    if (rc == -EPIPE)
        vsock_host_gone(c);
    else if (rc < 0)
        break_off(c);
    vsock_offer_credit(c);
}

static void on_credit_request(struct vsock_conn *c, const struct vsock_packet *p,
                              struct vq_chain *payload)
{
    (void)p, (void)payload;
    vsock_owe(c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

static action_fn *const actions[VSOCK_STATES][VSOCK_OPS] = {
    [VSOCK_ASKED] =
        {
            [VIRTIO_VSOCK_OP_RESPONSE] = on_response,
            [VIRTIO_VSOCK_OP_RST] = on_refusal,
        },
    [VSOCK_OPEN] =
        {
            [VIRTIO_VSOCK_OP_RST] = on_reset,
            [VIRTIO_VSOCK_OP_SHUTDOWN] = on_shutdown,
            [VIRTIO_VSOCK_OP_RW] = on_data,
            [VIRTIO_VSOCK_OP_CREDIT_UPDATE] = ignore, /* the credit itself is in every packet */
            [VIRTIO_VSOCK_OP_CREDIT_REQUEST] = on_credit_request,
        },
    [VSOCK_CLOSING] = /* the guest may not have seen yet that it is closed */
    {
        [VIRTIO_VSOCK_OP_RST] = on_reset,
        [VIRTIO_VSOCK_OP_SHUTDOWN] = on_shutdown,
        [VIRTIO_VSOCK_OP_RW] = ignore,
        [VIRTIO_VSOCK_OP_CREDIT_UPDATE] = ignore,
        [VIRTIO_VSOCK_OP_CREDIT_REQUEST] = ignore,
    },
    [VSOCK_ENDING] = /* whatever it is, the RST that is on its way answers it */
    {
        [VIRTIO_VSOCK_OP_INVALID] = ignore,
        [VIRTIO_VSOCK_OP_REQUEST] = ignore,
        [VIRTIO_VSOCK_OP_RESPONSE] = ignore,
        [VIRTIO_VSOCK_OP_RST] = on_reset,
        [VIRTIO_VSOCK_OP_SHUTDOWN] = ignore,
        [VIRTIO_VSOCK_OP_RW] = ignore,
        [VIRTIO_VSOCK_OP_CREDIT_UPDATE] = ignore,
        [VIRTIO_VSOCK_OP_CREDIT_REQUEST] = ignore,
    },
};

static void take_credit(struct vsock_conn *c, const struct vsock_packet *p)
{
    c->guest_alloc = p->buf_alloc;
    c->guest_forwarded = p->fwd_cnt;
}

/* A program in the guest wants to reach one on the host. */
static void connect_guest(struct vsock *d, const struct vsock_packet *p)
{
    int fd = LIST_EMPTY(&d->spare) ? -ENOSPC : vsock_dial(d, p->host_port);
    struct vsock_conn *c = fd < 0 ? NULL : vsock_conn_create(d, fd, VSOCK_OPEN);

    if (c == NULL) {
        vsock_refuse(d, p);
        vsock_count(&d->refused);
        return;
    }
    vsock_count(&d->opened);
    vsock_name(c, p->guest_port, p->host_port);
    take_credit(c, p);
    vsock_owe(c, VIRTIO_VSOCK_OP_RESPONSE);
}

void vsock_receive(struct vsock *d, const struct vsock_packet *p, struct vq_chain *payload)
{
    bool is_stream = p->type == VIRTIO_VSOCK_TYPE_STREAM;
    struct vsock_conn *c = is_stream ? vsock_find(d, p->guest_port, p->host_port) : NULL;

    if (c != NULL) {
        action_fn *action = actions[c->state][p->op];
        take_credit(c, p);
        vsock_offer_data(c);
        if (action != NULL)
            action(c, p, payload);
        else
            break_off(c);
    } else if (is_stream && p->op == VIRTIO_VSOCK_OP_REQUEST) {
        connect_guest(d, p);
    } else if (p->op != VIRTIO_VSOCK_OP_RST) {
        vsock_refuse(d, p); /* §5.10.6.4.2 wants it for unknown types; so do lost connections */
    }
}

void vsock_sent(struct vsock_conn *c, unsigned op)
{
    c->told_forwarded = c->forwarded; /* every packet says so */
    vsock_disown(c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    if (op != VIRTIO_VSOCK_OP_RW) /* whether there is more, vsock_offer_data() says */
        vsock_disown(c, op);
    if (op == VIRTIO_VSOCK_OP_RST) {
        vsock_over(c);
        return;
    }
    if (op == VIRTIO_VSOCK_OP_SHUTDOWN)
        c->told_shut = c->host_shut;
    if (c->told_shut == VSOCK_SHUT_BOTH) {
        vsock_hang_up(c);
        vsock_disown(c, VSOCK_OPS);
        vsock_enter(c, VSOCK_CLOSING);
        return;
    }
    vsock_offer_data(c);
}

/* --- the host's side --- */

void vsock_ask(struct vsock_conn *c, uint32_t guest_port)
{
    vsock_name(c, guest_port, vsock_choose_port(c->d, guest_port));
    vsock_enter(c, VSOCK_ASKED);
    vsock_owe(c, VIRTIO_VSOCK_OP_REQUEST);
}

void vsock_host_shuts(struct vsock_conn *c, uint32_t directions)
{
    c->host_shut |= directions;
    vsock_offer_data(c);
    if (c->host_shut != c->told_shut)
        vsock_owe(c, VIRTIO_VSOCK_OP_SHUTDOWN);
}

/* What waits for the program is thrown away, and counts as forwarded: the guest must not wait for
 * it. What the program sent before is still there to be read. */
static void shut_host_receive(struct vsock_conn *c)
{
    vsock_buf_drop(&c->in, c->in.len);
    c->forwarded = c->received;
    c->is_readable = true;
    vsock_host_shuts(c, c->guest_shut & RCV ? VSOCK_SHUT_BOTH : RCV);
}

void vsock_host_gone(struct vsock_conn *c)
{
    bool is_asking = c->due & 1U << VIRTIO_VSOCK_OP_REQUEST;

    if (c->state == VSOCK_OPEN)
        shut_host_receive(c);
    else if (c->state == VSOCK_ENDING)
        vsock_hang_up(c);
    else if (c->state == VSOCK_ASKED && !is_asking)
        end(c); /* the guest knows of it already */
    else
        vsock_conn_destroy(c);
}

void vsock_drained(struct vsock_conn *c)
{
    if (c->state == VSOCK_LINGERING)
        vsock_conn_destroy(c);
    else if (c->state == VSOCK_ENDING)
        vsock_hang_up(c);
    else
        vsock_shut(c);
}

/* --- time --- */

void vsock_expire(struct vsock_conn *c)
{
    if (c->state == VSOCK_CLOSING) {
        end(c);
        return;
    }
    if (c->state == VSOCK_ASKED)
        vsock_count(&c->d->refused);
    vsock_host_gone(c);
}
