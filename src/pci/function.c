/*
 * The configuration space of a function: PCI §6.1 to §6.3, §6.7.
 *
 * Each bit is either writable or fixed. That, and telling the device what was written, is all there
 * is: registers with a behaviour of their own belong to whoever declared them.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "hv/base/todo.h"
#include "pci_priv.h"

#define FIRST_CAPABILITY 0x40 /* behind the header */
#define COMMAND_WRITABLE                                                                           \
    (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE)

uint16_t pci_get16(const struct pci_dev *p, unsigned offset)
{
    return (uint16_t)(p->config[offset] | p->config[offset + 1] << 8);
}

uint32_t pci_get32(const struct pci_dev *p, unsigned offset)
{
    return pci_get16(p, offset) | (uint32_t)pci_get16(p, offset + 2) << 16;
}

static void put(uint8_t *bytes, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

void pci_put16(struct pci_dev *p, unsigned offset, uint16_t value)
{
    put(p->config + offset, 2, value);
}

void pci_put32(struct pci_dev *p, unsigned offset, uint32_t value)
{
    put(p->config + offset, 4, value);
}

void pci_allow(struct pci_dev *p, unsigned offset, unsigned size, uint32_t mask)
{
    put(p->writable + offset, size, mask);
}

void pci_init(struct pci_dev *p, const struct pci_ops *ops, const char *name,
              const struct pci_id *id)
{
    *p = (struct pci_dev){.ops = ops, .name = name, .cap_end = FIRST_CAPABILITY};
    pci_put16(p, PCI_VENDOR_ID, id->vendor);
    pci_put16(p, PCI_DEVICE_ID, id->device);
    pci_put32(p, PCI_CLASS_REVISION, id->class_code << 8 | id->revision);
    pci_put16(p, PCI_SUBSYSTEM_VENDOR_ID, id->subsystem_vendor);
    pci_put16(p, PCI_SUBSYSTEM_ID, id->subsystem);
    pci_allow(p, PCI_COMMAND, 2, COMMAND_WRITABLE);
    pci_allow(p, PCI_CACHE_LINE_SIZE, 1, 0xff);
    pci_allow(p, PCI_INTERRUPT_LINE, 1, 0xff);
}

unsigned pci_add_capability(struct pci_dev *p, uint8_t id, unsigned size)
{
    unsigned at = p->cap_end;

    if (size < 2 || at == 0 || size > PCI_CONFIG_SIZE - at)
        return 0;
    p->config[at] = id;
    p->config[at + 1] = p->config[PCI_CAPABILITY_LIST]; /* a list that grows at its head */
    p->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
    pci_put16(p, PCI_STATUS, pci_get16(p, PCI_STATUS) | PCI_STATUS_CAP_LIST);
    p->cap_end = (uint8_t)((at + size + 3) & ~3U); /* 0 when the space is full to its last byte */
    return at;
}

/* --- the guest's accesses --- */

uint32_t pci_config_read(struct pci_dev *p, unsigned offset, unsigned size)
{
    uint32_t value = 0;

    assert(offset + size <= PCI_CONFIG_SIZE);
    if (p->ops->config_reading)
        p->ops->config_reading(p, offset, size);
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)p->config[offset + i] << (8 * i);
    return value;
}

/* Does [offset, offset + size) touch the register of `length` bytes at `reg`? */
static bool touches(unsigned offset, unsigned size, unsigned reg, unsigned length)
{
    return offset < reg + length && reg < offset + size;
}

void pci_config_write(struct pci_dev *p, unsigned offset, unsigned size, uint32_t value)
{
    assert(offset + size <= PCI_CONFIG_SIZE);
    /* EXERCISE 9.3: stores `value`, the lowest byte at `offset`. A bit whose bit in `writable` is 0
     * stays as it is; that is all that protects a function's identity and its capabilities. When
     * the write touches the command register (2 bytes) or a base address register, if only with one
     * byte, windows may have to appear, move or go: pci_update_bars(). Whatever was written, the
     * device hears of it at the end (config_written, if it has one). */
    // SOLUTION 9.3
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = p->writable[offset + i];
        uint8_t byte = (uint8_t)(value >> (8 * i));
        p->config[offset + i] = (uint8_t)((p->config[offset + i] & ~mask) | (byte & mask));
    }
    if (touches(offset, size, PCI_COMMAND, 2) ||
        touches(offset, size, PCI_BASE_ADDRESS_0, 4 * PCI_BARS))
        pci_update_bars(p);
    if (p->ops->config_written)
        p->ops->config_written(p, offset, size);
    // ELSE
    // if (todo("9.3") == 0 && touches(offset, size, PCI_COMMAND, 2))
    //     put(p->config + offset, size, value);
    // END 9.3
}

/* --- state --- */

void pci_save(const struct pci_dev *p, struct codec_writer *w)
{
    codec_put_bytes(w, p->config, sizeof(p->config));
}

int pci_load(const struct pci_dev *p, struct codec_reader *r, uint8_t config[PCI_CONFIG_SIZE])
{
    codec_get_bytes(r, config, PCI_CONFIG_SIZE);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        if ((config[i] ^ p->config[i]) & ~p->writable[i])
            return -EINVAL;
    return 0;
}

void pci_restore(struct pci_dev *p, const uint8_t config[PCI_CONFIG_SIZE])
{
    memcpy(p->config, config, PCI_CONFIG_SIZE);
    pci_update_bars(p);
}
