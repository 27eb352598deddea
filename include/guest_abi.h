/*
 * The protocol between guest programs and whoever runs them.
 *
 * A guest talks through two ports that hv, QEMU and Bochs have in common, so it needs no driver and
 * runs in any mode from its first instruction on:
 *
 *   GUEST_DEBUG_PORT  text, a byte at a time. A line that starts with '@' is for the test:
 *
 *       @ok NAME                          a check held
 *       @fail NAME expected HEX got HEX   a check did not hold
 *       @value NAME HEX                   a measurement
 *       @done                             the guest has come to its end
 *
 *     NAME has no blanks; HEX is lower-case and without 0x. All other lines are for people.
 *
 *   GUEST_EXIT_PORT   a value v ends the machine; the monitor's exit status is (v << 1) | 1, which
 *     is never 0 and never one of hv's own (those are even). GUEST_OK and GUEST_FAILED become 33
 *     and 35.
 *
 * A guest has passed when it said "@done", never "@fail", and ended with GUEST_OK.
 *
 * Freestanding, for C and for the assembler: macros only.
 */
#ifndef GUEST_ABI_H
#define GUEST_ABI_H

#define GUEST_DEBUG_PORT 0xe9
#define GUEST_EXIT_PORT 0xf4

#define GUEST_OK 0x10
#define GUEST_FAILED 0x11

/* The exit status that a value written to GUEST_EXIT_PORT becomes. */
#define GUEST_STATUS(v) ((((v) << 1) | 1) & 0xff)

#endif
