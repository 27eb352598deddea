/*
 * Ports that nobody answers: an undriven bus reads as all ones.
 *
 * Shows: every width, and the last ports of the 64 KiB space, where a wide access passes the end.
 *
 * run: --boot elf
 * needs: kvm
 * expect: @ok in_8
 * expect: @ok in_32
 * expect: @ok in_32_last
 * expect: @ok debug_port_wide
 * status: 33
 */
#include "lib/guest.h"

#define NOBODY 0x1230

void main(void)
{
    outb(NOBODY, 0);
    outw(NOBODY, 0);
    outl(NOBODY, 0);
    check("in_8", 0xff, inb(NOBODY));
    check("in_16", 0xffff, inw(NOBODY));
    check("in_32", 0xffffffff, inl(NOBODY));
    check("in_8_last", 0xff, inb(0xffff));
    check("in_32_last", 0xffffffff, inl(0xfffc));
    check("debug_port", 0xe9, inb(GUEST_DEBUG_PORT));
    check("debug_port_wide", 0xffffffe9, inl(GUEST_DEBUG_PORT));
}
