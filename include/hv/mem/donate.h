/*
 * Filling guest memory without copying it: the host's pages change their place.
 *
 * Unpacking a kernel leaves tens of MiB in a buffer that nobody needs afterwards. Its whole pages
 * can become the guest's by moving them from one virtual address to another, mremap(2), which costs
 * a page-table entry each, not 4 KiB read and 4 KiB written, nor a page zeroed before.
 */
#ifndef HV_MEM_DONATE_H
#define HV_MEM_DONATE_H

#include <stdint.h>

#include "hv/base/err.h"
#include "hv/mem/mem.h"

/* As mem_write(), for bytes that the caller gives away: what is in [data, data + len) afterwards,
 * even whether it is mapped, is undefined. They must lie in private anonymous memory that the
 * caller mapped itself. Only before the guest runs. -EFAULT, with nothing changed. */
int mem_donate(const struct mem *mem, uint64_t gpa, uint8_t *data, uint64_t len) HV_MUST_CHECK;

#endif
