/*
 * The ground under the first instruction: stack, descriptor table, page tables.
 *
 * They lie in the scratch area, after the structures that the protocol passes: stack, GDT, page
 * tables to the end. Every kernel replaces them soon after it starts; they only have to hold until
 * then. The flat protocol has none of them: real mode needs neither tables nor, at first, a stack.
 */
#include <errno.h>

#include "boot/boot_priv.h"

/* Takes the stack, takes and writes the GDT. */
static int enter(struct boot_job *job, enum x86_mode mode, uint64_t rip)
{
    struct boot_entry *entry = &job->entry;
    uint64_t stack;
    int rc = plan_take_scratch(&job->plan, "the stack", BOOT_STACK_SIZE, 16, &stack, job->err);

    if (rc < 0)
        return rc;
    rc = plan_take_scratch(&job->plan, "the GDT", X86_GDT_SIZE, 16, &entry->gdt, job->err);
    if (rc < 0)
        return rc;
    rc = x86_write_gdt(job->mem, entry->gdt, mode);
    if (rc < 0)
        return error_sys(job->err, rc, "cannot write the GDT");
    entry->mode = mode;
    entry->rip = rip;
    entry->rsp = stack + BOOT_STACK_SIZE;
    return 0;
}

int enter_protected(struct boot_job *job, uint64_t rip)
{
    return enter(job, X86_PROTECTED, rip);
}

/* Six pages: one PML4, one PDPT, and a page directory of 2 MiB pages for each GiB. */
static int map_identity(struct page_builder *tables, const struct mem *mem, const struct plan *plan)
{
    uint64_t start;
    int rc = align_up(plan->scratch_next, MEM_PAGE_SIZE, &start);

    if (rc < 0)
        return rc;
    rc =
        page_builder_init(tables, mem, start, align_down(plan->layout->scratch_end, MEM_PAGE_SIZE));
    if (rc < 0)
        return rc;
    return page_map(tables, 0, 0, IDENTITY_END, PTE_WRITE);
}

int enter_long(struct boot_job *job, uint64_t rip, struct page_builder *tables)
{
    int rc = enter(job, X86_LONG, rip);

    if (rc < 0)
        return rc;
    rc = map_identity(tables, job->mem, &job->plan);
    if (rc < 0)
        return error_sys(job->err, -E2BIG, "no room for page tables in the loader's memory");
    job->plan.scratch_next = job->plan.layout->scratch_end;
    job->entry.cr3 = tables->root;
    return 0;
}
