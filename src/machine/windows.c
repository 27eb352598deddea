/*
 * Memory-mapped virtio: eight windows that the DSDT declares, each with an edge-triggered line of
 * its own. Those without a device say so themselves.
 */
#include <errno.h>
#include <sys/eventfd.h>

#include "hv/acpi/fixed.h"
#include "hv/base/fd.h"
#include "hv/kvm/eventfd.h" // lab 09
#include "hv/virtio/mmio.h"
#include "machine_priv.h"

#define NOTIFY_OFFSET 0x50 /* QueueNotify of a window, VIRTIO 1.2 §4.2.2 */

void windows_init(struct windows *w)
{
    for (unsigned i = 0; i < WINDOWS; i++)
        w->lines[i].event = -1;
    w->used = 0;
}

void windows_fini(struct windows *w)
{
    for (unsigned i = 0; i < WINDOWS; i++)
        fd_close(&w->lines[i].event);
}

/* --- lines --- */

static void drive_edge(void *ctx, uint32_t gsi, bool level)
{
    const struct edge_line *line = ctx;

    (void)gsi;
    if (level)
        (void)eventfd_write(line->event, 1); /* EAGAIN: it is due already */
}

/* --- windows --- */

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

// lab 09 {
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

// }

/* A window with v in it, or without anything. */
int windows_add(struct machine *m, const char *name, struct virtio_dev *v, struct device **out)
{
    static const uint32_t gsis[WINDOWS] = {ACPI_VIRTIO_GSIS};
    struct windows *w = &m->windows;
    struct irq_line irq = {0};

    if (w->used == WINDOWS)
        return -ENOSPC;
    unsigned index = w->used++;
    if (v != NULL) {
        int rc = open_edge(m, &w->lines[index], gsis[index]);
        if (rc < 0)
            return rc;
        irq_init(&irq, drive_edge, &w->lines[index], gsis[index]);
    }
    int rc = virtio_mmio_create(name, v, &irq, out);
    if (rc == 0)
        rc = bus_map(&m->mmio, window_base(index), VIRTIO_MMIO_SIZE, *out, 0);
    if (rc == 0 && v != NULL)                    // lab 09
        add_doorbells(m, v, window_base(index)); // lab 09
    return rc;
}

int windows_add_empty(struct machine *m)
{
    static const char *const names[WINDOWS] = {"window0", "window1", "window2", "window3",
                                               "window4", "window5", "window6", "window7"};
    int rc = 0;

    while (rc == 0 && m->windows.used < WINDOWS) {
        struct device *dev = NULL;
        rc = windows_add(m, names[m->windows.used], NULL, &dev);
        if (dev != NULL && board_add(m, dev) < 0)
            rc = -ENOSPC;
    }
    return rc;
}
