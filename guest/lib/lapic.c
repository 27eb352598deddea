#include "lib/lapic.h"

#include "lib/guest.h"

#define SPURIOUS_VECTOR 0xff
#define SOFTWARE_ENABLE (1U << 8)
#define TIMER_MASKED (1U << 16)
#define TIMER_PERIODIC (1U << 17)
#define DIVIDE_BY_1 0xb

void lapic_init(void)
{
    lapic_write(LAPIC_SPURIOUS, SOFTWARE_ENABLE | SPURIOUS_VECTOR);
}

void lapic_timer_start(uint8_t vector, uint32_t ns)
{
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
    lapic_write(LAPIC_TIMER, TIMER_PERIODIC | vector);
    lapic_write(LAPIC_TIMER_INITIAL, ns / (1000000000 / LAPIC_TIMER_HZ));
}

void lapic_wait(uint32_t ns)
{
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
    lapic_write(LAPIC_TIMER, TIMER_MASKED);
    lapic_write(LAPIC_TIMER_INITIAL, ns / (1000000000 / LAPIC_TIMER_HZ));
    while (lapic_read(LAPIC_TIMER_CURRENT) != 0)
        __asm__ volatile("pause");
}
