/*
 * Base address registers: PCI §6.2.5.
 *
 * The guest learns a BAR's size by writing ones and reading which of them stick: the bits below the
 * size are not writable. So the writable mask is the size, and any address the register can hold is
 * one the window can have.
 */
#include <assert.h>
#include <errno.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "pci_priv.h"

void pci_set_bar(struct pci_dev *p, unsigned index, const struct pci_bar *bar)
{
    assert(is_power_of_two(bar->size) && bar->size >= 16 && index + bar->is_64 < PCI_BARS);
    p->bars[index] = *bar;
    p->bars[index].mapped = 0;
    /* EXERCISE 9.4: the register at bar_offset(index) says what it is in its lowest bits, which
     * cannot be written: PCI_BASE_ADDRESS_SPACE_IO for ports; PCI_BASE_ADDRESS_MEM_TYPE_64 and
     * PCI_BASE_ADDRESS_MEM_PREFETCH for memory with 64 bits of address; 0 for other memory. Of the
     * others those are writable that an address of something so large can have (pci_allow()): a
     * guest that writes ones reads the size. A 64-bit one goes on in the register after it. */
    // SOLUTION 9.4
    uint64_t mask = ~(bar->size - 1);
    uint32_t kind = bar->is_io ? PCI_BASE_ADDRESS_SPACE_IO : 0;

    if (bar->is_64)
        kind = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH;
    pci_put32(p, bar_offset(index), kind);
    pci_allow(p, bar_offset(index), 4, (uint32_t)mask);
    if (bar->is_64)
        pci_allow(p, bar_offset(index + 1), 4, (uint32_t)(mask >> 32));
    // ELSE
    // (void)todo("9.4");
    // END 9.4
}

static uint64_t address_of(const struct pci_dev *p, unsigned index)
{
    const struct pci_bar *bar = &p->bars[index];
    uint64_t address = pci_get32(p, bar_offset(index));

    if (bar->is_64)
        address |= (uint64_t)pci_get32(p, bar_offset(index + 1)) << 32;
    return address & ~(bar->size - 1);
}

static struct bus *bus_of(const struct pci_dev *p, const struct pci_bar *bar)
{
    return bar->is_io ? p->bus->cfg.ports : p->bus->cfg.memory;
}

static void tell(struct pci_dev *p, const struct pci_bar *bar, bool there)
{
    if (p->ops->bar_moved)
        p->ops->bar_moved(p, (unsigned)(bar - p->bars), there);
}

static void unmap(struct pci_dev *p, struct pci_bar *bar)
{
    if (bar->mapped == 0)
        return;
    tell(p, bar, false);
    (void)!bus_unmap(bus_of(p, bar), bar->mapped); /* it is there: we mapped it */
    bar->mapped = 0;
}

static bool is_over_ram(const struct pci_dev *p, uint64_t address, uint64_t size)
{
    const struct mem *mem = p->bus->cfg.mem;

    for (unsigned i = 0; mem != NULL && i < mem->count; i++) {
        const struct mem_region *r = &mem->regions[i];
        if (address < r->gpa + r->size && r->gpa < address + size)
            return true;
    }
    return false;
}

static void map(struct pci_dev *p, struct pci_bar *bar, uint64_t address)
{
    bool free = address <= UINT64_MAX - bar->size &&
                (bar->is_io || !is_over_ram(p, address, bar->size)) &&
                bus_map(bus_of(p, bar), address, bar->size, bar->window, bar->offset) == 0;

    if (!free) {
        log_limited(p->bus->cfg.log, &p->bus->misplaced, LOG_WARN,
                    "%s: the guest put %llu bytes at 0x%llx, where something else is", p->name,
                    (unsigned long long)bar->size, (unsigned long long)address);
        return;
    }
    bar->mapped = address;
    tell(p, bar, true);
}

/* EXERCISE 9.5: pci_update_bars() makes the buses show what the registers say. wanted(): where BAR
 * `index` belongs now. Nowhere, which is 0, while the command register does not allow its kind
 * (PCI_COMMAND_IO, PCI_COMMAND_MEMORY); and nowhere while its address is all ones, as far as they
 * stick, in 32 bits or in 64: that is a guest that asks for the size. Else at address_of(). A BAR
 * that is not where it belongs (`mapped`) goes from there (unmap()), and appears where it belongs
 * if that is somewhere (map(), which looks whether the place is free). One that is where it belongs
 * is left alone: others may be using it. A function that is on no bus yet (p->bus) has no windows.
 */
// SOLUTION 9.5
/* Where the BAR belongs now; 0: nowhere. All ones are a guest that asks for the size. */
static uint64_t wanted(const struct pci_dev *p, unsigned index)
{
    const struct pci_bar *bar = &p->bars[index];
    uint16_t enable = bar->is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    uint64_t address = address_of(p, index), ones = ~(bar->size - 1);

    if (!(pci_get16(p, PCI_COMMAND) & enable))
        return 0;
    return address == ones || address == (uint32_t)ones ? 0 : address;
}

void pci_update_bars(struct pci_dev *p)
{
    for (unsigned i = 0; p->bus != NULL && i < PCI_BARS; i++) {
        struct pci_bar *bar = &p->bars[i];
        uint64_t address = bar->size ? wanted(p, i) : 0;

        if (address == bar->mapped)
            continue;
        unmap(p, bar);
        if (address != 0)
            map(p, bar, address);
    }
}
// ELSE
// void pci_update_bars(struct pci_dev *p)
// {
//     if (todo("9.5") == 0) {
//         unmap(p, &p->bars[0]);
//         map(p, &p->bars[0], address_of(p, 0));
//     }
// }
// END 9.5

void pci_unmap_bars(struct pci_dev *p)
{
    for (unsigned i = 0; i < PCI_BARS; i++)
        unmap(p, &p->bars[i]);
}

int pci_place_bars(struct pci_dev *p)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &p->bars[i];
        uint64_t at;

        if (bar->size == 0 || bar->is_io) /* nothing of ours has ports that move */
            continue;
        if (align_up(p->bus->next, bar->size, &at) < 0 || at > p->bus->cfg.window_end ||
            bar->size > p->bus->cfg.window_end - at)
            return -ENOSPC;
        p->bus->next = at + bar->size;
        pci_put32(p, bar_offset(i), (uint32_t)at | (pci_get32(p, bar_offset(i)) & 0xf));
        if (bar->is_64)
            pci_put32(p, bar_offset(i + 1), (uint32_t)(at >> 32));
    }
    return 0;
}
