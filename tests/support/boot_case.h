/*
 * One boot_load() under test: a machine with 16 MiB, poisoned memory and outputs.
 */
#ifndef SUPPORT_BOOT_CASE_H
#define SUPPORT_BOOT_CASE_H

#include "hv/boot/boot.h"
#include "support/images.h"

#define CASE_RAM (16U << 20)
#define CASE_SCRATCH 0x10000U
#define CASE_SCRATCH_END 0x60000U
#define CASE_HOLE 0x9fc00U /* reserved up to 1 MiB */
#define CASE_RSDP 0xe0000U
#define CASE_POISON 0xa5

struct boot_case {
    struct mem mem; /* every byte is CASE_POISON before a load */
    struct boot_request req;
    struct boot_entry entry;
    struct error err;
    struct log log;
    char logged[256]; /* the last message */
};

void boot_case_init(struct boot_case *c);
void boot_case_fini(struct boot_case *c);

/* Loads and expects success. */
void boot_case_load(struct boot_case *c, enum boot_protocol protocol, const struct image *image);

/* Loads and expects `rc`, a sentence that starts with the kernel's name and has `text` in it, and
 * that neither the entry nor memory outside scratch changed. */
void boot_case_refuse(struct boot_case *c, enum boot_protocol protocol, const struct image *image,
                      int rc, const char *text);

/* Guest memory, as a pointer for comparisons; `size` bytes must be there. */
const uint8_t *boot_case_at(const struct boot_case *c, uint64_t gpa, size_t size);

/* Asserts that [gpa, gpa + size) holds one byte value. */
void boot_case_expect_fill(const struct boot_case *c, uint64_t gpa, size_t size, uint8_t value);

#endif
