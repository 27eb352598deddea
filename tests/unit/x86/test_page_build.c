/*
 * The page-table builder, judged by the walker and by what it left in memory.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "hv/x86/flat_modes.h"
#include "hv/x86/paging.h"
#include "support/ram.h"

#define RAM (4 * MIB)
#define TABLES 0x10000
#define TABLES_END 0x100000
#define PAGE 0x1000
#define LARGE (2 * MIB)

static struct mem mem;
static struct page_builder builder;
static struct kvm_sregs sregs;

static void setup(void)
{
    ram_init(&mem, RAM);
    cr_assert_eq(page_builder_init(&builder, &mem, TABLES, TABLES_END), 0);
    x86_long_mode(&sregs, 0, builder.root);
}

static void teardown(void)
{
    mem_fini(&mem);
}

static struct page_walk walk(uint64_t va, enum page_access access, bool user)
{
    struct page_walk w;

    memset(&w, 0xa5, sizeof(w));
    page_walk(&mem, &sregs, 0, va, access, user, &w);
    return w;
}

TestSuite(page_build, .init = setup, .fini = teardown);

Test(page_build, small_page)
{
    struct page_walk w;

    cr_assert_eq(page_map(&builder, 0x400000, 0x7000, PAGE, PTE_WRITE), 0);
    w = walk(0x400abc, PAGE_WRITE, false);
    cr_assert_eq(w.result, WALK_OK);
    cr_assert_eq(w.pa, 0x7abc);
    cr_assert_eq(w.page_size, PAGE);
    cr_assert_eq(w.levels, 4);
    cr_assert_eq(walk(0x401000, PAGE_READ, false).result, WALK_NOT_PRESENT);
    cr_assert_eq(walk(0x3fffff, PAGE_READ, false).result, WALK_NOT_PRESENT);
}

Test(page_build, large_pages_where_both_addresses_allow)
{
    struct page_walk w;

    cr_assert_eq(page_map(&builder, LARGE - PAGE, LARGE - PAGE, 2 * LARGE, 0), 0);
    cr_assert_eq(walk(LARGE - 1, PAGE_READ, false).page_size, PAGE);
    w = walk(LARGE + 0x12345, PAGE_READ, false);
    cr_assert_eq(w.page_size, LARGE);
    cr_assert_eq(w.pa, LARGE + 0x12345);
    cr_assert_eq(walk(2 * LARGE, PAGE_READ, false).page_size, PAGE, "the rest is below 2 MiB");
    cr_assert_eq(walk(3 * LARGE - PAGE, PAGE_READ, false).result, WALK_NOT_PRESENT);
}

Test(page_build, unequal_offsets_take_small_pages)
{
    cr_assert_eq(page_map(&builder, LARGE, 0x1000, LARGE, 0), 0);
    cr_assert_eq(walk(LARGE, PAGE_READ, false).page_size, PAGE);
    cr_assert_eq(walk(2 * LARGE - 1, PAGE_READ, false).pa, LARGE + 0xfff);
}

Test(page_build, identity_of_4_gib_takes_six_tables)
{
    cr_assert_eq(page_map(&builder, 0, 0, 4 * GIB, PTE_WRITE), 0);
    cr_assert_eq(builder.next - TABLES, 6 * PAGE);
    cr_assert_eq(walk(0xfee00020, PAGE_WRITE, false).pa, 0xfee00020);
    cr_assert_eq(walk(4 * GIB, PAGE_READ, false).result, WALK_NOT_PRESENT);
}

Test(page_build, high_half)
{
    cr_assert_eq(page_map(&builder, 0xffffffff80000000, 0x200000, LARGE, PTE_WRITE), 0);
    cr_assert_eq(walk(0xffffffff80000123, PAGE_EXECUTE, false).pa, 0x200123);
    cr_assert_eq(page_map(&builder, 0ULL - PAGE, 0x3000, PAGE, 0), 0, "the very last page");
    cr_assert_eq(walk(~0ULL, PAGE_READ, false).pa, 0x3fff);
}

Test(page_build, flags_decide_permissions)
{
    cr_assert_eq(page_map(&builder, 0x1000, 0x1000, PAGE, 0), 0);
    cr_assert_eq(page_map(&builder, 0x2000, 0x2000, PAGE, PTE_WRITE | PTE_NO_EXECUTE), 0);
    cr_assert_eq(page_map(&builder, 0x3000, 0x3000, PAGE, PTE_USER), 0);
    cr_assert_eq(walk(0x1000, PAGE_WRITE, false).result, WALK_NOT_WRITABLE);
    cr_assert_eq(walk(0x1000, PAGE_EXECUTE, false).result, WALK_OK);
    cr_assert_eq(walk(0x2000, PAGE_WRITE, false).result, WALK_OK);
    cr_assert_eq(walk(0x2000, PAGE_EXECUTE, false).result, WALK_NOT_EXECUTABLE);
    cr_assert_eq(walk(0x2000, PAGE_READ, true).result, WALK_NOT_USER);
    cr_assert_eq(walk(0x3000, PAGE_READ, true).result, WALK_OK);
}

Test(page_build, mapping_twice_is_refused)
{
    cr_assert_eq(page_map(&builder, LARGE, 0, LARGE, 0), 0);
    cr_assert_eq(page_map(&builder, LARGE, 0, LARGE, 0), -EEXIST, "large on large");
    cr_assert_eq(page_map(&builder, LARGE + PAGE, 0, PAGE, 0), -EEXIST, "small in large");
    cr_assert_eq(page_map(&builder, 0x5000, 0x5000, PAGE, 0), 0);
    cr_assert_eq(page_map(&builder, 0x5000, 0x6000, PAGE, 0), -EEXIST, "small on small");
    cr_assert_eq(page_map(&builder, 0, 0, LARGE, 0), -EEXIST, "large over small");
    cr_assert_eq(walk(0x5000, PAGE_READ, false).pa, 0x5000, "the first mapping stays");
}

Test(page_build, bad_arguments_change_nothing)
{
    uint64_t next = builder.next;

    cr_assert_eq(page_map(&builder, 0x1001, 0, PAGE, 0), -EINVAL);
    cr_assert_eq(page_map(&builder, 0x1000, 8, PAGE, 0), -EINVAL);
    cr_assert_eq(page_map(&builder, 0x1000, 0, 100, 0), -EINVAL);
    cr_assert_eq(page_map(&builder, 0x1000, 0, PAGE, PTE_PAGE_SIZE), -EINVAL);
    cr_assert_eq(page_map(&builder, 0x800000000000, 0, PAGE, 0), -EINVAL, "not canonical");
    cr_assert_eq(page_map(&builder, 0x7ffffffff000, 0, 2 * PAGE, 0), -EINVAL, "leaves canonical");
    cr_assert_eq(page_map(&builder, 0ULL - PAGE, 0, 2 * PAGE, 0), -EINVAL, "wraps around");
    cr_assert_eq(page_map(&builder, 0, (1ULL << 52) - PAGE, 2 * PAGE, 0), -EINVAL);
    cr_assert_eq(page_map(&builder, 0x1000, 0, 0, 0), 0, "nothing to map");
    cr_assert_eq(builder.next, next);
}

Test(page_build, running_out_of_tables)
{
    struct page_builder small;

    cr_assert_eq(page_builder_init(&small, &mem, TABLES, TABLES + 3 * PAGE), 0);
    cr_assert_eq(page_map(&small, 0x1000, 0x1000, PAGE, 0), -ENOSPC);
    cr_assert_eq(small.next, TABLES + 3 * PAGE);
}

Test(page_build, init_validates_its_range)
{
    struct page_builder b, untouched;

    memset(&b, 0x5a, sizeof(b));
    untouched = b;
    cr_assert_eq(page_builder_init(&b, &mem, TABLES + 8, TABLES_END), -EINVAL);
    cr_assert_eq(page_builder_init(&b, &mem, TABLES, TABLES + 100), -EINVAL);
    cr_assert_eq(page_builder_init(&b, &mem, TABLES_END, TABLES), -EINVAL);
    cr_assert_eq(page_builder_init(&b, &mem, TABLES, TABLES), -ENOSPC);
    cr_assert_eq(page_builder_init(&b, &mem, RAM, RAM + PAGE), -EFAULT);
    cr_assert_arr_eq(&b, &untouched, sizeof(b));
}

Test(page_build, clears_the_pages_it_takes)
{
    struct page_builder b;
    uint64_t entry = 1;

    cr_assert_eq(mem_write_u64(&mem, 0x200ff8, ~0ULL), 0);
    cr_assert_eq(page_builder_init(&b, &mem, 0x200000, 0x210000), 0);
    cr_assert_eq(mem_read_u64(&mem, 0x200ff8, &entry), 0);
    cr_assert_eq(entry, 0);
}

Test(page_build, table_outside_memory_is_reported)
{
    struct page_builder b;

    cr_assert_eq(page_builder_init(&b, &mem, RAM - PAGE, RAM + 8 * PAGE), 0);
    cr_assert_eq(page_map(&b, 0, 0, PAGE, 0), -EFAULT);
}

/* --- property: for random maps, the walker finds what page_map() said --- */

