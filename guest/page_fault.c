/*
 * Page faults, caught: what the processor tells the handler.
 *
 * Shows: an IDT, CR2, and the error code's bits (SDM 3A §4.7): present, write, fetch. The handler
 * sends the program past the instruction that faulted.
 *
 * run: --boot elf
 * needs: full
 * expect: @ok read_unmapped
 * expect: @ok write_unmapped
 * expect: @ok write_read_only
 * expect: @ok execute_data
 * expect: @ok not_canonical
 * status: 33
 */
#include "lib/guest.h"
#include "lib/idt.h"

#define UNMAPPED 0x4000000123UL /* 256 GiB */
#define NOT_CANONICAL 0x800000000000UL

#define VECTOR_GP 13
#define VECTOR_PF 14

static struct {
    uint64_t vector;
    uint64_t error_code;
    uint64_t cr2;
    uint64_t resume; /* where to go on after the fault */
} fault;

static const uint8_t read_only = 1; /* in .rodata */
static uint8_t data;                /* not executable */

static void on_fault(struct frame *frame)
{
    fault.vector = frame->vector;
    fault.error_code = frame->error_code;
    __asm__ volatile("mov %%cr2, %0" : "=r"(fault.cr2));
    frame->rip = fault.resume;
}

/* Runs one instruction on the address in %rdi; a fault resumes behind it. */
#define TRY(instruction, address)                                                                  \
    __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; " instruction "; 1:"                    \
                     : "=m"(fault.resume)                                                          \
                     : "D"(address)                                                                \
                     : "rax", "memory")

/* Vector and error code in one number; and the address, where it is the one expected. */
static void check_fault(const char *name, uint64_t vector, uint64_t error_code, uint64_t address)
{
    check(name, vector << 32 | error_code, fault.vector << 32 | fault.error_code);
    if (vector == VECTOR_PF)
        check("cr2", address, fault.cr2);
    fault.vector = 0;
}

void main(void)
{
    idt_init();
    idt_set(VECTOR_PF, on_fault);
    idt_set(VECTOR_GP, on_fault);

    TRY("movb (%%rdi), %%al", UNMAPPED);
    check_fault("read_unmapped", VECTOR_PF, 0, UNMAPPED);
    TRY("movb %%al, (%%rdi)", UNMAPPED);
    check_fault("write_unmapped", VECTOR_PF, 2, UNMAPPED);
    TRY("movb %%al, (%%rdi)", &read_only);
    check_fault("write_read_only", VECTOR_PF, 3, (uint64_t)&read_only);
    TRY("jmp *%%rdi", &data);
    check_fault("execute_data", VECTOR_PF, 0x11, (uint64_t)&data);
    TRY("movb (%%rdi), %%al", NOT_CANONICAL);
    check_fault("not_canonical", VECTOR_GP, 0, NOT_CANONICAL);
}
