/*
 * The gdb server's parts: what it debugs (a target), its traps, and one conversation.
 *
 * A conversation has no socket and knows no machine: packets come in by gdb_receive(), replies go
 * out by a function, and the target is a table of functions. gdb_server.c connects it to a socket,
 * gdb_machine.c to a machine, and tests to a fake of either.
 */
#ifndef CONTROL_GDB_PRIV_H
#define CONTROL_GDB_PRIV_H

#include <stdio.h>

#include "control/gdb_regs_priv.h"
#include "control/rsp_priv.h"

#define GDB_CPUS_MAX 64

/* --- the target --- */

/* As machine_debug_…() of hv/machine/debug.h, where they are described. */
struct gdb_target_ops {
    int (*get_regs)(void *ctx, unsigned cpu, struct debug_regs *out);
    int (*set_regs)(void *ctx, unsigned cpu, const struct debug_regs *regs);
    int (*set_traps)(void *ctx, unsigned cpu, const struct debug_traps *traps);
    void (*resume)(void *ctx, const bool *run);
    void (*stop)(void *ctx);
    void (*detach)(void *ctx);
    void (*end)(void *ctx); /* pulls the machine's plug */
    char *(*state_text)(void *ctx, unsigned cpu, char *buf, size_t size);
    bool (*is_halted)(void *ctx, unsigned cpu);
    /* For people: registers, a page walk, why the guest is dying, exits so far. */
    void (*print_regs)(void *ctx, unsigned cpu, FILE *out);
    void (*print_walk)(void *ctx, unsigned cpu, uint64_t va, FILE *out);
    void (*print_death)(void *ctx, const struct machine_outcome *outcome, FILE *out);
    void (*print_exits)(void *ctx, FILE *out);
};

struct gdb_target {
    const struct gdb_target_ops *ops;
    void *ctx;
    unsigned cpus;            /* 1..GDB_CPUS_MAX */
    const struct mem *mem;    /* borrowed */
    struct debug_means means; /* which traps work there */
};

/* --- guest-virtual memory (gdb_memory.c) --- */

/* Where a virtual address lies: permissions are not asked about. -EFAULT: not mapped. */
int gdb_translate(const struct mem *mem, const struct kvm_sregs *sregs, uint64_t va,
                  uint64_t *pa) HV_MUST_CHECK;

/* --- traps (gdb_traps.c) --- */

#define GDB_BREAKS_MAX 64
#define GDB_INT3 0xcc /* the instruction of one byte that raises #BP */
#define GDB_TRAP_CODE_MAX 2

/* An instruction that stops the guest, to be planted over one of its own. */
struct gdb_trap_code {
    uint8_t bytes[GDB_TRAP_CODE_MAX];
    unsigned len;
};

/* gdb's types in Z and z. */
enum gdb_trap_type {
    GDB_SOFTWARE,
    GDB_HARDWARE,
    GDB_WATCH_WRITE,
    GDB_WATCH_READ,
    GDB_WATCH_ACCESS
};

struct gdb_break {
    uint64_t va;
    uint64_t pa;                        /* of the bytes that are replaced */
    uint8_t instead[GDB_TRAP_CODE_MAX]; /* those bytes */
    bool planted;                       /* the trap is there now */
};

struct gdb_traps {
    const struct gdb_trap_code *code;        /* what is planted; static */
    struct gdb_break breaks[GDB_BREAKS_MAX]; /* planted ones */
    unsigned break_count;
    struct debug_slot slots[DEBUG_SLOTS];
    enum gdb_trap_type slot_types[DEBUG_SLOTS];
};

/* The instruction that stops a guest on such a KVM: int3, or an `out` where int3 passes unseen. */
void gdb_traps_init(struct gdb_traps *t, const struct debug_means *means);

/* 0, also when it is there already. -EFAULT: no memory there, or (with `out`) not enough in this
 * page; -EEXIST: it would overlap another one; -ENOSPC: no more room; -EINVAL: a length that makes
 * no sense; -ENOTSUP: not with this KVM. */
int gdb_trap_add(struct gdb_traps *t, const struct gdb_target *target,
                 const struct kvm_sregs *sregs, enum gdb_trap_type type, uint64_t va,
                 uint64_t len) HV_MUST_CHECK;
/* Fine if there is none. */
void gdb_trap_remove(struct gdb_traps *t, const struct gdb_target *target, enum gdb_trap_type type,
                     uint64_t va, uint64_t len);
/* The guest gets its own bytes back, and all traps are forgotten. */
void gdb_traps_clear(struct gdb_traps *t, const struct gdb_target *target);
/* The memory has gone, and what was planted with it: a machine was reset. Debug registers stay. */
void gdb_traps_forget_breaks(struct gdb_traps *t);