struct model_map {
    uint64_t va, pa, size, flags;
};

static uint64_t random_page(uint64_t pages)
{
    return (uint64_t)rand() % pages * PAGE;
}

static struct model_map random_map(void)
{
    static const uint64_t flags[] = {0, PTE_WRITE, PTE_USER, PTE_WRITE | PTE_USER,
                                     PTE_NO_EXECUTE | PTE_WRITE};
    static const uint64_t bases[] = {0, 0x40000000, 0x7fff00000000, 0xffff800000000000,
                                     0xffffffff80000000};
    struct model_map m = {
        .va = bases[rand() % ARRAY_LEN(bases)] + random_page(4096),
        .pa = random_page(1 << 20),
        .size = PAGE + random_page(rand() % 4 == 0 ? 2048 : 16),
        .flags = flags[rand() % ARRAY_LEN(flags)],
    };

    if (rand() % 2 == 0) { /* let large pages happen */
        m.va = align_down(m.va, LARGE);
        m.pa = align_down(m.pa, LARGE);
    }
    return m;
}

/* The first mapping that holds va wins: a later one that met it stopped there. */
static const struct model_map *model_find(const struct model_map *maps, size_t count, uint64_t va)
{
    for (size_t i = 0; i < count; i++) {
        if (va - maps[i].va < maps[i].size)
            return &maps[i];
    }
    return NULL;
}

