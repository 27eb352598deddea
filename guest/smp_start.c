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

/* The interrupt command register, SDM 3A §10.6.1. */
#define ICR_DESTINATION_SHIFT 24 /* in the high half */
#define ICR_INIT 0x00000500
#define ICR_STARTUP 0x00000600 /* bits 7:0: the page where the processor begins */
#define ICR_ASSERT 0x00004000
#define ICR_PENDING 0x00001000 /* read only: not yet accepted */

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

static void put_trampoline(void)
{
    const struct trampoline_params params = {
        .cr3 = read_cr3(),
        .stacks = (uint64_t)stacks,
        .stack_size = STACK_SIZE,
        .entry = (uint64_t)secondary,
    };

    memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
    memcpy((void *)(TRAMPOLINE + TRAMPOLINE_PARAMS), &params, sizeof(params));
}

/* EXERCISE 6.4: wake the processor with this APIC id and send it to the trampoline (SDM 3A
 * §8.4.4.1, step 15, for one processor instead of all): INIT, 10 ms, a start-up IPI, 200 us, the
 * same once more. An IPI is sent by the write of LAPIC_ICR_LOW; to whom, LAPIC_ICR_HIGH has to say
 * before. Both messages have their level asserted; the next may be sent when the one before is not
 * pending any longer (SDM 3A §10.6.1). The trampoline lies at TRAMPOLINE; a start-up IPI has room
 * for a page's number. */
// SOLUTION 6.4
static void send_ipi(uint8_t id, uint32_t command)
{
    lapic_write(LAPIC_ICR_HIGH, (uint32_t)id << ICR_DESTINATION_SHIFT);
    lapic_write(LAPIC_ICR_LOW, command | ICR_ASSERT);
    while (lapic_read(LAPIC_ICR_LOW) & ICR_PENDING)
        __asm__ volatile("pause");
}

static void start_cpu(uint8_t id)
{
    send_ipi(id, ICR_INIT);
    lapic_wait(10 * 1000000); /* KVM would not need it */
    for (int i = 0; i < 2; i++) {
        send_ipi(id, ICR_STARTUP | TRAMPOLINE >> 12);
        lapic_wait(200 * 1000);
    }
}
// ELSE
// static void start_cpu(uint8_t id)
// {
//     print("exercise 6.4 is not implemented yet (labs/06-smp)\n");
//     quit(GUEST_FAILED);
// }
// END 6.4

static uint8_t own_id(void)
{
    return lapic_read(LAPIC_ID) >> 24;
}

static void start_others(const uint8_t *ids, unsigned count)
{
    put_trampoline();
    for (unsigned i = 0; i < count; i++) {
        if (ids[i] != own_id())
            start_cpu(ids[i]);
    }
}

static uint64_t mask_of(const uint8_t *ids, unsigned count)
{
    uint64_t mask = 0;

    for (unsigned i = 0; i < count; i++)
        mask |= 1UL << (ids[i] % 64);
    return mask;
}

void main(void)
{
    uint8_t ids[CPUS_MAX];
    unsigned count = acpi_lapic_ids(ids, CPUS_MAX);

    value("processors", count);
    lapic_init();
    roll_call();
    start_others(ids, count);
    for (unsigned ms = 0; arrived < count && ms < PATIENCE_MS; ms++)
        lapic_wait(1000000);
    check("all_arrived", count, arrived);
    check("ids_agree", 0, confused);
    check("ids_match_madt", mask_of(ids, count), seen);
}
