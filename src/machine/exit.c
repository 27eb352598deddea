/*
 * Exits: what the guest did that the processor left to us, and who answers.
 *
 * Every exit is served on the vCPU's own thread, synchronously: the guest's instruction is not
 * finished until the device has answered.
 */
#include "hv/base/todo.h"
#include "machine_priv.h"

static void serve_io(struct cpu *cpu)
{
    /* EXERCISE 1.6: carry out the access that run->io describes, on the bus of ports. The data lies
     * in the run structure's mapping, run->io.data_offset bytes from its start; what a read gives
     * is left in the same place. A string instruction may come as one exit with run->io.count
     * elements of run->io.size bytes. All of them are for the same port: it is the data that
     * advances (KVM API §5, "KVM_EXIT_IO"). */
    // SOLUTION 1.6
    struct kvm_run *run = cpu->vcpu.run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            bus_write(&cpu->m->pio, run->io.port, data, run->io.size);
        else
            bus_read(&cpu->m->pio, run->io.port, data, run->io.size);
    }
    // ELSE
    // cpu_end_machine(cpu, MACHINE_HOST_ERROR, (uint32_t)-todo("1.6"));
    // END 1.6
}

// lab 02 {
static void serve_mmio(struct cpu *cpu)
{
    /* EXERCISE 2.7: the guest touched an address that is in no memory slot, or wrote to a read-only
     * one. Carry out the access that run->mmio describes, on the bus of memory-mapped devices; what
     * a read gives goes where a write's data comes from (KVM API §5, "KVM_EXIT_MMIO"). */
    // SOLUTION 2.7
    struct kvm_run *run = cpu->vcpu.run;

    if (run->mmio.is_write)
        bus_write(&cpu->m->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        bus_read(&cpu->m->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    // ELSE
    // cpu_end_machine(cpu, MACHINE_HOST_ERROR, (uint32_t)-todo("2.7"));
    // END 2.7
}

// }

// lab 05 {
static void serve_system_event(struct cpu *cpu)
{
    switch (cpu->vcpu.run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        cpu_end_machine(cpu, MACHINE_POWER_OFF, 0);
        break;
    case KVM_SYSTEM_EVENT_RESET:
        cpu_end_machine(cpu, MACHINE_RESET, 0);
        break;
    default:
        cpu_end_machine(cpu, MACHINE_CRASH, KVM_EXIT_SYSTEM_EVENT);
    }
}
// }

/* An exit that nobody serves is the machine's end, and the outcome says what kind of end. */
static void end_by_exit(struct cpu *cpu)
{
    /* EXERCISE 1.7: tell the ends apart. HLT, with no interrupt that could end the wait:
     * MACHINE_HALTED. SHUTDOWN, which is what KVM makes of a triple fault: MACHINE_TRIPLE_FAULT.
     * Everything else: MACHINE_CRASH, with the exit's reason as the value, so that somebody can say
     * what it was. */
    // SOLUTION 1.7
    switch (cpu->vcpu.run->exit_reason) {
    case KVM_EXIT_HLT:
        cpu_end_machine(cpu, MACHINE_HALTED, 0);
        break;
    case KVM_EXIT_SHUTDOWN:
        cpu_end_machine(cpu, MACHINE_TRIPLE_FAULT, 0);
        break;
    default:
        cpu_end_machine(cpu, MACHINE_CRASH, cpu->vcpu.run->exit_reason);
    }
    // ELSE
    // cpu_end_machine(cpu, MACHINE_HOST_ERROR, (uint32_t)-todo("1.7"));
    // END 1.7
}

void serve_exit(struct cpu *cpu)
{
    switch (cpu->vcpu.run->exit_reason) {
    case KVM_EXIT_IO:
        if (debug_is_trap(cpu)) // lab 04
            break;              // lab 04
        serve_io(cpu);
        break;
    // lab 02 {
    case KVM_EXIT_MMIO:
        serve_mmio(cpu);
        break;
    // }
    // lab 04 {
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
    case KVM_EXIT_DEBUG:
        debug_trap(cpu);
        break;
    // }
    // lab 05 {
    case KVM_EXIT_SYSTEM_EVENT:
        serve_system_event(cpu);
        break;
    // }
    default:
        end_by_exit(cpu);
    }
}
