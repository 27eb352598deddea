/*
 * Memory as gdb sees it: by virtual address, without regard to permissions, and with the guest's
 * own bytes where a breakpoint has its int3.
 *
 * Pieces never cross a page, because each page may lie elsewhere.
 */
#include <errno.h>
#include <string.h>

#include "control/gdb_priv.h"
#include "hv/x86/paging.h"

#define RFLAGS_AC (1U << 18) /* lets a supervisor read users' pages, whatever CR4.SMAP says */

int gdb_translate(const struct mem *mem, const struct kvm_sregs *sregs, uint64_t va, uint64_t *pa)
{
    struct page_walk walk;

    page_walk(mem, sregs, RFLAGS_AC, va, PAGE_READ, false, &walk);
    if (walk.result != WALK_OK || walk.va != va) /* cut to the 32 bits that this mode has */
        return -EFAULT;
    *pa = walk.pa;
    return 0;
}

/* The guest's own bytes instead of planted ones, in a copy of [pa, pa + len). */
static void uncover(const struct gdb_traps *t, const struct gdb_break *b, uint64_t pa,
                    uint8_t *copy, size_t len)
{
    for (unsigned i = 0; b->planted && i < t->code->len; i++)
        if (b->pa + i >= pa && b->pa + i - pa < len)
            copy[b->pa + i - pa] = b->instead[i];
}

/* Bytes that are about to be written where some are planted: they change in our notes, and in the
 * copy that is written, the trap stays. */
static void cover(const struct gdb_traps *t, struct gdb_break *b, uint64_t pa, const uint8_t *data,
                  uint8_t *copy, size_t len)
{
    for (unsigned i = 0; b->planted && i < t->code->len; i++) {
        if (b->pa + i < pa || b->pa + i - pa >= len)
            continue;
        b->instead[i] = data[b->pa + i - pa];
        copy[b->pa + i - pa] = t->code->bytes[i];
    }
}

int gdb_read_physical(const struct gdb_traps *t, const struct mem *mem, uint64_t pa, void *out,
                      size_t len)
{
    int rc = mem_read(mem, pa, out, len);

    for (unsigned i = 0; rc == 0 && i < t->break_count; i++)
        uncover(t, &t->breaks[i], pa, out, len);
    return rc;
}

static int write_physical(struct gdb_traps *t, const struct mem *mem, uint64_t pa,
                          const uint8_t *data, size_t len)
{
    uint8_t copy[MEM_PAGE_SIZE];

    if (mem_ptr(mem, pa, len, false) == NULL)
        return -EFAULT;
    memcpy(copy, data, len);
    for (unsigned i = 0; i < t->break_count; i++)
        cover(t, &t->breaks[i], pa, data, copy, len);
    return mem_rom_write(mem, pa, copy, len);
}

static size_t piece(uint64_t va, size_t len)
{
    size_t in_page = MEM_PAGE_SIZE - va % MEM_PAGE_SIZE;

    return len < in_page ? len : in_page;
}

size_t gdb_read(const struct gdb_traps *t, const struct mem *mem, const struct kvm_sregs *sregs,
                uint64_t va, void *out, size_t len)
{
    size_t done = 0;
    uint64_t pa;

    while (done < len) {
        size_t n = piece(va + done, len - done);
        if (gdb_translate(mem, sregs, va + done, &pa) < 0 ||
            gdb_read_physical(t, mem, pa, (uint8_t *)out + done, n) < 0)
            break;
        done += n;
    }
    return done;
}

int gdb_write(struct gdb_traps *t, const struct mem *mem, const struct kvm_sregs *sregs,
              uint64_t va, const void *data, size_t len)
{
    uint64_t pa;

    for (size_t done = 0, n; done < len; done += n) {
        n = piece(va + done, len - done);
        int rc = gdb_translate(mem, sregs, va + done, &pa);
        if (rc == 0)
            rc = write_physical(t, mem, pa, (const uint8_t *)data + done, n);
        if (rc < 0)
            return rc;
    }
    return 0;
}
