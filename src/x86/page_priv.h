/*
 * The paging modes as data: what differs between them is numbers.
 *
 * A paging structure's entry is handed around as 64 bits in every mode; those of 32-bit paging have
 * the high half clear.
 */
#ifndef X86_PAGE_PRIV_H
#define X86_PAGE_PRIV_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/mem/mem.h"
#include "hv/x86/paging.h"

struct page_level {
    const char *table;   /* its name: "PML4" */
    unsigned shift;      /* where its index begins in the virtual address */
    unsigned index_bits; /* entries in the table: 1 << index_bits */
    bool large;          /* an entry with PTE_PAGE_SIZE maps a page of 1 << shift bytes */
    bool no_rights;      /* its entries have no R/W, U/S and XD: PAE's topmost, SDM 3A §4.4.1 */
};

struct page_format {
    unsigned va_bits;    /* implemented bits of a virtual address; above 32 it must be canonical */
    unsigned entry_size; /* bytes */
    uint64_t root_mask;  /* the bits of CR3 that are the root's address */
    unsigned count;      /* levels */
    struct page_level levels[WALK_LEVELS_MAX]; /* root first */
};

/* SDM 3A §4.1.1. NULL: paging is off. */
const struct page_format *page_format_of(const struct kvm_sregs *sregs);

/* True if the bits above the implemented ones are copies of the highest of them. */
bool page_is_canonical(const struct page_format *f, uint64_t va);

/* Bits low..high, both included. */
static inline uint64_t bit_range(unsigned low, unsigned high)
{
    return (~0ULL >> (63 - high)) & (~0ULL << low);
}

/* One entry, fetched with a single access. -EFAULT: not in guest memory. */
int page_read_entry(const struct mem *mem, const struct page_format *f, uint64_t gpa,
                    uint64_t *out) HV_MUST_CHECK;

/* The bits that must be 0 in a present entry of levels[level], SDM 3A tables 4-4 to 4-20. `leaf`:
 * the entry maps a page. */
uint64_t page_reserved_bits(const struct page_format *f, unsigned level, bool leaf,
                            const struct kvm_sregs *sregs);

/* Where the page begins that a leaf entry of levels[level] maps. */
uint64_t page_leaf_address(const struct page_format *f, unsigned level, uint64_t entry);

#endif
