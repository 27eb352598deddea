/*
 * The console device (VIRTIO 1.2 §5.3): up to eight ports, each a stream of bytes both ways and
 * joined to a character back end. Port 0 is the guest's console (Linux: /dev/hvc0); the others are
 * found by their names (/dev/virtio-ports/NAME). A driver that knows of one port only gets port 0.
 *
 * Nothing here waits, and nothing grows. Input that the guest has no buffers for, or no open port,
 * stays with the back end. Output that the back end has no room for stays in the guest's queue, so
 * that the guest's writer waits. For a console that would be too long: a kernel that prints waits
 * with its interrupts off. So a port can be told to drop output once nothing has moved for a while,
 * until something moves again.
 *
 * Threads: back ends live on their loop, usually the main thread's; queues are served by an I/O
 * thread's. Create and destroy are called from the back ends' thread while neither loop runs the
 * device; the other functions from any thread.
 */
#ifndef HV_VIRTIO_CONSOLE_H
#define HV_VIRTIO_CONSOLE_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/chr/chr.h"
#include "hv/mem/mem.h"
#include "hv/virtio/virtio.h"

#define VIRTIO_CONSOLE_PORTS_MAX 8
#define VIRTIO_CONSOLE_NAME_MAX 63 /* characters */

struct virtio_console_port {
    struct chr *chr;   /* borrowed, outlives the device; its write() must not block for long */
    const char *name;  /* copied; NULL or "": none */
    unsigned stall_ms; /* CHR_STALL_MS is good for a console; 0: output waits for ever */
};

struct virtio_console_setup {
    const struct mem *mem; /* borrowed, outlives the device */
    struct loop *loop;     /* borrowed likewise: an I/O thread's */
    const struct log *log; /* borrowed likewise; may be NULL */
    const struct virtio_console_port *ports;
    unsigned port_count; /* 1..VIRTIO_CONSOLE_PORTS_MAX */
    uint16_t cols, rows; /* of port 0's screen; 0: not known */
};

/* -EINVAL: a name is too long, or two are the same. -ENOMEM, -EMFILE. */
int virtio_console_create(const char *name, const struct virtio_console_setup *setup,
                          struct virtio_dev **out) HV_MUST_CHECK;

/* The size of a port's screen has changed; the driver is told. -ENOENT: no such port. */
int virtio_console_resize(struct virtio_dev *v, unsigned port, uint16_t cols,
                          uint16_t rows) HV_MUST_CHECK;

/* Is anybody there at the host's end of a port? The driver is told when that changes. While nobody
 * is, output vanishes, and there is no input. At first somebody is. -ENOENT: no such port. */
int virtio_console_set_open(struct virtio_dev *v, unsigned port, bool open) HV_MUST_CHECK;

/* Has the guest opened this port? False for a port that is not there. */
bool virtio_console_is_open(const struct virtio_dev *v, unsigned port);

struct virtio_console_stats {
    uint64_t received; /* bytes given to the guest, all ports */
    uint64_t sent;     /* bytes that the back ends took */
    uint64_t dropped;  /* output that did not move for stall_ms, or had nobody to read it */
    uint64_t ignored;  /* control messages that made no sense */
};

void virtio_console_stats(const struct virtio_dev *v, struct virtio_console_stats *out);

#endif
