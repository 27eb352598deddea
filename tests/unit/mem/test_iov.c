#include <criterion/criterion.h>
#include <errno.h>

#include "hv/mem/iov.h"

/*
 *   0x0000  0x2000  0x4000       0x8000  0x9000
 *   | RAM   | RAM   |    hole    | ROM   |
 */
#define SECOND 0x2000
#define HOLE 0x4000
#define ROM 0x8000

static struct mem mem;

static void setup(void)
{
    mem_init(&mem);
    cr_assert_eq(mem_add(&mem, 0, 0x2000, MEM_RAM, MEM_ANONYMOUS, NULL), 0);
    cr_assert_eq(mem_add(&mem, SECOND, 0x2000, MEM_RAM, MEM_ANONYMOUS, NULL), 0);
    cr_assert_eq(mem_add(&mem, ROM, 0x1000, MEM_ROM, MEM_ANONYMOUS, NULL), 0);
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(iov, .init = setup, .fini = teardown);

Test(iov, has_a_piece_for_each_region)
{
    struct iovec iov[3] = {0};

    cr_assert_eq(mem_iov(&mem, SECOND - 0x10, 0x30, true, iov, 3), 2);
    cr_assert_eq(iov[0].iov_base, mem_ptr(&mem, SECOND - 0x10, 0x10, true));
    cr_assert_eq(iov[0].iov_len, 0x10);
    cr_assert_eq(iov[1].iov_base, mem_ptr(&mem, SECOND, 0x20, true));
    cr_assert_eq(iov[1].iov_len, 0x20);
    cr_assert_null(iov[2].iov_base);
    cr_assert_eq(mem_iov(&mem, UINT64_MAX, 0, true, iov, 0), 0);
}

Test(iov, refuses_what_is_not_memory)
{
    struct iovec iov[3];

    cr_assert_eq(mem_iov(&mem, HOLE - 1, 2, false, iov, 3), -EFAULT);
    cr_assert_eq(mem_iov(&mem, ROM, 2, true, iov, 3), -EFAULT);
    cr_assert_eq(mem_iov(&mem, ROM, 2, false, iov, 3), 1);
    cr_assert_eq(mem_iov(&mem, 0, UINT64_MAX, false, iov, 3), -EFAULT);
    cr_assert_eq(mem_iov(&mem, UINT64_MAX, 2, false, iov, 3), -EFAULT);
    cr_assert_eq(mem_iov(&mem, SECOND - 1, 2, false, iov, 1), -E2BIG);
}
