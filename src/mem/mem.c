#include "hv/mem/mem.h"

#include <errno.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

#define HUGE_PAGE_SIZE (2 * MIB)

void mem_init(struct mem *mem)
{
    *mem = (struct mem){0};
}

void mem_fini(struct mem *mem)
{
    for (unsigned i = 0; i < mem->count; i++) {
        (void)munmap(mem->regions[i].host, mem->regions[i].size);
        fd_close(&mem->regions[i].fd);
    }
    mem_init(mem);
}

/* --- regions --- */

static int check_region(const struct mem *mem, uint64_t gpa, uint64_t size, uint64_t align,
                        struct error *err)
{
    uint64_t end;

    if (size == 0 || gpa % align != 0 || size % align != 0 ||
        __builtin_add_overflow(gpa, size, &end))
        return error_set(err, -EINVAL, "guest memory of 0x%llx bytes at 0x%llx is not page-aligned",
                         (unsigned long long)size, (unsigned long long)gpa);
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mem_region *r = &mem->regions[i];
        if (gpa < r->gpa + r->size && r->gpa < end)
            return error_set(err, -EEXIST, "guest memory at 0x%llx overlaps memory at 0x%llx",
                             (unsigned long long)gpa, (unsigned long long)r->gpa);
    }
    if (mem->count == MEM_REGIONS_MAX)
        return error_set(err, -ENOSPC, "more than %d guest memory regions", MEM_REGIONS_MAX);
    return 0;
}

/* A memfd of `size` bytes. */
static int create_memfd(uint64_t size, enum mem_backing backing, int *out)
{
    unsigned flags = MFD_CLOEXEC;

    if (backing == MEM_HUGETLB)
        flags |= MFD_HUGETLB | MFD_HUGE_2MB;
    int fd = memfd_create("guest-memory", flags);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) < 0) {
        int rc = -errno;
        fd_close(&fd);
        return rc;
    }
    *out = fd;
    return 0;
}

/* Maps the region's memory. MAP_NORESERVE: guests rarely touch all they are given, and a host
 * without room is noticed by its own limits; huge pages are reserved at once, for running out of
 * them later would be a SIGBUS. */
static int map_region(struct mem_region *r)
{
    int flags = r->backing == MEM_ANONYMOUS ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

    if (r->backing != MEM_ANONYMOUS) {
        int rc = create_memfd(r->size, r->backing, &r->fd);
        if (rc < 0)
            return rc;
    }
    if (r->backing != MEM_HUGETLB)
        flags |= MAP_NORESERVE;
    r->host = mmap(NULL, r->size, PROT_READ | PROT_WRITE, flags, r->fd, 0);
    if (r->host == MAP_FAILED) {
        int rc = -errno;
        fd_close(&r->fd);
        return rc;
    }
    /* Fewer TLB misses where the host allows it; without huge pages the call fails, harmlessly. */
    (void)madvise(r->host, r->size, MADV_HUGEPAGE);
    return 0;
}

int mem_add(struct mem *mem, uint64_t gpa, uint64_t size, enum mem_kind kind,
            enum mem_backing backing, struct error *err)
{
    uint64_t align = backing == MEM_HUGETLB ? HUGE_PAGE_SIZE : MEM_PAGE_SIZE;
    int rc = check_region(mem, gpa, size, align, err);

    if (rc < 0)
        return rc;
    struct mem_region r = {.gpa = gpa, .size = size, .kind = kind, .backing = backing, .fd = -1};
    rc = map_region(&r);
    if (rc < 0) {
        char text[SIZE_TEXT_MAX];
        if (backing == MEM_HUGETLB)
            return error_set(err, rc,
                             "the host has not reserved %s of huge-page memory: write %llu to "
                             "/proc/sys/vm/nr_hugepages, or use another memory backing",
                             format_size(size, text), (unsigned long long)(size / HUGE_PAGE_SIZE));
        return error_sys(err, rc, "cannot get %s of memory", format_size(size, text));
    }
    unsigned i = mem->count++;
    for (; i > 0 && mem->regions[i - 1].gpa > gpa; i--)
        mem->regions[i] = mem->regions[i - 1];
    mem->regions[i] = r;
    return 0;
}

const struct mem_region *mem_find(const struct mem *mem, uint64_t gpa)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mem_region *r = &mem->regions[i];
        if (gpa - r->gpa < r->size) /* below r->gpa wraps to something large */
            return r;
    }
    return NULL;
}

/* EXERCISE 2.1: no guest address becomes a pointer unchecked. mem_ptr(): a pointer to `len` bytes
 * at `gpa` that lie in one region, else NULL; to write, the region must be RAM. is_allowed(): may
 * `len` bytes be accessed, in one region or in several, each of which begins where the one before
 * it ends? Everybody may read RAM and ROM; ACCESS_WRITE is for RAM only, ACCESS_FILL_ROM for both.
 * No byte may lie outside. `gpa` and `len` come from the guest and may be as large as 64 bits
 * allow: gpa + len is a sum that lies. */
