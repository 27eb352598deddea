#include "support/fake_target.h"

#include <errno.h>
#include <string.h>

#include "hv/x86/modes.h"

static int get_regs(void *ctx, unsigned cpu, struct debug_regs *out)
{
    const struct fake_target *f = ctx;

    if (f->fail == 0)
        *out = f->regs[cpu];
    return f->fail;
}

static int set_regs(void *ctx, unsigned cpu, const struct debug_regs *regs)
{
    struct fake_target *f = ctx;

    if (f->fail == 0)
        f->regs[cpu] = *regs;
    return f->fail;
}

static int set_traps(void *ctx, unsigned cpu, const struct debug_traps *traps)
{
    struct fake_target *f = ctx;

    if (f->fail == 0)
        f->traps[cpu] = *traps;
    return f->fail;
}

static void resume(void *ctx, const bool *run)
{
    struct fake_target *f = ctx;

    memcpy(f->run, run, sizeof(f->run));
    f->resumed++;
}

static void stop(void *ctx)
{
    ((struct fake_target *)ctx)->stopped++;
}

static void detach(void *ctx)
{
    ((struct fake_target *)ctx)->detached++;
}

static void end(void *ctx)
{
    ((struct fake_target *)ctx)->ended++;
}

static char *state_text(void *ctx, unsigned cpu, char *buf, size_t size)
{
    const struct fake_target *f = ctx;

    (void)snprintf(buf, size, "%s", f->halted[cpu] ? "halted" : "running");
    return buf;
}

static bool is_halted(void *ctx, unsigned cpu)
{
    return ((const struct fake_target *)ctx)->halted[cpu];
}

static void print_regs(void *ctx, unsigned cpu, FILE *out)
{
    (void)ctx;
    (void)fprintf(out, "registers of %u\n", cpu);
}

static void print_walk(void *ctx, unsigned cpu, uint64_t va, FILE *out)
{
    (void)ctx;
    (void)fprintf(out, "walk of 0x%llx on %u\n", (unsigned long long)va, cpu);
}

static void print_death(void *ctx, const struct machine_outcome *outcome, FILE *out)
{
    (void)ctx;
    (void)fprintf(out, "death on %u\n", outcome->cpu);
}

static void print_exits(void *ctx, FILE *out)
{
    (void)ctx;
    (void)fprintf(out, "exits\n");
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

bool fake_target_init(struct fake_target *f)
{
    memset(f, 0, sizeof(*f));
    for (unsigned i = 0; i < FAKE_CPUS; i++) {
        x86_real_mode(&f->regs[i].sregs, 0);
        f->regs[i].regs.rip = 0x1000;
        f->regs[i].regs.rflags = 2;
    }
    mem_init(&f->mem);
    return mem_add(&f->mem, 0, FAKE_RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0;
}

void fake_target_fini(struct fake_target *f)
{
    mem_fini(&f->mem);
}

struct gdb_target fake_target_of(struct fake_target *f)
{
    return (struct gdb_target){
        .ops = &ops,
        .ctx = f,
        .cpus = FAKE_CPUS,
        .mem = &f->mem,
        .means = {.int3 = true, .execute = true, .data = true},
    };
}

void fake_target_enter_long_mode(struct fake_target *f, unsigned cpu)
{
    struct kvm_sregs *sregs = &f->regs[cpu].sregs;

    /* Present and writable; the last maps 2 MiB. The tables lie in RAM, so nothing can fail. */
    (void)!mem_write_u64(&f->mem, 0x4000 + 511 * 8, 0x5003);
    (void)!mem_write_u64(&f->mem, 0x5000 + 510 * 8, 0x6003);
    (void)!mem_write_u64(&f->mem, 0x6000, 0x83);
    sregs->cr0 = 0x80000031;
    sregs->cr3 = 0x4000;
    sregs->cr4 = 1 << 5;
    sregs->efer = 1 << 8 | 1 << 10;
    sregs->cs.l = 1;
    f->regs[cpu].regs.rip = FAKE_HIGH + 0x1000;
}
