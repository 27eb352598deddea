/*
 * The registers of virtio over PCI that every device has: common configuration, VIRTIO 1.2
 * §4.1.4.3.
 */
#include <linux/virtio_pci.h>

#include "virtio/pci_priv.h"
#include "virtio/transport_priv.h"

unsigned vpci_common_size(uint64_t offset)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_STATUS:
    case VIRTIO_PCI_COMMON_CFGGENERATION:
        return 1;
    case VIRTIO_PCI_COMMON_MSIX:
    case VIRTIO_PCI_COMMON_NUMQ:
    case VIRTIO_PCI_COMMON_Q_SELECT:
    case VIRTIO_PCI_COMMON_Q_SIZE:
    case VIRTIO_PCI_COMMON_Q_MSIX:
    case VIRTIO_PCI_COMMON_Q_ENABLE:
    case VIRTIO_PCI_COMMON_Q_NOFF:
        return 2;
    default:
        return 4;
    }
}

static uint32_t read_queue(struct virtio_pci *t, uint64_t offset)
{
    const struct virtio_queue *q = virtio_queue(t->v, t->queue_sel);

    if (q == NULL)
        return 0; /* queue_size 0: there is no such queue */
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        return q->vq.at.size;
    case VIRTIO_PCI_COMMON_Q_MSIX:
        return atomic_load(&t->queue_vectors[q->index]);
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        return q->vq.enabled;
    case VIRTIO_PCI_COMMON_Q_NOFF:
        return q->index;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
        return (uint32_t)q->vq.at.desc;
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        return (uint32_t)(q->vq.at.desc >> 32);
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
        return (uint32_t)q->vq.at.driver;
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        return (uint32_t)(q->vq.at.driver >> 32);
    case VIRTIO_PCI_COMMON_Q_USEDLO:
        return (uint32_t)q->vq.at.device;
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        return (uint32_t)(q->vq.at.device >> 32);
    default:
        return 0;
    }
}

uint32_t vpci_common_read(struct virtio_pci *t, uint64_t offset)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        return t->offered_sel;
    case VIRTIO_PCI_COMMON_DF:
        return virtio_offered(t->v, t->offered_sel);
    case VIRTIO_PCI_COMMON_GFSELECT:
        return t->accepted_sel;
    case VIRTIO_PCI_COMMON_GF:
        return virtio_accepted(t->v, t->accepted_sel);
    case VIRTIO_PCI_COMMON_MSIX:
        return atomic_load(&t->config_vector);
    case VIRTIO_PCI_COMMON_NUMQ:
        return t->v->queue_count;
    case VIRTIO_PCI_COMMON_STATUS:
        return virtio_status(t->v);
    case VIRTIO_PCI_COMMON_CFGGENERATION:
        return atomic_load(&t->v->generation) & 0xff;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        return t->queue_sel;
    default:
        return read_queue(t, offset);
    }
}

/* §4.1.5.1.2.1: a vector that there is not reads back as none. */
uint16_t vpci_known_vector(const struct virtio_pci *t, uint32_t vector)
{
    return vector < t->msix.vectors ? (uint16_t)vector : NO_VECTOR;
}

/* Where the queue lies; fixed once it is enabled. */
static void place_queue(struct virtio_queue *q, uint64_t offset, uint32_t value)
{
    struct vq_layout *at = &q->vq.at;

    if (!virtio_can_place(q))
        return;
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        at->size = (uint16_t)value;
        break;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
        set_low(&at->desc, value);
        break;
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        set_high(&at->desc, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
        set_low(&at->driver, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        set_high(&at->driver, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDLO:
        set_low(&at->device, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        set_high(&at->device, value);
        break;
    default: /* read-only, or nothing */
        break;
    }
}

static void write_queue(struct virtio_pci *t, uint64_t offset, uint32_t value)
{
    struct virtio_queue *q = virtio_queue(t->v, t->queue_sel);

    if (q == NULL)
        return;
    if (offset == VIRTIO_PCI_COMMON_Q_MSIX)
        atomic_store(&t->queue_vectors[q->index], vpci_known_vector(t, value));
    else if (offset != VIRTIO_PCI_COMMON_Q_ENABLE)
        place_queue(q, offset, value);
    else if (value == 1) /* §4.1.4.3.2: the driver must not write 0 */
        virtio_enable_queue(q);
}

void vpci_reset_vectors(struct virtio_pci *t)
{
    atomic_store(&t->config_vector, NO_VECTOR);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        atomic_store(&t->queue_vectors[i], NO_VECTOR);
}

static void write_status(struct virtio_pci *t, uint8_t status)
{
    virtio_set_status(t->v, status);
    if (status != 0)
        return;
    vpci_reset_vectors(t);
    (void)vpci_take_isr(t);
}

void vpci_common_write(struct virtio_pci *t, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        t->offered_sel = value;
        break;
    case VIRTIO_PCI_COMMON_GFSELECT:
        t->accepted_sel = value;
        break;
    case VIRTIO_PCI_COMMON_GF:
        virtio_accept(t->v, t->accepted_sel, value);
        break;
    case VIRTIO_PCI_COMMON_MSIX:
        atomic_store(&t->config_vector, vpci_known_vector(t, value));
        break;
    case VIRTIO_PCI_COMMON_STATUS:
        write_status(t, (uint8_t)value);
        break;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        t->queue_sel = (uint16_t)value;
        break;
    default:
        write_queue(t, offset, value);
    }
}
