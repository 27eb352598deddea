/*
 * Single numbers in guest memory: one access where the address is aligned, so that a value the
 * guest is changing at this moment is read or written whole, never torn. Elsewhere they are copied.
 */
#include "hv/mem/mem.h"

#include <endian.h>

#define DEFINE_ACCESSORS(bits)                                                                     \
    int mem_read_u##bits(const struct mem *mem, uint64_t gpa, uint##bits##_t *out)                 \
    {                                                                                              \
        const uint##bits##_t *p = mem_ptr(mem, gpa, sizeof(*p), false);                            \
        uint##bits##_t v;                                                                          \
        if (p != NULL && gpa % sizeof(*p) == 0) {                                                  \
            v = __atomic_load_n(p, __ATOMIC_RELAXED);                                              \
        } else {                                                                                   \
            int rc = mem_read(mem, gpa, &v, sizeof(v));                                            \
            if (rc < 0)                                                                            \
                return rc;                                                                         \
        }                                                                                          \
        *out = le##bits##toh(v);                                                                   \
        return 0;                                                                                  \
    }                                                                                              \
    int mem_write_u##bits(const struct mem *mem, uint64_t gpa, uint##bits##_t v)                   \
    {                                                                                              \
        uint##bits##_t *p = mem_ptr(mem, gpa, sizeof(*p), true);                                   \
        v = htole##bits(v);                                                                        \
        if (p == NULL || gpa % sizeof(*p) != 0)                                                    \
            return mem_write(mem, gpa, &v, sizeof(v));                                             \
        __atomic_store_n(p, v, __ATOMIC_RELAXED);                                                  \
        return 0;                                                                                  \
    }

DEFINE_ACCESSORS(16)
DEFINE_ACCESSORS(32)
DEFINE_ACCESSORS(64)
