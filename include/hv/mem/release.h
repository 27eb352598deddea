/*
 * Giving guest memory back to the host: it reads as zero from then on, and costs the host nothing
 * until somebody writes to it again. The guest may go on meanwhile; it knows that what was there is
 * lost.
 */
#ifndef HV_MEM_RELEASE_H
#define HV_MEM_RELEASE_H

#include <stdint.h>
#include <sys/uio.h>

#include "hv/base/err.h"
#include "hv/mem/mem.h"

/* The bytes that the host can get back at once from this region: a page of its backing. */
uint64_t mem_release_unit(const struct mem_region *r);

/* Gives the units that lie wholly inside [gpa, gpa + len) back; what is left over at either end
 * keeps its bytes. -EFAULT: not all of it is RAM, and nothing was given back. Another -errno, of
 * madvise() or fallocate(): the host refused, and some of it may have been given back. */
int mem_release(const struct mem *mem, uint64_t gpa, uint64_t len) HV_MUST_CHECK;

/* The same for a piece that mem_iov() found. */
int mem_release_piece(const struct mem *mem, const struct iovec *piece) HV_MUST_CHECK;

#endif
