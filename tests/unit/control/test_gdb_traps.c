/*
 * Breakpoints, watchpoints, and memory as gdb sees it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/fake_target.h"

static struct fake_target fake;
static struct gdb_target target;
static struct gdb_traps traps;

static void set_up(void)
{
    cr_assert(fake_target_init(&fake));
    target = fake_target_of(&fake);
    gdb_traps_init(&traps, &target.means);
}

static void tear_down(void)
{
    fake_target_fini(&fake);
}

TestSuite(gdb_traps, .init = set_up, .fini = tear_down);
TestSuite(gdb_memory, .init = set_up, .fini = tear_down);

static int add(enum gdb_trap_type type, uint64_t va, uint64_t len)
{
    return gdb_trap_add(&traps, &target, &fake.regs[0].sregs, type, va, len);
}

static void drop(enum gdb_trap_type type, uint64_t va, uint64_t len)
{
    gdb_trap_remove(&traps, &target, type, va, len);
}

static void put(uint64_t pa, const char *text)
{
    cr_assert_eq(mem_write(&fake.mem, pa, text, strlen(text)), 0);
}

static uint8_t byte_at(uint64_t pa)
{
    uint8_t byte = 0;

    cr_assert_eq(mem_read(&fake.mem, pa, &byte, 1), 0);
    return byte;
}

/* What gdb reads. */
static const char *seen(uint64_t va, size_t len)
{
    static char text[64];

    memset(text, 0, sizeof(text));
    cr_assert_eq(gdb_read(&traps, &fake.mem, &fake.regs[0].sregs, va, text, len), len);
    return text;
}

static void use_out(void)
{
    target.means = (struct debug_means){0};
    gdb_traps_init(&traps, &target.means);
}

/* --- planted --- */

Test(gdb_traps, int3_is_planted_and_gdb_does_not_see_it)
{
    put(0x1000, "abcd");
    cr_assert_eq(add(GDB_SOFTWARE, 0x1001, 1), 0);
    cr_assert_eq(byte_at(0x1001), 0xcc);
    cr_assert_str_eq(seen(0x1000, 4), "abcd");
    drop(GDB_SOFTWARE, 0x1001, 1);
    cr_assert_eq(byte_at(0x1001), 'b');
}

Test(gdb_traps, out_takes_two_bytes_where_int3_passes)
{
    use_out();
    put(0x1000, "abcd");
    cr_assert_eq(add(GDB_SOFTWARE, 0x1001, 1), 0);
    cr_assert_eq(byte_at(0x1001), 0xe6);
    cr_assert_eq(byte_at(0x1002), DEBUG_TRAP_PORT);
    cr_assert_str_eq(seen(0x1000, 4), "abcd");
    cr_assert_str_eq(seen(0x1002, 2), "cd", "half of it, too");
    cr_assert_eq(add(GDB_HARDWARE, 0x1100, 1), 0, "hardware ones are planted, too");
    cr_assert_eq(byte_at(0x1100), 0xe6);
    gdb_traps_clear(&traps, &target);
    cr_assert_eq(byte_at(0x1002), 'c');
    cr_assert_eq(byte_at(0x1100), 0);
}

Test(gdb_traps, out_does_not_cross_pages_or_overlap)
{
    use_out();
    cr_assert_eq(add(GDB_SOFTWARE, 0x1fff, 1), -EFAULT);
    cr_assert_eq(add(GDB_SOFTWARE, 0x1001, 1), 0);
    cr_assert_eq(add(GDB_SOFTWARE, 0x1002, 1), -EEXIST);
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), -EEXIST);
    cr_assert_eq(add(GDB_SOFTWARE, 0x1003, 1), 0);
}

Test(gdb_traps, twice_is_once)
{
    put(0x1000, "a");
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), 0);
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), 0);
    drop(GDB_SOFTWARE, 0x1000, 1);
    cr_assert_eq(byte_at(0x1000), 'a');
    drop(GDB_SOFTWARE, 0x1000, 1);
}

Test(gdb_traps, where_nothing_is_nothing_is_planted)
{
    cr_assert_eq(add(GDB_SOFTWARE, FAKE_RAM, 1), -EFAULT);
    fake_target_enter_long_mode(&fake, 0);
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), -EFAULT, "not mapped");
    cr_assert_eq(traps.break_count, 0);
}

Test(gdb_traps, a_high_address_is_not_cut_to_what_real_mode_has)
{
    cr_assert_eq(add(GDB_SOFTWARE, 0xffffffff00001000, 1), -EFAULT);
    cr_assert_eq(byte_at(0x1000), 0);
}

