/*
 * Virtio over PCI, VIRTIO 1.2 §4.1.
 *
 * The BAR, in pages of 4 KiB so that each structure could be given to somebody else:
 *
 *     0x0000  common configuration    0x3000  doorbells, 4 bytes for each queue
 *     0x1000  interrupt status        0x4000  MSI-X table
 *     0x2000  device configuration    0x5000  MSI-X pending bits
 *
 * Fields are accessed in their own width (§4.1.3.1); other accesses read 0 and write nothing.
 *
 * Locks: the host bridge's, then this device's, then a queue's, then `pin_lock`.
 *
 * Left out: the legacy interface, shared memory, and notification data.
 */
#include "hv/virtio/pci.h"

#include <errno.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "virtio/pci_priv.h"

#define COMMON 0x0000
#define ISR 0x1000
#define DEVICE_CONFIG 0x2000
#define NOTIFY 0x3000
#define MSIX_TABLE 0x4000
#define MSIX_PBA 0x5000
#define PAGE 0x1000
#define BAR_SIZE 0x8000

#define VENDOR 0x1af4
#define DEVICE_BASE 0x1040 /* plus the virtio device id, §4.1.2 */
#define ISR_QUEUE 1

/* --- interrupts --- */

static void update_pin_locked(struct virtio_pci *t)
{
    irq_set(&t->cfg.pin, t->isr != 0 && !t->pin_masked);
}

static void interrupt(struct virtio_pci *t, uint16_t vector, uint8_t why)
{
    if (msix_is_enabled(&t->msix)) {
        msix_notify(&t->msix, vector); /* NO_VECTOR is beyond every table */
        return;
    }
    pthread_mutex_lock(&t->pin_lock);
    t->isr |= why;
    update_pin_locked(t);
    pthread_mutex_unlock(&t->pin_lock);
}

static void on_used(void *ctx, unsigned queue)
{
    struct virtio_pci *t = ctx;

    interrupt(t, atomic_load(&t->queue_vectors[queue]), ISR_QUEUE);
}

static void on_config(void *ctx)
{
    struct virtio_pci *t = ctx;

    interrupt(t, atomic_load(&t->config_vector), VIRTIO_PCI_ISR_CONFIG);
}

uint8_t vpci_take_isr(struct virtio_pci *t)
{
    pthread_mutex_lock(&t->pin_lock);
    uint8_t isr = t->isr;
    t->isr = 0;
    update_pin_locked(t);
    pthread_mutex_unlock(&t->pin_lock);
    return isr;
}

/* --- the BAR --- */

static uint32_t read_device_config(struct virtio_pci *t, uint64_t offset, unsigned size)
{
    uint32_t value = 0;

    virtio_config_read(t->v, offset, &value, size);
    return value;
}

static uint64_t bar_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct virtio_pci *t = container_of(dev, struct virtio_pci, dev);
    uint64_t in_page = offset % PAGE;

    switch (offset - in_page) {
    case COMMON:
        return size == vpci_common_size(in_page) ? vpci_common_read(t, in_page) : 0;
    case ISR:
        return in_page == 0 ? vpci_take_isr(t) : 0;
    case DEVICE_CONFIG:
        return read_device_config(t, in_page, size);
    case MSIX_TABLE:
        return msix_table_read(&t->msix, in_page, size);
    case MSIX_PBA:
        return msix_pba_read(&t->msix, in_page, size);
    default: /* doorbells are written only */
        return 0;
    }
}

/* Whatever is written, it is the place that tells which queue. */
static void ring(struct virtio_pci *t, uint64_t offset)
{
    struct virtio_queue *q = virtio_queue(t->v, (uint32_t)(offset / VIRTIO_PCI_NOTIFY_SIZE));

    if (q)
        virtio_kick(q);
}

static void bar_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_pci *t = container_of(dev, struct virtio_pci, dev);
    uint64_t in_page = offset % PAGE;

    switch (offset - in_page) {
    case COMMON:
        if (size == vpci_common_size(in_page))
            vpci_common_write(t, in_page, (uint32_t)value);
        break;
    case DEVICE_CONFIG:
        virtio_config_write(t->v, in_page, &value, size);
        break;
    case NOTIFY:
        ring(t, in_page);
        break;
    case MSIX_TABLE:
        msix_table_write(&t->msix, in_page, size, (uint32_t)value);
        break;
    default: /* read-only, or nothing */
        break;
    }
}

