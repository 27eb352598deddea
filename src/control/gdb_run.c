/*
 * Going on and stopping.
 *
 * All stop together. When one vCPU is to step, the others stay where they are, unless gdb names
 * them in the same request: what one sees then is what that one instruction did. (gdb's usual
 * request is "step this one, continue the rest"; real gdb servers differ in how literally they take
 * it.)
 *
 * gdb steps past its own breakpoints: it takes them away, steps, and puts them back. It knows that
 * it stands at one by the program counter, which is the linear address only if the code segment
 * starts at 0. In a real-mode guest elsewhere it would run into the same breakpoint for ever. So
 * whoever goes on at the very breakpoint that it has stopped at is taken past it here.
 */
#include <errno.h>
#include <string.h>

#include "control/gdb_priv.h"

/* What gdb calls a cause, by the numbers of Unix signals. */
enum { SIGNAL_INTERRUPT = 2, SIGNAL_TRAP = 5, SIGNAL_DEATH = 11 };

/* --- the word on a stop --- */

static void put_watchpoint(struct gdb *g, const char *word, uint64_t addr)
{
    rsp_put_text(&g->reply, word);
    rsp_put_text(&g->reply, ":");
    rsp_put_number(&g->reply, addr);
    rsp_put_text(&g->reply, ";");
}

static void put_slot(struct gdb *g, unsigned slot)
{
    uint64_t addr = g->traps.slots[slot].addr;

    switch (g->traps.slot_types[slot]) {
    case GDB_HARDWARE:
        rsp_put_text(&g->reply, g->hwbreak ? "hwbreak:;" : "");
        break;
    case GDB_WATCH_WRITE:
        put_watchpoint(g, "watch", addr);
        break;
    default:
        put_watchpoint(g, "awatch", addr);
    }
}

static void put_reason(struct gdb *g)
{
    unsigned slot = 0;

    if ((g->stop.event == DEBUG_INT3 || g->stop.event == DEBUG_OUT) && g->swbreak &&
        g->stop_place == GDB_AT_BREAK)
        rsp_put_text(&g->reply, "swbreak:;");
    while (slot < DEBUG_SLOTS && !((g->stop.slots >> slot) & 1))
        slot++;
    if (slot < DEBUG_SLOTS)
        put_slot(g, slot);
}

static uint8_t signal_of_stop(const struct gdb *g)
{
    if (!g->stopped_by_trap)
        return g->asked_to_stop ? SIGNAL_INTERRUPT : SIGNAL_TRAP;
    return g->stop.event == DEBUG_DYING ? SIGNAL_DEATH : SIGNAL_TRAP;
}

void gdb_reply_stop(struct gdb *g)
{
    const uint8_t signal = signal_of_stop(g);

    rsp_put_text(&g->reply, "T");
    rsp_put_bytes(&g->reply, &signal, 1);
    rsp_put_text(&g->reply, "thread:");
    rsp_put_number(&g->reply, g->stop.cpu + 1);
    rsp_put_text(&g->reply, ";");
    if (g->stopped_by_trap)
        put_reason(g);
    gdb_reply_done(g);
}

/* --- going on --- */

static int set_traps(struct gdb *g, unsigned cpu, bool step, bool raise_bp, const uint64_t *skip)
{
    struct debug_traps traps = {.step = step, .raise_bp = raise_bp};

    gdb_traps_fill(&g->traps, &traps, skip);
    return g->target.ops->set_traps(g->target.ctx, cpu, &traps);
}

/* Sets everyone's traps and lets those go on that are to. */
static int go(struct gdb *g)
{
    for (unsigned i = 0; i < g->target.cpus; i++) {
        int rc = set_traps(g, i, g->step[i], false, NULL);
        if (rc < 0)
            return rc;
    }
    g->running = true;
    g->target.ops->resume(g->target.ctx, g->run);
    return 0;
}

/* Is this vCPU to go on right at the breakpoint that it has stopped at? */
static bool stands_at_trap(struct gdb *g, unsigned cpu, struct debug_regs *regs)
{
    if (!g->stopped_by_trap || g->stop.cpu != cpu || !g->run[cpu])
        return false;
    if (g->target.ops->get_regs(g->target.ctx, cpu, regs) < 0)
        return false;
    return gdb_linear_pc(regs) == g->stop_pc &&
           gdb_traps_place(&g->traps, g->target.mem, regs) != GDB_NOWHERE;
}

static void lift(struct gdb *g, bool out)
{
    gdb_traps_lift(&g->traps, g->target.mem, g->lifted, out);
    g->passing = out;
}

/* One step of this vCPU alone, without the breakpoint; gdb_on_stop() does the rest. */
static int pass_trap(struct gdb *g, unsigned cpu, const struct debug_regs *regs)
{
    bool run[GDB_CPUS_MAX] = {false};

    g->lifted = UINT64_MAX; /* nothing is planted: it is a debug register's */
    (void)!gdb_translate(g->target.mem, &regs->sregs, g->stop_pc, &g->lifted);
    lift(g, true);
    int rc = set_traps(g, cpu, true, false, &g->stop_pc);
    if (rc < 0) {
        lift(g, false);
        return rc;
    }
    run[cpu] = true;
    g->running = true;
    g->target.ops->resume(g->target.ctx, run);
    return 0;
}

