/*
 * The local APIC, by its memory-mapped registers (SDM 3A §10.4).
 */
#ifndef GUEST_LAPIC_H
#define GUEST_LAPIC_H

#include <stdint.h>

#define LAPIC_BASE 0xfee00000UL
#define LAPIC_ID 0x020
#define LAPIC_VERSION 0x030
#define LAPIC_EOI 0x0b0
#define LAPIC_SPURIOUS 0x0f0
#define LAPIC_ICR_LOW 0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_TIMER 0x320
#define LAPIC_TIMER_INITIAL 0x380
#define LAPIC_TIMER_CURRENT 0x390
#define LAPIC_TIMER_DIVIDE 0x3e0

#define LAPIC_TIMER_HZ 1000000000 /* under KVM; a guest elsewhere would measure */

static inline uint32_t lapic_read(unsigned reg)
{
    return *(volatile uint32_t *)(LAPIC_BASE + reg);
}

static inline void lapic_write(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC_BASE + reg) = v;
}

/* Switches it on; spurious interrupts have vector 0xff. */
void lapic_init(void);
/* The timer interrupts at `vector` every `ns` nanoseconds, at most 4 s. */
void lapic_timer_start(uint8_t vector, uint32_t ns);
/* Waits without interrupts. */
void lapic_wait(uint32_t ns);

#endif
