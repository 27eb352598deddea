/*
 * The wiring list: which devices a machine has, where they sit, and which interrupt line each
 * holds.
 *
 * There is one list, for starting and for restoring alike. A device is created, remembered (so that
 * it is destroyed and saved) and mapped; the order here is the order of saving.
 */
#include <errno.h>
#include <inttypes.h> // lab 05

#include "hv/acpi/fixed.h"      // lab 05
#include "hv/base/num.h"        // lab 05
#include "hv/base/todo.h"       // lab 04
#include "hv/devices/acpi_pm.h" // lab 05
#include "hv/devices/debug_exit.h"
#include "hv/devices/debug_port.h"
#include "hv/devices/i8042.h"     // lab 05
#include "hv/devices/mc146818.h"  // lab 05
#include "hv/devices/uart16550.h" // lab 02
#include "hv/machine/layout.h"    // lab 05
#include "machine_priv.h"

/* --- what the devices' outputs are connected to --- */

/* EXERCISE 4.4: from a device's pin to KVM's controllers. gsi_line(): an irq_line (irq_init())
 * whose changes arrive, as levels of this GSI, at vm_irq_line(); write the function that it calls,
 * too. A machine that was configured without the controllers (cfg.irqchip) has nobody to tell, and
 * a KVM that does not know the GSI is no reason to disturb the device. */
// SOLUTION 4.4
static void drive_gsi(void *ctx, uint32_t gsi, bool level)
{
    struct machine *m = ctx;

    if (m->cfg.irqchip)
        (void)!vm_irq_line(&m->vm, gsi, level); /* fails only for a line that KVM does not have */
}

static struct irq_line gsi_line(struct machine *m, uint32_t gsi)
{
    struct irq_line line;

    irq_init(&line, drive_gsi, m, gsi);
    return line;
}
// ELSE
// static struct irq_line gsi_line(struct machine *m, uint32_t gsi)
// {
//     (void)todo("4.4");
//     return (struct irq_line){0};
// }
// BEFORE
// END 4.4

static void end_from_device(struct machine *m, enum machine_end end, uint32_t value)
{
    const struct cpu *cpu = cpu_current();
    const struct machine_outcome outcome = {
        .end = end, .cpu = cpu != NULL ? cpu->vcpu.id : 0, .value = value};

    machine_end(m, &outcome);
}

// lab 05 {
/* A machine that ends silently is the hardest to understand: a reset always says who asked. */
static void guest_reset(struct machine *m, const char *how)
{
    const struct cpu *cpu = cpu_current();
    struct kvm_regs regs;

    if (cpu != NULL && vcpu_get_regs(&cpu->vcpu, &regs) == 0)
        log_msg(m->cfg.log, LOG_WARN,
                "the guest asked for a reset (%s) on CPU %u at RIP 0x%" PRIx64, how, cpu->vcpu.id,
                (uint64_t)regs.rip);
    else
        log_msg(m->cfg.log, LOG_WARN, "a reset was asked for (%s)", how);
    end_from_device(m, MACHINE_RESET, 0);
}

static void on_power(void *ctx, enum acpi_power what)
{
    if (what == ACPI_POWER_OFF)
        end_from_device(ctx, MACHINE_POWER_OFF, 0);
    else
        guest_reset(ctx, "ACPI reset register, port 0xcf9");
}

static void on_i8042_reset(void *ctx)
{
    guest_reset(ctx, "keyboard controller, 0xfe to port 0x64");
}
// }

static void on_debug_exit(void *ctx, uint32_t value)
{
    end_from_device(ctx, MACHINE_DEBUG_EXIT, value);
}

/* --- steps of the list --- */

/* Takes ownership of a device, also when it fails. */
static int add(struct machine *m, struct device *dev)
{
    if (m->device_count == BOARD_DEVICES_MAX) {
        dev_destroy(dev);
        return -ENOSPC;
    }
    m->devices[m->device_count++] = dev;
    return 0;
}

// lab 07 {
int board_add(struct machine *m, struct device *dev)
{
    return add(m, dev);
}
// }

/* Adds a device and gives it one window of ports. */
static int add_at(struct machine *m, struct device *dev, uint64_t port, uint64_t size)
{
    int rc = add(m, dev);

    return rc < 0 ? rc : bus_map(&m->pio, port, size, dev, 0);
}

static int wire_debug_port(struct machine *m)
{
    struct device *dev;

    if (m->cfg.debug == NULL)
        return 0;
    int rc = debug_port_create("debug", m->cfg.debug, &dev);
    return rc < 0 ? rc : add_at(m, dev, DEBUG_PORT, 1);
}

