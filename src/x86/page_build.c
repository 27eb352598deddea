/*
 * Building 4-level page tables in guest memory (SDM 3A §4.5).
 *
 * A virtual address is four 9-bit indices and a 12-bit offset. Each index picks one of 512 entries
 * of a 4 KiB table, and each entry names the next table; an entry of the second-lowest level may
 * name a 2 MiB page instead. Permissions add up along the way, so the builder leaves every inner
 * entry permissive and lets the last one decide.
 *
 * Table pages are taken one after the other from the caller's range and never given back. Nothing
 * is unmapped or changed once it is mapped: that is the guest's business when it runs.
 */
#include <errno.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "hv/x86/paging.h"
#include "x86/x86_priv.h"

#define PAGE_4K (4 * KIB)
#define PAGE_2M (2 * MIB)
#define ENTRY_SIZE 8
#define LEVEL_PT 1 /* levels count from the leaf tables: PT 1, PD 2, PDPT 3, PML4 4 */
#define LEVEL_PD 2
#define LEVEL_PML4 4
#define LEAF_FLAGS (PTE_WRITE | PTE_USER | PTE_NO_EXECUTE)
#define PHYSICAL_END (1ULL << 52)
#define CANONICAL_LOW_END (1ULL << 47)
#define CANONICAL_HIGH_START (~0ULL << 47)

static bool is_page_aligned(uint64_t n)
{
    return n % PAGE_4K == 0;
}

static int take_table(struct page_builder *b, uint64_t *out)
{
    int err;

    if (b->end - b->next < PAGE_4K)
        return -ENOSPC;
    err = mem_zero(b->mem, b->next, PAGE_4K);
    if (err != 0)
        return err;
    *out = b->next;
    b->next += PAGE_4K;
    return 0;
}

int page_builder_init(struct page_builder *b, const struct mem *mem, uint64_t start, uint64_t end)
{
    struct page_builder fresh = {.mem = mem, .next = start, .end = end};
    int err;

    if (!is_page_aligned(start) || !is_page_aligned(end) || start > end || end > PHYSICAL_END)
        return -EINVAL;
    err = take_table(&fresh, &fresh.root);
    if (err != 0)
        return err;
    *b = fresh;
    return 0;
}

/* --- one page --- */

/* EXERCISE 3.4: put `entry` into the table of level `leaf` that translates `va`. Four tables lie on
 * the way, PML4 (b->root), PDPT, PD, PT, each with 512 entries of 8 bytes; nine bits of the address
 * select one in each. What is missing on the way is taken (take_table()) and entered, present,
 * writable and for users: the last entry alone restricts. -EEXIST: on the way is a large page, or
 * something is mapped where `entry` belongs; nothing that is there is changed. */
// SOLUTION 3.4
/* Nine bits per level above the 12 of the page offset. */
static unsigned table_index(uint64_t va, unsigned level)
{
    return va >> (12 + 9 * (level - 1)) & 511;
}

/* The table that the entry at `entry_gpa` refers to; made when the entry is empty. */
static int next_table(struct page_builder *b, uint64_t entry_gpa, uint64_t *table)
{
    uint64_t entry;
    int err = mem_read_u64(b->mem, entry_gpa, &entry);

    if (err != 0)
        return err;
    if (entry & PTE_PRESENT) {
        if (entry & PTE_PAGE_SIZE)
            return -EEXIST;
        *table = entry & PTE_ADDRESS;
        return 0;
    }
    err = take_table(b, table);
    if (err != 0)
        return err;
    return mem_write_u64(b->mem, entry_gpa, *table | PTE_PRESENT | PTE_WRITE | PTE_USER);
}

/* Maps one page whose entry belongs in a table of level `leaf`. */
static int map_one(struct page_builder *b, uint64_t va, uint64_t entry, unsigned leaf)
{
    uint64_t table = b->root;
    uint64_t entry_gpa, old;
    int err;

    for (unsigned level = LEVEL_PML4; level > leaf; level--) {
        err = next_table(b, table + table_index(va, level) * ENTRY_SIZE, &table);
        if (err != 0)
            return err;
    }
    entry_gpa = table + table_index(va, leaf) * ENTRY_SIZE;
    err = mem_read_u64(b->mem, entry_gpa, &old);
    if (err != 0)
        return err;
    if (old & PTE_PRESENT)
        return -EEXIST; /* a page, or a table of smaller pages */
    return mem_write_u64(b->mem, entry_gpa, entry);
}
// ELSE
// static int map_one(struct page_builder *b, uint64_t va, uint64_t entry, unsigned leaf)
// {
//     (void)b;
//     (void)va;
//     (void)entry;
//     (void)leaf;
//     return todo("3.4");
// }
// END 3.4

/* --- ranges --- */

/* EXERCISE 3.5: map a range page by page. Refused with -EINVAL, before anything is mapped: numbers
 * that are not page-aligned, flags other than LEAF_FLAGS, physical addresses from PHYSICAL_END on,
 * and virtual addresses that are not canonical throughout (SDM 1 §3.3.7.1): a range lies wholly
 * below CANONICAL_LOW_END or wholly from CANONICAL_HIGH_START on. An empty range, if aligned and
 * with flags that are allowed, is mapped already. A page is 2 MiB large, an entry of the PD with
 * PTE_PAGE_SIZE, wherever both addresses and what is left of the range allow it, else 4 KiB. */
// SOLUTION 3.5
/* Canonical addresses are two ranges; a mapping lies in one of them. SDM 1 §3.3.7.1. */
static bool is_canonical_range(uint64_t va, uint64_t size)
{
    uint64_t last;

    if (__builtin_add_overflow(va, size - 1, &last))
        return false;
    return last < CANONICAL_LOW_END || va >= CANONICAL_HIGH_START;
}

int page_map(struct page_builder *b, uint64_t va, uint64_t pa, uint64_t size, uint64_t flags)
{
    if (!is_page_aligned(va | pa | size) || (flags & ~LEAF_FLAGS) != 0)
        return -EINVAL;
    if (size == 0)
        return 0;
    if (!is_canonical_range(va, size) || !range_fits(pa, size, PHYSICAL_END))
        return -EINVAL;
    while (size > 0) {
        bool large = (va | pa) % PAGE_2M == 0 && size >= PAGE_2M;
        uint64_t step = large ? PAGE_2M : PAGE_4K;
        uint64_t entry = pa | flags | PTE_PRESENT | (large ? PTE_PAGE_SIZE : 0);
        int err = map_one(b, va, entry, large ? LEVEL_PD : LEVEL_PT);

        if (err != 0)
            return err;
        va += step;
        pa += step;
        size -= step;
    }
    return 0;
}
// ELSE
// int page_map(struct page_builder *b, uint64_t va, uint64_t pa, uint64_t size, uint64_t flags)
// {
//     if (size == PAGE_4K)
//         return map_one(b, va, pa | flags | PTE_PRESENT, LEVEL_PT);
//     return todo("3.5");
// }
// END 3.5
