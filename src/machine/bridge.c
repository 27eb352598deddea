/*
 * The machine's PCI: a host bridge, four interrupt lines that slots share, and virtio functions.
 *
 * A function interrupts by messages, or by its pin while the guest has not switched them on. Its
 * doorbells are KVM's wherever the guest puts its BAR: a vCPU that rings one does not leave the
 * guest for us.
 */
#include <errno.h>

#include "hv/acpi/fixed.h"
#include "hv/devices/acpi_pm.h"
#include "hv/kvm/eventfd.h"
#include "hv/virtio/pci.h"
#include "machine_priv.h"

/* --- lines --- */

static void drive_pin(void *ctx, uint32_t gsi, bool level)
{
    const struct pci_pin *pin = ctx;
    struct pci_line *line = pin->line;

    pthread_mutex_lock(&line->lock);
    uint32_t before = line->raised;
    line->raised = level ? before | 1U << pin->slot : before & ~(1U << pin->slot);
    if (!before != !line->raised && line->m->cfg.irqchip)
        (void)!vm_irq_line(&line->m->vm, gsi, line->raised != 0); /* KVM has the line */
    pthread_mutex_unlock(&line->lock);
}

/* --- the bus --- */

int bridge_wire(struct machine *m)
{
    struct pci_wiring *w = &m->pci;
    const struct pci_bus_config cfg = {
        .ports = &m->pio,
        .memory = &m->mmio,
        .mem = &m->mem,
        .log = m->cfg.log,
        .window = ACPI_PCI_BASE,
        .window_end = ACPI_PCI_END,
        .reset = m->power,
        .reset_offset = ACPI_PM_RESET_REG,
    };
    struct device *host;

    msi_init(&w->msi, &m->vm);
    for (unsigned i = 0; i < PCI_LINES; i++) {
        w->lines[i].m = m;
        (void)pthread_mutex_init(&w->lines[i].lock, NULL); /* does not fail on Linux */
    }
    int rc = pci_bus_create("pci", &cfg, &w->bus, &host);
    if (rc == 0)
        rc = board_add(m, host);
    return rc < 0 ? rc : bus_map(&m->pio, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, host, 0);
}

static void on_doorbell(void *ctx, uint64_t gpa, int kick, bool there)
{
    struct machine *m = ctx;
    const struct vm_doorbell bell = {.gpa = gpa, .size = 0, .event_fd = kick};

    /* Without it the write comes to us as an exit, which works as well. */
    (void)!(there ? vm_doorbell_add(&m->vm, &bell) : vm_doorbell_remove(&m->vm, &bell));
}

int bridge_add(struct machine *m, const char *name, struct virtio_dev *v, struct device **out)
{
    struct pci_wiring *w = &m->pci;
    unsigned slot = w->functions + 1; /* the host bridge is in slot 0 */
    struct pci_pin *pin = &w->pins[w->functions];
    struct virtio_pci_setup setup = {.bus = w->bus, .doorbell = on_doorbell, .doorbell_ctx = m};

    *pin = (struct pci_pin){.line = &w->lines[pci_line_of(slot)], .slot = slot};
    irq_init(&setup.pin, drive_pin, pin, ACPI_PCI_GSI + pci_line_of(slot));
    int rc = msi_take(&w->msi, v->queue_count + 1, &w->ranges[w->functions], &setup.msix);
    w->functions++;
    return rc < 0 ? rc : virtio_pci_create(name, v, &setup, out);
}

void bridge_unwire(struct machine *m)
{
    struct pci_wiring *w = &m->pci;

    if (w->bus == NULL)
        return;
    msi_fini(&w->msi);
    for (unsigned i = 0; i < PCI_LINES; i++)
        (void)pthread_mutex_destroy(&w->lines[i].lock);
}
