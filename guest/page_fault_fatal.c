/*
 * A page fault that nobody catches: a triple fault.
 *
 * There is no IDT, so #PF becomes #DF becomes shutdown. The monitor's report should name the
 * address (CR2) and show at which table the walk ended: this is what a kernel's first wild pointer
 * looks like.
 *
 * run: --boot elf
 * needs: full
 * expect: reading 4000000123
 * status: 12
 */
#include "lib/guest.h"

#define UNMAPPED 0x4000000123UL

void main(void)
{
    print("reading %X\n", (uint64_t)UNMAPPED);
    (void)*(volatile uint8_t *)UNMAPPED;
}
