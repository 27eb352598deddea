#include "support/ram.h"

#include <criterion/criterion.h>

void ram_init(struct mem *mem, uint64_t size)
{
    mem_init(mem);
    cr_assert_eq(mem_add(mem, 0, size, MEM_RAM, MEM_ANONYMOUS, NULL), 0);
}
