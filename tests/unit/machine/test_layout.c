#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/machine/layout.h"

/* Memory sizes on every side of every border. */
static const uint64_t sizes[] = {
    LAYOUT_MEMORY_MIN,
    LAYOUT_MEMORY_MIN + 4096,
    128 * MIB,
    512 * MIB,
    LAYOUT_HOLE - 4096,
    LAYOUT_HOLE,
    4 * GIB,
    6 * GIB,
    LAYOUT_HOLE + 4096,
    64 * GIB,
    LAYOUT_MEMORY_MAX,
};

static struct mem mem;
static struct boot_layout layout;

static void setup(void)
{
    mem_init(&mem);
    memset(&layout, 0xa5, sizeof(layout));
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(layout, .init = setup, .fini = teardown);

static void add_ram(uint64_t memory)
{
    struct error err = {""};

    cr_assert_eq(layout_add_ram(&mem, memory, MEM_ANONYMOUS, &err), 0, "%s", err.text);
}

/* --- RAM --- */

Test(layout, memory_up_to_the_hole_is_one_region)
{
    add_ram(LAYOUT_HOLE);
    cr_assert_eq(mem.count, 1);
    cr_assert_eq(mem.regions[0].gpa, 0);
    cr_assert_eq(mem.regions[0].size, 3 * GIB);
}

Test(layout, memory_above_the_hole_continues_at_4_gib)
{
    add_ram(LAYOUT_HOLE + 4096);
    cr_assert_eq(mem.count, 2);
    cr_assert_eq(mem.regions[0].size, LAYOUT_HOLE);
    cr_assert_eq(mem.regions[1].gpa, 4 * GIB);
    cr_assert_eq(mem.regions[1].size, 4096);
}

Test(layout, six_gib_are_three_below_and_three_above)
{
    uint8_t byte = 0xa5;

    add_ram(6 * GIB);
    cr_assert_eq(mem.regions[1].size, 3 * GIB);
    cr_assert_eq(mem_read(&mem, LAYOUT_HOLE - 1, &byte, 1), 0);
    cr_assert_eq(mem_read(&mem, LAYOUT_HOLE, &byte, 1), -EFAULT);
    cr_assert_eq(mem_read(&mem, LAYOUT_HOLE_END - 1, &byte, 1), -EFAULT);
    cr_assert_eq(mem_read(&mem, LAYOUT_HOLE_END, &byte, 1), 0);
    cr_assert_eq(mem_read(&mem, 7 * GIB - 1, &byte, 1), 0);
    cr_assert_eq(mem_read(&mem, 7 * GIB, &byte, 1), -EFAULT);
}

Test(layout, memory_that_is_no_multiple_of_a_page_is_refused)
{
    struct error err = {""};

    cr_assert_eq(layout_add_ram(&mem, MIB + 1, MEM_ANONYMOUS, &err), -EINVAL);
    cr_assert_str_neq(err.text, "");
    cr_assert_eq(mem.count, 0);
}

/* --- the map --- */

static uint64_t end_of(const struct boot_range *range)
{
    return range->gpa + range->size;
}

/* The type of the range that holds `gpa`; 0: none. */
static int type_at(uint64_t gpa)
{
    for (unsigned i = 0; i < layout.count; i++)
        if (gpa >= layout.ranges[i].gpa && gpa < end_of(&layout.ranges[i]))
            return (int)layout.ranges[i].type;
    return 0;
}

Test(layout, the_map_is_sorted_and_never_overlaps)
{
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        layout_describe(sizes[i], true, &layout);
        cr_assert_gt(layout.count, 0);
        cr_assert_leq(layout.count, BOOT_RANGES_MAX);
        for (unsigned j = 0; j < layout.count; j++) {
            cr_assert_gt(layout.ranges[j].size, 0);
            cr_assert(j == 0 || end_of(&layout.ranges[j - 1]) <= layout.ranges[j].gpa,
                      "range %u with %llu bytes of memory", j, (unsigned long long)sizes[i]);
        }
    }
}

Test(layout, the_map_promises_only_memory_that_is_there)
{
    for (size_t i = 0; i < ARRAY_LEN(sizes) - 2; i++) { /* the largest would need the host's all */
        mem_init(&mem);
        add_ram(sizes[i]);
        layout_describe(sizes[i], true, &layout);
        for (unsigned j = 0; j < layout.count; j++) {
            const struct boot_range *r = &layout.ranges[j];
            cr_assert(r->type != BOOT_RANGE_RAM || mem_ptr(&mem, r->gpa, r->size, true) != NULL);
        }
        mem_fini(&mem);
    }
}

