#include "hv/mem/donate.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/base/num.h"

#define RAM (4 * MIB)
#define BUFFER (2 * MIB)

static struct mem mem;
static uint8_t *buffer;

static void setup_with(enum mem_backing backing)
{
    mem_init(&mem);
    cr_assert_eq(mem_add(&mem, 0, RAM, MEM_RAM, backing, NULL), 0);
    cr_assert_eq(mem_add(&mem, RAM, RAM, MEM_ROM, backing, NULL), 0);
    buffer = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq((void *)buffer, MAP_FAILED);
    for (size_t i = 0; i < BUFFER; i++)
        buffer[i] = (uint8_t)(i * 7 + i / 4096);
    memset(mem.regions[0].host, 0xa5, RAM);
}

static void setup(void)
{
    setup_with(MEM_ANONYMOUS);
}

static void teardown(void)
{
    (void)munmap(buffer, BUFFER);
    mem_fini(&mem);
}

TestSuite(donate, .init = setup, .fini = teardown);

/* What the buffer had at `offset` is at `gpa`, and one byte before and after is untouched. */
static void assert_donated(uint64_t gpa, size_t offset, size_t len)
{
    const uint8_t *ram = mem.regions[0].host;

    for (size_t i = 0; i < len; i++)
        cr_assert_eq(ram[gpa + i], (uint8_t)((offset + i) * 7 + (offset + i) / 4096), "byte %zu",
                     i);
    cr_assert_eq(ram[gpa - 1], 0xa5);
    cr_assert_eq(ram[gpa + len], 0xa5);
}

Test(donate, whole_pages_move)
{
    cr_assert_eq(mem_donate(&mem, 0x10000, buffer, MIB), 0);
    assert_donated(0x10000, 0, MIB);
}

Test(donate, parts_of_pages_at_both_ends_are_copied)
{
    cr_assert_eq(mem_donate(&mem, 0x10123, buffer + 0x123, MIB + 0x777), 0);
    assert_donated(0x10123, 0x123, MIB + 0x777);
    cr_assert_eq(buffer[0], 0, "the bytes before were not given");
    cr_assert_eq(buffer[0x123 + MIB + 0x777], (uint8_t)((0x123 + MIB + 0x777) * 7 + 0x100));
}

Test(donate, another_offset_in_the_page_is_copied)
{
    cr_assert_eq(mem_donate(&mem, 0x10010, buffer, MIB), 0);
    assert_donated(0x10010, 0, MIB);
}

Test(donate, a_little_is_copied)
{
    cr_assert_eq(mem_donate(&mem, 0x10000, buffer, 5000), 0);
    assert_donated(0x10000, 0, 5000);
}

Test(donate, outside_memory_is_refused_and_nothing_moves)
{
    cr_assert_eq(mem_donate(&mem, RAM - MIB + 4096, buffer, MIB), -EFAULT, "into the ROM");
    cr_assert_eq(mem_donate(&mem, 2 * RAM, buffer, MIB), -EFAULT);
    cr_assert_eq(mem_donate(&mem, UINT64_MAX - 4095, buffer, MIB), -EFAULT);
    cr_assert_eq(((const uint8_t *)mem.regions[0].host)[RAM - 1], 0xa5);
    cr_assert_eq(buffer[MIB], (uint8_t)(MIB * 7 + MIB / 4096));
}

Test(donate, memory_that_is_a_file_is_copied_to)
{
    teardown();
    setup_with(MEM_MEMFD);
    cr_assert_eq(mem_donate(&mem, 0x10000, buffer, MIB), 0);
    assert_donated(0x10000, 0, MIB);
}