Test(gdb_traps, there_is_room_for_so_many)
{
    for (unsigned i = 0; i < GDB_BREAKS_MAX; i++)
        cr_assert_eq(add(GDB_SOFTWARE, 0x1000 + i, 1), 0);
    cr_assert_eq(add(GDB_SOFTWARE, 0x2000, 1), -ENOSPC);
    gdb_traps_clear(&traps, &target);
    for (unsigned i = 0; i < GDB_BREAKS_MAX; i++)
        cr_assert_eq(byte_at(0x1000 + i), 0);
}

Test(gdb_traps, what_the_guest_put_there_since_stays)
{
    put(0x1000, "a");
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), 0);
    put(0x1000, "z");
    drop(GDB_SOFTWARE, 0x1000, 1);
    cr_assert_eq(byte_at(0x1000), 'z');
}

Test(gdb_traps, one_byte_can_have_two_addresses)
{
    put(0x1000, "a");
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), 0);
    fake_target_enter_long_mode(&fake, 0);
    cr_assert_eq(add(GDB_SOFTWARE, FAKE_HIGH + 0x1000, 1), 0);
    drop(GDB_SOFTWARE, 0x1000, 1);
    cr_assert_eq(byte_at(0x1000), 0xcc, "the other one is still there");
    drop(GDB_SOFTWARE, FAKE_HIGH + 0x1000, 1);
    cr_assert_eq(byte_at(0x1000), 'a');
}

Test(gdb_traps, a_breakpoint_is_found_through_another_address)
{
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), 0);
    cr_assert_eq(gdb_traps_place(&traps, &fake.mem, &fake.regs[0]), GDB_AT_BREAK);
    fake_target_enter_long_mode(&fake, 0);
    cr_assert_eq(gdb_traps_place(&traps, &fake.mem, &fake.regs[0]), GDB_AT_ALIAS);
    fake.regs[0].regs.rip++;
    cr_assert_eq(gdb_traps_place(&traps, &fake.mem, &fake.regs[0]), GDB_NOWHERE);
}

Test(gdb_traps, lifted_it_is_not_there_and_then_again)
{
    put(0x1000, "a");
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), 0);
    gdb_traps_lift(&traps, &fake.mem, 0x1000, true);
    cr_assert_eq(byte_at(0x1000), 'a');
    cr_assert_eq(gdb_traps_place(&traps, &fake.mem, &fake.regs[0]), GDB_NOWHERE);
    gdb_traps_lift(&traps, &fake.mem, 0x1000, false);
    cr_assert_eq(byte_at(0x1000), 0xcc);
}

/* --- debug registers --- */

static struct debug_traps filled(const uint64_t *skip)
{
    struct debug_traps out = {.step = true};

    gdb_traps_fill(&traps, &out, skip);
    return out;
}

Test(gdb_traps, hardware_breakpoints_need_no_memory)
{
    fake_target_enter_long_mode(&fake, 0);
    cr_assert_eq(add(GDB_HARDWARE, 0xffffffffa0000000, 1), 0);
    struct debug_traps out = filled(NULL);
    cr_assert(out.step);
    cr_assert_not(out.int3);
    cr_assert_eq(out.slots[0].addr, 0xffffffffa0000000);
    cr_assert_eq(out.slots[0].len, 1);
    cr_assert_eq(out.slots[0].access, DEBUG_EXECUTE);
    cr_assert_eq(out.slots[1].len, 0);
}

Test(gdb_traps, the_one_at_hand_can_be_left_out)
{
    const uint64_t here = 0x1000;

    cr_assert_eq(add(GDB_HARDWARE, here, 1), 0);
    cr_assert_eq(add(GDB_WATCH_WRITE, here, 1), 0);
    struct debug_traps out = filled(&here);
    cr_assert_eq(out.slots[0].len, 0);
    cr_assert_eq(out.slots[1].len, 1, "a watchpoint is no obstacle");
}

Test(gdb_traps, sdm3b_17_2_5_a_region_is_covered_by_aligned_pieces)
{
    cr_assert_eq(add(GDB_WATCH_WRITE, 0x1006, 7), 0);
    struct debug_traps out = filled(NULL);
    cr_assert_eq(out.slots[0].addr, 0x1006);
    cr_assert_eq(out.slots[0].len, 2);
    cr_assert_eq(out.slots[1].addr, 0x1008);
    cr_assert_eq(out.slots[1].len, 4);
    cr_assert_eq(out.slots[2].addr, 0x100c);
    cr_assert_eq(out.slots[2].len, 1);
    cr_assert_eq(out.slots[0].access, DEBUG_WRITE);
    drop(GDB_WATCH_WRITE, 0x1006, 7);
    out = filled(NULL);
    for (unsigned i = 0; i < DEBUG_SLOTS; i++)
        cr_assert_eq(out.slots[i].len, 0);
}