/* --- the configuration space --- */

/* §4.1.4.9: a window of 4 bytes through which the BAR can be reached without mapping it. False: the
 * guest has not said a place that there is. */
static bool window_target(const struct virtio_pci *t, uint32_t *offset, uint32_t *length)
{
    *offset = pci_get32(&t->fn, t->cfg_cap + VIRTIO_PCI_CAP_OFFSET);
    *length = pci_get32(&t->fn, t->cfg_cap + VIRTIO_PCI_CAP_LENGTH);
    if (t->fn.config[t->cfg_cap + VIRTIO_PCI_CAP_BAR] != VIRTIO_PCI_BAR)
        return false;
    if (*length != 1 && *length != 2 && *length != 4)
        return false;
    return *offset % *length == 0 && range_fits(*offset, *length, BAR_SIZE);
}

static bool touches_window(const struct virtio_pci *t, unsigned offset, unsigned size)
{
    unsigned data = t->cfg_cap + sizeof(struct virtio_pci_cap);

    return offset < data + 4 && data < offset + size;
}

static void on_config_reading(struct pci_dev *p, unsigned offset, unsigned size)
{
    struct virtio_pci *t = container_of(p, struct virtio_pci, fn);
    uint32_t place, length;

    if (touches_window(t, offset, size) && window_target(t, &place, &length))
        pci_put32(p, t->cfg_cap + sizeof(struct virtio_pci_cap),
                  (uint32_t)dev_read(&t->dev, place, length));
}

