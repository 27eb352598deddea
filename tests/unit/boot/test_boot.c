/*
 * Names, `auto`, compressed files.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/boot_case.h"

static struct boot_case c;
static struct image image;

static void setup(void)
{
    boot_case_init(&c);
}

static void teardown(void)
{
    image_fini(&image);
    boot_case_fini(&c);
}

TestSuite(boot, .init = setup, .fini = teardown);

static void expect_auto(enum boot_protocol want)
{
    boot_case_load(&c, BOOT_AUTO, &image);
    cr_assert_eq(c.entry.protocol, want, "%s", boot_protocol_name(c.entry.protocol));
}

static void add_pvh(void)
{
    image_add_note(&image, 1, "Xen", NOTE_PHYS32_ENTRY, &(uint64_t){ELF_BASE}, 8, 4);
}

/* --- names --- */

Test(boot, names_round_trip)
{
    for (unsigned i = BOOT_AUTO; i <= BOOT_LINUX; i++) {
        enum boot_protocol p = (enum boot_protocol)0xa5;
        cr_assert_eq(boot_protocol_parse(boot_protocol_name((enum boot_protocol)i), &p), 0);
        cr_assert_eq((unsigned)p, i);
    }
}

Test(boot, names_that_are_not_options)
{
    static const char *const names[] = {"", "Linux", "linux ", "linux-unpacked"};
    enum boot_protocol p = BOOT_PVH;

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        cr_assert_eq(boot_protocol_parse(names[i], &p), -EINVAL);
    cr_assert_eq(p, BOOT_PVH);
    cr_assert_null(boot_protocol_name((enum boot_protocol)(BOOT_LINUX_UNPACKED + 1)));
    cr_assert_not_null(boot_protocol_name(BOOT_LINUX_UNPACKED));
}

Test(boot, protocol_out_of_range)
{
    image_make_elf64(&image);
    boot_case_refuse(&c, (enum boot_protocol)77, &image, -EINVAL, "has the number 77");
}

/* --- auto --- */

Test(boot, auto_unpacks_a_64_bit_bzimage)
{
    struct image vmlinux = {0};

    image_make_elf64(&vmlinux);
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_ZSTD);
    expect_auto(BOOT_LINUX_UNPACKED);
    cr_assert_str_empty(c.logged);
    image_fini(&vmlinux);
}

Test(boot, auto_falls_back_to_the_bzimage_and_says_why)
{
    struct image vmlinux = {0};

    image_make_elf64(&vmlinux);
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_ZSTD);
    image_put(&image, BZIMAGE_SETUP + 0x400, "BZh9", 4);
    expect_auto(BOOT_LINUX);
    cr_assert_str_eq(c.logged, "kernel is started as it is: its payload is packed with bzip2, "
                               "which hv does not unpack");
    image_fini(&vmlinux);
}

Test(boot, auto_does_not_fall_back_from_a_damaged_payload)
{
    struct image vmlinux = {0};

    image_make_elf64(&vmlinux);
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_ZSTD);
    image_put(&image, BZIMAGE_SETUP + 0x400 + 5, "!!!!!!", 6);
    boot_case_refuse(&c, BOOT_AUTO, &image, -ENOEXEC, "kernel: the payload: the zstd data is");
    image_fini(&vmlinux);
}

Test(boot, auto_takes_a_bzimage_without_payload_as_it_is)
{
    image_make_bzimage(&image);
    expect_auto(BOOT_LINUX);
}

Test(boot, auto_takes_elf64_as_elf)
{
    image_make_elf64(&image);
    expect_auto(BOOT_ELF);
}

Test(boot, auto_prefers_pvh_for_elf64)
{
    image_make_elf64(&image);
    add_pvh();
    image_put_multiboot(&image, ELF_OFFSET, 0, NULL);
    expect_auto(BOOT_PVH);
}

Test(boot, auto_prefers_multiboot_for_elf32)
{
    image_make_elf32(&image);
    add_pvh();
    expect_auto(BOOT_PVH);
    image_put_multiboot(&image, ELF_OFFSET, 0, NULL);
    expect_auto(BOOT_MULTIBOOT);
}

