/*
 * Placing pieces: limits of RAM, obstacles, the scratch area.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/images.h"
#include "support/ram.h"

#define RAM (8 * MIB)
#define SCRATCH 0x10000
#define SCRATCH_END 0x14000

static struct mem mem;
static struct boot_layout layout;
static struct plan plan;
static struct error err;
static uint8_t data[3 * MIB];
static uint64_t gpa;

static void setup(void)
{
    ram_init(&mem, RAM);
    layout = (struct boot_layout){.ranges = {{0, 0x9f000, BOOT_RANGE_RAM},
                                             {0x9f000, MIB - 0x9f000, BOOT_RANGE_RESERVED},
                                             {MIB, 3 * MIB, BOOT_RANGE_RAM},
                                             {4 * MIB, 4 * MIB, BOOT_RANGE_RAM}},
                                  .count = 4,
                                  .low_end = RAM,
                                  .scratch = SCRATCH,
                                  .scratch_end = SCRATCH_END};
    plan_init(&plan, &mem, &layout);
    memset(data, 0x11, sizeof(data));
    gpa = 0xa5a5;
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(plan, .init = setup, .fini = teardown);

static struct bytes some(size_t size)
{
    return (struct bytes){data, size};
}

static int add(uint64_t at, size_t size)
{
    return plan_add(&plan, "a piece", at, some(size), size, &err);
}

static int add_high(size_t size, uint64_t limit)
{
    return plan_add_high(&plan, "the initrd", some(size), limit, &gpa, &err);
}

Test(plan, neighbouring_ranges_are_one)
{
    cr_assert_eq(add(4 * MIB - 0x1000, 0x2000), 0);
}

Test(plan, ends_of_ram)
{
    cr_assert_eq(add(RAM - 0x1000, 0x1000), 0);
    cr_assert_eq(add(RAM, 1), -E2BIG);
    cr_assert_eq(add(RAM - 0x2000, 0x2001), -E2BIG);
    cr_assert_eq(add(0x9efff, 2), -E2BIG);
    cr_assert_eq(add(UINT64_MAX, 2), -E2BIG);
    cr_assert_eq(plan.count, 1);
}

Test(plan, neighbours_do_not_overlap)
{
    cr_assert_eq(add(2 * MIB, 0x1000), 0);
    cr_assert_eq(add(2 * MIB + 0x1000, 0x1000), 0);
    cr_assert_eq(add(2 * MIB - 0x1000, 0x1000), 0);
    cr_assert_eq(add(2 * MIB - 1, 2), -ENOEXEC);
    cr_assert_str_eq(err.text, "a piece at 0x1fffff overlaps a piece at 0x200000");
}

Test(plan, scratch_is_taken)
{
    cr_assert_eq(add(SCRATCH_END - 1, 1), -ENOEXEC);
    cr_assert_eq(plan_reserve(&plan, "memory", SCRATCH, 1, &err), -ENOEXEC);
    cr_assert_eq(add(SCRATCH_END, 1), 0);
    cr_assert_eq(add(SCRATCH - 1, 1), 0);
}

Test(plan, too_many_pieces)
{
    for (unsigned i = 0; i < PLAN_PIECES_MAX; i++)
        cr_assert_eq(add(MIB + i * 16, 1), 0);
    cr_assert_eq(add(2 * MIB, 1), -ENOEXEC);
    cr_assert_eq(plan_reserve(&plan, "memory", 2 * MIB, 1, &err), -ENOEXEC);
    cr_assert_eq(add_high(1, RAM), -ENOEXEC);
    cr_assert_eq(plan_add_scratch(&plan, "the list", some(1), 1, &gpa, &err), -ENOEXEC);
    cr_assert_eq(gpa, 0xa5a5);
}

Test(plan, high_is_the_highest_page_below_the_limit)
{
    cr_assert_eq(add_high(0x1800, UINT64_MAX), 0);
    cr_assert_eq(gpa, RAM - 0x2000);
    cr_assert_eq(add_high(0x1000, 0x300000 + 5), 0);
    cr_assert_eq(gpa, 0x2ff000);
}

Test(plan, high_avoids_pieces_reserved_memory_and_holes)
{
    layout.ranges[3] = (struct boot_range){4 * MIB, 2 * MIB, BOOT_RANGE_RAM};
    layout.ranges[4] = (struct boot_range){6 * MIB, 2 * MIB, BOOT_RANGE_ACPI};
    layout.count = 5;
    cr_assert_eq(plan_reserve(&plan, "memory", 5 * MIB, MIB, &err), 0);
    cr_assert_eq(add(5 * MIB - 0x1800, 0x1000), 0);
    cr_assert_eq(add_high(0x1000, UINT64_MAX), 0);
    cr_assert_eq(gpa, 5 * MIB - 0x3000); /* above the piece there are only 0x800 bytes */
}

Test(plan, high_fits_exactly_or_not)
{
    cr_assert_eq(add(4 * MIB, 3 * MIB), 0);
    cr_assert_eq(add_high(3 * MIB, RAM), 0);
    cr_assert_eq(gpa, MIB);
    gpa = 0xa5a5;
    cr_assert_eq(add_high(MIB + 1, RAM), -E2BIG);
    cr_assert_not_null(strstr(err.text, "no room for the initrd (1048577 bytes)"));
    cr_assert_eq(gpa, 0xa5a5);
    cr_assert_eq(add_high(1, MIB), -E2BIG);
    cr_assert_eq(add_high(1, 0), -E2BIG);
}

Test(plan, scratch_is_filled_in_order_and_aligned)
{
    cr_assert_eq(plan_add_scratch(&plan, "a", some(3), 1, &gpa, &err), 0);
    cr_assert_eq(gpa, SCRATCH);
    cr_assert_eq(plan_take_scratch(&plan, "b", 0x3ff0, 16, &gpa, &err), 0);
    cr_assert_eq(gpa, SCRATCH + 16);
    gpa = 0xa5a5;
    cr_assert_eq(plan_add_scratch(&plan, "c", some(1), 1, &gpa, &err), -E2BIG);
    cr_assert_eq(plan_take_scratch(&plan, "d", UINT64_MAX, 1, &gpa, &err), -E2BIG);
    cr_assert_eq(gpa, 0xa5a5);
}

Test(plan, nothing_is_written_before_write)
{
    uint8_t byte = 0xee;

    cr_assert_eq(mem_write(&mem, 2 * MIB + 2, &byte, 1), 0);
    cr_assert_eq(plan_add(&plan, "a piece", 2 * MIB, some(2), 3, &err), 0);
    cr_assert_eq(plan_reserve(&plan, "memory", 3 * MIB, MIB, &err), 0);
    cr_assert_eq(mem_read(&mem, 2 * MIB + 2, &byte, 1), 0);
    cr_assert_eq(byte, 0xee);
    cr_assert_eq(plan_write(&plan, &err), 0);
    cr_assert_eq(mem_read(&mem, 2 * MIB + 2, &byte, 1), 0);
    cr_assert_eq(byte, 0); /* zeroed: the piece is longer than its bytes */
    cr_assert_eq(mem_read(&mem, 2 * MIB + 1, &byte, 1), 0);
    cr_assert_eq(byte, 0x11);
}

Test(plan, a_memory_map_that_promises_too_much)
{
    layout.ranges[3].size = 64 * MIB;
    cr_assert_eq(add(16 * MIB, 1), 0);
    cr_assert_eq(plan_write(&plan, &err), -E2BIG);
    cr_assert_str_eq(err.text, "a piece at 0x1000000 is outside guest memory");
}
