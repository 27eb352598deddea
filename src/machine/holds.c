/*
 * Who wants the world to stand still.
 *
 * machine_pause() and machine_resume() are the means; here are the reasons, a bit for each. The
 * debugger's is its turn, which src/machine/debug.c keeps: a vCPU may have ended the guest's turn
 * by itself, and the note of that may still be on its way to the main thread.
 */
#include "hv/machine/manage.h"

#include "machine_priv.h"

bool holds_any(const struct machine *m)
{
    return m->holds.why != 0 || m->debugger.has_turn || atomic_load(&m->debugger.called);
}

static void tell(const struct machine *m, bool held)
{
    if (m->holds.changed != NULL)
        m->holds.changed(m->holds.ctx, held);
}

void machine_hold(struct machine *m, enum machine_hold why)
{
    bool first = m->holds.why == 0;

    m->holds.why |= why;
    if (why & HOLD_USER)
        m->holds.lent = false;
    machine_pause(m);
    if (first)
        tell(m, true);
}

void machine_release(struct machine *m, enum machine_hold why)
{
    bool held = m->holds.why != 0;

    m->holds.why &= ~(unsigned)why;
    if (!held || m->holds.why != 0)
        return;
    machine_resume(m);
    tell(m, false);
}

unsigned machine_holds(const struct machine *m)
{
    bool stopped = m->debugger.has_turn || atomic_load(&m->debugger.called);

    return m->holds.why | (stopped ? HOLD_DEBUGGER : 0);
}

void machine_watch_holds(struct machine *m, machine_hold_fn *fn, void *ctx)
{
    m->holds.changed = fn;
    m->holds.ctx = ctx;
}

void holds_lend(struct machine *m)
{
    m->holds.lent = m->holds.why & HOLD_USER;
}

/* The debugger has its turn still, so that nothing runs yet. */
void holds_end_loan(struct machine *m)
{
    if (m->holds.lent)
        machine_release(m, HOLD_USER);
    m->holds.lent = false;
}
