/*
 * The host bridge: configuration mechanism #1 (PCI §3.2.2.3.2), and the slots of its one bus.
 *
 * Port 0xcf8 takes an address only as a whole dword; narrower accesses there belong to other
 * devices, of which the PC has one: the reset register at 0xcf9.
 *
 * Left out: functions 1 to 7, other buses, memory-mapped configuration (PCI Express).
 */
#include <errno.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "pci_priv.h"

#define DATA_OFFSET 4  /* of 0xcfc in the window */
#define RESET_OFFSET 1 /* of 0xcf9 */
#define ADDRESS_ENABLE 0x80000000U
#define ADDRESS_WRITABLE 0x80fffffcU

/* An Intel 440FX, which every kernel has met. */
static const struct pci_id bridge_id = {
    .vendor = 0x8086,
    .device = 0x1237,
    .class_code = 0x060000, /* host bridge */
    .revision = 2,
};

static const struct pci_ops bridge_ops = {0};

unsigned pci_line_of(unsigned slot)
{
    return slot % PCI_LINES; /* every function uses INTA#; slots take turns */
}

/* EXERCISE 9.2: configuration mechanism #1 (PCI 3.0 §3.2.2.3.2), in four small functions. The eight
 * ports hold an address register, which is one only for accesses of 4 bytes at its beginning, and
 * from DATA_OFFSET on the four bytes of data. is_address() and is_data() say which of the two an
 * access of `size` bytes at `offset` means; one that lies in both means neither. selected(): the
 * function that the address names, with bit 31 set, on bus 0, function 0 of a slot; else NULL.
 * config_offset(): the byte of its configuration space, for which the address gives the dword and
 * the port the byte in it. */
// SOLUTION 9.2
/* The function that the address names, or NULL. */
static struct pci_dev *selected(const struct pci_bus *bus)
{
    unsigned number = bus->address >> 16 & 0xff, slot = bus->address >> 11 & 0x1f;
    unsigned function = bus->address >> 8 & 7;

    if (!(bus->address & ADDRESS_ENABLE) || number != 0 || function != 0)
        return NULL;
    return bus->slots[slot];
}

/* The byte of the configuration space that an access to the data ports means. */
static unsigned config_offset(const struct pci_bus *bus, uint64_t offset)
{
    return (bus->address & 0xfc) + (unsigned)(offset - DATA_OFFSET);
}

static bool is_data(uint64_t offset, unsigned size)
{
    return offset >= DATA_OFFSET && offset + size <= DATA_OFFSET + 4;
}

static bool is_address(uint64_t offset, unsigned size)
{
    return offset == 0 && size == 4;
}
// ELSE
// static struct pci_dev *selected(const struct pci_bus *bus)
// {
//     return todo("9.2") == 0 ? bus->slots[0] : NULL;
// }
//
// static unsigned config_offset(const struct pci_bus *bus, uint64_t offset)
// {
//     return (unsigned)(offset % PCI_CONFIG_PORTS);
// }
//
// static bool is_data(uint64_t offset, unsigned size)
// {
//     return todo("9.2") == 0;
// }
//
// static bool is_address(uint64_t offset, unsigned size)
// {
//     return todo("9.2") == 0;
// }
// END 9.2

static bool is_reset(const struct pci_bus *bus, uint64_t offset, unsigned size)
{
    return offset == RESET_OFFSET && size == 1 && bus->cfg.reset != NULL;
}

static uint64_t host_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = container_of(dev, struct pci_bus, dev);

    if (is_address(offset, size))
        return bus->address;
    if (is_reset(bus, offset, size))
        return dev_read(bus->cfg.reset, bus->cfg.reset_offset, 1);

    struct pci_dev *p = selected(bus);
    if (!is_data(offset, size) || p == NULL)
        return UINT64_MAX;
    return pci_config_read(p, config_offset(bus, offset), size);
}

static void host_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = container_of(dev, struct pci_bus, dev);

    if (is_address(offset, size)) {
        bus->address = (uint32_t)value & ADDRESS_WRITABLE;
        return;
    }
    if (is_reset(bus, offset, size)) {
        dev_write(bus->cfg.reset, bus->cfg.reset_offset, 1, value);
        return;
    }
    struct pci_dev *p = selected(bus);
    if (is_data(offset, size) && p != NULL)
        pci_config_write(p, config_offset(bus, offset), size, (uint32_t)value);
}

/* --- slots --- */

int pci_add(struct pci_bus *bus, struct pci_dev *p)
{
    unsigned slot = 0;

    while (slot < PCI_SLOTS && bus->slots[slot] != NULL)
        slot++;
    if (slot == PCI_SLOTS)
        return -ENOSPC;
    p->bus = bus;
    int rc = pci_place_bars(p);
    if (rc < 0) {
        p->bus = NULL;
        return rc;
    }
    p->slot = slot;
    bus->slots[slot] = p;
    return 0;
}

void pci_remove(struct pci_dev *p)
{
    if (p->bus == NULL)
        return;
    pci_unmap_bars(p);
    p->bus->slots[p->slot] = NULL;
    p->bus = NULL;
}

/* --- life --- */

static void host_save(struct device *dev, struct codec_writer *w)
{
    const struct pci_bus *bus = container_of(dev, struct pci_bus, dev);

    codec_put_u32(w, bus->address);
    pci_save(&bus->bridge, w);
}

static int host_load(struct device *dev, struct codec_reader *r)
{
    struct pci_bus *bus = container_of(dev, struct pci_bus, dev);
    uint8_t config[PCI_CONFIG_SIZE];
    uint32_t address = codec_get_u32(r);
    int valid = pci_load(&bus->bridge, r, config);
    int rc = codec_leave(r);

    if (rc < 0)
        return rc;
    if (valid < 0 || (address & ~ADDRESS_WRITABLE))
        return -EINVAL;
    bus->address = address;
    pci_restore(&bus->bridge, config);
    return 0;
}

static void host_destroy(struct device *dev)
{
    struct pci_bus *bus = container_of(dev, struct pci_bus, dev);

    pci_remove(&bus->bridge);
    dev_fini(&bus->dev);
    free(bus);
}

static const struct dev_ops host_ops = {
    .read = host_read,
    .write = host_write,
    .save = host_save,
    .load = host_load,
    .destroy = host_destroy,
    .max_access = 4,
    .version = 1,
};

int pci_bus_create(const char *name, const struct pci_bus_config *cfg, struct pci_bus **out,
                   struct device **out_dev)
{
    struct pci_bus *bus = calloc(1, sizeof(*bus));

    if (bus == NULL)
        return -ENOMEM;
    dev_init(&bus->dev, &host_ops, name);
    bus->cfg = *cfg;
    bus->next = cfg->window;
    pci_init(&bus->bridge, &bridge_ops, name, &bridge_id);
    int rc = pci_add(bus, &bus->bridge);
    if (rc < 0) {
        host_destroy(&bus->dev);
        return rc;
    }
    *out = bus;
    *out_dev = &bus->dev;
    return 0;
}
