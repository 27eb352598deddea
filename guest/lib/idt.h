/*
 * Interrupts and exceptions in 64-bit guests.
 *
 * idt_init() loads a table of 256 gates, each of which saves the registers and calls the handler
 * that idt_set() installed. Without one, an exception or interrupt is reported and ends the guest.
 */
#ifndef GUEST_IDT_H
#define GUEST_IDT_H

#include <stdint.h>

/* The interrupted code's registers, as vectors.S pushed them. A handler may change them. */
struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector;
    uint64_t error_code; /* 0 where the exception has none */
    uint64_t rip, cs, rflags, rsp, ss;
};

typedef void handler_fn(struct frame *frame);

void idt_init(void);
void idt_load(void); /* the same table, on another processor */
void idt_set(unsigned vector, handler_fn *handler);

/* Called by vectors.S. */
void handle_vector(struct frame *frame);

#endif
