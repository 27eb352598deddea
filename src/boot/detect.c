/*
 * What an image is, and what `--boot auto` makes of it.
 *
 * Detection is by magic numbers and by what the formats' own readers accept; it never guesses. Raw
 * bytes have no magic number, so flat is never chosen: a mistyped file name must not start as
 * a program.
 */
#include <errno.h>
#include <string.h>

#include "boot/boot_priv.h"

static int refuse_unknown(struct bytes image, struct error *err)
{
    if (image.size == 0)
        return error_set(err, -ENOEXEC, "the file is empty");
    if (image.size >= 2 && memcmp(image.data, "MZ", 2) == 0)
        return error_set(err, -ENOEXEC, "an EFI or DOS program; hv has no firmware to run it on");
    return error_set(err, -ENOEXEC,
                     "not a kernel that hv knows (bzImage, ELF, multiboot); raw code needs --boot "
                     "flat");
}

static int read_elf_facts(struct image_facts *facts, struct bytes image, struct error *err)
{
    struct error why = {0}; /* having no PVH note is no error here */
    int rc = elf_open(image, &facts->elf, err);

    if (rc < 0)
        return rc;
    facts->type = IMAGE_ELF;
    rc = pvh_find_entry(&facts->elf, &facts->pvh_entry, &why);
    if (rc < 0 && rc != -ENOENT)
        return error_set(err, rc, "%s", why.text);
    facts->has_pvh = rc == 0;
    facts->is_linux = elf_is_linux(&facts->elf);
    return 0;
}

int facts_read(struct bytes image, struct image_facts *out, struct error *err)
{
    struct image_facts facts = {0};
    int rc = 0;

    /* Without addresses of its own a multiboot header needs those of ELF around it. Xen's EFI
     * program has such a header. */
    facts.has_multiboot = multiboot_find(image, &facts.multiboot) &&
                          (elf_is(image) || (facts.multiboot.flags & MULTIBOOT_ADDRESSES));
    if (linux_is(image)) {
        rc = linux_open(image, &facts.bzimage, err);
        facts.type = IMAGE_BZIMAGE;
    } else if (elf_is(image)) {
        rc = read_elf_facts(&facts, image, err);
    } else if (!facts.has_multiboot) {
        rc = refuse_unknown(image, err);
    }
    if (rc == 0)
        *out = facts;
    return rc;
}

/* The order: a note or header that names a protocol beats the bare file format, and among them the
 * one that starts the kernel with the least detours. */
int facts_choose(const struct image_facts *facts, enum boot_protocol *out, struct error *err)
{
    bool is_elf = facts->type == IMAGE_ELF;
    bool is_elf64 = is_elf && facts->elf.is_64;

    if (facts->type == IMAGE_BZIMAGE)
        *out = linux_why_not_unpack(&facts->bzimage) == NULL ? BOOT_LINUX_UNPACKED : BOOT_LINUX;
    else if (is_elf64 && facts->has_pvh)
        *out = BOOT_PVH;
    else if (facts->has_multiboot)
        *out = BOOT_MULTIBOOT;
    else if (is_elf && facts->has_pvh)
        *out = BOOT_PVH;
    else if (is_elf64 && facts->is_linux)
        *out = BOOT_LINUX_UNPACKED;
    else if (is_elf64)
        *out = BOOT_ELF;
    else
        return error_set(err, -ENOEXEC,
                         "a 32-bit ELF file with neither a multiboot header nor a PVH note");
    return 0;
}