/* Has a vCPU with these registers stopped at one of our breakpoints? A planted one is there at
 * every virtual address that leads to it, which need not be the one that gdb knows it by. */
enum gdb_place { GDB_NOWHERE, GDB_AT_BREAK, GDB_AT_ALIAS };
enum gdb_place gdb_traps_place(const struct gdb_traps *t, const struct mem *mem,
                               const struct debug_regs *regs);
/* What is planted at `pa` is taken out, for one step, or put back. */
void gdb_traps_lift(struct gdb_traps *t, const struct mem *mem, uint64_t pa, bool lift);
/* What a vCPU is to be given; `skip`: without breakpoints in debug registers at this address. */
void gdb_traps_fill(const struct gdb_traps *t, struct debug_traps *traps, const uint64_t *skip);

/* --- memory as gdb sees it: with the guest's own bytes where traps are --- */

/* Bytes read, from the start on; fewer than len where memory is not mapped. */
size_t gdb_read(const struct gdb_traps *t, const struct mem *mem, const struct kvm_sregs *sregs,
                uint64_t va, void *out, size_t len);
/* 0, or -EFAULT, with the mapped pages before that written. */
int gdb_write(struct gdb_traps *t, const struct mem *mem, const struct kvm_sregs *sregs,
              uint64_t va, const void *data, size_t len) HV_MUST_CHECK;
/* The same for guest-physical addresses. */
int gdb_read_physical(const struct gdb_traps *t, const struct mem *mem, uint64_t pa, void *out,
                      size_t len) HV_MUST_CHECK;

/* --- a conversation (gdb.c, gdb_run.c, gdb_query.c, gdb_monitor.c) --- */

typedef void gdb_send_fn(void *ctx, const void *data, size_t len);

struct gdb {
    struct gdb_target target;
    gdb_send_fn *send;
    void *send_ctx;

    bool running; /* the guest has its turn, and gdb waits for a stop */
    bool over;    /* said goodbye: the connection may be closed */
    bool no_acks;
    bool swbreak, hwbreak; /* gdb understands these words in a stop */
    const struct gdb_layout *layout;
    const struct gdb_layout *wanted; /* by gdb's user, for the next connection; NULL: as the mode */
    struct rsp_in in;
    struct rsp_text reply;  /* being made */
    struct rsp_text framed; /* the last one, in case it gets lost */

    unsigned cpu;  /* whom registers and memory are about: Hg */
    int resume_id; /* thread that c and s are about: Hc */

    struct gdb_traps traps;
    struct debug_stop stop; /* the last one */
    bool stopped_by_trap;   /* and it is why; else somebody wanted it */
    uint64_t stop_pc;       /* linear */
    enum gdb_place stop_place;
    uint64_t lifted;         /* guest-physical address of what is taken out while passing */
    bool asked_to_stop;      /* namely by gdb's user */
    bool passing;            /* the vCPU of `stop` steps past its breakpoint before all go on */
    bool run[GDB_CPUS_MAX];  /* who goes on */
    bool step[GDB_CPUS_MAX]; /* of these, who is to stop after one instruction */
};

/* The target is stopped. `wanted`: as in struct gdb, from the conversation before. */
void gdb_init(struct gdb *g, const struct gdb_target *target, const struct gdb_layout *wanted,
              gdb_send_fn *send, void *ctx);
void gdb_fini(struct gdb *g); /* does not touch the target */

/* Bytes from gdb. Stops early (and returns what it took) once `over` is set. */
size_t gdb_receive(struct gdb *g, const void *data, size_t len);

/* The target stopped: for debug_ops.stopped. */
void gdb_on_stop(struct gdb *g, const struct debug_stop *stop);

/* Text for the user's screen, while gdb waits for a stop. */
void gdb_say(struct gdb *g, const char *text);

/* The guest was reset, and starts anew at its first instruction: a stop. */
void gdb_on_reset(struct gdb *g, const struct gdb_target *target);

/* The machine has ended with this exit status; 128 and more means a signal. */
void gdb_on_end(struct gdb *g, int status);

/* --- between its files --- */

void gdb_reply_text(struct gdb *g, const char *text);
void gdb_reply_error(struct gdb *g, int code); /* a -errno */
void gdb_reply_done(struct gdb *g);            /* sends what is in g->reply */
void gdb_reply_stop(struct gdb *g);            /* T… for g->stop */
void gdb_query(struct gdb *g, struct rsp_view *v);
void gdb_set(struct gdb *g, struct rsp_view *v);   /* Q… */
void gdb_multi(struct gdb *g, struct rsp_view *v); /* v… */
void gdb_continue(struct gdb *g, bool step);       /* c, s by Hc */
void gdb_interrupt(struct gdb *g);
void gdb_monitor(struct gdb *g, char *line);
bool gdb_cpu_of(const struct gdb *g, int thread, unsigned *cpu);

#endif