// SOLUTION 2.1
void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len, bool write)
{
    const struct mem_region *r = mem_find(mem, gpa);

    if (r == NULL || !range_fits(gpa - r->gpa, len, r->size) || (write && r->kind != MEM_RAM))
        return NULL;
    return (uint8_t *)r->host + (gpa - r->gpa);
}

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FILL_ROM };

/* True if all of [gpa, gpa + len) may be accessed so. Checked before the first byte moves. */
static bool is_allowed(const struct mem *mem, uint64_t gpa, uint64_t len, enum access access)
{
    while (len > 0) {
        const struct mem_region *r = mem_find(mem, gpa);
        if (r == NULL || (access == ACCESS_WRITE && r->kind != MEM_RAM))
            return false;
        uint64_t here = r->size - (gpa - r->gpa);
        if (here >= len)
            return true;
        len -= here;
        gpa += here;
    }
    return true;
}
// ELSE
// void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len, bool write)
// {
//     (void)todo("2.1");
//     return NULL;
// }
//
// enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FILL_ROM };
//
// static bool is_allowed(const struct mem *mem, uint64_t gpa, uint64_t len, enum access access)
// {
//     (void)todo("2.1");
//     return false;
// }
// BEFORE
// END 2.1

/* --- copies that may cross from one region into the next --- */

/* EXERCISE 2.2: the copies. What is allowed is copied, across the borders of regions: guest memory
 * that is contiguous for the guest lies in as many mappings of ours as there are regions. What is
 * not allowed fails as a whole: not one byte moves. mem_rom_write() may fill ROM, mem_write() and
 * mem_zero() may not. mem_find() knows where a region ends. */
// SOLUTION 2.2
/* The longest piece at `gpa` that lies in one region; the range was checked before. */
static uint8_t *piece(const struct mem *mem, uint64_t gpa, uint64_t len, uint64_t *out_len)
{
    const struct mem_region *r = mem_find(mem, gpa);
    uint64_t here = r->size - (gpa - r->gpa);

    *out_len = here < len ? here : len;
    return (uint8_t *)r->host + (gpa - r->gpa);
}

int mem_read(const struct mem *mem, uint64_t gpa, void *out, uint64_t len)
{
    uint8_t *to = out;

    if (!is_allowed(mem, gpa, len, ACCESS_READ))
        return -EFAULT;
    while (len > 0) {
        uint64_t n;
        const uint8_t *from = piece(mem, gpa, len, &n);
        memcpy(to, from, n);
        to += n;
        gpa += n;
        len -= n;
    }
    return 0;
}

static int copy_in(const struct mem *mem, uint64_t gpa, const void *data, uint64_t len,
                   enum access access)
{
    const uint8_t *from = data;

    if (!is_allowed(mem, gpa, len, access))
        return -EFAULT;
    while (len > 0) {
        uint64_t n;
        uint8_t *to = piece(mem, gpa, len, &n);
        memcpy(to, from, n);
        from += n;
        gpa += n;
        len -= n;
    }
    return 0;
}

int mem_write(const struct mem *mem, uint64_t gpa, const void *data, uint64_t len)
{
    return copy_in(mem, gpa, data, len, ACCESS_WRITE);
}

int mem_rom_write(const struct mem *mem, uint64_t gpa, const void *data, uint64_t len)
{
    return copy_in(mem, gpa, data, len, ACCESS_FILL_ROM);
}

int mem_zero(const struct mem *mem, uint64_t gpa, uint64_t len)
{
    if (!is_allowed(mem, gpa, len, ACCESS_WRITE))
        return -EFAULT;
    while (len > 0) {
        uint64_t n;
        uint8_t *to = piece(mem, gpa, len, &n);
        memset(to, 0, n);
        gpa += n;
        len -= n;
    }
    return 0;
}
// ELSE
// int mem_read(const struct mem *mem, uint64_t gpa, void *out, uint64_t len)
// {
//     return is_allowed(mem, gpa, len, ACCESS_READ) ? todo("2.2") : -EFAULT;
// }
//
// int mem_write(const struct mem *mem, uint64_t gpa, const void *data, uint64_t len)
// {
//     return is_allowed(mem, gpa, len, ACCESS_WRITE) ? todo("2.2") : -EFAULT;
// }
//
// int mem_rom_write(const struct mem *mem, uint64_t gpa, const void *data, uint64_t len)
// {
//     return is_allowed(mem, gpa, len, ACCESS_FILL_ROM) ? todo("2.2") : -EFAULT;
// }
//
// int mem_zero(const struct mem *mem, uint64_t gpa, uint64_t len)
// {
//     return is_allowed(mem, gpa, len, ACCESS_WRITE) ? todo("2.2") : -EFAULT;
// }
// BEFORE
// /* Into one region; more is not needed to load a program. */
// int mem_write(const struct mem *mem, uint64_t gpa, const void *data, uint64_t len)
// {
//     const struct mem_region *r = mem_find(mem, gpa);
//
//     if (r == NULL || !range_fits(gpa - r->gpa, len, r->size))
//         return -EFAULT;
//     memcpy((uint8_t *)r->host + (gpa - r->gpa), data, len);
//     return 0;
// }
// END 2.2
