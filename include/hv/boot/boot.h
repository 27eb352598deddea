/*
 * Loading a kernel: from a file's bytes to guest memory and the state its first instruction runs
 * in.
 *
 * Every number in an image is an attacker's: each loader validates the whole image before it
 * changes guest memory, and fails with one sentence that says what is wrong with it. Loaders
 * allocate in proportion to the file's size or to a stated maximum, never to a number in the file.
 */
#ifndef HV_BOOT_BOOT_H
#define HV_BOOT_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h> // lab 05

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/mem/mem.h"
#include "hv/x86/modes.h"

enum boot_protocol {
    BOOT_AUTO, // lab 05
    BOOT_FLAT, /* raw bytes, real mode */
    // lab 03 {
    BOOT_ELF, /* ELF64, entered in long mode */
    // }
    // lab 05 {
    BOOT_MULTIBOOT,      /* Multiboot 0.6.96, entered in protected mode */
    BOOT_PVH,            /* Xen's x86/HVM direct boot ABI, protected mode */
    BOOT_LINUX,          /* Linux/x86 boot protocol, 64-bit or 32-bit entry of the bzImage itself */
    BOOT_LINUX_UNPACKED, /* the vmlinux inside a bzImage, unpacked here, entered at startup_64 */
    // }
};

/* "flat", …; NULL when out of range. And back: -EINVAL. */
/* BOOT_LINUX_UNPACKED has no option name: it is what "auto" picks. */ // lab 05
const char *boot_protocol_name(enum boot_protocol protocol);
int boot_protocol_parse(const char *text, enum boot_protocol *out) HV_MUST_CHECK;

// lab 03 {
/* Where the pieces of a machine lie in guest-physical memory; made by machine/layout.c. */
enum boot_range_type {
    BOOT_RANGE_RAM = 1,
    BOOT_RANGE_RESERVED = 2,
    BOOT_RANGE_ACPI = 3
}; /* as in e820 */
struct boot_range {
    uint64_t gpa;
    uint64_t size;
    enum boot_range_type type;
};
#define BOOT_RANGES_MAX 16

struct boot_layout {
    struct boot_range ranges[BOOT_RANGES_MAX]; /* the memory map, sorted, not overlapping */
    unsigned count;
    uint64_t low_end; /* end of the RAM that starts at 0 (below 4 GiB), for initrds and modules */
    uint64_t
        scratch; /* below 640 KiB: GDT, page tables, zero page, command line, PVH start_info … */
    uint64_t scratch_end; /* the loader may use all of [scratch, scratch_end) */
    uint64_t rsdp;        /* where the ACPI RSDP is, 0: none */
};
// }

// lab 05 {
/* Linux says nothing at all without it. */
#define BOOT_CMDLINE_DEFAULT "console=ttyS0"
// }

struct boot_request {
    enum boot_protocol protocol;
    const uint8_t *kernel; /* the file's bytes; borrowed */
    size_t kernel_size;
    const char *kernel_name; /* for messages */
    // lab 05 {
    const uint8_t *initrd; /* NULL: none */
    size_t initrd_size;
    const char *initrd_name;
    const char *cmdline; /* "" when none; NULL: BOOT_CMDLINE_DEFAULT for Linux and PVH, else none */
    // }
    uint64_t flat_load;        /* BOOT_FLAT: guest-physical load address */
    uint64_t flat_entry;       /* BOOT_FLAT: first instruction, in the image and below 1 MiB */
    struct boot_layout layout; // lab 03
};

// lab 03 {
/* The stack that every protocol but flat starts with, in scratch: enough for a C program's first
 * steps. */
#define BOOT_STACK_SIZE (16U << 10)
// }

/* How vCPU 0 starts. Interrupts are off; registers not named here are 0. */
struct boot_entry {
    enum boot_protocol protocol; /* what was used */
    enum x86_mode mode;
    uint64_t rip;
    uint16_t cs; /* X86_REAL: the segment; rip is the offset in it */
    // lab 03 {
    uint64_t rsp;
    uint64_t rax, rbx, rsi;
    uint64_t gdt; /* guest-physical, unless X86_REAL; written by the loader */
    uint64_t cr3; /* the same, with X86_LONG */
    // }
};

// lab 05 {
/* BOOT_AUTO is resolved here. A kernel file that is itself packed with gzip, xz, zstd or lz4 is
 * unpacked first, except for BOOT_FLAT: -E2BIG if more than 1 GiB comes out. -ENOTSUP: an image
 * that wants what hv does not offer, or an initrd for a protocol that has none. `log` (may be NULL)
 * hears about fallbacks. */
// }
/* Validates and loads. Nothing but *entry and guest memory changes, and guest memory outside the
 * loader's own only when the image was found good. -ENOEXEC: not an image of that protocol, or a
 * broken one; -E2BIG: does not fit guest memory; -EINVAL: flat_entry out of place; -ENOMEM. The
 * sentence starts with kernel_name. */
int boot_load(const struct mem *mem, const struct boot_request *req, const struct log *log,
              struct boot_entry *entry, struct error *err) HV_MUST_CHECK;

// lab 05 {
/* `hv inspect`: what the image is and which protocols it offers, for a person. Hostile images get a
 * sentence too. Returns 0, or -ENOEXEC when nothing was recognised. */
int boot_inspect(const uint8_t *image, size_t size, const char *name, FILE *out) HV_MUST_CHECK;
// }

#endif
