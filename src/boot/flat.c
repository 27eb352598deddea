/*
 * Raw bytes, entered in real mode: the oldest way to start a PC program.
 *
 * The image says nothing about itself; where it goes and where it starts are the user's choice, and
 * nothing but the RAM's size is checked. The entry point becomes CS:IP as 16-bit programs expect
 * it: below 64 KiB the segment is 0, so that a program assembled for its load address finds its
 * labels there; above, CS is the 64 KiB segment that the address lies in. SS:SP is 0:0: the first
 * push wraps around to 0:FFFE.
 */
#include <errno.h>
#include <inttypes.h>

#include "boot/boot_priv.h"

/* Real mode's CS:IP for a physical address below 1 MiB. SDM 3A §20.1.1. */
static void set_real_entry(struct boot_entry *entry, uint64_t address)
{
    entry->mode = X86_REAL;
    entry->cs = (address & 0xf0000) >> 4;
    entry->rip = address & 0xffff;
}

int flat_load(struct boot_job *job)
{
    const struct boot_request *req = job->req;

    if (req->flat_entry >= MIB)
        return error_set(job->err, -EINVAL,
                         "the entry point 0x%" PRIx64 " is not below 1 MiB, where real mode ends",
                         req->flat_entry);
    if (req->flat_entry < req->flat_load || req->flat_entry - req->flat_load >= req->kernel_size)
        return error_set(job->err, -EINVAL,
                         "the entry point 0x%" PRIx64
                         " is not in the image, which is %zu bytes at 0x%" PRIx64,
                         req->flat_entry, req->kernel_size, req->flat_load);
    int rc = mem_write(job->mem, req->flat_load, req->kernel, req->kernel_size);
    if (rc < 0)
        return error_set(job->err, -E2BIG, "%zu bytes at 0x%" PRIx64 " do not fit the guest's RAM",
                         req->kernel_size, req->flat_load);
    set_real_entry(&job->entry, req->flat_entry);
    return 0;
}
