/*
 * The machine's virtio devices: which there are, what carries them, and who serves them.
 *
 * On PCI each device is a function with messages for interrupts. The other way is eight
 * memory-mapped windows that the DSDT declares; those without a device say so themselves. Both ways
 * the doorbells are KVM's: a vCPU that rings one does not leave the guest for us.
 *
 * Threads: slow devices share one, each queue of a disk and each network interface has its own. The
 * main thread serves none: it waits for vCPUs when it pauses them, and a vCPU that resets a device
 * waits for that device's thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/acpi/fixed.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/devices/acpi_pm.h"
#include "hv/virtio/blk.h"
#include "hv/virtio/mmio.h"
#include "hv/virtio/net.h"
#include "hv/virtio/pci.h"
#include "hv/virtio/rng.h"
#include "machine_priv.h"

#define WINDOWS 8
#define FUNCTIONS_MAX (1 + MACHINE_DISKS_MAX + MACHINE_NICS_MAX)
#define NOTIFY_OFFSET 0x50 /* QueueNotify of a window, VIRTIO 1.2 §4.2.2 */
#define NAME_MAX_LEN 16

struct virtio_wiring {
    struct pci_bus *pci; /* borrowed: one of the machine's devices */
    struct msi_pool msi;
    struct pci_line lines[PCI_LINES];
    struct pci_pin pins[FUNCTIONS_MAX];
    struct msi_range ranges[FUNCTIONS_MAX];
    unsigned functions;
    struct edge_line windows[WINDOWS];
    unsigned windows_used;
    struct virtio_dev *devs[FUNCTIONS_MAX]; /* borrowed: of the machine's devices */
    unsigned dev_count;
    char names[FUNCTIONS_MAX][NAME_MAX_LEN];
    unsigned name_count;
};

/* --- threads --- */

static int add_thread(struct machine *m, const char *name, struct loop **out)
{
    if (m->io_count == IO_THREADS_MAX)
        return -ENOSPC;
    int rc = iothread_create(name, &m->io[m->io_count]);
    if (rc == 0)
        *out = iothread_loop(m->io[m->io_count++]);
    return rc;
}

int virtio_start_threads(struct machine *m, struct error *err)
{
    for (unsigned i = 0; i < m->io_count; i++) {
        int rc = iothread_start(m->io[i]);
        if (rc < 0)
            return error_sys(err, rc, "cannot start an I/O thread");
        m->io_started = true;
    }
    return 0;
}

/* What is under way is finished first: its answer would find no device. */
void virtio_stop_threads(struct machine *m)
{
    for (unsigned i = 0; m->virtio != NULL && i < m->virtio->dev_count; i++)
        if (m->io_started)
            virtio_stop(m->virtio->devs[i]);
    m->io_started = false;
    for (unsigned i = 0; i < m->io_count; i++)
        iothread_stop(m->io[i]);
}

/* --- interrupt lines --- */

static void drive_edge(void *ctx, uint32_t gsi, bool level)
{
    const struct edge_line *line = ctx;

    (void)gsi;
    if (level)
        (void)eventfd_write(line->event, 1); /* EAGAIN: it is due already */
}

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

/* --- PCI --- */

