#include "hv/mem/iov.h"

#include <errno.h>

int mem_iov(const struct mem *mem, uint64_t gpa, uint64_t len, bool write, struct iovec *iov,
            unsigned max)
{
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
}
