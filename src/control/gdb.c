/*
 * One conversation with gdb: packets, and the commands about registers, memory and traps.
 *
 * gdb asks, we answer, one packet each; only a running guest lets a question wait, and then gdb may
 * send nothing but 0x03. A command that we do not know gets the empty answer, from which gdb learns
 * that we do not know it. A command that cannot be carried out gets E and an errno.
 *
 * A thread's number is its vCPU's plus 1, because 0 means "any" to gdb.
 */
#include "control/gdb_priv.h"

#include <errno.h>
#include <string.h>

void gdb_init(struct gdb *g, const struct gdb_target *target, const struct gdb_layout *wanted,
              gdb_send_fn *send, void *ctx)
{
    struct debug_regs regs = {0};

    *g = (struct gdb){.target = *target,
                      .wanted = wanted,
                      .send = send,
                      .send_ctx = ctx,
                      .resume_id = RSP_ALL_THREADS};
    rsp_in_init(&g->in);
    gdb_traps_init(&g->traps, &target->means);
    /* If it fails, the machine is past running, and any description will do. */
    (void)!target->ops->get_regs(target->ctx, 0, &regs);
    g->layout = wanted != NULL ? wanted : gdb_layout_for(&regs.sregs);
}

void gdb_fini(struct gdb *g)
{
    rsp_text_fini(&g->reply);
    rsp_text_fini(&g->framed);
}

/* --- replies --- */

void gdb_reply_done(struct gdb *g)
{
    g->framed.len = 0;
    if (g->reply.cut) { /* out of memory: better a failed command than half an answer */
        rsp_text_fini(&g->reply);
        rsp_put_text(&g->reply, "E0c");
    }
    rsp_put_packet(&g->framed, g->reply.data, g->reply.len);
    g->reply.len = 0;
    g->send(g->send_ctx, g->framed.data, g->framed.len);
}

void gdb_reply_text(struct gdb *g, const char *text)
{
    rsp_put_text(&g->reply, text);
    gdb_reply_done(g);
}

void gdb_reply_error(struct gdb *g, int code)
{
    const uint8_t number = (uint8_t)-code;

    rsp_put_text(&g->reply, "E");
    rsp_put_bytes(&g->reply, &number, 1);
    gdb_reply_done(g);
}

static void reply_result(struct gdb *g, int rc)
{
    if (rc == -ENOTSUP)
        gdb_reply_text(g, "");
    else if (rc < 0)
        gdb_reply_error(g, rc);
    else
        gdb_reply_text(g, "OK");
}

void gdb_say(struct gdb *g, const char *text)
{
    rsp_put_text(&g->reply, "O");
    rsp_put_bytes(&g->reply, text, strlen(text));
    gdb_reply_done(g);
}

/* --- vCPUs as threads --- */

bool gdb_cpu_of(const struct gdb *g, int thread, unsigned *cpu)
{
    if (thread < 1 || (unsigned)thread > g->target.cpus)
        return false;
    *cpu = (unsigned)thread - 1;
    return true;
}

/* Hg: whom the commands about registers and memory mean. Hc: whom c and s mean. */
static void choose_thread(struct gdb *g, struct rsp_view *v)
{
    bool resume = rsp_take_text(v, "c");
    unsigned cpu = g->cpu;
    int id;

    if (!resume && !rsp_take_text(v, "g")) {
        gdb_reply_text(g, "");
        return;
    }
    if (!rsp_take_thread(v, &id) || (id > 0 && !gdb_cpu_of(g, id, &cpu))) {
        gdb_reply_error(g, -ESRCH);
        return;
    }
    if (resume)
        g->resume_id = id;
    else
        g->cpu = cpu;
    gdb_reply_text(g, "OK");
}

static void is_alive(struct gdb *g, struct rsp_view *v)
{
    unsigned cpu;
    int id;

    reply_result(g, rsp_take_thread(v, &id) && gdb_cpu_of(g, id, &cpu) ? 0 : -ESRCH);
}

/* --- registers --- */

static int get_regs(struct gdb *g, struct debug_regs *out)
{
    return g->target.ops->get_regs(g->target.ctx, g->cpu, out);
}

