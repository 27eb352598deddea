/*
 * An ELF64 executable, entered in long mode.
 *
 * Each PT_LOAD segment lies at its physical address. The low 4 GiB are mapped to themselves,
 * writable and executable, so that the program can reach all its memory and the machine's devices;
 * a segment whose virtual address is another than its physical one is mapped there as well, with
 * just the permissions its flags name. The entry point is a virtual address. Interrupts are off,
 * and a stack is there, so the entry point can be a C function that never returns.
 *
 * Left out: any way to pass an initrd or a command line. The protocols for kernels have those.
 */
#include <errno.h>
#include <inttypes.h>

#include "boot/boot_priv.h"
#include "hv/base/todo.h"

/* True if the identity mapping has the whole segment at its virtual address already. */
static bool is_identity(const Elf64_Phdr *ph)
{
    return ph->p_vaddr == ph->p_paddr && range_fits(ph->p_paddr, ph->p_memsz, IDENTITY_END);
}

/* EXERCISE 3.9: map a segment's virtual addresses to its physical ones, with the permissions that
 * p_flags names and no others (every page can be read). Segments begin and end anywhere in a page,
 * pages do not: whatever page holds a byte of the segment is mapped. The place in the page must be
 * the same for both addresses, else -EINVAL. p_memsz and the addresses are those that elf_open()
 * let pass: none wraps around by itself, but rounding up may. */
// SOLUTION 3.9
static uint64_t page_flags(const Elf64_Phdr *ph)
{
    return (ph->p_flags & PF_W ? PTE_WRITE : 0) | (ph->p_flags & PF_X ? 0 : PTE_NO_EXECUTE);
}

static int map_segment(struct page_builder *tables, const Elf64_Phdr *ph)
{
    uint64_t offset = ph->p_vaddr % MEM_PAGE_SIZE;
    uint64_t size;
    int rc;

    if (ph->p_paddr % MEM_PAGE_SIZE != offset)
        return -EINVAL;
    rc = align_up(ph->p_memsz + offset, MEM_PAGE_SIZE, &size);
    if (rc < 0)
        return rc;
    return page_map(tables, ph->p_vaddr - offset, ph->p_paddr - offset, size, page_flags(ph));
}
// ELSE
// static int map_segment(struct page_builder *tables, const Elf64_Phdr *ph)
// {
//     (void)tables;
//     (void)ph;
//     return todo("3.9");
// }
// END 3.9

static int explain(int rc, const Elf64_Phdr *ph, unsigned i, struct error *err)
{
    switch (rc) {
    case -EEXIST:
        return error_set(err, -ENOTSUP,
                         "program header %u: virtual address 0x%" PRIx64
                         " shares a page with another segment, or with the low 4 GiB, which are "
                         "mapped to themselves",
                         i, ph->p_vaddr);
    case -ENOSPC:
        return error_set(err, -E2BIG,
                         "program header %u: mapping 0x%" PRIx64 " to 0x%" PRIx64
                         " takes too many page tables; align both to 2 MiB",
                         i, ph->p_vaddr, ph->p_paddr);
    default:
        return error_set(err, -ENOEXEC,
                         "program header %u: virtual address 0x%" PRIx64
                         " cannot be mapped to physical address 0x%" PRIx64,
                         i, ph->p_vaddr, ph->p_paddr);
    }
}

static int map_segments(const struct elf_image *elf, struct page_builder *tables, struct error *err)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const Elf64_Phdr ph = elf_segment(elf, i);
        int rc = elf_is_loaded(&ph) && !is_identity(&ph) ? map_segment(tables, &ph) : 0;

        if (rc < 0)
            return explain(rc, &ph, i, err);
    }
    return 0;
}

/* The entry point lies in a segment, at its virtual address or through the identity mapping. */
static int check_entry(const struct elf_image *elf, struct error *err)
{
    uint64_t pa;

    if (elf_to_physical(elf, elf->entry, &pa) ||
        (elf->entry < IDENTITY_END && elf_has_physical(elf, elf->entry)))
        return 0;
    return error_set(err, -ENOEXEC, "the entry point 0x%" PRIx64 " lies in no segment", elf->entry);
}

int elf_load(struct boot_job *job)
{
    struct page_builder tables;
    struct elf_image elf;
    int rc = elf_open(job->image, &elf, job->err);

    if (rc < 0)
        return rc;
    if (!elf.is_64)
        return error_set(job->err, -ENOTSUP,
                         "a 32-bit ELF file; hv starts 64-bit ones, and "
                         "32-bit ones by multiboot or PVH");
    rc = check_entry(&elf, job->err);
    if (rc == 0)
        rc = elf_plan(&elf, &job->plan, job->err);
    if (rc == 0)
        rc = enter_long(job, elf.entry, &tables);
    if (rc == 0)
        rc = map_segments(&elf, &tables, job->err);
    if (rc < 0)
        return rc;
    return plan_write(&job->plan, job->err);
}
