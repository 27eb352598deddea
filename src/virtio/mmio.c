/*
 * Registers of the memory-mapped transport, VIRTIO 1.2 §4.2.2.
 *
 * The interrupt line is edge-triggered: every use of a buffer the driver wants to hear of is an
 * edge of its own, so none is lost, and nothing has to be lowered when the driver acknowledges.
 *
 * Registers are 32 bits wide and are accessed as such; other accesses read 0 and write nothing. The
 * configuration space behind them takes any width.
 *
 * Left out: shared memory regions, and the legacy interface (version 1).
 */
#include "hv/virtio/mmio.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "virtio/transport_priv.h"

#define MAGIC 0x74726976 /* "virt" */
#define VERSION 2
#define VENDOR 0x626c7668 /* "hvlb" */

struct virtio_mmio {
    struct device dev;     /* its lock guards what follows, but for isr */
    struct virtio_dev *v;  /* owned; NULL: nothing is here */
    uint32_t offered_sel;  /* DeviceFeaturesSel */
    uint32_t accepted_sel; /* DriverFeaturesSel */
    uint32_t queue_sel;    /* QueueSel */
    pthread_mutex_t pin;   /* guards irq; innermost */
    struct irq_line irq;
    _Atomic uint32_t isr; /* InterruptStatus; set by any thread */
};

/* --- interrupts, from any thread --- */

static void interrupt(struct virtio_mmio *t, uint32_t why)
{
    atomic_fetch_or(&t->isr, why); /* before the edge: its handler reads this first */
    pthread_mutex_lock(&t->pin);
    irq_pulse(&t->irq);
    pthread_mutex_unlock(&t->pin);
}

static void on_used(void *ctx, unsigned queue)
{
    (void)queue; /* the driver looks at all of them */
    interrupt(ctx, VIRTIO_MMIO_INT_VRING);
}

static void on_config(void *ctx)
{
    interrupt(ctx, VIRTIO_MMIO_INT_CONFIG);
}

/* --- registers --- */

static struct virtio_queue *selected(const struct virtio_mmio *t)
{
    return virtio_queue(t->v, t->queue_sel);
}

static uint32_t read_queue(const struct virtio_mmio *t, uint64_t offset)
{
    const struct virtio_queue *q = selected(t);

    if (q == NULL)
        return 0; /* §4.2.2.1: QueueSizeMax 0 says that there is none */
    return offset == VIRTIO_MMIO_QUEUE_NUM_MAX ? q->vq.size_max : q->vq.enabled;
}

static uint32_t read_register(const struct virtio_mmio *t, uint64_t offset)
{
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return virtio_offered(t->v, t->offered_sel);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
    case VIRTIO_MMIO_QUEUE_READY:
        return read_queue(t, offset);
    case VIRTIO_MMIO_INTERRUPT_STATUS:
        return atomic_load(&t->isr);
    case VIRTIO_MMIO_STATUS:
        return virtio_status(t->v);
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
        return UINT32_MAX; /* §4.2.2: there is no such region */
    case VIRTIO_MMIO_CONFIG_GENERATION:
        return atomic_load(&t->v->generation);
    default:
        return 0; /* write-only, or nothing */
    }
}

static void set_ready(struct virtio_queue *q, uint32_t value)
{
    if (value == 1)
        virtio_enable_queue(q);
    else if (value == 0 && q->vq.enabled)
        virtio_reset_queue(q);
}

/* What is written to the selected queue. Once it is ready its place is fixed (§4.2.2.2). */
static void write_queue(struct virtio_queue *q, uint64_t offset, uint32_t value)
{
    struct vq_layout *at = &q->vq.at;

    if (offset == VIRTIO_MMIO_QUEUE_READY) {
        set_ready(q, value);
        return;
    }
    if (!virtio_can_place(q))
        return;
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
        at->size = value <= UINT16_MAX ? (uint16_t)value : 0; /* 0: refused when it is enabled */
        break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
        set_low(&at->desc, value);
        break;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
        set_high(&at->desc, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
        set_low(&at->driver, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
        set_high(&at->driver, value);
        break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
        set_low(&at->device, value);
        break;
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        set_high(&at->device, value);
        break;
    default: /* read-only, or nothing */
        break;
    }
}

static void write_register(struct virtio_mmio *t, uint64_t offset, uint32_t value)
{
    /* EXERCISE 7.10: the registers that can be written, VIRTIO 1.2 §4.2.2. Those that select a
     * half of the features, or a queue, take any value. QueueNotify is written with a queue's
     * number, and kicks that one, whichever is selected. InterruptACK takes away the bits of isr
     * that it names and no others, in one step: other threads set them. Status goes to the device,
     * and with 0 what is pending goes as well. All else belongs to the selected queue
     * (write_queue()), if there is one. */
    // SOLUTION 7.10
    struct virtio_queue *q = selected(t);

    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        t->offered_sel = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        virtio_accept(t->v, t->accepted_sel, value);
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        t->accepted_sel = value;
        break;
    case VIRTIO_MMIO_QUEUE_SEL:
        t->queue_sel = value;
        break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
        q = virtio_queue(t->v, value);
        if (q)
            virtio_kick(q);
        break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
        atomic_fetch_and(&t->isr, ~value);
        break;
    case VIRTIO_MMIO_STATUS:
        virtio_set_status(t->v, (uint8_t)value);
        if (value == 0)
            atomic_store(&t->isr, 0);
        break;
    default:
        if (q)
            write_queue(q, offset, value);
    }
    // ELSE
    // struct virtio_queue *q = selected(t);
    //
    // if (todo("7.10") == 0 && q)
    //     write_queue(q, offset, value);
    // END 7.10
}

