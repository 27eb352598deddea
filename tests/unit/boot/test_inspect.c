/*
 * What `hv inspect` says.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/images.h"

static struct image image;
static char *text;

static void teardown(void)
{
    image_fini(&image);
    free(text);
}

TestSuite(inspect, .fini = teardown);

static int inspect(void)
{
    size_t size = 0;
    FILE *out;
    int rc;

    free(text);
    text = NULL;
    out = open_memstream(&text, &size);
    cr_assert_not_null(out);
    rc = boot_inspect(image.data, image.size, "file", out);
    fclose(out);
    return rc;
}

static void expect(const char *part)
{
    cr_assert_not_null(strstr(text, part), "'%s' is not in:\n%s", part, text);
}

static void expect_80_columns(void)
{
    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1)
        cr_assert_leq(strcspn(line, "\n"), 80, "%.*s", (int)strcspn(line, "\n"), line);
}

Test(inspect, bzimage)
{
    struct image vmlinux = {0};

    image_make_elf64(&vmlinux);
    image_add_note(&vmlinux, 1, "Xen", NOTE_PHYS32_ENTRY, &(uint64_t){ELF_BASE}, 8, 4);
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_XZ);
    image_setup_header(&image)->xloadflags = 0x7f;
    cr_assert_eq(inspect(), 0);
    expect("file: Linux kernel, bzImage");
    expect("6.1.0-test");
    expect("2.15, 64-bit entry");
    expect("0x7f KERNEL_64 CAN_BE_LOADED_ABOVE_4G");
    expect("0x100000 (pref_address), needs 64 KiB (init_size)");
    expect("payload         xz, ");
    expect("inside          ELF64 for x86-64, entry 0x200000");
    expect("PVH entry       0x200000");
    expect("--boot          linux pvh\n");
    expect("--boot auto     unpacks the kernel here and enters it at startup_64");
    expect_80_columns();
    image_fini(&vmlinux);
}

Test(inspect, bzimage_without_payload)
{
    image_make_bzimage(&image);
    cr_assert_eq(inspect(), 0);
    expect("payload         none");
    expect("--boot          linux\n");
    expect("enters the bzImage: it has no compressed payload");
    expect_80_columns();
}

Test(inspect, bzimage_with_a_damaged_payload)
{
    struct image vmlinux = {0};

    image_make_elf64(&vmlinux);
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_ZSTD);
    image_put(&image, BZIMAGE_SETUP + 0x405, "!!!!!!", 6);
    cr_assert_eq(inspect(), 0);
    expect("inside          the payload: the zstd data is damaged or cut short");
    image_fini(&vmlinux);
}

Test(inspect, elf64)
{
    image_make_elf64(&image);
    image_phdr(&image, 0)->p_vaddr = 0xffffffff80000000;
    cr_assert_eq(inspect(), 0);
    expect("file: ELF executable, 6 KiB");
    expect("LOAD  0xffffffff80000000 0x200000");
    expect("2 KiB");
    expect(" 5 KiB rwx");
    expect("PVH entry       none");
    expect("--boot          elf\n");
    expect("--boot auto     elf");
    expect_80_columns();
}

Test(inspect, vmlinux)
{
    image_make_elf64(&image);
    image_put(&image, ELF_OFFSET, "Linux version 3", 15);
    cr_assert_eq(inspect(), 0);
    expect("file: Linux kernel, ELF (vmlinux)");
    expect("--boot          linux\n");
    expect("--boot auto     enters it at startup_64");
}

Test(inspect, multiboot_in_a_packed_file)
{
    struct image packed = {0};

    image_make_elf32(&image);
    image_put_multiboot(&image, ELF_OFFSET, 3, NULL);
    image_pack(&packed, COMPRESSION_GZIP, image.data, image.size);
    image_put(&image, 0, packed.data, packed.size);
    image_resize(&image, packed.size);
    cr_assert_eq(inspect(), 0);
    expect(" packed with gzip\n");
    expect("version 1 header at offset 0x1000");
    expect("0x3 PAGE_ALIGN MEMORY_INFO");
    expect("--boot auto     multiboot");
    expect_80_columns();
    image_fini(&packed);
}

Test(inspect, multiboot_addresses)
{
    static const uint32_t addresses[] = {0x100000, 0x100000, 0x100100, 0x100200, 0x100020};

    image_put_multiboot(&image, 0, MULTIBOOT_ADDRESSES, addresses);
    cr_assert_eq(inspect(), 0);
    expect("file: multiboot kernel, 32 bytes");
    expect("load 0x100000, data end 0x100100, bss end 0x100200");
}

Test(inspect, elf32_that_nothing_starts)
{
    image_make_elf32(&image);
    cr_assert_eq(inspect(), 0);
    expect("ELF32 for i386");
    expect("refuses: a 32-bit ELF file");
}

Test(inspect, what_is_unknown_or_broken_gets_a_sentence)
{
    image_put_pattern(&image, 0, 100, 0);
    cr_assert_eq(inspect(), -ENOEXEC);
    cr_assert_str_eq(text, "file: not a kernel that hv knows (bzImage, ELF, multiboot); raw code "
                           "needs --boot flat\n");
    image_resize(&image, 0);
    cr_assert_eq(inspect(), -ENOEXEC);
    cr_assert_str_eq(text, "file: the file is empty\n");
    image_put(&image, 0, "\x1f\x8b", 2);
    cr_assert_eq(inspect(), -ENOEXEC);
    cr_assert_str_eq(text, "file: the gzip data is damaged or cut short\n");
}
