/*
 * Guest-physical memory, as the host sees it.
 *
 * This is the only module that turns a guest-physical address into a pointer. Every access names an
 * address and a length and is checked against the regions; an access that starts in RAM and ends
 * outside it, or wraps around, fails as a whole and touches nothing.
 *
 * The guest runs while the host reads: whatever matters is read once into a local copy, validated,
 * and only the copy is used.
 *
 * Threads: the set of regions is fixed before the first vCPU runs. Accesses may come from any
 * thread; concurrent guest accesses to the same bytes are the guest's own race.
 */
#ifndef HV_MEM_MEM_H
#define HV_MEM_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

#define MEM_REGIONS_MAX 16
#define MEM_PAGE_SIZE 4096

enum mem_kind {
    MEM_RAM, /* read and written by guest and devices */
    MEM_ROM, /* the guest reads; its writes exit to the monitor, devices cannot write either */
};

enum mem_backing {
    MEM_ANONYMOUS, /* private anonymous memory */
    MEM_MEMFD,     /* a memfd, which can be shared with another process */
    MEM_HUGETLB,   /* a memfd of 2 MiB huge pages; the host must have reserved them */
};

struct mem_region {
    uint64_t gpa;  /* first guest-physical address, page-aligned */
    uint64_t size; /* bytes, a multiple of the page size */
    enum mem_kind kind;
    enum mem_backing backing;
    int fd;     /* memfd, or -1; owned by the region */
    void *host; /* owned mapping of `size` bytes */
};

struct mem {
    struct mem_region regions[MEM_REGIONS_MAX]; /* sorted by gpa, never overlapping */
    unsigned count;
};

void mem_init(struct mem *mem);
void mem_fini(struct mem *mem);

/* Adds zeroed memory. -EINVAL: unaligned or empty; -EEXIST: overlaps a region; -ENOSPC: too many
 * regions; -ENOMEM: the host has no room (for hugetlb: no reserved pages). */
int mem_add(struct mem *mem, uint64_t gpa, uint64_t size, enum mem_kind kind,
            enum mem_backing backing, struct error *err) HV_MUST_CHECK;

/* The region that holds `gpa`, or NULL. Borrowed; valid until mem_fini(). */
const struct mem_region *mem_find(const struct mem *mem, uint64_t gpa);

/* A pointer to [gpa, gpa + len), or NULL unless all of it lies in one region (MEM_RAM only, when
 * `write` is set). For bulk transfers such as readv(); the bytes may change at any time. */
void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len, bool write) HV_MUST_CHECK;

/* Copies, across neighbouring regions too. -EFAULT: not all inside memory (or a write to ROM);
 * nothing was copied. `mem_rom_write` is for whoever fills the ROM before the guest starts. */
int mem_read(const struct mem *mem, uint64_t gpa, void *out, uint64_t len) HV_MUST_CHECK;
int mem_write(const struct mem *mem, uint64_t gpa, const void *data, uint64_t len) HV_MUST_CHECK;
int mem_zero(const struct mem *mem, uint64_t gpa, uint64_t len) HV_MUST_CHECK;
int mem_rom_write(const struct mem *mem, uint64_t gpa, const void *data,
                  uint64_t len) HV_MUST_CHECK;

/* One little-endian number, fetched or stored with a single access where it is aligned. */
int mem_read_u16(const struct mem *mem, uint64_t gpa, uint16_t *out) HV_MUST_CHECK;
int mem_read_u32(const struct mem *mem, uint64_t gpa, uint32_t *out) HV_MUST_CHECK;
int mem_read_u64(const struct mem *mem, uint64_t gpa, uint64_t *out) HV_MUST_CHECK;
int mem_write_u16(const struct mem *mem, uint64_t gpa, uint16_t v) HV_MUST_CHECK;
int mem_write_u32(const struct mem *mem, uint64_t gpa, uint32_t v) HV_MUST_CHECK;
int mem_write_u64(const struct mem *mem, uint64_t gpa, uint64_t v) HV_MUST_CHECK;

#endif
