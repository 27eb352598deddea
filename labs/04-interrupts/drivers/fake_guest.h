/*
 * What stands in for guest/lib/guest.h when a guest's file is compiled for the host: the same
 * functions, but the ports belong to the driver, and so does sleep.
 */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H /* the real one finds itself included */
#define GUEST_TODO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest_abi.h"
#include "hv/base/todo.h"

/* The driver's. */
void outb(uint16_t port, uint8_t v);
uint8_t inb(uint16_t port);
void wait_for_interrupt(void);
void interrupts_on(void);
void interrupts_off(void);

static inline void print(const char *fmt, ...)
{
    (void)fmt;
}

static inline void quit(uint8_t code)
{
    (void)code;
}

#endif
