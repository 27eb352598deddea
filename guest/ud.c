/*
 * An invalid opcode without a handler: a triple fault of another origin.
 *
 * With VT-x the report of the guest's death shows the instruction bytes at RIP: 0f 0b, UD2.
 *
 * run: --boot elf
 * needs: full
 * expect: executing ud2
 * status: 12
 */
#include "lib/guest.h"

void main(void)
{
    print("executing ud2\n");
    __asm__ volatile("ud2");
}