/* Registers that tell what this is; there with a device or without. */
static bool is_identity(uint64_t offset)
{
    return offset <= VIRTIO_MMIO_VENDOR_ID;
}

static uint32_t read_identity(const struct virtio_mmio *t, uint64_t offset)
{
    const uint32_t words[] = {MAGIC, VERSION, t->v ? t->v->ops->id : 0, VENDOR};

    return words[offset / sizeof(uint32_t)];
}

static uint64_t mmio_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct virtio_mmio *t = container_of(dev, struct virtio_mmio, dev);
    uint32_t value = 0;

    if (offset >= VIRTIO_MMIO_CONFIG) {
        if (t->v)
            virtio_config_read(t->v, offset - VIRTIO_MMIO_CONFIG, &value, size);
        return value;
    }
    if (size != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0)
        return 0;
    if (is_identity(offset))
        return read_identity(t, offset);
    return t->v ? read_register(t, offset) : 0;
}

static void mmio_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_mmio *t = container_of(dev, struct virtio_mmio, dev);
    uint32_t word = (uint32_t)value;

    if (t->v == NULL)
        return;
    if (offset >= VIRTIO_MMIO_CONFIG)
        virtio_config_write(t->v, offset - VIRTIO_MMIO_CONFIG, &word, size);
    else if (size == sizeof(uint32_t) && offset % sizeof(uint32_t) == 0)
        write_register(t, offset, word);
}

/* --- life --- */

static void mmio_save(struct device *dev, struct codec_writer *w)
{
    const struct virtio_mmio *t = container_of(dev, struct virtio_mmio, dev);

    codec_put_u32(w, t->v ? t->v->ops->id : 0);
    codec_put_u32(w, t->offered_sel);
    codec_put_u32(w, t->accepted_sel);
    codec_put_u32(w, t->queue_sel);
    codec_put_u32(w, atomic_load(&t->isr));
    if (t->v)
        virtio_save(t->v, w);
}

static int mmio_load(struct device *dev, struct codec_reader *r)
{
    struct virtio_mmio *t = container_of(dev, struct virtio_mmio, dev);
    uint32_t id = codec_get_u32(r);
    uint32_t offered_sel = codec_get_u32(r), accepted_sel = codec_get_u32(r);
    uint32_t queue_sel = codec_get_u32(r), isr = codec_get_u32(r);

    if (id != (t->v ? t->v->ops->id : 0) ||
        (isr & ~(uint32_t)(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)))
        return r->failed ? r->failed : -EINVAL;
    /* Before the device goes on, which may speak at once. */
    uint32_t before = atomic_exchange(&t->isr, isr);
    int rc = t->v ? virtio_load(t->v, r) : codec_leave(r);
    if (rc < 0) {
        atomic_store(&t->isr, before);
        return rc;
    }
    t->offered_sel = offered_sel;
    t->accepted_sel = accepted_sel;
    t->queue_sel = queue_sel;
    return 0;
}

static void mmio_destroy(struct device *dev)
{
    struct virtio_mmio *t = container_of(dev, struct virtio_mmio, dev);

    virtio_destroy(t->v);
    (void)pthread_mutex_destroy(&t->pin);
    dev_fini(&t->dev);
    free(t);
}

static const struct dev_ops mmio_ops = {
    .read = mmio_read,
    .write = mmio_write,
    .save = mmio_save,
    .load = mmio_load,
    .destroy = mmio_destroy,
    .max_access = 4,
    .version = 1,
};

int virtio_mmio_create(const char *name, struct virtio_dev *v, const struct irq_line *irq,
                       struct device **out)
{
    struct virtio_mmio *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return -ENOMEM;
    dev_init(&t->dev, &mmio_ops, name);
    (void)pthread_mutex_init(&t->pin, NULL);
    t->irq = *irq;
    t->v = v;
    if (v)
        virtio_attach(v, &(struct virtio_port){.used = on_used, .config = on_config, .ctx = t});
    *out = &t->dev;
    return 0;
}
