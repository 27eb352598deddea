#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/num.h"
#include "hv/mem/mem.h"
#include "support/tmp.h"

#define PAGE ((uint64_t)MEM_PAGE_SIZE)

/*
 * The memory of most tests: RAM, RAM next to it, a hole, RAM, ROM next to that.
 *
 *   0x0000  0x2000  0x4000       0x8000  0xa000  0xb000
 *   | RAM   | RAM   |    hole    | RAM   | ROM   |
 */
#define SECOND 0x2000
#define HOLE 0x4000
#define AFTER_HOLE 0x8000
#define ROM 0xa000
#define END 0xb000

static struct mem mem;
static struct error err;

static int add(uint64_t gpa, uint64_t size, enum mem_kind kind)
{
    return mem_add(&mem, gpa, size, kind, MEM_ANONYMOUS, &err);
}

static void setup(void)
{
    mem_init(&mem);
    /* Not in order: the list sorts itself. */
    cr_assert_eq(add(AFTER_HOLE, 0x2000, MEM_RAM), 0);
    cr_assert_eq(add(0, 0x2000, MEM_RAM), 0);
    cr_assert_eq(add(ROM, 0x1000, MEM_ROM), 0);
    cr_assert_eq(add(SECOND, 0x2000, MEM_RAM), 0);
    err.text[0] = '\0';
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(mem, .init = setup, .fini = teardown);

static void fill(uint64_t gpa, uint8_t byte, uint64_t len)
{
    static uint8_t data[HOLE];

    cr_assert_leq(len, sizeof(data));
    memset(data, byte, len);
    cr_assert_eq(mem_rom_write(&mem, gpa, data, len), 0);
}

static uint8_t byte_at(uint64_t gpa)
{
    uint8_t byte = 0;

    cr_assert_eq(mem_read(&mem, gpa, &byte, 1), 0, "at 0x%llx", (unsigned long long)gpa);
    return byte;
}

/* --- regions --- */

Test(mem, regions_are_sorted_and_zeroed)
{
    cr_assert_eq(mem.count, 4);
    for (unsigned i = 1; i < mem.count; i++)
        cr_assert_leq(mem.regions[i - 1].gpa + mem.regions[i - 1].size, mem.regions[i].gpa);
    for (uint64_t gpa = 0; gpa < HOLE; gpa++)
        cr_assert_eq(byte_at(gpa), 0);
}

Test(mem, finds_the_region_of_an_address)
{
    cr_assert_eq(mem_find(&mem, 0)->gpa, 0);
    cr_assert_eq(mem_find(&mem, SECOND - 1)->gpa, 0);
    cr_assert_eq(mem_find(&mem, SECOND)->gpa, SECOND);
    cr_assert_null(mem_find(&mem, HOLE));
    cr_assert_null(mem_find(&mem, AFTER_HOLE - 1));
    cr_assert_eq(mem_find(&mem, ROM)->kind, MEM_ROM);
    cr_assert_null(mem_find(&mem, END));
    cr_assert_null(mem_find(&mem, UINT64_MAX));
}

Test(mem, rejects_overlap_on_every_side)
{
    cr_assert_eq(add(AFTER_HOLE, 0x2000, MEM_RAM), -EEXIST);
    cr_assert_eq(add(AFTER_HOLE - PAGE, 2 * PAGE, MEM_RAM), -EEXIST);
    cr_assert_eq(add(AFTER_HOLE + PAGE, PAGE, MEM_RAM), -EEXIST);
    cr_assert_eq(add(HOLE, 0x5000, MEM_RAM), -EEXIST);
    cr_assert_eq(add(ROM, PAGE, MEM_RAM), -EEXIST);
    cr_assert_not_null(strstr(err.text, "overlaps"), "%s", err.text);
    cr_assert_eq(mem.count, 4);
    cr_assert_eq(add(HOLE, AFTER_HOLE - HOLE, MEM_RAM), 0, "the hole itself is free");
}

Test(mem, rejects_unaligned_and_empty_regions)
{
    cr_assert_eq(add(0x10000, 0, MEM_RAM), -EINVAL);
    cr_assert_eq(add(0x10001, PAGE, MEM_RAM), -EINVAL);
    cr_assert_eq(add(0x10000, PAGE + 1, MEM_RAM), -EINVAL);
    cr_assert_not_null(strstr(err.text, "aligned"), "%s", err.text);
    cr_assert_eq(mem.count, 4);
}

Test(mem, rejects_wraparound)
{
    cr_assert_eq(add(-PAGE, 2 * PAGE, MEM_RAM), -EINVAL);
    cr_assert_eq(add(-PAGE, PAGE, MEM_RAM), -EINVAL, "its end would be 2^64");
    cr_assert_eq(add(2 * PAGE, -PAGE, MEM_RAM), -EINVAL);
    cr_assert_eq(mem.count, 4);
}

Test(mem, reports_a_host_without_room)
{
    unsigned fds = count_open_fds();

    cr_assert_eq(add(0x10000, 1ULL << 60, MEM_RAM), -ENOMEM);
    cr_assert_not_null(strstr(err.text, "1048576T of memory"), "%s", err.text);
    cr_assert_lt(mem_add(&mem, 0x10000, 1ULL << 60, MEM_RAM, MEM_MEMFD, &err), 0);
    cr_assert_eq(mem.count, 4);
    cr_assert_eq(count_open_fds(), fds);
}

Test(mem, is_full_at_its_maximum)
{
    for (uint64_t i = mem.count; i < MEM_REGIONS_MAX; i++)
        cr_assert_eq(add(0x100000 + i * PAGE, PAGE, MEM_RAM), 0);
    cr_assert_eq(add(0x200000, PAGE, MEM_RAM), -ENOSPC);
    cr_assert_eq(mem.count, MEM_REGIONS_MAX);
    cr_assert_eq(byte_at(0x100000 + 4 * PAGE), 0);
}

Test(mem, words_are_optional)
{
    cr_assert_eq(mem_add(&mem, 0, PAGE, MEM_RAM, MEM_ANONYMOUS, NULL), -EEXIST);
}

/* --- back ends --- */

Test(mem, a_memfd_shows_what_the_guest_wrote)
{
    unsigned fds = count_open_fds();
    struct mem shared;
    char text[6] = "";

    mem_init(&shared);
    cr_assert_eq(mem_add(&shared, PAGE, PAGE, MEM_RAM, MEM_MEMFD, &err), 0, "%s", err.text);
    cr_assert_eq(count_open_fds(), fds + 1);
    int fd = shared.regions[0].fd;
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    cr_assert_eq(mem_write(&shared, PAGE + 8, "hello", 5), 0);
    cr_assert_eq(pread(fd, text, 5, 8), 5);
    cr_assert_str_eq(text, "hello");
    mem_fini(&shared);
    cr_assert_eq(shared.count, 0);
    cr_assert_eq(count_open_fds(), fds);
    mem_fini(&shared);
}

Test(mem, huge_pages_want_huge_alignment)
{
    cr_assert_eq(mem_add(&mem, 2 * MIB, MIB, MEM_RAM, MEM_HUGETLB, &err), -EINVAL);
    cr_assert_eq(mem_add(&mem, MIB, 2 * MIB, MEM_RAM, MEM_HUGETLB, &err), -EINVAL);
}

/* No host has a tebibyte of huge pages in reserve; one without any fails already at the memfd. */
Test(mem, huge_pages_that_are_not_there_are_an_error_now_and_not_a_signal_later)
{
    unsigned fds = count_open_fds();

    cr_assert_lt(mem_add(&mem, GIB, 1ULL << 40, MEM_RAM, MEM_HUGETLB, &err), 0);
    cr_assert_not_null(strstr(err.text, "1T of huge-page memory"), "%s", err.text);
    cr_assert_eq(mem.count, 4);
    cr_assert_eq(count_open_fds(), fds);
}

/* --- pointers --- */

Test(mem, a_pointer_stays_inside_one_region)
{
    uint8_t *base = mem_ptr(&mem, 0, 0x2000, true);

    cr_assert_not_null(base);
    cr_assert_eq(mem_ptr(&mem, 0x1fff, 1, true), base + 0x1fff);
    cr_assert_null(mem_ptr(&mem, 0x1fff, 2, true), "crosses into the next region");
    cr_assert_null(mem_ptr(&mem, 0, 0x2001, false));
    cr_assert_null(mem_ptr(&mem, HOLE, 1, false));
    cr_assert_null(mem_ptr(&mem, HOLE - 1, 2, false));
    cr_assert_null(mem_ptr(&mem, END, 0, false));
}

Test(mem, a_pointers_length_may_not_wrap)
{
    cr_assert_null(mem_ptr(&mem, 0x1000, UINT64_MAX, false));
    cr_assert_null(mem_ptr(&mem, 0x1000, UINT64_MAX - 0xfff, false));
    cr_assert_null(mem_ptr(&mem, UINT64_MAX, 2, false));
}

Test(mem, rom_gives_no_pointer_for_writing)
{
    cr_assert_not_null(mem_ptr(&mem, ROM, PAGE, false));
    cr_assert_null(mem_ptr(&mem, ROM, 1, true));
}

/* --- copies --- */

Test(mem, copies_cross_from_one_region_into_the_next)
{
    const char text[] = "across the border";
    char back[sizeof(text)] = "";

    cr_assert_eq(mem_write(&mem, SECOND - 5, text, sizeof(text)), 0);
    cr_assert_eq(mem_read(&mem, SECOND - 5, back, sizeof(text)), 0);
    cr_assert_str_eq(back, text);
    cr_assert_eq(byte_at(SECOND), 's');
    cr_assert_eq(mem_zero(&mem, SECOND - 2, 4), 0);
    cr_assert_eq(mem_read(&mem, SECOND - 5, back, sizeof(text)), 0);
    cr_assert_arr_eq(back, "acr\0\0\0\0the", 10);
}

Test(mem, everything_between_two_holes_can_be_read_at_once)
{
    static uint8_t all[0x4000];

    memset(all, 0xa5, sizeof(all));
    cr_assert_eq(mem_read(&mem, 0, all, sizeof(all)), 0);
    for (size_t i = 0; i < sizeof(all); i++)
        cr_assert_eq(all[i], 0);
}

/* Where an access of `len` bytes must fail as a whole. */
static void assert_unreachable(uint64_t gpa, uint64_t len)
{
    static uint8_t out[0x5000];

    memset(out, 0xa5, sizeof(out));
    cr_assert_eq(mem_read(&mem, gpa, out, len), -EFAULT);
    for (size_t i = 0; i < sizeof(out); i++)
        cr_assert_eq(out[i], 0xa5, "byte %zu was copied", i);
    cr_assert_eq(mem_write(&mem, gpa, out, len), -EFAULT);
    cr_assert_eq(mem_rom_write(&mem, gpa, out, len), -EFAULT);
    cr_assert_eq(mem_zero(&mem, gpa, len), -EFAULT);
}

Test(mem, an_access_into_the_hole_touches_nothing)
{
    fill(0, 0x11, HOLE);
    fill(AFTER_HOLE, 0x22, 0x2000);
    assert_unreachable(HOLE - 1, 2);
    assert_unreachable(SECOND - 1, 0x2002); /* through a whole region, then out */
    assert_unreachable(HOLE, 1);
    assert_unreachable(AFTER_HOLE - 1, 2);
    assert_unreachable(HOLE - 1, 0x4002); /* both ends in RAM, the hole between */
    for (uint64_t gpa = 0; gpa < HOLE; gpa++)
        cr_assert_eq(byte_at(gpa), 0x11);
    for (uint64_t gpa = AFTER_HOLE; gpa < ROM; gpa++)
        cr_assert_eq(byte_at(gpa), 0x22);
}

Test(mem, an_access_that_wraps_touches_nothing)
{
    fill(0, 0x11, HOLE);
    assert_unreachable(UINT64_MAX, 1);
    assert_unreachable(UINT64_MAX, 2);
    assert_unreachable(UINT64_MAX - 7, 16);
    assert_unreachable(0, UINT64_MAX);
    assert_unreachable(1, UINT64_MAX);
    assert_unreachable(AFTER_HOLE, UINT64_MAX - AFTER_HOLE + 1);
    for (uint64_t gpa = 0; gpa < HOLE; gpa++)
        cr_assert_eq(byte_at(gpa), 0x11);
}

Test(mem, rom_is_read_and_not_written)
{
    cr_assert_eq(mem_rom_write(&mem, ROM, "bios", 4), 0);
    cr_assert_eq(byte_at(ROM + 1), 'i');
    cr_assert_eq(mem_write(&mem, ROM, "evil", 4), -EFAULT);
    cr_assert_eq(mem_zero(&mem, ROM, 4), -EFAULT);
    cr_assert_eq(mem_write_u32(&mem, ROM, 0), -EFAULT);
    cr_assert_eq(byte_at(ROM + 1), 'i');
}

Test(mem, a_write_that_runs_into_rom_touches_nothing)
{
    cr_assert_eq(mem_write(&mem, ROM - 2, "evil", 4), -EFAULT);
    cr_assert_eq(mem_zero(&mem, ROM - 2, 4), -EFAULT);
    cr_assert_eq(mem_write_u32(&mem, ROM - 2, 0x64636261), -EFAULT);
    cr_assert_eq(byte_at(ROM - 2), 0);
    cr_assert_eq(byte_at(ROM), 0);
    cr_assert_eq(mem_rom_write(&mem, ROM - 2, "fill", 4), 0);
    cr_assert_eq(byte_at(ROM), 'l');
}

Test(mem, nothing_is_inside_everywhere)
{
    cr_assert_eq(mem_read(&mem, HOLE, NULL, 0), 0);
    cr_assert_eq(mem_write(&mem, UINT64_MAX, NULL, 0), 0);
    cr_assert_eq(mem_zero(&mem, ROM, 0), 0);
}

Test(mem, no_region_means_no_memory)
{
    struct mem none;
    uint8_t byte = 0xa5;

    mem_init(&none);
    cr_assert_eq(mem_read(&none, 0, &byte, 1), -EFAULT);
    cr_assert_eq(byte, 0xa5);
    cr_assert_null(mem_ptr(&none, 0, 1, false));
}

/* --- numbers --- */

Test(mem, numbers_are_little_endian)
{
    uint16_t a = 0;
    uint32_t b = 0;
    uint64_t c = 0;

    cr_assert_eq(mem_write(&mem, 0x100, "\x01\x02\x03\x04\x05\x06\x07\x08", 8), 0);
    cr_assert_eq(mem_read_u16(&mem, 0x100, &a), 0);
    cr_assert_eq(mem_read_u32(&mem, 0x100, &b), 0);
    cr_assert_eq(mem_read_u64(&mem, 0x100, &c), 0);
    cr_assert_eq(a, 0x0201);
    cr_assert_eq(b, 0x04030201);
    cr_assert_eq(c, 0x0807060504030201);
}

Test(mem, numbers_at_any_alignment)
{
    for (uint64_t gpa = 0x200; gpa < 0x208; gpa++) {
        uint16_t a = 0;
        uint32_t b = 0;
        uint64_t c = 0;
        cr_assert_eq(mem_write_u64(&mem, gpa, 0x1122334455667788 + gpa), 0);
        cr_assert_eq(mem_read_u64(&mem, gpa, &c), 0);
        cr_assert_eq(c, 0x1122334455667788 + gpa);
        cr_assert_eq(mem_write_u32(&mem, gpa, 0x99aabbcc), 0);
        cr_assert_eq(mem_read_u32(&mem, gpa, &b), 0);
        cr_assert_eq(b, 0x99aabbcc);
        cr_assert_eq(mem_write_u16(&mem, gpa, 0xddee), 0);
        cr_assert_eq(mem_read_u16(&mem, gpa, &a), 0);
        cr_assert_eq(a, 0xddee);
        cr_assert_eq(byte_at(gpa + 8), 0, "a byte too many");
    }
}

Test(mem, numbers_cross_from_one_region_into_the_next)
{
    uint64_t value = 0;

    cr_assert_eq(mem_write_u64(&mem, SECOND - 3, 0x1122334455667788), 0);
    cr_assert_eq(byte_at(SECOND - 1), 0x66);
    cr_assert_eq(byte_at(SECOND), 0x55);
    cr_assert_eq(mem_read_u64(&mem, SECOND - 3, &value), 0);
    cr_assert_eq(value, 0x1122334455667788);
}

Test(mem, numbers_torn_by_the_hole_are_refused_whole)
{
    fill(HOLE - 8, 0x11, 8);
    for (uint64_t gpa = HOLE - 7; gpa < HOLE; gpa++) {
        uint64_t value = 0xa5a5a5a5a5a5a5a5;
        cr_assert_eq(mem_read_u64(&mem, gpa, &value), -EFAULT);
        cr_assert_eq(value, 0xa5a5a5a5a5a5a5a5);
        cr_assert_eq(mem_write_u64(&mem, gpa, 0), -EFAULT);
    }
    for (uint64_t gpa = HOLE - 3; gpa < HOLE; gpa++) {
        uint32_t value = 0xa5a5a5a5;
        cr_assert_eq(mem_read_u32(&mem, gpa, &value), -EFAULT);
        cr_assert_eq(value, 0xa5a5a5a5);
        cr_assert_eq(mem_write_u32(&mem, gpa, 0), -EFAULT);
    }
    uint16_t value = 0xa5a5;
    cr_assert_eq(mem_read_u16(&mem, HOLE - 1, &value), -EFAULT);
    cr_assert_eq(value, 0xa5a5);
    cr_assert_eq(mem_write_u16(&mem, HOLE - 1, 0), -EFAULT);
    for (uint64_t gpa = HOLE - 8; gpa < HOLE; gpa++)
        cr_assert_eq(byte_at(gpa), 0x11);
}

Test(mem, numbers_that_wrap_are_refused)
{
    uint64_t value = 0xa5a5a5a5a5a5a5a5;

    for (uint64_t gpa = UINT64_MAX - 7; gpa != 0; gpa++)
        cr_assert_eq(mem_read_u64(&mem, gpa, &value), -EFAULT);
    cr_assert_eq(value, 0xa5a5a5a5a5a5a5a5);
}

/* --- all of it against a model that knows every byte's owner --- */

static uint64_t random_below(uint64_t *state, uint64_t n)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return (*state >> 33) % n;
}

static bool model_allows(uint64_t gpa, uint64_t len, bool write)
{
    for (uint64_t i = gpa; i < gpa + len; i++)
        if ((i >= HOLE && i < AFTER_HOLE) || i >= END || (write && i >= ROM))
            return false;
    return true;
}

Test(mem, agrees_with_a_bytewise_model)
{
    static uint8_t model[END + 0x100];
    uint8_t data[64], back[64];
    uint64_t seed = 1;

    for (unsigned round = 0; round < 20000; round++) {
        uint64_t gpa = random_below(&seed, END + 0x40);
        uint64_t len = random_below(&seed, sizeof(data));
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = (uint8_t)random_below(&seed, 256);
        bool may_write = model_allows(gpa, len, true), may_read = model_allows(gpa, len, false);
        cr_assert_eq(mem_write(&mem, gpa, data, len), may_write ? 0 : -EFAULT);
        if (may_write)
            memcpy(model + gpa, data, len);
        cr_assert_eq(mem_read(&mem, gpa, back, len), may_read ? 0 : -EFAULT);
        cr_assert(!may_read || memcmp(back, model + gpa, len) == 0);
    }
}
