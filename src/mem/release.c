/*
 * How a host takes memory back depends on who else can see it. Private anonymous pages are ours
 * alone: forgetting them is enough. Those of a memfd belong to the file, and would still be there
 * the next time somebody looks: a hole has to be punched into the file, and whoever else has mapped
 * it sees zeroes too. KVM hears of both, and takes the pages out of the guest's tables.
 */
#include "hv/mem/release.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "hv/base/num.h"

#define HUGE_PAGE_SIZE (2 * MIB)

uint64_t mem_release_unit(const struct mem_region *r)
{
    return r->backing == MEM_HUGETLB ? HUGE_PAGE_SIZE : MEM_PAGE_SIZE;
}

static int punch_hole(int fd, uint64_t offset, uint64_t len)
{
    int rc;

    do
        rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static int give_back(const struct mem_region *r, uint64_t offset, uint64_t len)
{
    if (r->backing != MEM_ANONYMOUS)
        return punch_hole(r->fd, offset, len);
    return madvise((uint8_t *)r->host + offset, len, MADV_DONTNEED) < 0 ? -errno : 0;
}

/* The whole units of [offset, offset + len), which lies inside the region. */
static int release_in(const struct mem_region *r, uint64_t offset, uint64_t len)
{
    uint64_t unit = mem_release_unit(r);
    uint64_t first = align_down(offset + unit - 1, unit); /* far below 2^64: it is in a mapping */
    uint64_t end = align_down(offset + len, unit);

    return first < end ? give_back(r, first, end - first) : 0;
}

/* The RAM at `gpa`, and how much of [gpa, gpa + len) lies in it; NULL: there is none. */
static const struct mem_region *ram_at(const struct mem *mem, uint64_t gpa, uint64_t len,
                                       uint64_t *here)
{
    const struct mem_region *r = mem_find(mem, gpa);

    if (r == NULL || r->kind != MEM_RAM)
        return NULL;
    *here = r->size - (gpa - r->gpa);
    if (*here > len)
        *here = len;
    return r;
}

static bool is_ram(const struct mem *mem, uint64_t gpa, uint64_t len)
{
    for (uint64_t here; len > 0; gpa += here, len -= here)
        if (ram_at(mem, gpa, len, &here) == NULL)
            return false;
    return true;
}

int mem_release(const struct mem *mem, uint64_t gpa, uint64_t len)
{
    if (!is_ram(mem, gpa, len))
        return -EFAULT;
    for (uint64_t here; len > 0; gpa += here, len -= here) {
        const struct mem_region *r = ram_at(mem, gpa, len, &here);
        int rc = release_in(r, gpa - r->gpa, here);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int mem_release_piece(const struct mem *mem, const struct iovec *piece)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mem_region *r = &mem->regions[i];
        uint64_t offset = (uintptr_t)piece->iov_base - (uintptr_t)r->host; /* or it wraps */

        if (offset < r->size && r->kind == MEM_RAM && piece->iov_len <= r->size - offset)
            return release_in(r, offset, piece->iov_len);
    }
    return -EFAULT;
}