static void end_passing(struct gdb *g)
{
    if (g->passing)
        lift(g, false);
}

/* A halted vCPU executes nothing until its next interrupt, and a step of it does not end before. */
static void warn_of_halt(struct gdb *g)
{
    for (unsigned i = 0; i < g->target.cpus; i++) {
        if (g->step[i] && g->target.ops->is_halted(g->target.ctx, i)) {
            gdb_say(g, "This vCPU is halted: its next instruction comes with an interrupt. "
                       "Ctrl-C stops the wait.\n");
            return;
        }
    }
}

/* Carries out g->run and g->step. gdb hears of failure at once, and else when something stops. */
static void resume(struct gdb *g)
{
    struct debug_regs regs;
    unsigned cpu = g->stop.cpu;

    warn_of_halt(g);
    g->asked_to_stop = false;
    int rc = stands_at_trap(g, cpu, &regs) ? pass_trap(g, cpu, &regs) : go(g);
    if (rc < 0)
        gdb_reply_error(g, rc);
}

/* --- requests --- */

/* The actions of one vCont: for each vCPU the first that means it. */
struct plan {
    char action[GDB_CPUS_MAX]; /* 'c', 's'; 0: none */
    bool named[GDB_CPUS_MAX];  /* by its number, not with all the others */
};

static bool take_action(struct rsp_view *v, char *out)
{
    uint8_t signal;

    if (rsp_take_text(v, "c"))
        *out = 'c';
    else if (rsp_take_text(v, "s"))
        *out = 's';
    else if (rsp_take_text(v, "C") && rsp_take_bytes(v, &signal, 1))
        *out = 'c';
    else if (rsp_take_text(v, "S") && rsp_take_bytes(v, &signal, 1))
        *out = 's';
    else
        return false;
    return true;
}

static void plan_action(const struct gdb *g, struct plan *p, char action, int thread)
{
    for (unsigned i = 0; i < g->target.cpus; i++) {
        if (p->action[i] != 0 || (thread > 0 && (unsigned)thread != i + 1))
            continue;
        p->action[i] = action;
        p->named[i] = thread > 0;
    }
}

static bool take_plan(const struct gdb *g, struct rsp_view *v, struct plan *p)
{
    while (rsp_take_text(v, ";")) {
        int thread = RSP_ALL_THREADS;
        unsigned cpu;
        char action;

        if (!take_action(v, &action))
            return false;
        if (rsp_take_text(v, ":") && !rsp_take_thread(v, &thread))
            return false;
        if (thread > 0 && !gdb_cpu_of(g, thread, &cpu))
            return false;
        plan_action(g, p, action, thread);
    }
    return rsp_left(v) == 0;
}

static void carry_out(struct gdb *g, const struct plan *p)
{
    bool stepping = false, any = false;

    for (unsigned i = 0; i < g->target.cpus; i++)
        stepping |= p->action[i] == 's';
    for (unsigned i = 0; i < g->target.cpus; i++) {
        g->step[i] = p->action[i] == 's';
        g->run[i] = g->step[i] || (p->action[i] == 'c' && (p->named[i] || !stepping));
        any |= g->run[i];
    }
    if (any)
        resume(g);
    else
        gdb_reply_error(g, -EINVAL);
}

static void resume_by_plan(struct gdb *g, struct rsp_view *v)
{
    struct plan p = {0};

    if (take_plan(g, v, &p))
        carry_out(g, &p);
    else
        gdb_reply_error(g, -EINVAL);
}

void gdb_multi(struct gdb *g, struct rsp_view *v)
{
    if (rsp_take_text(v, "Cont?"))
        gdb_reply_text(g, "vCont;c;C;s;S");
    else if (rsp_take_text(v, "Cont"))
        resume_by_plan(g, v);
    else
        gdb_reply_text(g, "");
}

void gdb_continue(struct gdb *g, bool step)
{
    struct plan p = {0};
    int thread = g->resume_id;

    if (step && thread <= 0)
        thread = (int)g->stop.cpu + 1;
    plan_action(g, &p, step ? 's' : 'c', thread);
    carry_out(g, &p);
}

/* --- stops --- */

static void report(struct gdb *g, const struct debug_stop *stop, bool by_trap)
{
    struct debug_regs regs;

    g->running = false;
    g->stop = *stop;
    g->stopped_by_trap = by_trap;
    g->stop_place = GDB_NOWHERE;
    g->cpu = stop->cpu;
    if (g->target.ops->get_regs(g->target.ctx, stop->cpu, &regs) == 0) {
        g->stop_pc = gdb_linear_pc(&regs);
        g->stop_place = gdb_traps_place(&g->traps, g->target.mem, &regs);
    }
    gdb_reply_stop(g);
}

void gdb_interrupt(struct gdb *g)
{
    struct debug_stop stop = {.cpu = g->stop.cpu};

    if (!g->running)
        return;
    g->target.ops->stop(g->target.ctx);
    end_passing(g);
    g->asked_to_stop = true;
    report(g, &stop, false);
}

