/*
 * Walking a guest's page tables as its processor would.
 *
 * The paging modes differ in numbers only: how many levels, how wide an entry and an index are.
 * Those are in one table, `formats`; the walk is the same loop for all. It has two halves, as in
 * the SDM: first the translation (SDM 3A §4.3 to §4.5), which finds the last entry or a missing or
 * malformed one; then the access rights (§4.6), which are judged on all entries together.
 *
 * The guest may change its tables during the walk. Each entry is read once, and only the copy
 * counts.
 */
#include <inttypes.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/x86/paging.h"
#include "x86/x86_priv.h"

/* Bits of the error code that #PF pushes, SDM 3A §4.7. */
#define PF_PRESENT (1U << 0)
#define PF_WRITE (1U << 1)
#define PF_USER (1U << 2)
#define PF_RESERVED (1U << 3)
#define PF_FETCH (1U << 4)

/* --- the paging modes --- */

struct level {
    const char *table;
    unsigned shift;      /* of the index in the virtual address */
    unsigned index_bits; /* entries in the table: 1 << index_bits */
};

struct format {
    unsigned
        va_bits; /* implemented bits of a virtual address; above 32 the rest must be canonical */
    unsigned entry_size;
    uint64_t root_mask; /* the bits of CR3 that are the root's address */
    unsigned count;
    struct level levels[WALK_LEVELS_MAX]; /* root first */
};

static const struct format format_32bit = {
    32, 4, 0xfffff000, 2, {{"PD", 22, 10}, {"PT", 12, 10}},
};
static const struct format format_pae = {
    32, 8, 0xffffffe0, 3, {{"PDPT", 30, 2}, {"PD", 21, 9}, {"PT", 12, 9}},
};
static const struct format format_4level = {
    48, 8, PTE_ADDRESS, 4, {{"PML4", 39, 9}, {"PDPT", 30, 9}, {"PD", 21, 9}, {"PT", 12, 9}},
};
static const struct format format_5level = {
    57,
    8,
    PTE_ADDRESS,
    5,
    {{"PML5", 48, 9}, {"PML4", 39, 9}, {"PDPT", 30, 9}, {"PD", 21, 9}, {"PT", 12, 9}},
};

/* SDM 3A §4.1.1. NULL: paging is off. */
static const struct format *paging_format(const struct kvm_sregs *sregs)
{
    if (!(sregs->cr0 & CR0_PG))
        return NULL;
    if (!(sregs->cr4 & CR4_PAE))
        return &format_32bit;
    if (!(sregs->efer & EFER_LMA))
        return &format_pae;
    return sregs->cr4 & CR4_LA57 ? &format_5level : &format_4level;
}

static bool is_canonical(uint64_t va, unsigned va_bits)
{
    unsigned unused = 64 - va_bits;

    return (uint64_t)((int64_t)(va << unused) >> unused) == va;
}

/* --- entries --- */

/* Bits low..high, both included. */
static uint64_t bit_range(unsigned low, unsigned high)
{
    return (~0ULL >> (63 - high)) & (~0ULL << low);
}

/* Whether the entry ends the walk: always in the last table, and at PS where a page of that size
 * exists (1 GiB in the 64-bit formats, 2 MiB, and 4 MiB where CR4.PSE allows it). */
static bool is_leaf(const struct format *f, unsigned level, uint64_t entry,
                    const struct kvm_sregs *sregs)
{
    unsigned shift = f->levels[level].shift;

    if (level + 1 == f->count)
        return true;
    if (!(entry & PTE_PAGE_SIZE))
        return false;
    if (f == &format_32bit)
        return sregs->cr4 & CR4_PSE;
    return shift == 21 || (shift == 30 && f != &format_pae);
}

/* SDM 3A §4.4.1, table 4-8: PAE's top entries have no permissions and their own reserved bits. */
static bool is_pae_pdpte(const struct format *f, unsigned level)
{
    return f == &format_pae && level == 0;
}

