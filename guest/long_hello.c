/*
 * Hello from long mode, at a high virtual address.
 *
 * Shows: an ELF64 program whose segments are loaded at 1 MiB and run in the top 2 GiB of the
 * address space, as a kernel does. The loader built the page tables and entered 64-bit mode.
 *
 * run: --boot elf
 * needs: kvm
 * expect: Hello from long mode
 * expect: @ok rip_is_high
 * expect: @ok cs_is_64_bit
 * expect: @ok bss_is_zero
 * status: 33
 */
#include "lib/guest.h"

static uint64_t in_bss[512];

static uint64_t rip(void)
{
    uint64_t v;

    __asm__("lea (%%rip), %0" : "=r"(v));
    return v;
}

/* REX.W is an instruction of its own (DEC EAX) outside 64-bit mode. */
static uint64_t pointer_bits(void)
{
    uint64_t v = 1;

    __asm__("shl $40, %0; shr $40, %0" : "+r"(v));
    return v;
}

static uint64_t sum(const uint64_t *words, unsigned count)
{
    uint64_t s = 0;

    for (unsigned i = 0; i < count; i++)
        s |= words[i];
    return s;
}

void main(void)
{
    print("Hello from long mode\n");
    check("rip_is_high", 0xffffffff, rip() >> 32);
    check("cs_is_64_bit", 1, pointer_bits());
    check("bss_is_zero", 0, sum(in_bss, 512));
    value("main", (uint64_t)main);
}
