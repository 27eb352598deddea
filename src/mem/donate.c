#include "hv/mem/donate.h"

#include <errno.h>
#include <sys/mman.h>

#include "hv/base/num.h"

/* Below this, moving pages costs more than copying them. */
#define MOVE_MIN (256 * KIB)

/* Pages can go to private anonymous memory alone, and keep their offset in the page. */
static bool can_move(const struct mem *mem, uint64_t gpa, const uint8_t *data, uint64_t len)
{
    const struct mem_region *r = mem_find(mem, gpa);

    return len >= MOVE_MIN && r != NULL && r->backing == MEM_ANONYMOUS &&
           (gpa - (uintptr_t)data) % MEM_PAGE_SIZE == 0;
}

/* Moves the whole pages [data, data + len) to guest memory at `gpa`. */
static int move_pages(const struct mem *mem, uint64_t gpa, uint8_t *data, uint64_t len)
{
    void *to = mem_ptr(mem, gpa, len, true);

    if (to == NULL)
        return -EFAULT;
    if (mremap(data, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
        return mem_write(mem, gpa, data, len); /* slower, and as good */
    return 0;
}

int mem_donate(const struct mem *mem, uint64_t gpa, uint8_t *data, uint64_t len)
{
    if (!can_move(mem, gpa, data, len))
        return mem_write(mem, gpa, data, len);
    if (mem_ptr(mem, gpa, len, true) == NULL)
        return -EFAULT; /* before the first byte moves */
    uint64_t head = (MEM_PAGE_SIZE - gpa % MEM_PAGE_SIZE) % MEM_PAGE_SIZE;
    uint64_t pages = align_down(len - head, MEM_PAGE_SIZE);
    uint64_t tail = len - head - pages;

    int rc = mem_write(mem, gpa, data, head);
    if (rc == 0)
        rc = mem_write(mem, gpa + head + pages, data + head + pages, tail);
    return rc < 0 ? rc : move_pages(mem, gpa + head, data + head, pages);
}