/* The bits that must be 0, SDM 3A tables 4-4 to 4-20. */
static uint64_t reserved_bits(const struct format *f, unsigned level, bool leaf,
                              const struct kvm_sregs *sregs)
{
    unsigned shift = f->levels[level].shift;
    bool large = leaf && shift > 12;
    uint64_t reserved = 0;

    if (f == &format_32bit)
        return large ? bit_range(21, 21) : 0; /* with the 40 address bits of PSE-36 */
    if (is_pae_pdpte(f, level))
        return bit_range(1, 2) | bit_range(5, 8) | bit_range(52, 63);
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

/* Where the page of a leaf entry starts. */
static uint64_t leaf_address(const struct format *f, unsigned level, uint64_t entry)
{
    unsigned shift = f->levels[level].shift;

    if (f == &format_32bit && shift == 22) /* PSE-36: bits 20:13 are address bits 39:32 */
        return (entry & bit_range(22, 31)) | (entry & bit_range(13, 20)) << 19;
    return entry & PTE_ADDRESS & ~bit_range(0, shift - 1);
}

static int read_entry(const struct mem *mem, const struct format *f, uint64_t gpa, uint64_t *out)
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

/* --- translation --- */

/* One level: reads the entry of `table` that `va` selects into the walk's next step. */
static enum walk_result walk_level(const struct mem *mem, const struct kvm_sregs *sregs,
                                   const struct format *f, uint64_t table, bool *leaf,
                                   struct page_walk *walk)
{
    unsigned level = walk->levels++;
    const struct level *l = &f->levels[level];
    struct walk_step *step = &walk->steps[level];
    uint64_t index = walk->va >> l->shift & bit_range(0, l->index_bits - 1);

    step->table = l->table;
    step->entry_gpa = table + index * f->entry_size;
    if (read_entry(mem, f, step->entry_gpa, &step->entry) != 0)
        return WALK_NO_MEMORY;
    if (!(step->entry & PTE_PRESENT))
        return WALK_NOT_PRESENT;
    *leaf = is_leaf(f, level, step->entry, sregs);
    if (step->entry & reserved_bits(f, level, *leaf, sregs))
        return WALK_RESERVED_BIT;
    return WALK_OK;
}

/* Follows the tables to the page. Permissions are not looked at. */
static enum walk_result translate(const struct mem *mem, const struct kvm_sregs *sregs,
                                  const struct format *f, struct page_walk *walk)
{
    uint64_t table = sregs->cr3 & f->root_mask;
    bool leaf = false;
    unsigned last;

    if (f->va_bits > 32 && !is_canonical(walk->va, f->va_bits))
        return WALK_NOT_CANONICAL;
    while (!leaf) {
        enum walk_result result = walk_level(mem, sregs, f, table, &leaf, walk);

        if (result != WALK_OK)
            return result;
        table = walk->steps[walk->levels - 1].entry & PTE_ADDRESS;
    }
    last = walk->levels - 1;
    walk->page_size = 1ULL << f->levels[last].shift;
    walk->pa = leaf_address(f, last, walk->steps[last].entry) | (walk->va & (walk->page_size - 1));
    return WALK_OK;
}

/* --- access rights, SDM 3A §4.6.1 --- */

struct rights {
    bool user, write, execute;
};

/* A page is as permissive as the strictest entry on the way to it. */
static struct rights combined_rights(const struct format *f, const struct page_walk *walk)
{
    uint64_t all = ~0ULL;
    uint64_t any = 0;

    for (unsigned i = is_pae_pdpte(f, 0); i < walk->levels; i++) {
        all &= walk->steps[i].entry;
        any |= walk->steps[i].entry;
    }
    return (struct rights){
        .user = all & PTE_USER,
        .write = all & PTE_WRITE,
        .execute = f == &format_32bit || !(any & PTE_NO_EXECUTE),
    };
}

static enum walk_result check_user(struct rights page, enum page_access access)
{
    if (!page.user)
        return WALK_NOT_USER;
    if (access == PAGE_WRITE && !page.write)
        return WALK_NOT_WRITABLE;
    if (access == PAGE_EXECUTE && !page.execute)
        return WALK_NOT_EXECUTABLE;
    return WALK_OK;
}

static enum walk_result check_supervisor(const struct kvm_sregs *sregs, uint64_t rflags,
                                         struct rights page, enum page_access access)
{
    if (access == PAGE_EXECUTE) {
        bool smep = page.user && (sregs->cr4 & CR4_SMEP);

        return smep || !page.execute ? WALK_NOT_EXECUTABLE : WALK_OK;
    }
    if (page.user && (sregs->cr4 & CR4_SMAP) && !(rflags & RFLAGS_AC))
        return WALK_SMAP;
    if (access == PAGE_WRITE && !page.write && (sregs->cr0 & CR0_WP))
        return WALK_NOT_WRITABLE;
    return WALK_OK;
}

static uint32_t fault_code(const struct kvm_sregs *sregs, enum walk_result result,
                           enum page_access access, bool user)
{
    bool nx = (sregs->cr4 & CR4_PAE) && (sregs->efer & EFER_NXE);
    uint32_t code = 0;

    if (result == WALK_OK || result == WALK_NOT_CANONICAL || result == WALK_NO_MEMORY)
        return 0;
    if (result != WALK_NOT_PRESENT)
        code |= PF_PRESENT;
    if (result == WALK_RESERVED_BIT)
        code |= PF_RESERVED;
    if (access == PAGE_WRITE)
        code |= PF_WRITE;
    if (user)
        code |= PF_USER;
    if (access == PAGE_EXECUTE && (nx || (sregs->cr4 & CR4_SMEP)))
        code |= PF_FETCH;
    return code;
}

/* --- for callers --- */

/* A walk about to start; without paging also its end, since the linear address is the physical one.
 */
static struct page_walk walk_begin(const struct format *f, uint64_t va)
{
    if (f != NULL && f->va_bits > 32)
        return (struct page_walk){.va = va};
    return (struct page_walk){.va = (uint32_t)va, .pa = f == NULL ? (uint32_t)va : 0};
}

void page_walk(const struct mem *mem, const struct kvm_sregs *sregs, uint64_t rflags, uint64_t va,
               enum page_access access, bool user, struct page_walk *out)
{
    const struct format *f = paging_format(sregs);

    *out = walk_begin(f, va);
    if (f == NULL)
        return;
    out->result = translate(mem, sregs, f, out);
    if (out->result == WALK_OK) {
        struct rights page = combined_rights(f, out);

        out->result =
            user ? check_user(page, access) : check_supervisor(sregs, rflags, page, access);
    }
    out->error_code = fault_code(sregs, out->result, access, user);
}

size_t page_read_virtual(const struct mem *mem, const struct kvm_sregs *sregs, uint64_t va,
                         void *out, size_t len)
{
    const struct format *f = paging_format(sregs);
    size_t done = 0;

    while (done < len) {
        struct page_walk walk = walk_begin(f, va + done);
        uint64_t in_page = MEM_PAGE_SIZE - walk.va % MEM_PAGE_SIZE;
        size_t chunk = len - done < in_page ? len - done : in_page;

        if (f != NULL && translate(mem, sregs, f, &walk) != WALK_OK)
            break;
        if (mem_read(mem, walk.pa, (char *)out + done, chunk) != 0)
            break;
        done += chunk;
    }
    return done;
}

const char *walk_result_text(enum walk_result result)
{
    static const char *const texts[] = {
        [WALK_OK] = "mapped",
        [WALK_NOT_CANONICAL] = "not a canonical address",
        [WALK_NOT_PRESENT] = "not present",
        [WALK_RESERVED_BIT] = "a reserved bit is set in the entry",
        [WALK_NOT_WRITABLE] = "the page is read-only",
        [WALK_NOT_USER] = "the page is for the supervisor only",
        [WALK_NOT_EXECUTABLE] = "the page is not executable",
        [WALK_SMAP] = "a user page, which SMAP keeps the supervisor from",
        [WALK_NO_MEMORY] = "the table lies outside guest memory",
    };

    return (unsigned)result < ARRAY_LEN(texts) ? texts[result] : "?";
}

static void print_flags(uint64_t entry, FILE *out)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } flags[] = {
        {PTE_PRESENT, "P"}, {PTE_WRITE, "RW"},     {PTE_USER, "US"},       {PTE_ACCESSED, "A"},
        {PTE_DIRTY, "D"},   {PTE_PAGE_SIZE, "PS"}, {PTE_NO_EXECUTE, "NX"},
    };

    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        if (entry & flags[i].bit)
            fprintf(out, " %s", flags[i].name);
    }
}

void page_walk_print(const struct page_walk *walk, FILE *out)
{
    for (unsigned i = 0; i < walk->levels && i < WALK_LEVELS_MAX; i++) {
        const struct walk_step *step = &walk->steps[i];

        fprintf(out, "  %-4s entry at 0x%010" PRIx64, step->table, step->entry_gpa);
        if (walk->result != WALK_NO_MEMORY || i + 1 < walk->levels) {
            fprintf(out, ": 0x%016" PRIx64, step->entry);
            print_flags(step->entry, out);
        }
        fputc('\n', out);
    }
    fprintf(out, "  0x%" PRIx64 ": %s", walk->va, walk_result_text(walk->result));
    if (walk->result == WALK_OK)
        fprintf(out, " to 0x%" PRIx64, walk->pa);
    if (walk->error_code != 0 || walk->result == WALK_NOT_PRESENT)
        fprintf(out, " (#PF error code 0x%" PRIx32 ")", walk->error_code);
    fputc('\n', out);
}
