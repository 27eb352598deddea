/*
 * Every access to some pages of guest memory, in the order in which a function makes them, and the
 * full barriers between them (SDM 3A §8.2.5: locked instructions, XCHG with memory, MFENCE).
 *
 * The function runs instruction by instruction (EFLAGS.TF). The pages are taken away (mprotect); an
 * access faults, is noted, gets its page for one instruction, and loses it again.
 */
#ifndef WATCH_H
#define WATCH_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>

#define WATCH_PAGES 4
#define WATCH_EVENTS 256
#define WATCH_BARRIER UINTPTR_MAX /* in place of an address */
#define TRAP_FLAG 0x100
#define ERROR_WRITE 2 /* page fault error code, SDM 3A §4.7 */

static struct {
    uint8_t *pages[WATCH_PAGES];
    unsigned page_count;
    struct watch_event {
        uintptr_t address; /* or WATCH_BARRIER */
        bool is_write;
    } events[WATCH_EVENTS];
    unsigned count;
    bool on;
    bool was_barrier; /* the instruction that is under way */
} watch;

static void watch_note(uintptr_t address, bool is_write)
{
    if (watch.count < WATCH_EVENTS)
        watch.events[watch.count++] = (struct watch_event){address, is_write};
}

static void watch_protect(int rights)
{
    for (unsigned i = 0; i < watch.page_count; i++)
        (void)mprotect(watch.pages[i], 4096, rights);
}

static bool watch_is_barrier(const uint8_t *code)
{
    bool locked = false;

    for (; *code == 0x66 || *code == 0xf2 || *code == 0xf3 || *code == 0xf0; code++)
        locked = locked || *code == 0xf0;
    if ((*code & 0xf0) == 0x40) /* REX */
        code++;
    bool is_xchg = (code[0] == 0x86 || code[0] == 0x87) && (code[1] >> 6) != 3;
    bool is_mfence = code[0] == 0x0f && code[1] == 0xae && code[2] == 0xf0;
    return locked || is_xchg || is_mfence;
}

static void watch_on_fault(int sig, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    uintptr_t at = (uintptr_t)info->si_addr;

    for (unsigned i = 0; i < watch.page_count && watch.on; i++) {
        if (at - (uintptr_t)watch.pages[i] < 4096) {
            watch_note(at, c->uc_mcontext.gregs[REG_ERR] & ERROR_WRITE);
            watch_protect(PROT_READ | PROT_WRITE);
            return; /* TF is set: the next trap comes behind this instruction */
        }
    }
    watch_protect(PROT_READ | PROT_WRITE);
    (void)signal(sig, SIG_DFL);
}

/* The first and the last trap are the INT3s of watch_begin() and watch_end(). */
static void watch_on_trap(int sig, siginfo_t *info, void *context)
{
    ucontext_t *c = context;

    (void)sig;
    (void)info;
    if (watch.was_barrier)
        watch_note(WATCH_BARRIER, false);
    const uint8_t *next = (const uint8_t *)(uintptr_t)c->uc_mcontext.gregs[REG_RIP];
    if (watch.on) {
        watch.was_barrier = watch_is_barrier(next);
        watch_protect(PROT_NONE);
        c->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
    } else {
        watch.was_barrier = false;
        watch_protect(PROT_READ | PROT_WRITE);
        c->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    }
}

static inline void watch_page(void *page)
{
    watch.pages[watch.page_count++] = page;
}

static inline void watch_begin(void)
{
    struct sigaction fault = {.sa_sigaction = watch_on_fault, .sa_flags = SA_SIGINFO};
    struct sigaction trap = {.sa_sigaction = watch_on_trap, .sa_flags = SA_SIGINFO};

    (void)sigaction(SIGSEGV, &fault, NULL);
    (void)sigaction(SIGTRAP, &trap, NULL);
    watch.count = 0;
    watch.on = true;
    __asm__ volatile("int3" : : : "memory");
}

static inline void watch_end(void)
{
    watch.on = false;
    __asm__ volatile("int3" : : : "memory");
    watch.page_count = 0;
}

#endif
