/*
 * How another processor comes from its first instruction to C (SDM 3A §8.4).
 *
 * A start-up IPI makes it run in real mode at a page below 1 MiB. The code between trampoline and
 * trampoline_end is copied there; it takes the processor to long mode with the page tables and the
 * stack that the words below name, and calls `entry`. Only one processor at a time may use a stack,
 * so each takes the next one: stacks + stack_size × (1, 2, …).
 */
#ifndef GUEST_TRAMPOLINE_H
#define GUEST_TRAMPOLINE_H

#ifndef __ASSEMBLER__
#include <stdint.h>
#endif

#define TRAMPOLINE 0x8000       /* where it is copied: page 8, the vector of the start-up IPI */
#define TRAMPOLINE_PARAMS 0xf00 /* offset of struct trampoline_params in that page */

#ifndef __ASSEMBLER__
struct trampoline_params {
    uint64_t cr3;
    uint64_t stacks;
    uint64_t stack_size;
    uint64_t taken; /* stacks handed out */
    uint64_t entry; /* void entry(void), which does not return */
};

extern const char trampoline[], trampoline_end[];
#endif

#endif
