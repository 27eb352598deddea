#include "hv/mem/iov.h"

#include <errno.h>

#include "hv/base/todo.h"

int mem_iov(const struct mem *mem, uint64_t gpa, uint64_t len, bool write, struct iovec *iov,
            unsigned max)
{
    /* EXERCISE 7.1: the range as pieces of host memory, each in one region and as long as that
     * allows; a piece for each region that the range touches, in their order. Returns how many; a
     * range of no bytes has none, wherever it lies. -EFAULT: a byte is in no region, or, with
     * `write`, in one that is not MEM_RAM. -E2BIG: there is more to come, and `max` pieces are
     * there. No region ends beyond 2^64 - 1, but a range may; nothing is written behind iov[max -
     * 1]. */
    // SOLUTION 7.1
    unsigned count = 0;

    while (len > 0) {
        const struct mem_region *r = mem_find(mem, gpa);

        if (r == NULL || (write && r->kind != MEM_RAM))
            return -EFAULT;
        if (count == max)
            return -E2BIG;

        uint64_t offset = gpa - r->gpa;
        uint64_t here = r->size - offset < len ? r->size - offset : len;
        iov[count++] = (struct iovec){(uint8_t *)r->host + offset, here};
        gpa += here; /* cannot wrap: mem_add() takes no region that ends beyond 2^64 - 1 */
        len -= here;
    }
    return (int)count;
    // END 7.1
}