static int set_regs(struct gdb *g, const struct debug_regs *regs)
{
    return g->target.ops->set_regs(g->target.ctx, g->cpu, regs);
}

static void read_all_regs(struct gdb *g)
{
    struct debug_regs regs;
    int rc = get_regs(g, &regs);

    if (rc < 0) {
        gdb_reply_error(g, rc);
        return;
    }
    for (unsigned n = 0; n < g->layout->count; n++)
        gdb_put_reg(g->layout, n, &regs, &g->reply);
    gdb_reply_done(g);
}

static void write_all_regs(struct gdb *g, struct rsp_view *v)
{
    struct debug_regs regs;
    int rc = get_regs(g, &regs);

    for (unsigned n = 0; rc == 0 && n < g->layout->count; n++)
        rc = gdb_take_reg(g->layout, n, v, &regs);
    reply_result(g, rc < 0 ? rc : set_regs(g, &regs));
}

static bool take_reg_number(const struct gdb *g, struct rsp_view *v, unsigned *out)
{
    uint64_t n;

    if (!rsp_take_number(v, &n) || n >= g->layout->count)
        return false;
    *out = (unsigned)n;
    return true;
}

static void read_reg(struct gdb *g, struct rsp_view *v)
{
    struct debug_regs regs;
    unsigned n;
    int rc = take_reg_number(g, v, &n) ? get_regs(g, &regs) : -EINVAL;

    if (rc < 0) {
        gdb_reply_error(g, rc);
        return;
    }
    gdb_put_reg(g->layout, n, &regs, &g->reply);
    gdb_reply_done(g);
}

static void write_reg(struct gdb *g, struct rsp_view *v)
{
    struct debug_regs regs;
    unsigned n;
    int rc = -EINVAL;

    if (take_reg_number(g, v, &n) && rsp_take_text(v, "="))
        rc = get_regs(g, &regs);
    if (rc == 0)
        rc = gdb_take_reg(g->layout, n, v, &regs);
    reply_result(g, rc < 0 ? rc : set_regs(g, &regs));
}

/* --- memory --- */

static bool take_range(struct rsp_view *v, uint64_t *addr, uint64_t *len)
{
    return rsp_take_number(v, addr) && rsp_take_text(v, ",") && rsp_take_number(v, len);
}

static void read_memory(struct gdb *g, struct rsp_view *v)
{
    uint8_t data[RSP_PACKET_MAX / 2];
    struct debug_regs regs;
    uint64_t addr, len;
    int rc = take_range(v, &addr, &len) ? get_regs(g, &regs) : -EINVAL;

    if (rc < 0) {
        gdb_reply_error(g, rc);
        return;
    }
    if (len > sizeof(data))
        len = sizeof(data);
    size_t n = gdb_read(&g->traps, g->target.mem, &regs.sregs, addr, data, len);
    if (n == 0 && len > 0) {
        gdb_reply_error(g, -EFAULT);
        return;
    }
    rsp_put_bytes(&g->reply, data, n);
    gdb_reply_done(g);
}

/* M has the bytes as digits, X as they are. */
static bool take_data(struct rsp_view *v, bool binary, uint8_t *out, uint64_t len)
{
    if (!binary)
        return rsp_take_bytes(v, out, len);
    if (rsp_left(v) < len)
        return false;
    memcpy(out, v->at, len);
    return true;
}

static void write_memory(struct gdb *g, struct rsp_view *v, bool binary)
{
    uint8_t data[RSP_PACKET_MAX];
    struct debug_regs regs;
    uint64_t addr, len;
    int rc = -EINVAL;

    if (take_range(v, &addr, &len) && rsp_take_text(v, ":") && len <= sizeof(data) &&
        take_data(v, binary, data, len))
        rc = get_regs(g, &regs);
    if (rc == 0)
        rc = gdb_write(&g->traps, g->target.mem, &regs.sregs, addr, data, len);
    reply_result(g, rc);
}

/* --- traps --- */

static int add_trap_on(struct gdb *g, unsigned cpu, enum gdb_trap_type type, uint64_t va,
                       uint64_t len)
{
    struct debug_regs regs;
    int rc = g->target.ops->get_regs(g->target.ctx, cpu, &regs);

    return rc < 0 ? rc : gdb_trap_add(&g->traps, &g->target, &regs.sregs, type, va, len);
}

