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
    if (walk.result != WALK_OK)
        return -EFAULT;
    *pa = walk.pa;
    return 0;
}

/* The guest's byte in [pa, pa + len) that `b` replaced, if it is there; else NULL. */
static uint8_t *covered(const struct gdb_break *b, uint64_t pa, uint8_t *data, size_t len)
{
    if (!b->planted || b->pa < pa || b->pa - pa >= len)
        return NULL;
    return data + (b->pa - pa);
}

int gdb_read_physical(const struct gdb_traps *t, const struct mem *mem, uint64_t pa, void *out,
                      size_t len)
{
    int rc = mem_read(mem, pa, out, len);

    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < t->break_count; i++) {
        uint8_t *byte = covered(&t->breaks[i], pa, out, len);
        if (byte != NULL)
            *byte = t->breaks[i].instead;
    }
    return 0;
}

/* The bytes under an int3 change in our notes, and the int3 stays. `copy` has the same bytes as
 * `data` and is changed. */
static int write_physical(struct gdb_traps *t, const struct mem *mem, uint64_t pa,
                          const uint8_t *data, uint8_t *copy, size_t len)
{
    if (mem_ptr(mem, pa, len, false) == NULL)
        return -EFAULT;
    for (unsigned i = 0; i < t->break_count; i++) {
        uint8_t *byte = covered(&t->breaks[i], pa, copy, len);
        if (byte == NULL)
            continue;
        t->breaks[i].instead = data[byte - copy];
        *byte = GDB_INT3;
    }
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
    uint8_t copy[MEM_PAGE_SIZE];
    uint64_t pa;

    for (size_t done = 0, n; done < len; done += n) {
        n = piece(va + done, len - done);
        const uint8_t *from = (const uint8_t *)data + done;
        int rc = gdb_translate(mem, sregs, va + done, &pa);
        memcpy(copy, from, n);
        if (rc == 0)
            rc = write_physical(t, mem, pa, from, copy, n);
        if (rc < 0)
            return rc;
    }
    return 0;
}
