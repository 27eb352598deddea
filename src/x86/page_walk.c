/*
 * Walking a guest's page tables as its processor would.
 *
 * The walk is the same loop for all paging modes, whose numbers are in page_format.c. It has two
 * halves, as in the SDM: first the translation (SDM 3A §4.3 to §4.5), which finds the last entry or
 * a missing or malformed one; then the access rights (§4.6), which are judged on all entries
 * together.
 *
 * The guest may change its tables during the walk. Each entry is read once, and only the copy
 * counts.
 */
#include <inttypes.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "hv/x86/paging.h"
#include "page_priv.h"
#include "x86/x86_priv.h"

/* Bits of the error code that #PF pushes, SDM 3A §4.7. */
#define PF_PRESENT (1U << 0)
#define PF_WRITE (1U << 1)
#define PF_USER (1U << 2)
#define PF_RESERVED (1U << 3)
#define PF_FETCH (1U << 4)

/* --- translation --- */

/* EXERCISE 3.6: follow the tables from CR3 to the page that walk->va lies in; rights don't matter
 * here. A virtual address that is not canonical ends the walk before it begins. Every level is a
 * step of the walk: note the table's name, the entry's address and the entry, which is read once.
 * Then judge it, in this order: its address is not in guest memory; P is clear; a reserved bit is
 * set (page_reserved_bits()). It is a leaf in the last level, and before that with PTE_PAGE_SIZE
 * where the level has large pages; otherwise PTE_ADDRESS leads to the next table. A leaf gives
 * page_size and pa, which has the virtual address's offset in the page (page_leaf_address()). */
// SOLUTION 3.6
/* Reads the entry of `table` that the address selects into the walk's next step, and judges it. */
static enum walk_result walk_level(const struct mem *mem, const struct kvm_sregs *sregs,
                                   const struct page_format *f, uint64_t table, bool *leaf,
                                   struct page_walk *walk)
{
    unsigned level = walk->levels++;
    const struct page_level *l = &f->levels[level];
    struct walk_step *step = &walk->steps[level];
    uint64_t index = walk->va >> l->shift & bit_range(0, l->index_bits - 1);

    step->table = l->table;
    step->entry_gpa = table + index * f->entry_size;
    if (page_read_entry(mem, f, step->entry_gpa, &step->entry) != 0)
        return WALK_NO_MEMORY;
    if (!(step->entry & PTE_PRESENT))
        return WALK_NOT_PRESENT;
    *leaf = level + 1 == f->count || (l->large && (step->entry & PTE_PAGE_SIZE));
    if (step->entry & page_reserved_bits(f, level, *leaf, sregs))
        return WALK_RESERVED_BIT;
    return WALK_OK;
}

static enum walk_result translate(const struct mem *mem, const struct kvm_sregs *sregs,
                                  const struct page_format *f, struct page_walk *walk)
{
    uint64_t table = sregs->cr3 & f->root_mask;
    bool leaf = false;
    unsigned last;

    if (!page_is_canonical(f, walk->va))
        return WALK_NOT_CANONICAL;
    while (!leaf) {
        enum walk_result result = walk_level(mem, sregs, f, table, &leaf, walk);

        if (result != WALK_OK)
            return result;
        table = walk->steps[walk->levels - 1].entry & PTE_ADDRESS;
    }
    last = walk->levels - 1;
    walk->page_size = 1ULL << f->levels[last].shift;
    walk->pa =
        page_leaf_address(f, last, walk->steps[last].entry) | (walk->va & (walk->page_size - 1));
    return WALK_OK;
}
// ELSE
// static enum walk_result translate(const struct mem *mem, const struct kvm_sregs *sregs,
//                                   const struct page_format *f, struct page_walk *walk)
// {
//     (void)mem;
//     (void)sregs;
//     (void)f;
//     (void)walk;
//     (void)todo("3.6");
//     return WALK_NO_MEMORY;
// }
// END 3.6

/* --- access rights, SDM 3A §4.6.1 --- */

/* What a page allows. */
struct rights {
    bool user, write, execute;
};

/* EXERCISE 3.7: who may use the page that a walk found. A page is as permissive as the strictest
 * entry on the way to it: U/S and R/W must be set in all of them, XD in none; entries of a level
 * with no_rights don't count. Then, user code: the page must be a user page, and allow what is
 * done. Supervisor code: it fetches from pages that are executable, with CR4.SMEP from no user
 * page; with CR4.SMAP it touches user pages only while RFLAGS.AC is set; it writes to read-only
 * pages unless CR0.WP is set. The first objection in this order is the result: WALK_NOT_USER,
 * WALK_SMAP, WALK_NOT_WRITABLE, WALK_NOT_EXECUTABLE; none is WALK_OK. */
// SOLUTION 3.7
static struct rights combined_rights(const struct page_format *f, const struct page_walk *walk)
{
    struct rights rights = {.user = true, .write = true, .execute = true};

    for (unsigned i = 0; i < walk->levels; i++) {
        uint64_t entry = walk->steps[i].entry;

        if (f->levels[i].no_rights)
            continue;
        rights.user = rights.user && (entry & PTE_USER);
        rights.write = rights.write && (entry & PTE_WRITE);
        rights.execute = rights.execute && !(entry & PTE_NO_EXECUTE);
    }
    return rights;
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
// ELSE
// static struct rights combined_rights(const struct page_format *f, const struct page_walk *walk)
// {
//     (void)f;
//     (void)walk;
//     return (struct rights){.user = true, .write = true, .execute = true};
// }
//
// static enum walk_result check_user(struct rights page, enum page_access access)
// {
//     (void)page;
//     (void)access;
//     (void)todo("3.7");
//     return WALK_OK;
// }
//
// static enum walk_result check_supervisor(const struct kvm_sregs *sregs, uint64_t rflags,
//                                          struct rights page, enum page_access access)
// {
//     (void)sregs;
//     (void)rflags;
//     (void)page;
//     (void)access;
//     (void)todo("3.7");
//     return WALK_OK;
// }
// END 3.7

/* --- the fault, SDM 3A §4.7 --- */

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
static struct page_walk walk_begin(const struct page_format *f, uint64_t va)
{
    if (f != NULL && f->va_bits > 32)
        return (struct page_walk){.va = va};
    return (struct page_walk){.va = (uint32_t)va, .pa = f == NULL ? (uint32_t)va : 0};
}

void page_walk(const struct mem *mem, const struct kvm_sregs *sregs, uint64_t rflags, uint64_t va,
               enum page_access access, bool user, struct page_walk *out)
{
    const struct page_format *f = page_format_of(sregs);

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
    const struct page_format *f = page_format_of(sregs);
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