/* gdb does not say whose page tables it means, and the vCPU that it looked at last may have none
 * yet. So anyone's will do. */
static int add_trap(struct gdb *g, enum gdb_trap_type type, uint64_t va, uint64_t len)
{
    int rc = add_trap_on(g, g->cpu, type, va, len);

    for (unsigned i = 0; rc == -EFAULT && i < g->target.cpus; i++)
        rc = add_trap_on(g, i, type, va, len);
    return rc;
}

static void change_trap(struct gdb *g, struct rsp_view *v, bool add)
{
    uint64_t type, addr, len;
    int rc = 0;

    if (!rsp_take_number(v, &type) || !rsp_take_text(v, ",") || !take_range(v, &addr, &len))
        rc = -EINVAL;
    else if (type > GDB_WATCH_ACCESS)
        rc = -ENOTSUP;
    else if (add)
        rc = add_trap(g, (enum gdb_trap_type)type, addr, len);
    else
        gdb_trap_remove(&g->traps, &g->target, (enum gdb_trap_type)type, addr, len);
    reply_result(g, rc);
}

/* --- goodbye --- */

static void detach(struct gdb *g)
{
    gdb_traps_clear(&g->traps, &g->target);
    gdb_reply_text(g, "OK");
    g->over = true;
    g->target.ops->detach(g->target.ctx);
}

static void kill_target(struct gdb *g)
{
    g->over = true; /* gdb wants no answer to k */
    g->target.ops->end(g->target.ctx);
}

/* --- the commands --- */

static void command(struct gdb *g, char *packet, size_t len)
{
    struct rsp_view v = {.at = packet + 1, .end = packet + len};

    switch (packet[0]) {
    case '?':
        gdb_reply_stop(g);
        break;
    case 'D':
        detach(g);
        break;
    case 'G':
        write_all_regs(g, &v);
        break;
    case 'H':
        choose_thread(g, &v);
        break;
    case 'M':
    case 'X':
        write_memory(g, &v, packet[0] == 'X');
        break;
    case 'P':
        write_reg(g, &v);
        break;
    case 'Q':
        gdb_set(g, &v);
        break;
    case 'T':
        is_alive(g, &v);
        break;
    case 'Z':
    case 'z':
        change_trap(g, &v, packet[0] == 'Z');
        break;
    case 'c': /* the signal that C and S name has no meaning here */
    case 'C':
        gdb_continue(g, false);
        break;
    case 's':
    case 'S':
        gdb_continue(g, true);
        break;
    case 'g':
        read_all_regs(g);
        break;
    case 'k':
        kill_target(g);
        break;
    case 'm':
        read_memory(g, &v);
        break;
    case 'p':
        read_reg(g, &v);
        break;
    case 'q':
        gdb_query(g, &v);
        break;
    case 'v':
        gdb_multi(g, &v);
        break;
    default:
        gdb_reply_text(g, "");
    }
}

static void acknowledge(struct gdb *g, const char *sign)
{
    if (!g->no_acks)
        g->send(g->send_ctx, sign, 1);
}

static void on_event(struct gdb *g, enum rsp_event event)
{
    switch (event) {
    case RSP_NOTHING:
        break;
    case RSP_PACKET:
        acknowledge(g, "+");
        if (!g->running) /* gdb has to wait; whoever does not is not heard */
            command(g, g->in.data, g->in.len);
        break;
    case RSP_BAD:
        acknowledge(g, "-");
        break;
    case RSP_TOO_LONG:
        acknowledge(g, "+");
        if (!g->running)
            gdb_reply_error(g, -EMSGSIZE);
        break;
    case RSP_INTERRUPT:
        gdb_interrupt(g);
        break;
    case RSP_NAK:
        if (!g->no_acks && g->framed.len > 0)
            g->send(g->send_ctx, g->framed.data, g->framed.len);
        break;
    }
}

size_t gdb_receive(struct gdb *g, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    size_t i = 0;

    while (i < len && !g->over)
        on_event(g, rsp_feed(&g->in, bytes[i++]));
    return i;
}