Test(gdb_traps, four_registers_and_no_more)
{
    cr_assert_eq(add(GDB_WATCH_ACCESS, 0x1000, 16), 0);
    cr_assert_eq(add(GDB_WATCH_WRITE, 0x2000, 24), -ENOSPC);
    cr_assert_eq(add(GDB_HARDWARE, 0x1000, 1), 0);
    cr_assert_eq(add(GDB_HARDWARE, 0x1001, 1), 0);
    cr_assert_eq(add(GDB_HARDWARE, 0x1002, 1), -ENOSPC);
    drop(GDB_WATCH_ACCESS, 0x1000, 16);
    cr_assert_eq(add(GDB_HARDWARE, 0x1002, 1), 0);
    cr_assert_eq(add(GDB_WATCH_WRITE, 0, UINT64_MAX), -ENOSPC);
}

Test(gdb_traps, regions_that_make_no_sense)
{
    cr_assert_eq(add(GDB_WATCH_WRITE, 0x1000, 0), -EINVAL);
    cr_assert_eq(add(GDB_WATCH_WRITE, UINT64_MAX, 8), -EINVAL);
}

Test(gdb_traps, reads_alone_cannot_be_watched)
{
    cr_assert_eq(add(GDB_WATCH_READ, 0x1000, 4), -ENOTSUP);
    target.means.data = false;
    cr_assert_eq(add(GDB_WATCH_WRITE, 0x1000, 4), -ENOTSUP);
    cr_assert_eq(add(GDB_WATCH_ACCESS, 0x1000, 4), -ENOTSUP);
}

Test(gdb_traps, after_a_reset_only_debug_registers_are_left)
{
    cr_assert_eq(add(GDB_SOFTWARE, 0x1000, 1), 0);
    cr_assert_eq(add(GDB_HARDWARE, 0x2000, 1), 0);
    put(0x1000, "new");
    gdb_traps_forget_breaks(&traps);
    cr_assert_eq(byte_at(0x1000), 'n');
    cr_assert_eq(filled(NULL).slots[0].len, 1);
    cr_assert_not(filled(NULL).int3);
}

/* --- memory --- */

Test(gdb_memory, reading_stops_where_nothing_is)
{
    char buf[8];

    memset(buf, 'x', sizeof(buf));
    cr_assert_eq(gdb_read(&traps, &fake.mem, &fake.regs[0].sregs, FAKE_RAM, buf, 8), 0);
    cr_assert_eq(buf[0], 'x');
    /* Pages are read whole or not at all, so the last four bytes lie in a page of their own. */
    cr_assert_eq(gdb_read(&traps, &fake.mem, &fake.regs[0].sregs, FAKE_RAM - 4, buf, 8), 4);
}

Test(gdb_memory, writing_goes_through_the_tables)
{
    fake_target_enter_long_mode(&fake, 0);
    cr_assert_eq(gdb_write(&traps, &fake.mem, &fake.regs[0].sregs, FAKE_HIGH + 0x1ffe, "abcd", 4),
                 0);
    cr_assert_eq(byte_at(0x1ffe), 'a');
    cr_assert_eq(byte_at(0x2001), 'd');
    cr_assert_eq(gdb_write(&traps, &fake.mem, &fake.regs[0].sregs, 0x1000, "abcd", 4), -EFAULT);
    cr_assert_eq(byte_at(0x1000), 0);
}

Test(gdb_memory, writing_under_a_breakpoint_leaves_it_there)
{
    put(0x1000, "abc");
    cr_assert_eq(add(GDB_SOFTWARE, 0x1001, 1), 0);
    cr_assert_eq(gdb_write(&traps, &fake.mem, &fake.regs[0].sregs, 0x1000, "xyz", 3), 0);
    cr_assert_eq(byte_at(0x1000), 'x');
    cr_assert_eq(byte_at(0x1001), 0xcc);
    cr_assert_str_eq(seen(0x1000, 3), "xyz");
    drop(GDB_SOFTWARE, 0x1001, 1);
    cr_assert_eq(byte_at(0x1001), 'y');
}

Test(gdb_memory, physical_reads_fail_as_a_whole)
{
    uint8_t bytes[2] = {1, 1};

    cr_assert_eq(gdb_read_physical(&traps, &fake.mem, FAKE_RAM - 1, bytes, 2), -EFAULT);
    cr_assert_eq(bytes[0], 1);
}
