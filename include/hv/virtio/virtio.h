/*
 * What every virtio device has in common: features, status, queues, interrupts (VIRTIO 1.2 §2, §3).
 *
 *     transport (mmio.c, pci.c)      registers, where the guest finds them; one of the two
 *     struct virtio_dev  (here)      what the registers mean
 *     concrete device (rng.c, …)     what the buffers mean
 *
 * A device does not know which transport carries it, nor a transport which device it carries.
 *
 * Threads. Registers are accessed by vCPU threads, under the transport's lock: every function
 * marked [control]. A queue is served on the thread that runs its loop: serve() and all
 * that it calls hold the lock of their queue, `virtio_queue.lock`. Lock order: the transport's, a
 * queue's, whatever virtio_port takes. A device that answers later (a disk) counts its request
 * with virtio_begin(), and completes it on the same loop under the queue's lock; whoever stops the
 * device waits until nothing is in flight, so that no answer outlives a reset.
 */
#ifndef HV_VIRTIO_VIRTIO_H
#define HV_VIRTIO_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/base/codec.h"
#include "hv/base/counter.h"
#include "hv/base/loop.h"
#include "hv/virtio/queue.h"

#define VIRTIO_QUEUES_MAX 64 /* of one device */
#define VIRTIO_FEATURE(bit) (UINT64_C(1) << (bit))

struct virtio_dev;
struct virtio_queue;

struct virtio_ops {
    uint32_t id;       /* VIRTIO_ID_…, §5 */
    uint64_t features; /* of the device's type; those of queues and transport are added */
    uint32_t version;  /* of what save() writes */
    /* The driver's last word was DRIVER_OK: v->features are negotiated, the queues run. NULL:
     * nothing to do. */
    void (*start)(struct virtio_dev *v);
    /* Everything as it was before the first driver came. The queues are stopped, nothing is in
     * flight. */
    void (*reset)(struct virtio_dev *v);
    /* Chains may be available on q. Pops, pushes, publishes; a queue that breaks is dealt with by
     * the caller. Under q->lock. */
    void (*serve)(struct virtio_dev *v, struct virtio_queue *q);
    /* q stops, for now or for good: chains that the device holds without having begun with them go
     * back (vq_unpop()). Under q->lock. NULL: it holds none. */
    void (*stop)(struct virtio_dev *v, struct virtio_queue *q);
    /* The device's configuration space, §2.5. Reads beyond its end give 0, writes vanish. NULL:
     * there is none, or nothing in it can be written. */
    void (*config_read)(struct virtio_dev *v, uint64_t offset, void *out, unsigned size);
    void (*config_write)(struct virtio_dev *v, uint64_t offset, const void *data, unsigned size);
    /* What is the device's own, as the last fields of the section. As in struct dev_ops: load()
     * reads, calls codec_leave(), validates, and changes the device only then. NULL: nothing is. */
    void (*save)(struct virtio_dev *v, struct codec_writer *w);
    int (*load)(struct virtio_dev *v, struct codec_reader *r);
    void (*destroy)(struct virtio_dev *v);
};

/* The transport as its device sees it: how the driver is told. From any thread. */
struct virtio_port {
    void (*used)(void *ctx, unsigned queue); /* buffers of this queue were used */
    void (*config)(void *ctx);               /* configuration or status changed */
    void *ctx;
};

/* What a device asks for each of its queues. */
struct virtio_queue_config {
    uint16_t size;     /* entries, a power of two up to VQ_SIZE_MAX */
    struct loop *loop; /* borrowed: its thread serves the queue; not the main thread's */
};

struct virtio_queue {
    struct vq vq;
    struct virtio_dev *dev; /* borrowed */
    struct loop *loop;      /* borrowed */
    unsigned index;
    int kick;             /* eventfd: the driver notified this queue; owned */
    pthread_mutex_t lock; /* guards vq, in_flight, running */
    pthread_cond_t idle;  /* in_flight became 0 */
    unsigned in_flight;   /* chains popped and not yet pushed */
    bool running;         /* chains may be popped */
    /* Statistics: written under the lock, read by anyone. */
    _Atomic uint64_t kicks;      /* times that somebody asked to look at it */
    _Atomic uint64_t chains;     /* given back to the driver */
    _Atomic uint64_t interrupts; /* that the driver wanted for them */
};

