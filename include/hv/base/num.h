/*
 * Arithmetic on numbers that a guest, a file or a user chose: every result is checked.
 */
#ifndef HV_BASE_NUM_H
#define HV_BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* The structure that `ptr`, a pointer to its member, lies in. */
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* True if [start, start + len) lies inside [0, limit), without overflow. len may be 0. */
static inline bool range_fits(uint64_t start, uint64_t len, uint64_t limit)
{
    return start <= limit && len <= limit - start;
}

static inline bool is_power_of_two(uint64_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* Rounding to a multiple of `align`, a power of two. */
static inline uint64_t align_down(uint64_t n, uint64_t align)
{
    return n & ~(align - 1);
}

/* -EOVERFLOW if the next multiple does not fit 64 bits. */
int align_up(uint64_t n, uint64_t align, uint64_t *out) HV_MUST_CHECK;

/* Reads a whole string as an unsigned number: decimal, or hexadecimal with 0x.
 * -EINVAL: not a number, sign, or trailing text. -ERANGE: above `max`. */
int parse_u64(const char *text, uint64_t max, uint64_t *out) HV_MUST_CHECK;

/* A size in bytes with an optional suffix K, M, G, T (powers of 1024, either case, an optional "iB"
 * or "B" after it). A number without a suffix is taken times `unit`, as QEMU takes "-m 512" for
 * MiB. -EINVAL, -ERANGE (does not fit 64 bits). */
int parse_size(const char *text, uint64_t unit, uint64_t *out) HV_MUST_CHECK;

/* The shortest exact form: "512M", "1G", "640K", "1000". `buf` holds at least SIZE_TEXT_MAX bytes;
 * returned. */
#define SIZE_TEXT_MAX 24
char *format_size(uint64_t bytes, char *buf);

#endif
