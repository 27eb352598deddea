/*
 * Starting the other processors: INIT, start-up IPI, and a roll call.
 *
 * Shows: how a kernel learns from the MADT how many there are, sends each to the trampoline, and
 * meets every one of them in C. Each tells its id from CPUID 1 and 0xB, which must agree with each
 * other and with the MADT.
 *
 * run: --boot elf --cpus 4
 * needs: full
 * expect: @value processors 4
 * expect: @ok all_arrived
 * expect: @ok ids_agree
 * expect: @ok ids_match_madt
 * status: 33
 */
#include "lib/acpi.h"
#include "lib/guest.h"
#include "lib/lapic.h"
#include "lib/string.h"
#include "lib/trampoline.h"

#define CPUS_MAX 64
#define STACK_SIZE 4096
#define PATIENCE_MS 10000

/* Interrupt command, SDM 3A §10.6.1: to all but oneself, level assert. */
#define ICR_OTHERS_INIT 0x000c4500
#define ICR_OTHERS_STARTUP 0x000c4600

static void secondary(void);

static uint8_t stacks[CPUS_MAX + 1][STACK_SIZE] __attribute__((aligned(16)));
static _Atomic uint64_t seen;     /* a bit per id */
static _Atomic unsigned arrived;  /* processors, the first one included */
static _Atomic unsigned confused; /* whose two ids differ */

static void roll_call(void)
{
    uint32_t leaf1[4], leafb[4];
    unsigned id;

    cpuid(1, 0, leaf1);
    cpuid(0xb, 0, leafb);
    id = leaf1[1] >> 24;
    if (id != leafb[3])
        confused++;
    seen |= 1UL << (id % 64);
    arrived++;
}

static void secondary(void)
{
    roll_call();
    for (;;)
        __asm__ volatile("cli; hlt");
}

static uint64_t read_cr3(void)
{
    uint64_t v;

    __asm__("mov %%cr3, %0" : "=r"(v));
    return v;
}

static void start_others(void)
{
    const struct trampoline_params params = {
        .cr3 = read_cr3(),
        .stacks = (uint64_t)stacks,
        .stack_size = STACK_SIZE,
        .entry = (uint64_t)secondary,
    };

    memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
    memcpy((void *)(TRAMPOLINE + TRAMPOLINE_PARAMS), &params, sizeof(params));
    lapic_write(LAPIC_ICR_LOW, ICR_OTHERS_INIT);
    lapic_wait(10 * 1000000); /* 10 ms, as the SDM says; KVM would not need it */
    lapic_write(LAPIC_ICR_LOW, ICR_OTHERS_STARTUP | TRAMPOLINE >> 12);
}

/* The ids that the MADT lists, a bit each; *count of them. */
static uint64_t madt_ids(unsigned *count)
{
    uint8_t ids[CPUS_MAX];
    uint64_t mask = 0;

    *count = acpi_lapic_ids(ids, CPUS_MAX);
    for (unsigned i = 0; i < *count; i++)
        mask |= 1UL << (ids[i] % 64);
    return mask;
}

void main(void)
{
    unsigned count;
    uint64_t listed = madt_ids(&count);

    value("processors", count);
    lapic_init();
    roll_call();
    if (count > 1)
        start_others();
    for (unsigned ms = 0; arrived < count && ms < PATIENCE_MS; ms++)
        lapic_wait(1000000);
    check("all_arrived", count, arrived);
    check("ids_agree", 0, confused);
    check("ids_match_madt", listed, seen);
}