struct virtio_dev {
    const struct virtio_ops *ops;
    const char *name; /* static string, and the name of its section */
    struct virtio_port port;
    uint64_t offered;
    /* Written by vCPU threads under the transport's lock. */
    uint64_t features;      /* what the driver wrote so far; negotiated once FEATURES_OK is set */
    _Atomic uint8_t status; /* VIRTIO_CONFIG_S_…; NEEDS_RESET may be set by any thread */
    _Atomic uint32_t generation; /* of the configuration space, §2.5.1 */
    struct virtio_queue *queues; /* owned */
    unsigned queue_count;
};

/* --- for concrete devices --- */

/* Fills in a device with `count` queues. -ENOMEM, -EMFILE: nothing is left behind. `features`: in
 * addition to ops->features. */
int virtio_init(struct virtio_dev *v, const struct virtio_ops *ops, const char *name,
                const struct mem *mem, uint64_t features, const struct virtio_queue_config *queues,
                unsigned count) HV_MUST_CHECK;
void virtio_fini(struct virtio_dev *v);

static inline bool virtio_has(const struct virtio_dev *v, unsigned bit)
{
    return v->features & VIRTIO_FEATURE(bit);
}

/* Does not offer these features after all: for measuring what they are good for, and for drivers
 * that get them wrong. Before the driver sees the device. */
void virtio_withhold(struct virtio_dev *v, uint64_t features);

/* Publishes what was pushed, and tells the driver if it wants to know. Under q->lock. */
void virtio_publish(struct virtio_queue *q);

/* The device cannot go on until it is reset (§2.1.2): it stops, and the driver is told. */
void virtio_needs_reset(struct virtio_dev *v);

/* The configuration space changed: a new generation, and an interrupt. */
void virtio_config_changed(struct virtio_dev *v);

/* For requests that are answered later. Under q->lock both; the second may be the last of q. */
void virtio_begin(struct virtio_queue *q);
void virtio_end(struct virtio_queue *q);

/* Serves q as if its driver had notified it. From any thread. */
void virtio_kick(struct virtio_queue *q);

/* --- for transports: [control] --- */

void virtio_attach(struct virtio_dev *v, const struct virtio_port *port);

/* 32 feature bits, offered and driver's; `select` 0 and 1, others read 0 and are ignored. */
uint32_t virtio_offered(const struct virtio_dev *v, uint32_t select);
uint32_t virtio_accepted(const struct virtio_dev *v, uint32_t select);
void virtio_accept(struct virtio_dev *v, uint32_t select, uint32_t bits);

uint8_t virtio_status(const struct virtio_dev *v);
void virtio_set_status(struct virtio_dev *v, uint8_t status);

/* The queue of this number, or NULL. */
struct virtio_queue *virtio_queue(struct virtio_dev *v, uint32_t index);

/* May the driver still change where q lies? Not once it is enabled. */
bool virtio_can_place(const struct virtio_queue *q);
/* Takes q into use where it was placed. A place that cannot be is the driver's mistake: the device
 * needs a reset. */
void virtio_enable_queue(struct virtio_queue *q);

/* Takes q out of use, once nothing of it is in flight; it can be placed again then. */
void virtio_reset_queue(struct virtio_queue *q);

void virtio_config_read(struct virtio_dev *v, uint64_t offset, void *out, unsigned size);
void virtio_config_write(struct virtio_dev *v, uint64_t offset, const void *data, unsigned size);

/* Stops all queues and waits until nothing is in flight; and lets them go on. For a reset, and for
 * whoever pauses the machine. */
void virtio_stop(struct virtio_dev *v);
void virtio_go_on(struct virtio_dev *v);

/* State, as the last fields of the transport's open section. virtio_load() closes the section, and
 * changes the device only when all went well: else -EINVAL for what no device of ours saved,
 * -ENOMEM, or codec_leave()'s. A device that ran when it was saved runs afterwards. Both with the
 * machine stopped. */
void virtio_save(struct virtio_dev *v, struct codec_writer *w);
int virtio_load(struct virtio_dev *v, struct codec_reader *r) HV_MUST_CHECK;

void virtio_destroy(struct virtio_dev *v); /* takes NULL */

#endif
