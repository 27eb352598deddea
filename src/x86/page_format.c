/*
 * The paging modes, and what an entry says in each (SDM 3A §4.3 to §4.5).
 *
 * They differ in numbers only: how many levels, how wide an entry and an index are, where large
 * pages exist. Those are in one table per mode, so that the walk is the same loop for all. CR4.PSE
 * makes two modes of 32-bit paging: without it there are no large pages.
 */
#include "page_priv.h"

#include <stddef.h>

#include "x86/x86_priv.h"

static const struct page_format format_32bit = {
    .va_bits = 32,
    .entry_size = 4,
    .root_mask = 0xfffff000,
    .count = 2,
    .levels = {{"PD", 22, 10, false, false}, {"PT", 12, 10, false, false}},
};
static const struct page_format format_32bit_pse = {
    .va_bits = 32,
    .entry_size = 4,
    .root_mask = 0xfffff000,
    .count = 2,
    .levels = {{"PD", 22, 10, true, false}, {"PT", 12, 10, false, false}},
};
static const struct page_format format_pae = {
    .va_bits = 32,
    .entry_size = 8,
    .root_mask = 0xffffffe0,
    .count = 3,
    .levels = {{"PDPT", 30, 2, false, true},
               {"PD", 21, 9, true, false},
               {"PT", 12, 9, false, false}},
};
static const struct page_format format_4level = {
    .va_bits = 48,
    .entry_size = 8,
    .root_mask = PTE_ADDRESS,
    .count = 4,
    .levels = {{"PML4", 39, 9, false, false},
               {"PDPT", 30, 9, true, false},
               {"PD", 21, 9, true, false},
               {"PT", 12, 9, false, false}},
};
static const struct page_format format_5level = {
    .va_bits = 57,
    .entry_size = 8,
    .root_mask = PTE_ADDRESS,
    .count = 5,
    .levels = {{"PML5", 48, 9, false, false},
               {"PML4", 39, 9, false, false},
               {"PDPT", 30, 9, true, false},
               {"PD", 21, 9, true, false},
               {"PT", 12, 9, false, false}},
};

const struct page_format *page_format_of(const struct kvm_sregs *sregs)
{
    if (!(sregs->cr0 & CR0_PG))
        return NULL;
    if (!(sregs->cr4 & CR4_PAE))
        return sregs->cr4 & CR4_PSE ? &format_32bit_pse : &format_32bit;
    if (!(sregs->efer & EFER_LMA))
        return &format_pae;
    return sregs->cr4 & CR4_LA57 ? &format_5level : &format_4level;
}

bool page_is_canonical(const struct page_format *f, uint64_t va)
{
    unsigned unused = 64 - f->va_bits;

    return f->va_bits <= 32 || (uint64_t)((int64_t)(va << unused) >> unused) == va;
}

int page_read_entry(const struct mem *mem, const struct page_format *f, uint64_t gpa, uint64_t *out)
{
    uint32_t narrow;
    int err;

    if (f->entry_size == 8)
        return mem_read_u64(mem, gpa, out);
    err = mem_read_u32(mem, gpa, &narrow);
    if (err == 0)
        *out = narrow;
    return err;
}

uint64_t page_reserved_bits(const struct page_format *f, unsigned level, bool leaf,
                            const struct kvm_sregs *sregs)
{
    unsigned shift = f->levels[level].shift;
    bool large = leaf && shift > 12;
    uint64_t reserved = 0;

    if (f->entry_size == 4)
        return large ? bit_range(21, 21) : 0; /* with the 40 address bits of PSE-36 */
    if (f->levels[level].no_rights)
        return bit_range(1, 2) | bit_range(5, 8) | bit_range(52, 63); /* SDM 3A table 4-8 */
    if (f == &format_pae)
        reserved |= bit_range(52, 62);
    if (!(sregs->efer & EFER_NXE))
        reserved |= PTE_NO_EXECUTE;
    if (large)
        reserved |= bit_range(13, shift - 1); /* bit 12 is PAT */
    if (shift > 30)
        reserved |= PTE_PAGE_SIZE; /* there is no page of 512 GiB */
    return reserved;
}

uint64_t page_leaf_address(const struct page_format *f, unsigned level, uint64_t entry)
{
    unsigned shift = f->levels[level].shift;

    if (f->entry_size == 4 && shift == 22) /* PSE-36: bits 20:13 are address bits 39:32 */
        return (entry & bit_range(22, 31)) | (entry & bit_range(13, 20)) << 19;
    return entry & PTE_ADDRESS & ~bit_range(0, shift - 1);
}