/* Does the guest's own instruction at `pc` do what our traps do? An `out` can also name the port in
 * DX; then it is shorter, and `pc` is the byte before it. */
static bool is_guests_own(struct gdb *g, const struct debug_regs *regs, uint64_t pc)
{
    const struct gdb_trap_code *code = g->traps.code;
    uint8_t bytes[GDB_TRAP_CODE_MAX] = {0};

    (void)gdb_read(&g->traps, g->target.mem, &regs->sregs, pc, bytes, code->len);
    if (memcmp(bytes, code->bytes, code->len) == 0)
        return true;
    return code->len == 2 && (uint16_t)regs->regs.rdx == DEBUG_TRAP_PORT &&
           (bytes[1] & 0xfe) == 0xee; /* out %al or %eax, (%dx) */
}

/* At `pc` is no breakpoint. If the guest has a trap of its own there, an int3 gets the exception
 * that it asked for, and an `out` has done what it does. Otherwise there was a breakpoint that has
 * been taken away since, and the instruction it stood for is still to be executed. */
static int give_to_guest(struct gdb *g, unsigned cpu, struct debug_regs *regs, uint64_t pc)
{
    int rc = 0;

    if (!is_guests_own(g, regs, pc))
        rc = g->target.ops->set_regs(g->target.ctx, cpu, regs);
    else if (g->traps.code->bytes[0] == GDB_INT3)
        rc = set_traps(g, cpu, g->step[cpu], true, NULL);
    if (rc == 0)
        g->target.ops->resume(g->target.ctx, g->run);
    return rc;
}

/* The processor stands at an int3, but behind an `out`. Both are to look the same. */
static void on_trap(struct gdb *g, const struct debug_stop *stop)
{
    struct debug_regs regs;

    if (stop->event == DEBUG_OUT && g->traps.code->bytes[0] == GDB_INT3) {
        g->target.ops->resume(g->target.ctx, g->run); /* a port like any other */
        return;
    }
    if (g->target.ops->get_regs(g->target.ctx, stop->cpu, &regs) < 0) {
        report(g, stop, true);
        return;
    }
    if (stop->event == DEBUG_OUT)
        regs.regs.rip -= g->traps.code->len;
    uint64_t pc = gdb_linear_pc(&regs);
    if (gdb_traps_place(&g->traps, g->target.mem, &regs) == GDB_NOWHERE &&
        give_to_guest(g, stop->cpu, &regs, pc) == 0)
        return;
    if (stop->event == DEBUG_OUT)
        (void)!g->target.ops->set_regs(g->target.ctx, stop->cpu, &regs); /* as they could be read */
    report(g, stop, true);
}

/* A processor also notes matches in debug registers that are not in use (SDM 3B §17.2.3). */
static unsigned slots_in_use(const struct gdb *g, unsigned slots)
{
    for (unsigned i = 0; i < DEBUG_SLOTS; i++)
        if (g->traps.slots[i].len == 0)
            slots &= ~(1U << i);
    return slots;
}

static void on_death(struct gdb *g, const struct debug_stop *stop)
{
    gdb_say(g, stop->outcome.end == MACHINE_TRIPLE_FAULT ? "The guest has died of a triple fault"
                                                         : "The guest has died: KVM cannot go on");
    gdb_say(g, ". It is kept for you to look at: `monitor death` explains. "
               "It cannot go on; continue, detach and kill end the machine.\n");
    report(g, stop, true);
}

void gdb_on_stop(struct gdb *g, const struct debug_stop *event)
{
    struct debug_stop stop = *event;
    bool passed = g->passing && stop.event == DEBUG_STEPPED;

    end_passing(g);
    stop.slots = slots_in_use(g, stop.slots);
    if (stop.event == DEBUG_DYING)
        on_death(g, &stop);
    else if (stop.event == DEBUG_INT3 || stop.event == DEBUG_OUT)
        on_trap(g, &stop);
    else if (stop.event == DEBUG_HARDWARE && stop.slots == 0)
        g->target.ops->resume(g->target.ctx, g->run); /* taken away since */
    else if (passed && stop.slots == 0 && !g->step[stop.cpu] && go(g) == 0)
        return;
    else
        report(g, &stop, true);
}

/* --- the machine comes and goes --- */

void gdb_on_reset(struct gdb *g, const struct gdb_target *target)
{
    const struct debug_stop stop = {.event = DEBUG_STEPPED};

    g->target = *target;
    gdb_traps_forget_breaks(&g->traps);
    g->passing = false;
    if (!g->running)
        return;
    gdb_say(g, "The machine was reset, and stands at its first instruction.\n");
    g->asked_to_stop = false;
    report(g, &stop, false);
}

void gdb_on_end(struct gdb *g, int status)
{
    const bool signal = status >= 128;
    const uint8_t number = (uint8_t)(signal ? status - 128 : status);

    if (g->running) {
        rsp_put_text(&g->reply, signal ? "X" : "W");
        rsp_put_bytes(&g->reply, &number, 1);
        gdb_reply_done(g);
    }
    g->running = false;
    g->over = true;
}
