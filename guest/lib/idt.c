#include "lib/idt.h"

#include "lib/guest.h"

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

void idt_init(void)
{
    enum { PRESENT_INTERRUPT_GATE = 0x8e };
    uint16_t cs;

    __asm__("mov %%cs, %0" : "=r"(cs));
    for (unsigned i = 0; i < VECTORS; i++) {
        uint64_t stub = (uint64_t)(vector_stubs + i * VECTOR_STUB_SIZE);

        idt[i] = (struct gate){
            .offset_low = (uint16_t)stub,
            .selector = cs,
            .type = PRESENT_INTERRUPT_GATE,
            .offset_middle = (uint16_t)(stub >> 16),
            .offset_high = (uint32_t)(stub >> 32),
        };
    }
    idt_load();
}

void idt_set(unsigned vector, handler_fn *handler)
{
    handlers[vector] = handler;
}