static void update_pin(struct virtio_pci *t)
{
    pthread_mutex_lock(&t->pin_lock);
    t->pin_masked = pci_get16(&t->fn, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
    update_pin_locked(t);
    pthread_mutex_unlock(&t->pin_lock);
}

static void on_config_written(struct pci_dev *p, unsigned offset, unsigned size)
{
    struct virtio_pci *t = container_of(p, struct virtio_pci, fn);
    uint32_t place, length;

    msix_config_written(&t->msix);
    update_pin(t);
    if (touches_window(t, offset, size) && window_target(t, &place, &length))
        dev_write(&t->dev, place, length, pci_get32(p, t->cfg_cap + sizeof(struct virtio_pci_cap)));
}

static void on_bar_moved(struct pci_dev *p, unsigned index, bool there)
{
    struct virtio_pci *t = container_of(p, struct virtio_pci, fn);
    uint64_t doorbells = p->bars[index].mapped + NOTIFY;

    for (unsigned i = 0; t->cfg.doorbell && i < t->v->queue_count; i++)
        t->cfg.doorbell(t->cfg.doorbell_ctx, doorbells + (uint64_t)i * VIRTIO_PCI_NOTIFY_SIZE,
                        t->v->queues[i].kick, there);
}

static const struct pci_ops fn_ops = {
    .config_reading = on_config_reading,
    .config_written = on_config_written,
    .bar_moved = on_bar_moved,
};

/* --- life --- */

static void pci_transport_save(struct device *dev, struct codec_writer *w)
{
    struct virtio_pci *t = container_of(dev, struct virtio_pci, dev);

    pci_save(&t->fn, w);
    msix_save(&t->msix, w);
    codec_put_u32(w, t->offered_sel);
    codec_put_u32(w, t->accepted_sel);
    codec_put_u16(w, t->queue_sel);
    codec_put_u8(w, t->isr);
    codec_put_u16(w, atomic_load(&t->config_vector));
    for (unsigned i = 0; i < t->v->queue_count; i++)
        codec_put_u16(w, atomic_load(&t->queue_vectors[i]));
    virtio_save(t->v, w);
}

/* What is read before the device's own state, and taken after it was judged. */
struct saved {
    uint8_t config[PCI_CONFIG_SIZE];
    struct msix_state msix;
    uint32_t offered_sel, accepted_sel;
    uint16_t queue_sel, config_vector, queue_vectors[VIRTIO_QUEUES_MAX];
    uint8_t isr;
};

static bool is_vector(const struct virtio_pci *t, uint16_t vector)
{
    return vector == vpci_known_vector(t, vector);
}

static int read_saved(const struct virtio_pci *t, struct codec_reader *r, struct saved *s)
{
    bool valid = pci_load(&t->fn, r, s->config) == 0 && msix_load(&t->msix, r, &s->msix) == 0;

    s->offered_sel = codec_get_u32(r);
    s->accepted_sel = codec_get_u32(r);
    s->queue_sel = codec_get_u16(r);
    s->isr = codec_get_u8(r);
    s->config_vector = codec_get_u16(r);
    valid =
        valid && !(s->isr & ~(ISR_QUEUE | VIRTIO_PCI_ISR_CONFIG)) && is_vector(t, s->config_vector);
    for (unsigned i = 0; i < t->v->queue_count; i++) {
        s->queue_vectors[i] = codec_get_u16(r);
        valid = valid && is_vector(t, s->queue_vectors[i]);
    }
    if (r->failed)
        return r->failed;
    return valid ? 0 : -EINVAL;
}

static void exchange(_Atomic uint16_t *vector, uint16_t *saved)
{
    *saved = atomic_exchange(vector, *saved);
}

/* Takes the interrupts of S, leaving the present ones in it. Before the device goes on, which may
 * speak at once; undone by a second call. */
static void exchange_interrupts(struct virtio_pci *t, struct saved *s)
{
    exchange(&t->config_vector, &s->config_vector);
    for (unsigned i = 0; i < t->v->queue_count; i++)
        exchange(&t->queue_vectors[i], &s->queue_vectors[i]);
    pthread_mutex_lock(&t->pin_lock);
    uint8_t isr = t->isr;
    t->isr = s->isr;
    s->isr = isr;
    update_pin_locked(t);
    pthread_mutex_unlock(&t->pin_lock);
}

static int pci_transport_load(struct device *dev, struct codec_reader *r)
{
    struct virtio_pci *t = container_of(dev, struct virtio_pci, dev);
    struct saved s;
    int rc = read_saved(t, r, &s);

    if (rc < 0)
        return rc;
    exchange_interrupts(t, &s);
    rc = virtio_load(t->v, r);
    if (rc < 0) {
        exchange_interrupts(t, &s);
        return rc;
    }
    t->offered_sel = s.offered_sel;
    t->accepted_sel = s.accepted_sel;
    t->queue_sel = s.queue_sel;
    pci_restore(&t->fn, s.config);
    msix_restore(&t->msix, &s.msix);
    update_pin(t);
    return 0;
}

static void pci_transport_destroy(struct device *dev)
{
    struct virtio_pci *t = container_of(dev, struct virtio_pci, dev);

    pci_remove(&t->fn);
    virtio_destroy(t->v);
    msix_fini(&t->msix);
    (void)pthread_mutex_destroy(&t->pin_lock);
    dev_fini(&t->dev);
    free(t);
}

static const struct dev_ops transport_ops = {
    .read = bar_read,
    .write = bar_write,
    .save = pci_transport_save,
    .load = pci_transport_load,
    .destroy = pci_transport_destroy,
    .max_access = 4,
    .version = 1,
};

/* PCI class codes, so that tools say something useful. */
static uint32_t class_of(uint32_t virtio_id)
{
    switch (virtio_id) {
    case VIRTIO_ID_NET:
        return 0x020000; /* Ethernet */
    case VIRTIO_ID_BLOCK:
        return 0x018000; /* other mass storage */
    case VIRTIO_ID_CONSOLE:
        return 0x078000; /* other communication */
    default:
        return 0xff0000; /* of no class */
    }
}

/* A capability that says where one of the structures lies: §4.1.4. */
static unsigned add_structure(struct virtio_pci *t, uint8_t type, unsigned size, uint32_t offset,
                              uint32_t length)
{
    /* EXERCISE 9.9: a vendor's capability (PCI_CAP_ID_VNDR) of `size` bytes that says: the
     * structure of this `type` is in BAR VIRTIO_PCI_BAR, `offset` bytes from its beginning, and
     * `length` bytes long. Returns where in the configuration space the capability lies.
     * VIRTIO_PCI_CAP_… of <linux/virtio_pci.h> are the places of its fields. */
    // SOLUTION 9.9
    unsigned cap = pci_add_capability(&t->fn, PCI_CAP_ID_VNDR, size);

    t->fn.config[cap + VIRTIO_PCI_CAP_LEN] = (uint8_t)size;
    t->fn.config[cap + VIRTIO_PCI_CAP_CFG_TYPE] = type;
    t->fn.config[cap + VIRTIO_PCI_CAP_BAR] = VIRTIO_PCI_BAR;
    pci_put32(&t->fn, cap + VIRTIO_PCI_CAP_OFFSET, offset);
    pci_put32(&t->fn, cap + VIRTIO_PCI_CAP_LENGTH, length);
    return cap;
    // ELSE
    // return (unsigned)(todo("9.9") == 0);
    // END 9.9
}

static void add_structures(struct virtio_pci *t)
{
    const unsigned plain = sizeof(struct virtio_pci_cap);

    add_structure(t, VIRTIO_PCI_CAP_COMMON_CFG, plain, COMMON,
                  sizeof(struct virtio_pci_common_cfg));
    add_structure(t, VIRTIO_PCI_CAP_ISR_CFG, plain, ISR, 1);
    add_structure(t, VIRTIO_PCI_CAP_DEVICE_CFG, plain, DEVICE_CONFIG, PAGE);
    unsigned notify =
        add_structure(t, VIRTIO_PCI_CAP_NOTIFY_CFG, sizeof(struct virtio_pci_notify_cap), NOTIFY,
                      t->v->queue_count * VIRTIO_PCI_NOTIFY_SIZE);
    pci_put32(&t->fn, notify + VIRTIO_PCI_NOTIFY_CAP_MULT, VIRTIO_PCI_NOTIFY_SIZE);
    t->cfg_cap = add_structure(t, VIRTIO_PCI_CAP_PCI_CFG, sizeof(struct virtio_pci_cfg_cap), 0, 0);
    pci_allow(&t->fn, t->cfg_cap + VIRTIO_PCI_CAP_BAR, 1, 0xff);
    pci_allow(&t->fn, t->cfg_cap + VIRTIO_PCI_CAP_OFFSET, 4, UINT32_MAX);
    pci_allow(&t->fn, t->cfg_cap + VIRTIO_PCI_CAP_LENGTH, 4, UINT32_MAX);
    pci_allow(&t->fn, t->cfg_cap + sizeof(struct virtio_pci_cap), 4, UINT32_MAX);
}

int virtio_pci_create(const char *name, struct virtio_dev *v, const struct virtio_pci_setup *cfg,
                      struct device **out)
{
    struct virtio_pci *t = calloc(1, sizeof(*t));
    const struct pci_id id = {
        .vendor = VENDOR,
        .device = (uint16_t)(DEVICE_BASE + v->ops->id),
        .subsystem_vendor = VENDOR,
        .subsystem = (uint16_t)v->ops->id,
        .class_code = class_of(v->ops->id),
        .revision = 1, /* §4.1.2.1: no transitional device */
    };
    const struct pci_bar bar = {.size = BAR_SIZE, .is_64 = true, .window = t ? &t->dev : NULL};

    if (t == NULL)
        return -ENOMEM;
    dev_init(&t->dev, &transport_ops, name);
    (void)pthread_mutex_init(&t->pin_lock, NULL); /* does not fail on Linux */
    t->cfg = *cfg;
    pci_init(&t->fn, &fn_ops, name, &id);
    t->fn.config[PCI_INTERRUPT_PIN] = 1; /* INTA# */
    t->v = v;
    vpci_reset_vectors(t);
    pci_set_bar(&t->fn, VIRTIO_PCI_BAR, &bar);
    add_structures(t);
    msix_init(&t->msix, &t->fn, v->queue_count + 1, VIRTIO_PCI_BAR, MSIX_TABLE, MSIX_PBA,
              &cfg->msix);
    int rc = pci_add(cfg->bus, &t->fn);
    if (rc < 0) {
        t->v = NULL; /* stays the caller's */
        pci_transport_destroy(&t->dev);
        return rc;
    }
    virtio_attach(v, &(struct virtio_port){.used = on_used, .config = on_config, .ctx = t});
    *out = &t->dev;
    return 0;
}