Test(layout, the_map_tells_of_all_memory)
{
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint64_t told = 0;
        layout_describe(sizes[i], true, &layout);
        for (unsigned j = 0; j < layout.count; j++)
            if (layout.ranges[j].type == BOOT_RANGE_RAM)
                told += layout.ranges[j].size;
        cr_assert_eq(told, sizes[i] - (LAYOUT_HIGH - LAYOUT_EBDA));
    }
}

Test(layout, firmware_and_kvms_own_pages_are_reserved)
{
    layout_describe(6 * GIB, true, &layout);
    cr_assert_eq(type_at(0), BOOT_RANGE_RAM);
    cr_assert_eq(type_at(LAYOUT_EBDA - 1), BOOT_RANGE_RAM);
    cr_assert_eq(type_at(LAYOUT_EBDA), BOOT_RANGE_RESERVED);
    cr_assert_eq(type_at(LAYOUT_RSDP), BOOT_RANGE_RESERVED);
    cr_assert_eq(type_at(LAYOUT_HIGH - 1), BOOT_RANGE_RESERVED);
    cr_assert_eq(type_at(LAYOUT_HIGH), BOOT_RANGE_RAM);
    cr_assert_eq(type_at(LAYOUT_IDENTITY_MAP), BOOT_RANGE_RESERVED);
    cr_assert_eq(type_at(LAYOUT_TSS + 3 * 4096 - 1), BOOT_RANGE_RESERVED);
}

Test(layout, the_holes_devices_are_in_no_range)
{
    layout_describe(6 * GIB, true, &layout);
    cr_assert_eq(type_at(LAYOUT_HOLE), 0);
    cr_assert_eq(type_at(LAYOUT_IOAPIC), 0);
    cr_assert_eq(type_at(LAYOUT_LAPIC), 0);
}

Test(layout, the_loaders_scratch_is_memory_apart_from_the_ebda)
{
    layout_describe(LAYOUT_MEMORY_MIN, false, &layout);
    cr_assert_lt(layout.scratch, layout.scratch_end);
    cr_assert_leq(layout.scratch_end, LAYOUT_EBDA);
    cr_assert_eq(type_at(layout.scratch), BOOT_RANGE_RAM);
    cr_assert_eq(type_at(layout.scratch_end - 1), BOOT_RANGE_RAM);
}

Test(layout, low_memory_ends_at_the_hole)
{
    layout_describe(128 * MIB, false, &layout);
    cr_assert_eq(layout.low_end, 128 * MIB);
    layout_describe(6 * GIB, false, &layout);
    cr_assert_eq(layout.low_end, LAYOUT_HOLE);
}

Test(layout, the_rsdp_is_named_only_with_acpi)
{
    layout_describe(128 * MIB, true, &layout);
    cr_assert_eq(layout.rsdp, LAYOUT_RSDP);
    cr_assert_eq(layout.rsdp % 16, 0, "ACPI 6.5 §5.2.5.1: on a 16-byte boundary");
    layout_describe(128 * MIB, false, &layout);
    cr_assert_eq(layout.rsdp, 0);
}

/* --- the BIOS data area --- */

Test(layout, the_bios_data_area_points_at_the_ebda)
{
    uint16_t segment = 0, base_kib = 0, ebda_kib = 0;

    add_ram(LAYOUT_MEMORY_MIN);
    cr_assert_eq(layout_write_bios_data(&mem), 0);
    cr_assert_eq(mem_read_u16(&mem, 0x40e, &segment), 0);
    cr_assert_eq(mem_read_u16(&mem, 0x413, &base_kib), 0);
    cr_assert_eq(segment * 16U, LAYOUT_EBDA);
    cr_assert_eq(base_kib * KIB, LAYOUT_EBDA);
    cr_assert_eq(mem_read_u16(&mem, segment * 16U, &ebda_kib), 0);
    cr_assert_eq(LAYOUT_EBDA + ebda_kib * KIB, 0xa0000, "it ends where video memory begins");
}

Test(layout, the_bios_data_area_needs_memory)
{
    cr_assert_eq(layout_write_bios_data(&mem), -EFAULT);
}