static bool overlaps(const struct model_map *maps, size_t count, const struct model_map *m)
{
    for (size_t i = 0; i < count; i++) {
        if (m->va < maps[i].va + maps[i].size && maps[i].va < m->va + m->size)
            return true;
    }
    return false;
}

static void assert_agrees(const struct model_map *m, uint64_t va)
{
    struct page_walk w = walk(va, PAGE_READ, false);

    if (m == NULL) {
        cr_assert_eq(w.result, WALK_NOT_PRESENT, "0x%lx", va);
        return;
    }
    cr_assert_eq(w.result, WALK_OK, "0x%lx: %s", va, walk_result_text(w.result));
    cr_assert_eq(w.pa, m->pa + (va - m->va), "0x%lx", va);
    cr_assert_eq(walk(va, PAGE_READ, true).result, m->flags & PTE_USER ? WALK_OK : WALK_NOT_USER);
    cr_assert_eq(walk(va, PAGE_WRITE, false).result,
                 m->flags & PTE_WRITE ? WALK_OK : WALK_NOT_WRITABLE);
    cr_assert_eq(walk(va, PAGE_EXECUTE, false).result,
                 m->flags & PTE_NO_EXECUTE ? WALK_NOT_EXECUTABLE : WALK_OK);
}

Test(page_build, random_maps_walk_back)
{
    struct model_map maps[24];

    for (unsigned seed = 0; seed < 60; seed++) {
        size_t count = 0;

        srand(seed);
        cr_assert_eq(page_builder_init(&builder, &mem, TABLES, TABLES_END), 0);
        while (count < ARRAY_LEN(maps)) {
            struct model_map m = random_map();

            if (overlaps(maps, count, &m))
                continue;
            cr_assert_eq(page_map(&builder, m.va, m.pa, m.size, m.flags), 0);
            maps[count++] = m;
        }
        for (size_t i = 0; i < count; i++) {
            uint64_t inside = maps[i].va + (uint64_t)rand() % maps[i].size;

            assert_agrees(&maps[i], maps[i].va);
            assert_agrees(&maps[i], maps[i].va + maps[i].size - 1);
            assert_agrees(&maps[i], inside);
            assert_agrees(model_find(maps, count, maps[i].va + maps[i].size),
                          maps[i].va + maps[i].size);
        }
    }
}
