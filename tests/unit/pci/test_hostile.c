/*
 * Two functions whose BARs meet, while a guest writes what it likes; tests/fuzz/README.md says
 * which test answers for which kind of input.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/pci/msix.h"
#include "hv/pci/pci.h"
#include "support/ram.h"
#include "support/scratch_dev.h"

#define WINDOW 0xc0000000ULL
#define SIZE 0x100
#define SLOTS 2 /* functions, in slots 1 and 2 */

static struct bus ports, memory;
static struct mem mem;
static struct pci_bus *bus;
static struct device *host;
static struct scratch_dev windows[SLOTS];
static struct pci_dev fns[SLOTS];
static struct msix msix;
static unsigned fires;

static void on_written(struct pci_dev *p, unsigned offset, unsigned size)
{
    (void)offset;
    (void)size;
    if (p == &fns[0])
        msix_config_written(&msix);
}

static int on_route(void *ctx, unsigned v, uint64_t address, uint32_t data)
{
    (void)ctx;
    (void)address;
    (void)data;
    cr_assert_lt(v, msix.vectors);
    return 0;
}

static void on_fire(void *ctx, unsigned v)
{
    (void)ctx;
    cr_assert_lt(v, msix.vectors);
    fires++;
}

static void setup(void)
{
    static const struct pci_ops ops = {.config_written = on_written};
    static const struct pci_id id = {0x1af4, 0x1044, 0x1af4, 4, 0xff0000, 1};
    const struct msix_sink sink = {.route = on_route, .fire = on_fire};
    const struct pci_bus_config cfg = {.ports = &ports,
                                       .memory = &memory,
                                       .mem = &mem,
                                       .window = WINDOW,
                                       .window_end = WINDOW + 0x100000};

    fires = 0;
    bus_init(&ports, 0xffff);
    bus_init(&memory, UINT64_C(0xffffffffff));
    ram_init(&mem, MIB);
    cr_assert_eq(pci_bus_create("pci", &cfg, &bus, &host), 0);
    cr_assert_eq(bus_map(&ports, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, host, 0), 0);
    for (unsigned i = 0; i < SLOTS; i++) {
        const struct pci_bar bar = {.size = SIZE, .is_64 = true, .window = &windows[i].dev};
        const struct pci_bar io = {.size = 0x10, .is_io = true, .window = &windows[i].dev};
        scratch_init(&windows[i], "window", 8);
        pci_init(&fns[i], &ops, "fn", &id);
        pci_set_bar(&fns[i], 0, &bar);
        pci_set_bar(&fns[i], 2, &io);
        if (i == 0)
            msix_init(&msix, &fns[i], 3, 0, 0, 0x80, &sink);
        cr_assert_eq(pci_add(bus, &fns[i]), 0);
    }
}

static void teardown(void)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        pci_remove(&fns[i]);
        scratch_fini(&windows[i]);
    }
    cr_assert_eq(memory.count, 0);
    msix_fini(&msix);
    dev_destroy(host);
    mem_fini(&mem);
    bus_fini(&ports);
    bus_fini(&memory);
}

TestSuite(pci_hostile, .init = setup, .fini = teardown);

static void set(unsigned slot, unsigned offset, unsigned size, uint32_t value)
{
    const uint32_t address = 0x80000000U | slot << 11 | (offset & 0xfc);

    bus_write(&ports, 0xcf8, &address, 4);
    bus_write(&ports, 0xcfc + (offset & 3), &value, size);
}

static uint32_t get(unsigned slot, unsigned offset, unsigned size)
{
    const uint32_t address = 0x80000000U | slot << 11 | (offset & 0xfc);
    uint32_t value = 0;

    bus_write(&ports, 0xcf8, &address, 4);
    bus_read(&ports, 0xcfc + (offset & 3), &value, size);
    return value;
}

