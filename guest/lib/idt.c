#include "lib/idt.h"

#include "lib/guest.h"
#include "lib/todo.h"

#define VECTORS 256
#define VECTOR_STUB_SIZE 16 /* vectors.S aligns each to this */

/* SDM 3A §6.14.1: a 64-bit interrupt gate. */
struct gate {
    uint16_t offset_low;
    uint16_t selector;
    uint8_t ist;
    uint8_t type;
    uint16_t offset_middle;
    uint32_t offset_high;
    uint32_t reserved;
};
_Static_assert(sizeof(struct gate) == 16, "SDM 3A §6.14.1");

struct table_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

extern const char vector_stubs[];

static struct gate idt[VECTORS];
static handler_fn *handlers[VECTORS];

void handle_vector(struct frame *frame)
{
    uint64_t cr2;

    if (handlers[frame->vector] != NULL) {
        handlers[frame->vector](frame);
        return;
    }
    __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
    print("@fail unexpected_vector expected 0 got %X\n", frame->vector);
    print("error code %X, rip %X, cr2 %X\n", frame->error_code, frame->rip, cr2);
    quit(GUEST_FAILED);
}

void idt_load(void)
{
    const struct table_pointer pointer = {sizeof(idt) - 1, (uint64_t)idt};

    __asm__ volatile("lidt %0" : : "m"(pointer));
}

/* EXERCISE 4.9: a gate. What the processor needs in entry `vector` of its table to call `handler`
 * in 64-bit mode (SDM 3A §6.14.1, figure 6-8): its address, in three pieces; the code segment that
 * it runs in; an interrupt gate, that is one that comes with interrupts off, present, and for the
 * kernel alone (DPL 0); no stack of its own (IST 0). */
// SOLUTION 4.9
static struct gate interrupt_gate(uint64_t handler, uint16_t selector)
{
    enum { PRESENT = 0x80, INTERRUPT_GATE_64 = 0x0e };

    return (struct gate){
        .offset_low = (uint16_t)handler,
        .selector = selector,
        .type = PRESENT | INTERRUPT_GATE_64,
        .offset_middle = (uint16_t)(handler >> 16),
        .offset_high = (uint32_t)(handler >> 32),
    };
}
// ELSE
// static struct gate interrupt_gate(uint64_t handler, uint16_t selector)
// {
//     todo("4.9");
//     return (struct gate){0};
// }
// END 4.9

void idt_init(void)
{
    uint16_t cs;

    __asm__("mov %%cs, %0" : "=r"(cs));
    for (unsigned i = 0; i < VECTORS; i++)
        idt[i] = interrupt_gate((uint64_t)(vector_stubs + i * VECTOR_STUB_SIZE), cs);
    idt_load();
}

void idt_set(unsigned vector, handler_fn *handler)
{
    handlers[vector] = handler;
}