static int wire_debug_exit(struct machine *m)
{
    struct device *dev;
    int rc = debug_exit_create("debug-exit", on_debug_exit, m, &dev);

    return rc < 0 ? rc : add_at(m, dev, DEBUG_EXIT_PORT, DEBUG_EXIT_SIZE);
}

// lab 02 {
static int wire_serial(struct machine *m, unsigned index)
{
    static const struct {
        const char *name;
        uint16_t port;
        uint32_t irq;
    } com[MACHINE_SERIAL_PORTS] = {
        {"serial0", UART_COM1_PORT, UART_COM1_IRQ},
        {"serial1", UART_COM2_PORT, UART_COM2_IRQ},
    };
    struct irq_line irq = {0};
    struct device *dev;

    if (m->cfg.serial[index] == NULL)
        return 0;
    irq = gsi_line(m, com[index].irq); // lab 04
    int rc = uart16550_create(com[index].name, &irq, m->cfg.serial[index], &dev);
    return rc < 0 ? rc : add_at(m, dev, com[index].port, UART_SIZE);
}
// }

// lab 05 {
static int wire_keyboard_controller(struct machine *m)
{
    struct irq_line irq = gsi_line(m, I8042_IRQ);
    struct device *dev;
    int rc = i8042_create("i8042", &irq, on_i8042_reset, m, &dev);

    if (rc == 0)
        rc = add_at(m, dev, I8042_DATA_PORT, 1);
    if (rc == 0)
        rc = bus_map(&m->pio, I8042_STATUS_PORT, 1, dev, 4);
    return rc;
}

static int wire_clock(struct machine *m)
{
    uint64_t low = m->cfg.memory < LAYOUT_HOLE ? m->cfg.memory : LAYOUT_HOLE;
    const struct mc146818_config cfg = {
        .irq = gsi_line(m, MC146818_IRQ),
        .loop = m->cfg.loop,
        .mem_below_4g = low,
        .mem_above_4g = m->cfg.memory - low,
    };
    struct device *dev;
    int rc = mc146818_create("rtc", &cfg, &dev);

    return rc < 0 ? rc : add_at(m, dev, MC146818_PORT, MC146818_SIZE);
}

static int wire_power(struct machine *m)
{
    const struct acpi_pm_config cfg = {
        .sci = gsi_line(m, ACPI_SCI_IRQ),
        .s5_slp_typ = ACPI_S5_SLP_TYP,
        .reset_value = ACPI_RESET_VALUE,
        .power = on_power,
        .power_ctx = m,
    };
    static const struct {
        uint64_t port, size, offset;
    } blocks[] = {
        {ACPI_PM1_EVT_PORT, ACPI_PM_EVT_SIZE, ACPI_PM_EVT_OFFSET},
        {ACPI_PM1_CNT_PORT, ACPI_PM_CNT_SIZE, ACPI_PM_CNT_OFFSET},
        {ACPI_PM_TMR_PORT, ACPI_PM_TMR_SIZE, ACPI_PM_TMR_OFFSET},
        {ACPI_RESET_PORT - 1, ACPI_PM_RESET_SIZE, ACPI_PM_RESET_OFFSET},
    };
    struct device *dev;
    int rc = acpi_pm_create("acpi-pm", &cfg, &dev);

    if (rc == 0)
        rc = add(m, dev);
    unsigned count = ARRAY_LEN(blocks);
    count -= m->cfg.irqchip; /* the reset register's port belongs to PCI's host bridge */ // lab 09
    for (unsigned i = 0; rc == 0 && i < count; i++)
        rc = bus_map(&m->pio, blocks[i].port, blocks[i].size, dev, blocks[i].offset);
    if (rc == 0)
        m->power = dev;
    return rc;
}
// }

int board_wire(struct machine *m, struct error *err)
{
    int rc = wire_debug_port(m);

    if (rc == 0)
        rc = wire_debug_exit(m);
    // lab 02 {
    for (unsigned i = 0; rc == 0 && i < MACHINE_SERIAL_PORTS; i++)
        rc = wire_serial(m, i);
    // }
    // lab 05 {
    if (rc == 0)
        rc = wire_keyboard_controller(m);
    if (rc == 0)
        rc = wire_clock(m);
    if (rc == 0)
        rc = wire_power(m);
    // }
    if (rc < 0)
        return error_sys(err, rc, "cannot set up the devices");
    rc = virtio_wire(m, err); // lab 07
    return rc;
}

void board_unwire(struct machine *m)
{
    while (m->device_count > 0)
        dev_destroy(m->devices[--m->device_count]);
}
