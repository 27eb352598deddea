#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/pci/pci.h"
#include "support/dev_state.h"
#include "support/ram.h"
#include "support/scratch_dev.h"

#define WINDOW 0xc0000000ULL
#define WINDOW_END 0xc1000000ULL
#define RAM_SIZE (1 * MIB)
#define RESET_PORT 0xcf9

static struct bus ports, memory;
static struct mem mem;
static struct pci_bus *bus;
static struct device *host;
static struct scratch_dev window, reset;
static struct pci_dev fn;
static unsigned written_at, written_size;

static void on_written(struct pci_dev *p, unsigned offset, unsigned size)
{
    (void)p;
    written_at = offset;
    written_size = size;
}

static const struct pci_ops ops = {.config_written = on_written};

static const struct pci_id id = {
    .vendor = 0x1af4,
    .device = 0x1044,
    .subsystem_vendor = 0x1af4,
    .subsystem = 4,
    .class_code = 0xff0000,
    .revision = 1,
};

static void setup(void)
{
    bus_init(&ports, 0xffff);
    bus_init(&memory, UINT64_MAX);
    ram_init(&mem, RAM_SIZE);
    scratch_init(&window, "window", 4);
    scratch_init(&reset, "reset", 1);
    struct pci_bus_config cfg = {
        .ports = &ports,
        .memory = &memory,
        .mem = &mem,
        .window = WINDOW,
        .window_end = WINDOW_END,
        .reset = &reset.dev,
        .reset_offset = 5,
    };
    cr_assert_eq(pci_bus_create("pci", &cfg, &bus, &host), 0);
    cr_assert_eq(bus_map(&ports, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, host, 0), 0);
    pci_init(&fn, &ops, "fn", &id);
}

static void teardown(void)
{
    pci_remove(&fn);
    cr_assert_eq(memory.count, 0);
    dev_destroy(host);
    scratch_fini(&window);
    scratch_fini(&reset);
    mem_fini(&mem);
    bus_fini(&ports);
    bus_fini(&memory);
}

TestSuite(pci, .init = setup, .fini = teardown);

static uint32_t in(uint64_t port, unsigned size)
{
    uint32_t value = 0;

    bus_read(&ports, port, &value, size);
    return value;
}

static void out(uint64_t port, unsigned size, uint32_t value)
{
    bus_write(&ports, port, &value, size);
}

static void point(unsigned slot, unsigned offset)
{
    out(0xcf8, 4, 0x80000000U | slot << 11 | (offset & 0xfc));
}

static uint32_t get(unsigned slot, unsigned offset, unsigned size)
{
    point(slot, offset);
    return in(0xcfc + (offset & 3), size);
}

static void set(unsigned slot, unsigned offset, unsigned size, uint32_t value)
{
    point(slot, offset);
    out(0xcfc + (offset & 3), size, value);
}

static void add_with_bar(uint64_t size, bool is_64)
{
    struct pci_bar bar = {.size = size, .is_64 = is_64, .window = &window.dev, .offset = 0x40};

    pci_set_bar(&fn, 0, &bar);
    cr_assert_eq(pci_add(bus, &fn), 0);
    cr_assert_eq(fn.slot, 1);
}

static struct device *at(uint64_t address)
{
    return bus_find(&memory, address);
}

