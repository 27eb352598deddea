/*
 * Small kernel images, made in memory: valid ones that a test then breaks in one place.
 */
#ifndef SUPPORT_IMAGES_H
#define SUPPORT_IMAGES_H

#include <asm/bootparam.h>
#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot_priv.h"

/* A file that is being made. Owned bytes; image_fini() frees them. Zero-initialise it. */
struct image {
    uint8_t *data;
    size_t size;
};

void image_fini(struct image *image);
void image_resize(struct image *image, size_t size);                           /* new bytes are 0 */
void image_put(struct image *image, size_t at, const void *data, size_t size); /* grows it */
/* Bytes that differ from place to place, so that a misplaced copy shows. */
void image_put_pattern(struct image *image, size_t at, size_t size, uint8_t seed);

/* --- ELF --- */

/* A header and `count` program headers, all PT_NULL; the program headers lie right after it. */
void image_start_elf64(struct image *image, uint64_t entry, unsigned count);
void image_start_elf32(struct image *image, uint32_t entry, unsigned count);
/* Valid until the image grows. */
Elf64_Ehdr *image_ehdr(struct image *image);
Elf64_Phdr *image_phdr(struct image *image, unsigned i);
Elf32_Phdr *image_phdr32(struct image *image, unsigned i);

/* A whole ELF64 program: one segment of ELF_FILE bytes in the file (at ELF_OFFSET, patterned with
 * seed 1) and ELF_MEMORY in memory, at ELF_BASE, where it also starts. A second program header is
 * unused. */
#define ELF_OFFSET 0x1000U
#define ELF_FILE 0x800U
#define ELF_MEMORY 0x1400U
#define ELF_BASE 0x200000U
void image_make_elf64(struct image *image);
void image_make_elf32(struct image *image); /* the same */

/* Adds a PT_NOTE segment, as program header `i`, at the end of the file. */
void image_add_note(struct image *image, unsigned i, const char *owner, uint32_t type,
                    const void *desc, uint32_t size, uint64_t align);
#define NOTE_PHYS32_ENTRY 18

/* --- multiboot --- */

/* A header at `at`, with the right checksum; the address fields (load, data end, bss end, entry, as
 * the specification orders them) only if `addresses` is not NULL. */
void image_put_multiboot(struct image *image, size_t at, uint32_t flags, const uint32_t *addresses);

/* --- bzImage --- */

/* Protocol 2.15, four setup sectors, a kernel part of BZIMAGE_KERNEL patterned bytes (seed 2), not
 * relocatable, 32-bit entry at 1 MiB, no payload; version text "6.1.0-test". */
#define BZIMAGE_SETUP ((4U + 1) * 512)
#define BZIMAGE_KERNEL 0x2000U
void image_make_bzimage(struct image *image);
struct setup_header *image_setup_header(struct image *image);
/* Puts `payload` into the kernel part (which grows) and names it in the header. `promise`: the size
 * in its last four bytes, except for gzip, which has it already. */
void image_set_payload(struct image *image, const struct image *payload, enum compression how,
                       uint32_t promise);
/* A 64-bit bzImage with this vmlinux in it. */
void image_wrap_vmlinux(struct image *bzimage, const struct image *vmlinux, enum compression how);

/* --- packing --- */

void image_pack(struct image *out, enum compression how, const void *data, size_t size);

#endif
