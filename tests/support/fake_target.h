/*
 * Something for gdb to debug that is no machine: memory, registers, and a note of what was asked.
 */
#ifndef SUPPORT_FAKE_TARGET_H
#define SUPPORT_FAKE_TARGET_H

#include "control/gdb_priv.h"

#define FAKE_CPUS 3
#define FAKE_RAM 0x8000

struct fake_target {
    struct mem mem;
    struct debug_regs regs[FAKE_CPUS];
    struct debug_traps traps[FAKE_CPUS]; /* as set last */
    bool run[FAKE_CPUS];                 /* as resumed last */
    bool halted[FAKE_CPUS];
    int fail; /* what registers and traps answer; 0: they work */
    unsigned resumed, stopped, detached, ended;
};

/* Real mode, CS:IP = 0:0x1000, all traps work. False: no memory. */
bool fake_target_init(struct fake_target *f);
void fake_target_fini(struct fake_target *f);

struct gdb_target fake_target_of(struct fake_target *f);

/* Long mode, with page tables in 0x4000 to 0x7000 that map 0xffffffff80000000 to 0, 2 MiB of it. */
#define FAKE_HIGH 0xffffffff80000000
void fake_target_enter_long_mode(struct fake_target *f, unsigned cpu);

#endif
