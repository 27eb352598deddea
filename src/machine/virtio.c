/*
 * The machine's virtio devices: which there are, and who serves them.
 *
 * Threads: slow devices share one, each queue of a disk and each network interface has its own. The
 * main thread serves none: it waits for vCPUs when it pauses them, and a vCPU that resets a device
 * waits for that device's thread.
 */
#include <errno.h>
#include <inttypes.h> // lab 09
#include <stdio.h>    // lab 08
#include <string.h>   // lab 09

#include "hv/base/iothread.h"
#include "hv/base/listen.h"    // lab 09
#include "hv/virtio/balloon.h" // lab 09
#include "hv/virtio/blk.h"     // lab 08
#include "hv/virtio/console.h" // lab 09
#include "hv/virtio/net.h"     // lab 09
#include "hv/virtio/rng.h"
#include "hv/virtio/vsock.h" // lab 09
#include "machine_priv.h"

/* --- threads --- */

static int add_thread(struct machine *m, const char *name, struct loop **out)
{
    if (m->virtio.thread_count == IO_THREADS_MAX)
        return -ENOSPC;
    int rc = iothread_create(name, &m->virtio.threads[m->virtio.thread_count]);
    if (rc == 0)
        *out = iothread_loop(m->virtio.threads[m->virtio.thread_count++]);
    return rc;
}

int virtio_start_threads(struct machine *m, struct error *err)
{
    for (unsigned i = 0; i < m->virtio.thread_count; i++) {
        int rc = iothread_start(m->virtio.threads[i]);
        if (rc < 0)
            return error_sys(err, rc, "cannot start an I/O thread");
        m->virtio.started = true;
    }
    return 0;
}

/* What is under way is finished first: its answer would find no device. */
void virtio_stop_threads(struct machine *m)
{
    for (unsigned i = 0; i < m->virtio.dev_count; i++)
        if (m->virtio.started)
            virtio_stop(m->virtio.devs[i]);
    m->virtio.started = false;
    for (unsigned i = 0; i < m->virtio.thread_count; i++)
        iothread_stop(m->virtio.threads[i]);
}

/* --- devices --- */

// lab 08 {
/* A name that stays: "disk0". */
static const char *make_name(struct machine *m, const char *kind, unsigned index)
{
    char *name = m->virtio.names[m->virtio.name_count++];

    (void)snprintf(name, VIRTIO_NAME_MAX, "%s%u", kind, index);
    return name;
}

// }

/* Takes v over, also when it fails. */
static int carry(struct machine *m, const char *name, struct virtio_dev *v)
{
    struct device *dev = NULL;
    bool on_pci = false;
    int rc = 0;

    on_pci = !m->cfg.virtio_mmio;          // lab 09
    if (on_pci)                            // lab 09
        rc = bridge_add(m, name, v, &dev); // lab 09
    if (!on_pci)
        rc = windows_add(m, name, v, &dev);
    if (dev == NULL) {
        virtio_destroy(v);
        return rc;
    }
    m->virtio.devs[m->virtio.dev_count++] = v;
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

// lab 08 {
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

// }

// lab 09 {
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

// }

// lab 09 {
static int wire_console(struct machine *m, struct loop *loop)
{
    struct virtio_console_port ports[MACHINE_CONSOLES_MAX];
    const struct virtio_console_setup setup = {.mem = &m->mem,
                                               .loop = loop,
                                               .log = m->cfg.log,
                                               .ports = ports,
                                               .port_count = m->cfg.console_count};
    struct virtio_dev *v;

    if (m->cfg.console_count == 0)
        return 0;
    for (unsigned i = 0; i < m->cfg.console_count; i++)
        ports[i] = (struct virtio_console_port){.chr = m->cfg.consoles[i].chr,
                                                .name = m->cfg.consoles[i].name,
                                                .stall_ms = i == 0 ? CHR_STALL_MS : 0};
    int rc = virtio_console_create("console", &setup, &v);
    if (rc == 0)
        rc = carry(m, "console", v);
    m->virtio.console = rc == 0 ? v : NULL;
    return rc;
}

void machine_resize_console(struct machine *m, unsigned port, uint16_t cols, uint16_t rows)
{
    if (m->virtio.console != NULL)
        (void)!virtio_console_resize(m->virtio.console, port, cols, rows); /* or no such port */
}

static int wire_balloon(struct machine *m, struct loop *loop)
{
    const struct virtio_balloon_setup setup = {
        .mem = &m->mem, .loop = loop, .log = m->cfg.log, .deflate_on_oom = true, .reporting = true};
    struct virtio_dev *v;

    if (!m->cfg.balloon)
        return 0;
    int rc = virtio_balloon_create("balloon", &setup, &v);
    if (rc < 0)
        return rc;
    virtio_balloon_set_target(v, m->cfg.balloon_size / VIRTIO_BALLOON_PAGE);
    return carry(m, "balloon", v);
}

static int wire_vsock(struct machine *m, struct loop *loop, struct error *err)
{
    struct virtio_vsock_setup setup = {
        .mem = &m->mem, .loop = loop, .cid = m->cfg.vsock_cid, .path = m->cfg.vsock_path};
    struct virtio_dev *v;

    if (setup.path == NULL)
        return 0;
    int rc = virtio_vsock_listen(setup.path, &setup.listener, err);
    if (rc < 0)
        return rc;
    rc = virtio_vsock_create("vsock", &setup, &v);
    if (rc < 0) {
        unlisten_unix(setup.path, &setup.listener);
        return error_sys(err, rc, "cannot make a socket device with CID %" PRIu64, setup.cid);
    }
    return carry(m, "vsock", v);
}
// }

static int wire_devices(struct machine *m, struct error *err)
{
    struct loop *shared;
    int rc = add_thread(m, "io", &shared);

    // lab 08 {
    for (unsigned i = 0; rc == 0 && i < m->cfg.disk_count; i++)
        rc = wire_disk(m, i);
    // }
    // lab 09 {
    for (unsigned i = 0; rc == 0 && i < m->cfg.nic_count; i++)
        rc = wire_nic(m, i);
    // }
    if (rc == 0 && m->cfg.rng)
        rc = wire_rng(m, shared);
    // lab 09 {
    if (rc == 0)
        rc = wire_console(m, shared);
    if (rc == 0)
        rc = wire_balloon(m, shared);
    if (rc == 0)
        rc = wire_vsock(m, shared, err);
    // }
    return rc;
}

int virtio_wire(struct machine *m, struct error *err)
{
    int rc = 0;

    windows_init(&m->windows);
    if (!m->cfg.irqchip) /* nobody could interrupt */
        return 0;
    rc = bridge_wire(m); // lab 09
    if (rc == 0)
        rc = wire_devices(m, err);
    if (rc < 0 && err->text[0] != '\0')
        return rc;
    if (rc == -ENOSPC)
        return error_set(
            err, rc,
            "too many virtio devices: there are %d windows, or %d slots on PCI, and %d "
            "threads, of which each disk's queue takes one",
            WINDOWS, VIRTIO_DEVICES_MAX, IO_THREADS_MAX);
    if (rc == 0)
        rc = windows_add_empty(m);
    return rc < 0 ? error_sys(err, rc, "cannot set up the virtio devices") : 0;
}

void virtio_unwire(struct machine *m)
{
    for (unsigned i = 0; i < m->virtio.thread_count; i++)
        iothread_destroy(m->virtio.threads[i]);
    m->virtio.thread_count = 0;
    bridge_unwire(m); // lab 09
    windows_fini(&m->windows);
}
