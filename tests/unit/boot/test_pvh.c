/*
 * PVH: the note, the machine state, the start information.
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
    image_make_elf64(&image);
    image_add_note(&image, 1, "Xen", NOTE_PHYS32_ENTRY, &(uint64_t){ELF_BASE + 0x40}, 8, 4);
}

static void teardown(void)
{
    image_fini(&image);
    boot_case_fini(&c);
}

TestSuite(pvh, .init = setup, .fini = teardown);

static void load(void)
{
    boot_case_load(&c, BOOT_PVH, &image);
}

static void refuse(int rc, const char *text)
{
    boot_case_refuse(&c, BOOT_PVH, &image, rc, text);
}

static uint32_t info32(unsigned offset)
{
    uint32_t v;

    memcpy(&v, boot_case_at(&c, c.entry.rbx + offset, 4), 4);
    return v;
}

static uint64_t u64_at(uint64_t gpa)
{
    uint64_t v;

    memcpy(&v, boot_case_at(&c, gpa, 8), 8);
    return v;
}

static uint64_t info64(unsigned offset)
{
    return u64_at(c.entry.rbx + offset);
}

/* --- the entry point --- */

Test(pvh, starts_in_protected_mode_at_the_note_s_entry)
{
    load();
    cr_assert_eq(c.entry.protocol, BOOT_PVH);
    cr_assert_eq(c.entry.mode, X86_PROTECTED);
    cr_assert_eq(c.entry.rip, ELF_BASE + 0x40);
    cr_assert(c.entry.rbx >= CASE_SCRATCH && c.entry.rbx + 56 <= CASE_SCRATCH_END);
    cr_assert_eq(c.entry.rax | c.entry.rsi | c.entry.cr3, 0);
    cr_assert_arr_eq(boot_case_at(&c, ELF_BASE, ELF_FILE), image.data + ELF_OFFSET, ELF_FILE);
}

Test(pvh, elf32_and_a_32_bit_note)
{
    image_fini(&image);
    image_make_elf32(&image);
    image_add_note(&image, 1, "Xen", NOTE_PHYS32_ENTRY, &(uint32_t){ELF_BASE + 0x44}, 4, 4);
    load();
    cr_assert_eq(c.entry.rip, ELF_BASE + 0x44);
}

Test(pvh, bzimage_is_unpacked_first)
{
    static const enum compression how[] = {COMPRESSION_GZIP, COMPRESSION_XZ, COMPRESSION_LZ4,
                                           COMPRESSION_ZSTD};

    for (size_t i = 0; i < ARRAY_LEN(how); i++) {
        struct image bzimage = {0};
        image_wrap_vmlinux(&bzimage, &image, how[i]);
        boot_case_load(&c, BOOT_PVH, &bzimage);
        cr_assert_eq(c.entry.rip, ELF_BASE + 0x40);
        image_fini(&bzimage);
    }
}

Test(pvh, bzimage_s_command_line_limit_holds)
{
    struct image bzimage = {0};
    char text[300];

    memset(text, 'x', sizeof(text));
    text[256] = '\0';
    c.req.cmdline = text;
    image_wrap_vmlinux(&bzimage, &image, COMPRESSION_LZ4);
    boot_case_refuse(&c, BOOT_PVH, &bzimage, -E2BIG, "has 256 characters; this kernel takes 255");
    image_fini(&bzimage);
}

Test(pvh, kernel_without_a_note)
{
    image_phdr(&image, 1)->p_type = PT_NULL;
    refuse(-ENOEXEC, "no PVH entry point (a Xen PHYS32_ENTRY note); Linux has one when");
}

Test(pvh, note_of_an_odd_size)
{
    image_add_note(&image, 1, "Xen", NOTE_PHYS32_ENTRY, "abcdef", 6, 4);
    refuse(-ENOEXEC, "the PVH note holds 6 bytes");
}

Test(pvh, entry_in_no_segment)
{
    image_add_note(&image, 1, "Xen", NOTE_PHYS32_ENTRY, &(uint64_t){ELF_BASE + ELF_MEMORY}, 8, 4);
    refuse(-ENOEXEC, "the PVH entry point 0x201400 lies in no segment");
}

Test(pvh, entry_above_4_gib)
{
    image_phdr(&image, 0)->p_paddr = 0x100000000;
    image_add_note(&image, 1, "Xen", NOTE_PHYS32_ENTRY, &(uint64_t){0x100000000}, 8, 4);
    refuse(-ENOEXEC, "the PVH entry point 0x100000000");
}

Test(pvh, not_an_elf_file)
{
    image.data[0] = 0;
    refuse(-ENOEXEC, "not an ELF file");
}

/* --- hvm_start_info --- */

Test(pvh, start_info_version_1)
{
    load();
    cr_assert_eq(info32(0), 0x336ec578);
    cr_assert_eq(info32(4), 1);
    cr_assert_eq(info32(8), 0);  /* flags */
    cr_assert_eq(info32(12), 0); /* modules */
    cr_assert_eq(info64(16), 0);
    cr_assert_eq(info64(32), CASE_RSDP);
}

Test(pvh, memory_map)
{
    load();
    cr_assert_eq(info32(48), 3);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t entry = info64(40) + i * 24;
        cr_assert_eq(u64_at(entry), c.req.layout.ranges[i].gpa);
        cr_assert_eq(u64_at(entry + 8), c.req.layout.ranges[i].size);
        cr_assert_eq(u64_at(entry + 16), c.req.layout.ranges[i].type);
    }
}

Test(pvh, command_line)
{
    c.req.cmdline = "console=ttyS0";
    load();
    cr_assert_str_eq((const char *)boot_case_at(&c, info64(24), 64), "console=ttyS0");
}

Test(pvh, initrd_is_the_one_module)
{
    uint8_t initrd[100];
    uint64_t module;

    memset(initrd, 0x77, sizeof(initrd));
    c.req.initrd = initrd;
    c.req.initrd_size = sizeof(initrd);
    load();
    cr_assert_eq(info32(12), 1);
    module = info64(16);
    cr_assert_eq(u64_at(module), CASE_RAM - 4096);
    cr_assert_eq(u64_at(module + 8), sizeof(initrd));
    cr_assert_arr_eq(boot_case_at(&c, CASE_RAM - 4096, sizeof(initrd)), initrd, sizeof(initrd));
}

Test(pvh, initrd_too_large)
{
    struct image initrd = {0};

    image_resize(&initrd, CASE_RAM - ELF_BASE);
    c.req.initrd = initrd.data;
    c.req.initrd_size = initrd.size;
    refuse(-E2BIG, "no room for the initrd");
    image_fini(&initrd);
}