static int wire_pci(struct machine *m)
{
    struct virtio_wiring *w = m->virtio;
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
    int rc = pci_bus_create("pci", &cfg, &w->pci, &host);
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

static int carry_on_pci(struct machine *m, const char *name, struct virtio_dev *v,
                        struct device **out)
{
    struct virtio_wiring *w = m->virtio;
    unsigned slot = w->functions + 1; /* the host bridge is in slot 0 */
    struct pci_pin *pin = &w->pins[w->functions];
    struct virtio_pci_setup setup = {.bus = w->pci, .doorbell = on_doorbell, .doorbell_ctx = m};

    *pin = (struct pci_pin){.line = &w->lines[pci_line_of(slot)], .slot = slot};
    irq_init(&setup.pin, drive_pin, pin, ACPI_PCI_GSI + pci_line_of(slot));
    int rc = msi_take(&w->msi, v->queue_count + 1, &w->ranges[w->functions], &setup.msix);
    w->functions++;
    return rc < 0 ? rc : virtio_pci_create(name, v, &setup, out);
}

/* --- memory-mapped windows --- */

static uint64_t window_base(unsigned index)
{
    return ACPI_VIRTIO_BASE + (uint64_t)index * ACPI_VIRTIO_SIZE;
}

static int open_edge(struct machine *m, struct edge_line *line, uint32_t gsi)
{
    line->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (line->event < 0)
        return -errno;
    return vm_irqfd(&m->vm, gsi, line->event, NULL);
}

/* The window's doorbell is one register: the value written tells which queue. */
static void add_doorbells(struct machine *m, struct virtio_dev *v, uint64_t base)
{
    for (unsigned i = 0; i < v->queue_count; i++) {
        const struct vm_doorbell bell = {.gpa = base + NOTIFY_OFFSET,
                                         .size = 4,
                                         .has_match = true,
                                         .match = i,
                                         .event_fd = v->queues[i].kick};
        (void)!vm_doorbell_add(&m->vm, &bell); /* without it the write comes to us as an exit */
    }
}

/* A window with v in it, or without anything. */
static int add_window(struct machine *m, const char *name, struct virtio_dev *v,
                      struct device **out)
{
    static const uint32_t gsis[WINDOWS] = {ACPI_VIRTIO_GSIS};
    struct virtio_wiring *w = m->virtio;
    struct irq_line irq = {0};

    if (w->windows_used == WINDOWS)
        return -ENOSPC;
    unsigned index = w->windows_used++;
    if (v != NULL) {
        int rc = open_edge(m, &w->windows[index], gsis[index]);
        if (rc < 0)
            return rc;
        irq_init(&irq, drive_edge, &w->windows[index], gsis[index]);
    }
    int rc = virtio_mmio_create(name, v, &irq, out);
    if (rc == 0)
        rc = bus_map(&m->mmio, window_base(index), VIRTIO_MMIO_SIZE, *out, 0);
    if (rc == 0 && v != NULL)
        add_doorbells(m, v, window_base(index));
    return rc;
}

static int add_empty_windows(struct machine *m)
{
    static const char *const names[WINDOWS] = {"window0", "window1", "window2", "window3",
                                               "window4", "window5", "window6", "window7"};
    int rc = 0;

    while (rc == 0 && m->virtio->windows_used < WINDOWS) {
        struct device *dev = NULL;
        rc = add_window(m, names[m->virtio->windows_used], NULL, &dev);
        if (dev != NULL && board_add(m, dev) < 0)
            rc = -ENOSPC;
    }
    return rc;
}

/* --- devices --- */

/* A name that stays: "disk0". */
static const char *make_name(struct machine *m, const char *kind, unsigned index)
{
    char *name = m->virtio->names[m->virtio->name_count++];

    (void)snprintf(name, NAME_MAX_LEN, "%s%u", kind, index);
    return name;
}

/* Takes v over, also when it fails. */
static int carry(struct machine *m, const char *name, struct virtio_dev *v)
{
    struct device *dev = NULL;
    int rc = m->cfg.virtio_mmio ? add_window(m, name, v, &dev) : carry_on_pci(m, name, v, &dev);

    if (dev == NULL) {
        virtio_destroy(v);
        return rc;
    }
    m->virtio->devs[m->virtio->dev_count++] = v;
    int added = board_add(m, dev);
    return rc < 0 ? rc : added;
}

static int wire_rng(struct machine *m, struct loop *loop)
{
    const struct virtio_rng_setup setup = {.mem = &m->mem, .loop = loop};
    struct virtio_dev *v;
    int rc = virtio_rng_create("rng", &setup, &v);

    return rc < 0 ? rc : carry(m, "rng", v);
}

static int wire_disk(struct machine *m, unsigned index)
{
    const struct machine_disk *disk = &m->cfg.disks[index];
    const char *name = make_name(m, "disk", index);
    struct loop *loops[VIRTIO_BLK_QUEUES_MAX];
    struct virtio_blk_setup setup = {.mem = &m->mem,
                                     .block = disk->block,
                                     .loops = loops,
                                     .queues = disk->queues,
                                     .serial = disk->serial,
                                     .iops = disk->iops,
                                     .bps = disk->bps};
    struct virtio_dev *v;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < disk->queues; i++)
        rc = add_thread(m, name, &loops[i]);
    if (rc == 0)
        rc = virtio_blk_create(name, &setup, &v);
    return rc < 0 ? rc : carry(m, name, v);
}

static int wire_nic(struct machine *m, unsigned index)
{
    const struct machine_nic *nic = &m->cfg.nics[index];
    const char *name = make_name(m, "net", index);
    struct virtio_net_pair pair = {.net = nic->net};
    struct virtio_net_setup setup = {
        .mem = &m->mem, .pairs = &pair, .pair_count = 1, .limits = {nic->packets, nic->bytes}};
    struct virtio_dev *v;
    int rc = add_thread(m, name, &pair.loop);

    memcpy(setup.mac, nic->mac, sizeof(setup.mac));
    if (rc == 0)
        rc = virtio_net_create(name, &setup, &v);
    return rc < 0 ? rc : carry(m, name, v);
}

static int wire_devices(struct machine *m)
{
    struct loop *shared;
    int rc = add_thread(m, "io", &shared);

    for (unsigned i = 0; rc == 0 && i < m->cfg.disk_count; i++)
        rc = wire_disk(m, i);
    for (unsigned i = 0; rc == 0 && i < m->cfg.nic_count; i++)
        rc = wire_nic(m, i);
    if (rc == 0 && m->cfg.rng)
        rc = wire_rng(m, shared);
    return rc;
}

int virtio_wire(struct machine *m, struct error *err)
{
    if (!m->cfg.irqchip) /* nobody could interrupt */
        return 0;
    m->virtio = calloc(1, sizeof(*m->virtio));
    if (m->virtio == NULL)
        return error_set(err, -ENOMEM, "no memory for the virtio devices");
    for (unsigned i = 0; i < WINDOWS; i++)
        m->virtio->windows[i].event = -1;
    int rc = wire_pci(m);
    if (rc == 0)
        rc = wire_devices(m);
    if (rc == -ENOSPC)
        return error_set(err, rc, "too many virtio devices: %u windows, or %u slots on PCI",
                         WINDOWS, PCI_SLOTS - 1);
    if (rc == 0)
        rc = add_empty_windows(m);
    return rc < 0 ? error_sys(err, rc, "cannot set up the virtio devices") : 0;
}

void virtio_unwire(struct machine *m)
{
    struct virtio_wiring *w = m->virtio;

    for (unsigned i = 0; i < m->io_count; i++)
        iothread_destroy(m->io[i]);
    m->io_count = 0;
    if (w == NULL)
        return;
    if (w->msi.vm != NULL)
        msi_fini(&w->msi);
    for (unsigned i = 0; i < WINDOWS; i++)
        fd_close(&w->windows[i].event);
    for (unsigned i = 0; i < PCI_LINES; i++)
        if (w->lines[i].m != NULL)
            (void)pthread_mutex_destroy(&w->lines[i].lock);
    free(w);
    m->virtio = NULL;
}
