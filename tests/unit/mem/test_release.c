#include "hv/mem/release.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "hv/base/num.h"
#include "hv/mem/iov.h"

/*
 *   0          4 MiB      8 MiB            16 MiB      20 MiB
 *   | RAM      | RAM      |      hole      | ROM       |
 */
#define RAM (4 * MIB)
#define HOLE (8 * MIB)
#define ROM (16 * MIB)

static struct mem mem;

static void start(enum mem_backing backing)
{
    mem_init(&mem);
    if (backing == MEM_HUGETLB && mem_add(&mem, 0, RAM, MEM_RAM, backing, NULL) < 0)
        cr_skip_test("no huge pages are reserved");
    if (mem.count == 0)
        cr_assert_eq(mem_add(&mem, 0, RAM, MEM_RAM, backing, NULL), 0);
    if (backing == MEM_HUGETLB)
        backing = MEM_ANONYMOUS;
    cr_assert_eq(mem_add(&mem, RAM, RAM, MEM_RAM, backing, NULL), 0);
    cr_assert_eq(mem_add(&mem, ROM, RAM, MEM_ROM, backing, NULL), 0);
    for (unsigned i = 0; i < mem.count; i++)
        memset(mem.regions[i].host, 0xa5, RAM);
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(release, .fini = teardown);

/* All of [gpa, gpa + len) is `byte`. */
static void assert_filled(uint64_t gpa, uint64_t len, uint8_t byte)
{
    for (uint64_t end = gpa + len; gpa < end; gpa++) {
        uint8_t found = (uint8_t)~byte;
        cr_assert_eq(mem_read(&mem, gpa, &found, 1), 0);
        cr_assert_eq(found, byte, "at 0x%llx", (unsigned long long)gpa);
    }
}

static unsigned resident_pages(uint64_t gpa, uint64_t len)
{
    unsigned char pages[1024];
    unsigned count = 0;

    cr_assert_eq(mincore(mem_ptr(&mem, gpa, len, false), len, pages), 0);
    for (uint64_t i = 0; i < len / MEM_PAGE_SIZE; i++)
        count += pages[i] & 1;
    return count;
}

static void pages_inside_are_given_back(void)
{
    cr_assert_eq(mem_release(&mem, 0x10123, 0x3000), 0);
    assert_filled(0x10000, 0x1000, 0xa5);
    assert_filled(0x11000, 0x2000, 0);
    assert_filled(0x13000, 0x1000, 0xa5);
    cr_assert_eq(mem_write(&mem, 0x11000, "again", 6), 0);
    assert_filled(0x11006, 0x10, 0);
}

Test(release, anonymous_memory_is_given_back)
{
    start(MEM_ANONYMOUS);
    cr_assert_eq(resident_pages(0x40000, 0x10000), 16);
    cr_assert_eq(mem_release(&mem, 0x40000, 0x10000), 0);
    cr_assert_eq(resident_pages(0x40000, 0x10000), 0);
    pages_inside_are_given_back();
}

Test(release, memory_that_is_a_file_is_given_back_for_all_who_map_it)
{
    struct stat before, after;

    start(MEM_MEMFD);
    const uint8_t *other = mmap(NULL, RAM, PROT_READ, MAP_SHARED, mem.regions[0].fd, 0);
    cr_assert_neq((const void *)other, MAP_FAILED);
    cr_assert_eq(fstat(mem.regions[0].fd, &before), 0);
    cr_assert_eq(mem_release(&mem, MIB, 2 * MIB), 0);
    cr_assert_eq(fstat(mem.regions[0].fd, &after), 0);
    cr_assert_eq((uint64_t)(before.st_blocks - after.st_blocks) * 512, 2 * MIB);
    cr_assert_eq(after.st_size, before.st_size);
    cr_assert_eq(other[MIB - 1], 0xa5);
    cr_assert_eq(other[MIB], 0);
    cr_assert_eq(other[3 * MIB], 0xa5);
    (void)munmap((void *)other, RAM);
    pages_inside_are_given_back();
}

Test(release, huge_pages_are_given_back_whole_or_not_at_all)
{
    start(MEM_HUGETLB);
    cr_assert_eq(mem_release_unit(&mem.regions[0]), 2 * MIB);
    cr_assert_eq(mem_release_unit(&mem.regions[1]), MEM_PAGE_SIZE);
    cr_assert_eq(mem_release(&mem, 0x1000, 2 * MIB), 0);
    assert_filled(0, RAM, 0xa5);
    cr_assert_eq(mem_release(&mem, 0x1000, RAM - 0x1000), 0);
    assert_filled(0, 2 * MIB, 0xa5);
    assert_filled(2 * MIB, 2 * MIB, 0);
}

Test(release, regions_side_by_side_are_one)
{
    start(MEM_ANONYMOUS);
    cr_assert_eq(mem_release(&mem, RAM - 0x1000, 0x2000), 0);
    assert_filled(RAM - 0x1001, 1, 0xa5);
    assert_filled(RAM - 0x1000, 0x2000, 0);
    assert_filled(RAM + 0x1000, 1, 0xa5);
    cr_assert_eq(mem_release(&mem, 0, HOLE), 0);
    assert_filled(0, HOLE, 0);
}

Test(release, less_than_a_page_stays)
{
    start(MEM_ANONYMOUS);
    cr_assert_eq(mem_release(&mem, 0x1000, 0), 0);
    cr_assert_eq(mem_release(&mem, 0x1001, 0x1ffe), 0);
    assert_filled(0x1000, 0x2000, 0xa5);
}

Test(release, what_is_no_ram_is_refused_and_nothing_is_given_back)
{
    start(MEM_ANONYMOUS);
    cr_assert_eq(mem_release(&mem, HOLE - 0x1000, 0x2000), -EFAULT);
    cr_assert_eq(mem_release(&mem, HOLE, 0x1000), -EFAULT);
    cr_assert_eq(mem_release(&mem, ROM, 0x1000), -EFAULT);
    cr_assert_eq(mem_release(&mem, 0, UINT64_MAX), -EFAULT);
    cr_assert_eq(mem_release(&mem, UINT64_MAX - 0xfff, 0x2000), -EFAULT);
    assert_filled(HOLE - 0x1000, 0x1000, 0xa5);
    assert_filled(ROM, 0x1000, 0xa5);
    assert_filled(0, 0x1000, 0xa5);
}

Test(release, a_piece_is_as_good_as_an_address)
{
    struct iovec iov[2], ours = {&mem, sizeof(mem)};

    start(MEM_ANONYMOUS);
    cr_assert_eq(mem_iov(&mem, RAM - 0x1000, 0x1800, true, iov, 2), 2);
    cr_assert_eq(mem_release_piece(&mem, &iov[0]), 0);
    cr_assert_eq(mem_release_piece(&mem, &iov[1]), 0);
    assert_filled(RAM - 0x1000, 0x1000, 0);
    assert_filled(RAM, 0x1800, 0xa5);
    cr_assert_eq(mem_release_piece(&mem, &ours), -EFAULT);
    cr_assert_eq(mem_iov(&mem, ROM, 0x1000, false, iov, 1), 1);
    cr_assert_eq(mem_release_piece(&mem, iov), -EFAULT);
}