static void enable_memory(void)
{
    set(1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
}

/* --- mechanism #1 --- */

Test(pci, pci_3_2_2_3_2_slots_without_a_function_read_as_ones)
{
    for (unsigned slot = 1; slot < 32; slot++)
        cr_assert_eq(get(slot, 0, 4), UINT32_MAX);
    set(5, PCI_COMMAND, 2, 0xffff);
    out(0xcf8, 4, 0x80000000U | 1U << 16); /* another bus */
    cr_assert_eq(in(0xcfc, 4), UINT32_MAX);
    out(0xcf8, 4, 0x80000000U | 1U << 8); /* another function of the bridge */
    cr_assert_eq(in(0xcfc, 4), UINT32_MAX);
}

Test(pci, the_bridge_sits_in_slot_0)
{
    cr_assert_eq(get(0, PCI_VENDOR_ID, 4), 0x12378086);
    cr_assert_eq(get(0, PCI_CLASS_DEVICE, 2), 0x0600);
}

Test(pci, without_the_enable_bit_there_is_no_data)
{
    out(0xcf8, 4, 0);
    cr_assert_eq(in(0xcfc, 4), UINT32_MAX);
    cr_assert_eq(in(0xcf8, 4), 0);
}

Test(pci, the_address_keeps_its_defined_bits)
{
    out(0xcf8, 4, UINT32_MAX);
    cr_assert_eq(in(0xcf8, 4), 0x80fffffc);
}

Test(pci, narrow_accesses_of_the_address_change_nothing)
{
    point(0, 0);
    out(0xcf8, 1, 0xff);
    out(0xcf8, 2, 0xffff);
    out(0xcfa, 2, 0xffff);
    out(0xcfb, 1, 0xff);
    cr_assert_eq(in(0xcf8, 4), 0x80000000);
    cr_assert_eq(in(0xcfa, 2), 0xffff);
}

Test(pci, a_byte_at_0xcf9_is_the_reset_register)
{
    out(RESET_PORT, 1, 0x06);
    cr_assert_eq(reset.accesses, 1);
    cr_assert(reset.log[0].is_write);
    cr_assert_eq(reset.log[0].offset, 5);
    cr_assert_eq(reset.log[0].value, 6);
    out(0xcf8, 4, 0x80000600); /* memtest86+ looks at such an address: no reset */
    cr_assert_eq(reset.accesses, 1);
}

Test(pci, bytes_and_words_of_the_data_are_read_where_they_lie)
{
    cr_assert_eq(pci_add(bus, &fn), 0);
    cr_assert_eq(get(1, PCI_VENDOR_ID, 1), 0xf4);
    cr_assert_eq(get(1, PCI_VENDOR_ID + 1, 1), 0x1a);
    cr_assert_eq(get(1, PCI_DEVICE_ID, 2), 0x1044);
    cr_assert_eq(get(1, PCI_DEVICE_ID + 1, 1), 0x10);
    cr_assert_eq(get(1, PCI_SUBSYSTEM_ID, 2), 4);
    cr_assert_eq(get(1, PCI_CLASS_REVISION, 4), 0xff000001);
}

Test(pci, the_last_byte_of_the_space)
{
    cr_assert_eq(pci_add(bus, &fn), 0);
    cr_assert_eq(get(1, 0xff, 1), 0);
    point(1, 0xfc);
    cr_assert_eq(in(0xcfe, 4) & 0xffff, 0); /* the other half lies past the data ports */
    out(0xcff, 4, UINT32_MAX);
    cr_assert_eq(get(1, 0xfc, 4), 0);
}

/* --- configuration space --- */

Test(pci, fixed_bits_stay)
{
    cr_assert_eq(pci_add(bus, &fn), 0);
    for (unsigned offset = 0; offset < 256; offset += 4)
        set(1, offset, 4, UINT32_MAX);
    cr_assert_eq(get(1, PCI_VENDOR_ID, 4), 0x10441af4);
    cr_assert_eq(get(1, PCI_HEADER_TYPE, 1), 0);
    cr_assert_eq(get(1, PCI_BASE_ADDRESS_0, 4), 0); /* no BAR: nothing sticks */
    cr_assert_eq(get(1, PCI_INTERRUPT_LINE, 1), 0xff);
}

Test(pci, the_device_hears_of_writes)
{
    cr_assert_eq(pci_add(bus, &fn), 0);
    set(1, 0x52, 2, 7);
    cr_assert_eq(written_at, 0x52);
    cr_assert_eq(written_size, 2);
}

Test(pci, pci_6_7_capabilities_are_a_list)
{
    unsigned first = pci_add_capability(&fn, PCI_CAP_ID_MSIX, 12);
    unsigned second = pci_add_capability(&fn, PCI_CAP_ID_VNDR, 17);

    cr_assert_eq(pci_add(bus, &fn), 0);
    cr_assert(get(1, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
    unsigned offset = get(1, PCI_CAPABILITY_LIST, 1);
    cr_assert_eq(offset, second);
    cr_assert_eq(get(1, offset, 1), PCI_CAP_ID_VNDR);
    offset = get(1, offset + 1, 1);
    cr_assert_eq(offset, first);
    cr_assert_eq(offset % 4, 0);
    cr_assert_eq(get(1, offset + 1, 1), 0);
}

Test(pci, capabilities_have_an_end)
{
    cr_assert_neq(pci_add_capability(&fn, PCI_CAP_ID_VNDR, 100), 0);
    cr_assert_eq(pci_add_capability(&fn, PCI_CAP_ID_VNDR, 100), 0);
    cr_assert_neq(pci_add_capability(&fn, PCI_CAP_ID_VNDR, 92), 0);
    cr_assert_eq(pci_add_capability(&fn, PCI_CAP_ID_VNDR, 2), 0);
}

/* --- BARs --- */

Test(pci, pci_6_2_5_1_a_bar_tells_its_size)
{
    add_with_bar(0x4000, true);
    set(1, PCI_BASE_ADDRESS_0, 4, UINT32_MAX);
    set(1, PCI_BASE_ADDRESS_1, 4, UINT32_MAX);
    cr_assert_eq(get(1, PCI_BASE_ADDRESS_0, 4) & ~0xfU, 0xffffc000);
    cr_assert_eq(get(1, PCI_BASE_ADDRESS_1, 4), UINT32_MAX);
    cr_assert_eq(get(1, PCI_BASE_ADDRESS_0, 4) & 6, PCI_BASE_ADDRESS_MEM_TYPE_64);
}

Test(pci, bars_are_placed_like_firmware_would)
{
    add_with_bar(0x4000, true);
    cr_assert_eq(get(1, PCI_BASE_ADDRESS_0, 4) & ~0xfU, WINDOW);
    cr_assert_null(at(WINDOW)); /* the command register is off */
    enable_memory();
    cr_assert_eq(at(WINDOW), &window.dev);
    cr_assert_eq(at(WINDOW + 0x3fff), &window.dev);
    cr_assert_null(at(WINDOW + 0x4000));

    struct pci_dev second;
    struct pci_bar bar = {.size = 0x8000, .window = &window.dev};
    pci_init(&second, &ops, "second", &id);
    pci_set_bar(&second, 0, &bar);
    cr_assert_eq(pci_add(bus, &second), 0);
    cr_assert_eq(get(2, PCI_BASE_ADDRESS_0, 4), WINDOW + 0x8000);
    pci_remove(&second);
}

Test(pci, accesses_reach_the_window_at_its_offset)
{
    uint32_t value = 0x1234;

    add_with_bar(0x4000, false);
    enable_memory();
    bus_write(&memory, WINDOW + 8, &value, 4);
    cr_assert_eq(window.log[0].offset, 0x48);
    cr_assert_eq(window.log[0].value, 0x1234);
}

Test(pci, a_bar_moves_and_disappears)
{
    add_with_bar(0x4000, true);
    enable_memory();
    set(1, PCI_BASE_ADDRESS_0, 4, 0xd0004000);
    cr_assert_null(at(WINDOW));
    cr_assert_eq(at(0xd0004000), &window.dev);
    set(1, PCI_BASE_ADDRESS_1, 4, 0x10);
    cr_assert_eq(at(0x10d0004000), &window.dev);
    cr_assert_null(at(0xd0004000));
    set(1, PCI_COMMAND, 2, 0);
    cr_assert_null(at(0x10d0004000));
    cr_assert_eq(memory.count, 0);
}

Test(pci, a_bar_on_ram_is_nowhere)
{
    add_with_bar(0x4000, false);
    enable_memory();
    set(1, PCI_BASE_ADDRESS_0, 4, RAM_SIZE - 0x4000);
    cr_assert_eq(memory.count, 0);
    set(1, PCI_BASE_ADDRESS_0, 4, RAM_SIZE);
    cr_assert_eq(at(RAM_SIZE), &window.dev);
}

Test(pci, a_bar_on_another_ones_is_nowhere_until_it_leaves)
{
    struct scratch_dev other;

    scratch_init(&other, "other", 4);
    cr_assert_eq(bus_map(&memory, 0xd0001000, 0x10, &other.dev, 0), 0);
    add_with_bar(0x4000, false);
    enable_memory();
    set(1, PCI_BASE_ADDRESS_0, 4, 0xd0000000);
    cr_assert_eq(at(0xd0001000), &other.dev);
    cr_assert_null(at(0xd0000000));
    set(1, PCI_BASE_ADDRESS_0, 4, 0xd0004000);
    cr_assert_eq(at(0xd0004000), &window.dev);
    cr_assert_eq(bus_unmap(&memory, 0xd0001000), 0);
}

Test(pci, a_bar_at_the_end_of_the_address_space)
{
    add_with_bar(0x4000, true);
    enable_memory();
    set(1, PCI_BASE_ADDRESS_1, 4, UINT32_MAX);
    set(1, PCI_BASE_ADDRESS_0, 4, 0xffff8000); /* 2^64 - 32 KiB */
    cr_assert_eq(at(0xffffffffffff8000), &window.dev);
    set(1, PCI_BASE_ADDRESS_0, 4, 0xffffc000); /* all ones: a question, no address */
    cr_assert_null(at(0xffffffffffffc000));
    set(1, PCI_BASE_ADDRESS_1, 4, 0);
    set(1, PCI_BASE_ADDRESS_0, 4, 0); /* nor is 0 one */
    cr_assert_eq(memory.count, 0);
}

Test(pci, the_window_for_bars_has_an_end)
{
    struct pci_bar bar = {.size = 0x2000000, .window = &window.dev};

    pci_set_bar(&fn, 0, &bar);
    cr_assert_eq(pci_add(bus, &fn), -ENOSPC);
    cr_assert_null(fn.bus);
}

Test(pci, there_are_32_slots)
{
    static struct pci_dev many[PCI_SLOTS];

    for (unsigned i = 0; i < PCI_SLOTS; i++) {
        pci_init(&many[i], &ops, "one", &id);
        cr_assert_eq(pci_add(bus, &many[i]), i < PCI_SLOTS - 1 ? 0 : -ENOSPC);
    }
    for (unsigned i = 0; i < PCI_SLOTS; i++)
        pci_remove(&many[i]);
    cr_assert_eq(get(7, 0, 4), UINT32_MAX);
}

/* --- state --- */

Test(pci, the_bridges_state_survives_and_damage_is_refused)
{
    point(0, PCI_COMMAND);
    dev_state_attack(host);
    cr_assert_eq(in(0xcf8, 4), 0x80000000U | PCI_COMMAND);
}

Test(pci, a_functions_state_puts_its_bars_back)
{
    uint8_t config[PCI_CONFIG_SIZE];
    struct codec_writer w;
    struct codec_reader r;
    uint32_t version;

    add_with_bar(0x4000, true);
    enable_memory();
    set(1, PCI_BASE_ADDRESS_0, 4, 0xd0000000);
    codec_writer_init(&w);
    codec_begin(&w, "fn", 1);
    pci_save(&fn, &w);
    cr_assert_eq(codec_end(&w), 0);
    set(1, PCI_COMMAND, 2, 0);
    set(1, PCI_BASE_ADDRESS_0, 4, 0);

    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(codec_enter(&r, "fn", &version), 0);
    cr_assert_eq(pci_load(&fn, &r, config), 0);
    cr_assert_eq(codec_leave(&r), 0);
    pci_restore(&fn, config);
    cr_assert_eq(at(0xd0000000), &window.dev);

    config[0] ^= 1; /* the vendor: no guest can change it */
    codec_writer_fini(&w);
    codec_writer_init(&w);
    codec_begin(&w, "fn", 1);
    codec_put_bytes(&w, config, sizeof(config));
    cr_assert_eq(codec_end(&w), 0);
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(codec_enter(&r, "fn", &version), 0);
    cr_assert_eq(pci_load(&fn, &r, config), -EINVAL);
    codec_writer_fini(&w);
}
