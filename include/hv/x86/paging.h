/*
 * Page tables: building them for a guest, and walking a guest's own.
 *
 * The builder makes 4-level tables (SDM 3A §4.5) out of pages it takes from a range of guest
 * memory. The walker follows whatever the guest has set up, in every paging mode (none, 32-bit,
 * PAE, 4-level, 5-level; SDM 3A §4.3 to §4.5), as the processor would, and says where and why it
 * stopped.
 *
 * Not modelled by the walker: the width of physical addresses (bits 51:MAXPHYADDR are taken as
 * address bits), protection keys, shadow stacks, and the supervisor's implicit accesses.
 */
#ifndef HV_X86_PAGING_H
#define HV_X86_PAGING_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "hv/base/err.h"
#include "hv/mem/mem.h"

#define PTE_PRESENT (1ULL << 0)
#define PTE_WRITE (1ULL << 1)
#define PTE_USER (1ULL << 2)
#define PTE_ACCESSED (1ULL << 5)
#define PTE_DIRTY (1ULL << 6)
#define PTE_PAGE_SIZE (1ULL << 7) /* in a PDPTE or PDE: maps a 1 GiB, 2 MiB or 4 MiB page */
#define PTE_NO_EXECUTE (1ULL << 63)

/* --- builder --- */

struct page_builder {
    const struct mem *mem; /* borrowed */
    uint64_t root;         /* guest-physical address of the PML4; the value for CR3 */
    uint64_t next;         /* next free table page */
    uint64_t end;          /* end of the pages it may take */
};

/* Takes the PML4 from [start, end), page-aligned guest RAM. -ENOSPC, -EFAULT, -EINVAL. */
int page_builder_init(struct page_builder *b, const struct mem *mem, uint64_t start,
                      uint64_t end) HV_MUST_CHECK;

/* Maps [va, va + size) to [pa, pa + size) with `flags` (of PTE_WRITE, PTE_USER, PTE_NO_EXECUTE), in
 * 2 MiB pages where both addresses allow it and 4 KiB pages elsewhere. All three numbers
 * page-aligned; va canonical throughout. -EINVAL; -ENOSPC: out of table pages; -EEXIST: a page in
 * the range is mapped already; -EFAULT: a table is not in RAM. On failure the pages before the one
 * that failed stay mapped. */
int page_map(struct page_builder *b, uint64_t va, uint64_t pa, uint64_t size,
             uint64_t flags) HV_MUST_CHECK;

/* --- walker --- */

enum page_access { PAGE_READ = 0, PAGE_WRITE = 1, PAGE_EXECUTE = 2 };

enum walk_result {
    WALK_OK,
    WALK_NOT_CANONICAL, /* the address is not in canonical form: #GP, not #PF */
    WALK_NOT_PRESENT,   /* an entry has P = 0 */
    WALK_RESERVED_BIT,  /* an entry has a reserved bit set */
    WALK_NOT_WRITABLE,
    WALK_NOT_USER,
    WALK_NOT_EXECUTABLE, /* NX, or SMEP */
    WALK_SMAP,           /* a supervisor data access to a user page with CR4.SMAP */
    WALK_NO_MEMORY,      /* a table lies outside guest RAM */
};

#define WALK_LEVELS_MAX 5

struct page_walk {
    uint64_t va;
    uint64_t pa;        /* valid with WALK_OK */
    uint64_t page_size; /* bytes, valid with WALK_OK; 0 without paging */
    enum walk_result result;
    unsigned levels; /* steps taken, root first; with WALK_NO_MEMORY the last has entry 0 */
    struct walk_step {
        const char *table; /* "PML4", "PDPT", "PD", "PT", "PML5" */
        uint64_t entry_gpa;
        uint64_t entry;
    } steps[WALK_LEVELS_MAX];
    /* As #PF would push it, SDM 3A §4.7; 0 where no #PF comes (WALK_OK, _NOT_CANONICAL, _NO_MEMORY)
     */
    uint32_t error_code;
};

/* Translates `va` under the control registers in `sregs` (and RFLAGS.AC in rflags), for an access
 * by `user` (CPL 3) or supervisor code. Always fills *out. Never changes guest memory: no A or D
 * bit is set. */
void page_walk(const struct mem *mem, const struct kvm_sregs *sregs, uint64_t rflags, uint64_t va,
               enum page_access access, bool user, struct page_walk *out);

/* Reads guest-virtual memory as a debugger would: through the tables, ignoring permissions.
 * Returns the bytes read, which stop at the first page that is not mapped. */
size_t page_read_virtual(const struct mem *mem, const struct kvm_sregs *sregs, uint64_t va,
                         void *out, size_t len);

const char *walk_result_text(enum walk_result result);

/* One line per level: table, entry's address, entry, decoded flags; then the outcome. Each line
 * starts with two spaces. */
void page_walk_print(const struct page_walk *walk, FILE *out);

#endif
