/*
 * A machine as the target of a conversation with gdb. Nothing is decided here.
 */
#include "control/gdb_machine_priv.h"

static int get_regs(void *ctx, unsigned cpu, struct debug_regs *out)
{
    return machine_debug_get_regs(ctx, cpu, out);
}

static int set_regs(void *ctx, unsigned cpu, const struct debug_regs *regs)
{
    return machine_debug_set_regs(ctx, cpu, regs);
}

static int set_traps(void *ctx, unsigned cpu, const struct debug_traps *traps)
{
    return machine_debug_set(ctx, cpu, traps);
}

static void resume(void *ctx, const bool *run)
{
    machine_debug_resume(ctx, run);
}

static void stop(void *ctx)
{
    machine_debug_stop(ctx);
}

static void detach(void *ctx)
{
    machine_debug_detach(ctx);
}

static void end(void *ctx)
{
    machine_end(ctx, &(struct machine_outcome){.end = MACHINE_QUIT});
}

static char *state_text(void *ctx, unsigned cpu, char *buf, size_t size)
{
    return machine_debug_state_text(ctx, cpu, buf, size);
}

static bool is_halted(void *ctx, unsigned cpu)
{
    return machine_debug_is_halted(ctx, cpu);
}

static void print_regs(void *ctx, unsigned cpu, FILE *out)
{
    machine_print_regs(ctx, cpu, out);
}

static void print_walk(void *ctx, unsigned cpu, uint64_t va, FILE *out)
{
    machine_print_walk(ctx, cpu, va, out);
}

static void print_death(void *ctx, const struct machine_outcome *outcome, FILE *out)
{
    machine_report(ctx, outcome, out);
}

static void print_exits(void *ctx, FILE *out)
{
    machine_print_exits(ctx, out);
}

static const struct gdb_target_ops ops = {
    .get_regs = get_regs,
    .set_regs = set_regs,
    .set_traps = set_traps,
    .resume = resume,
    .stop = stop,
    .detach = detach,
    .end = end,
    .state_text = state_text,
    .is_halted = is_halted,
    .print_regs = print_regs,
    .print_walk = print_walk,
    .print_death = print_death,
    .print_exits = print_exits,
};

struct gdb_target gdb_machine_target(struct machine *m, const struct debug_means *means)
{
    return (struct gdb_target){
        .ops = &ops,
        .ctx = m,
        .cpus = machine_cpu_count(m),
        .mem = machine_memory(m),
        .means = *means,
    };
}
