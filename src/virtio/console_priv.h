/*
 * The console device's parts: console.c the device, console_port.c the bytes, console_ctrl.c the
 * messages about ports.
 *
 * Threads: an I/O thread serves all queues. The back ends' thread calls the ports' front ends, vCPU
 * threads write to the configuration. What they share is guarded by console.lock, which is held for
 * a copy at most, and under which nothing is called but what any thread may call at any time.
 */
#ifndef HV_VIRTIO_CONSOLE_PRIV_H
#define HV_VIRTIO_CONSOLE_PRIV_H

#include <linux/virtio_console.h>
#include <pthread.h>
#include <stdatomic.h>

#include "hv/base/timer.h"
#include "hv/virtio/console.h"

#define CONSOLE_INPUT_MAX 4096   /* bytes of a port's input on their way to the guest */
#define CONSOLE_PIECES 128       /* of one chain */
#define CONSOLE_BUDGET 65536     /* bytes in one go: others use this thread, too */
#define CONSOLE_BUDGET_CHAINS 64 /* chains likewise */

/* §5.3.2: a port's two queues, and between those of ports 0 and 1 the control queues. */
#define CONSOLE_CTRL_TO_DRIVER 2
#define CONSOLE_CTRL_FROM_DRIVER 3

/* Messages that a driver has yet to hear, in the order in which it hears them. They say how things
 * are, not what happened: so one bit each is enough, however often things change. */
enum console_due {
    CONSOLE_DUE_ADD = 1 << 0,
    CONSOLE_DUE_CONSOLE = 1 << 1,
    CONSOLE_DUE_NAME = 1 << 2,
    CONSOLE_DUE_RESIZE = 1 << 3,
    CONSOLE_DUE_OPEN = 1 << 4,
    CONSOLE_DUE_ALL = (1 << 5) - 1,
};

struct console_port {
    struct console *c; /* borrowed; NULL: never begun */
    unsigned number;
    struct chr *chr;              /* borrowed */
    struct virtio_queue *rx, *tx; /* borrowed */
    char name[VIRTIO_CONSOLE_NAME_MAX + 1];
    unsigned stall_ms;

    /* Guarded by the console's lock. */
    bool added;      /* the driver was told, or is about to be, that the port is there */
    bool ready;      /* it said that it wants to hear more */
    bool guest_open; /* somebody in the guest reads and writes */
    bool host_open;
    uint16_t cols, rows;
    unsigned due;                     /* of enum console_due */
    uint8_t input[CONSOLE_INPUT_MAX]; /* a ring */
    unsigned first, count;            /* its oldest byte, and how many there are */

    /* Guarded by tx->lock. */
    uint64_t done;    /* bytes of the next chain that are out already */
    uint16_t done_of; /* tx's next_avail, which says what chain that is */
    bool waiting;     /* `stall` runs, or has run: something is held */
    bool stalled;     /* nothing moves: what does not fit is dropped */
    struct timer stall;
    _Atomic bool expired; /* stall_ms passed */
};

struct console {
    struct virtio_dev v;
    const struct log *log;          /* borrowed */
    struct log_limit ignored_limit; /* guarded by the lock of CONSOLE_CTRL_FROM_DRIVER */
    _Atomic uint64_t received, sent, dropped, ignored;
    struct console_port ports[VIRTIO_CONSOLE_PORTS_MAX];
    unsigned port_count;

    pthread_mutex_t lock;
    bool multiport; /* negotiated; guarded by it, as much of the ports is */
};

static inline void console_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed); /* nothing is ordered by it */
}

/* --- console_port.c --- */

/* Attaches the back end; and ends that. */
int console_port_init(struct console_port *p) HV_MUST_CHECK;
void console_port_fini(struct console_port *p);

/* As before the first driver. With the queues stopped. */
void console_port_reset(struct console_port *p);

/* Under the queue's lock. */
void console_rx_serve(struct console_port *p);
void console_tx_serve(struct console_port *p);

/* Takes what fits of output that did not come by a queue, and drops the rest. */
void console_put_now(struct console_port *p, const void *data, size_t len);

/* The guest opens or closes its end. */
void console_guest_opens(struct console_port *p, bool open);

/* --- console_ctrl.c, under the queue's lock --- */

void console_tell_driver(struct console *c, struct virtio_queue *q);
void console_hear_driver(struct console *c, struct virtio_queue *q);

#endif
