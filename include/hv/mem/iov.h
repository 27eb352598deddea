/*
 * Guest memory as a list of pieces, for system calls that gather and scatter.
 */
#ifndef HV_MEM_IOV_H
#define HV_MEM_IOV_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/mem/mem.h"

/* The pieces of host memory that [gpa, gpa + len) consists of, one for each region it touches, in
 * iov[0 … max). Returns how many, 0 for len 0. -EFAULT: not all inside memory (MEM_RAM only, when
 * `write` is set); -E2BIG: more than `max` pieces. For readv() and its like; the bytes may change
 * at any time. */
int mem_iov(const struct mem *mem, uint64_t gpa, uint64_t len, bool write, struct iovec *iov,
            unsigned max) HV_MUST_CHECK;

#endif