Test(boot, auto_takes_multiboot_in_elf64_and_in_raw_files)
{
    static const uint32_t addresses[] = {0x100000, 0x100000, 0, 0, 0x100020};

    image_make_elf64(&image);
    image_put_multiboot(&image, ELF_OFFSET, 0, NULL);
    expect_auto(BOOT_MULTIBOOT);
    image_fini(&image);
    image_put_multiboot(&image, 0, MULTIBOOT_ADDRESSES, addresses);
    image_resize(&image, 0x100);
    expect_auto(BOOT_MULTIBOOT);
}

Test(boot, auto_enters_a_vmlinux_without_pvh_as_linux)
{
    image_make_elf64(&image);
    image_put(&image, ELF_OFFSET, "Linux version 3", 15);
    expect_auto(BOOT_LINUX_UNPACKED);
}

Test(boot, auto_refuses_elf32_without_a_protocol)
{
    image_make_elf32(&image);
    boot_case_refuse(&c, BOOT_AUTO, &image, -ENOEXEC, "neither a multiboot header nor a PVH note");
}

Test(boot, auto_refuses_a_broken_elf_file)
{
    image_make_elf64(&image);
    image_ehdr(&image)->e_phoff = UINT64_MAX;
    boot_case_refuse(&c, BOOT_AUTO, &image, -ENOEXEC, "the program headers lie beyond");
}

Test(boot, auto_refuses_a_broken_pvh_note)
{
    image_make_elf64(&image);
    image_add_note(&image, 1, "Xen", NOTE_PHYS32_ENTRY, &(uint64_t){0}, 8, 4);
    boot_case_refuse(&c, BOOT_AUTO, &image, -ENOEXEC, "PVH entry point 0x0 lies in no segment");
}

Test(boot, auto_never_guesses_flat)
{
    image_put_pattern(&image, 0, 512, 0);
    boot_case_refuse(&c, BOOT_AUTO, &image, -ENOEXEC, "raw code needs --boot flat");
}

Test(boot, auto_refuses_empty_files_and_efi_programs)
{
    image_resize(&image, 0);
    boot_case_refuse(&c, BOOT_AUTO, &image, -ENOEXEC, "the file is empty");
    image_put(&image, 0, "MZ", 2);
    boot_case_refuse(&c, BOOT_AUTO, &image, -ENOEXEC, "an EFI or DOS program");
}

Test(boot, a_multiboot_header_alone_is_not_enough)
{
    image_put(&image, 0, "MZ", 2);
    image_put_multiboot(&image, 0x40, 0, NULL);
    boot_case_refuse(&c, BOOT_AUTO, &image, -ENOEXEC, "an EFI or DOS program");
}

/* --- compressed files --- */

Test(boot, compressed_kernel_is_unpacked_first)
{
    static const enum compression how[] = {COMPRESSION_GZIP, COMPRESSION_XZ, COMPRESSION_LZ4,
                                           COMPRESSION_ZSTD};

    image_make_elf64(&image);
    for (size_t i = 0; i < ARRAY_LEN(how); i++) {
        struct image packed = {0};
        image_pack(&packed, how[i], image.data, image.size);
        boot_case_load(&c, BOOT_AUTO, &packed);
        cr_assert_eq(c.entry.protocol, BOOT_ELF);
        cr_assert_arr_eq(boot_case_at(&c, ELF_BASE, ELF_FILE), image.data + ELF_OFFSET, ELF_FILE);
        image_fini(&packed);
    }
}

Test(boot, compressed_kernel_that_is_cut_short)
{
    struct image packed = {0};

    image_make_elf64(&image);
    image_pack(&packed, COMPRESSION_GZIP, image.data, image.size);
    image_resize(&packed, packed.size / 2);
    boot_case_refuse(&c, BOOT_AUTO, &packed, -ENOEXEC, "the gzip data is damaged or cut short");
    image_fini(&packed);
}

Test(boot, works_without_log_and_error)
{
    struct boot_entry entry;

    image_make_bzimage(&image);
    c.req.kernel = image.data;
    c.req.kernel_size = image.size;
    cr_assert_eq(boot_load(&c.mem, &c.req, NULL, &entry, NULL), 0);
    c.req.kernel_size = 0x300;
    cr_assert_eq(boot_load(&c.mem, &c.req, NULL, &entry, NULL), -ENOEXEC);
}