static void enable(unsigned slot)
{
    set(slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
}

static void move(unsigned slot, uint64_t to)
{
    set(slot, PCI_BASE_ADDRESS_0, 4, (uint32_t)to);
    set(slot, PCI_BASE_ADDRESS_1, 4, (uint32_t)(to >> 32));
}

static bool is_at(unsigned slot, uint64_t address)
{
    return bus_find(&memory, address) == &windows[slot - 1].dev;
}

/* --- 9 --- */

Test(pci_hostile, a_bar_on_another_functions_leaves_that_one_alone)
{
    enable(1);
    enable(2);
    move(1, 0xd0000000);
    move(2, 0xd0000000);
    cr_assert(is_at(1, 0xd0000000));
    cr_assert_eq(fns[1].bars[0].mapped, 0);
    cr_assert_eq(get(2, PCI_BASE_ADDRESS_0, 4) & ~0xfU, 0xd0000000); /* it reads what it wrote */
    move(1, 0xd0010000);
    enable(2); /* the next word from the guest finds the place free */
    cr_assert(is_at(2, 0xd0000000));
    cr_assert(is_at(1, 0xd0010000));
}

Test(pci_hostile, two_bars_change_places)
{
    enable(1);
    enable(2);
    move(1, 0xd0000000);
    move(2, 0xd0010000);
    move(1, 0xd0010000);
    move(2, 0xd0000000);
    enable(1);
    cr_assert(is_at(1, 0xd0010000));
    cr_assert(is_at(2, 0xd0000000));
}

Test(pci_hostile, a_bar_goes_over_ram_by_halves_and_comes_back)
{
    enable(1);
    move(1, 0x4000000000);
    cr_assert(is_at(1, 0x4000000000));
    set(1, PCI_BASE_ADDRESS_1, 4, 0); /* now at 0, which is RAM, and nowhere */
    cr_assert_eq(memory.count, 0);
    set(1, PCI_BASE_ADDRESS_0, 4, MIB - SIZE);
    cr_assert_eq(memory.count, 0);
    set(1, PCI_BASE_ADDRESS_0, 4, MIB);
    cr_assert(is_at(1, MIB));
}

Test(pci_hostile, a_bar_beyond_the_bus_is_nowhere)
{
    enable(1);
    move(1, UINT64_C(0xffffffffff) - SIZE + 1);
    cr_assert(is_at(1, UINT64_C(0xffffffffff)));
    move(1, UINT64_C(0x10000000000));
    cr_assert_eq(memory.count, 0);
    move(1, UINT64_MAX - SIZE + 1);
    cr_assert_eq(memory.count, 0);
}

Test(pci_hostile, ports_on_the_configuration_ports_are_nowhere)
{
    enable(1);
    set(1, PCI_BASE_ADDRESS_2, 4, 0xcf0);
    cr_assert_eq(fns[0].bars[2].mapped, 0);
    cr_assert_eq(bus_find(&ports, 0xcf8), host);
    set(1, PCI_BASE_ADDRESS_2, 4, 0xfff0);
    cr_assert_eq(fns[0].bars[2].mapped, 0xfff0);
    set(1, PCI_BASE_ADDRESS_2, 4, 0x10000);
    cr_assert_eq(fns[0].bars[2].mapped, 0);
}

Test(pci_hostile, every_bit_of_the_configuration_space_is_written_and_no_fixed_one_changes)
{
    uint8_t first[PCI_CONFIG_SIZE];

    memcpy(first, fns[0].config, sizeof(first));
    for (unsigned at = 0; at < PCI_CONFIG_SIZE; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            set(1, at, 1, 1U << bit);
            set(1, at, 1, 0xff);
            set(1, at, 1, 0);
        }
    for (unsigned at = 0; at < PCI_CONFIG_SIZE; at++)
        cr_assert_eq((fns[0].config[at] ^ first[at]) & ~fns[0].writable[at], 0);
}

/* --- 8 --- */

Test(pci_hostile, accesses_over_the_ends_of_the_ports_and_of_a_bar)
{
    uint64_t value = 0;

    bus_read(&ports, 0xcff, &value, 8); /* a byte of data, then ports that nobody has */
    cr_assert_eq(value >> 8, UINT64_MAX >> 8);
    value = UINT64_MAX;
    for (unsigned at = 0xcf0; at < 0xd08; at++)
        for (unsigned size = 1; size <= 8; size *= 2)
            bus_write(&ports, at, &value, size);
    enable(1);
    move(1, 0xd0000000);
    for (unsigned size = 1; size <= 8; size *= 2) {
        bus_write(&memory, 0xd0000000 - 1, &value, size);
        bus_write(&memory, 0xd0000000 + SIZE - 1, &value, size);
        bus_read(&memory, 0xd0000000 + SIZE, &value, size);
        cr_assert_eq(value, UINT64_MAX);
    }
}

Test(pci_hostile, a_table_that_changes_while_vectors_wait)
{
    set(1, msix.cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    for (unsigned v = 0; v < 100; v++)
        msix_notify(&msix, v);
    cr_assert_eq(msix_pba_read(&msix, 0, 4), 7);
    msix_table_write(&msix, 16 + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 0);
    cr_assert_eq(fires, 0);
    set(1, msix.cap + PCI_MSIX_FLAGS, 2, 0); /* off: what waits goes on waiting */
    cr_assert_eq(fires, 0);
    set(1, msix.cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    cr_assert_eq(fires, 1); /* vector 1 alone is not masked */
    cr_assert_eq(msix_pba_read(&msix, 0, 4), 5);
    for (uint64_t offset = 3 * MSIX_ENTRY_SIZE; offset < 0x1000; offset += 4)
        msix_table_write(&msix, offset, 4, 0);
    cr_assert_eq(fires, 1);
}
