/*
 * A guest's RAM for tests: zeroed memory from address 0.
 */
#ifndef SUPPORT_RAM_H
#define SUPPORT_RAM_H

#include <stdint.h>

#include "hv/mem/mem.h"

/* Fails the test when there is no memory. mem_fini() gives it back. */
void ram_init(struct mem *mem, uint64_t size);

#endif
