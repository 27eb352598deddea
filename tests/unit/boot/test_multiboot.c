/*
 * Multiboot 0.6.96: finding the header, placing the kernel, what the kernel is told.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/boot_case.h"

#define AT 0x1010 /* where the header lies, in the ELF segment */

static struct boot_case c;
static struct image image;

static void setup(void)
{
    boot_case_init(&c);
    image_make_elf32(&image);
    image_put_multiboot(&image, AT, MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO, NULL);
}

static void teardown(void)
{
    image_fini(&image);
    boot_case_fini(&c);
}

TestSuite(multiboot, .init = setup, .fini = teardown);

static void load(void)
{
    boot_case_load(&c, BOOT_MULTIBOOT, &image);
}

static void refuse(int rc, const char *text)
{
    boot_case_refuse(&c, BOOT_MULTIBOOT, &image, rc, text);
}

static uint32_t info_field(unsigned offset)
{
    uint32_t v;

    memcpy(&v, boot_case_at(&c, c.entry.rbx + offset, 4), 4);
    return v;
}

static uint32_t word_at(uint64_t gpa)
{
    uint32_t v;

    memcpy(&v, boot_case_at(&c, gpa, 4), 4);
    return v;
}

static const char *text_at(uint64_t gpa)
{
    return (const char *)boot_case_at(&c, gpa, 64);
}

/* --- §3.1: the header --- */

Test(multiboot, section_3_1_header_ends_within_8192_bytes)
{
    struct multiboot_header h;
    struct image file = {0};

    image_put_multiboot(&file, 8192 - 12, 0, NULL);
    image_resize(&file, 10000);
    cr_assert(multiboot_find((struct bytes){file.data, file.size}, &h));
    cr_assert_eq(h.offset, 8192 - 12);
    memset(file.data, 0, file.size);
    image_put_multiboot(&file, 8192 - 8, 0, NULL);
    cr_assert(!multiboot_find((struct bytes){file.data, file.size}, &h));
    image_fini(&file);
}

Test(multiboot, section_3_1_1_address_fields_end_within_8192_bytes)
{
    struct multiboot_header h;
    struct image file = {0};

    image_put_multiboot(&file, 8192 - 28, MULTIBOOT_ADDRESSES, NULL);
    image_resize(&file, 10000);
    cr_assert(!multiboot_find((struct bytes){file.data, file.size}, &h));
    image_fini(&file);
}

Test(multiboot, section_3_1_header_is_aligned_to_4)
{
    struct multiboot_header h;
    struct image file = {0};

    image_put_multiboot(&file, 0x102, 0, NULL);
    cr_assert(!multiboot_find((struct bytes){file.data, file.size}, &h));
    image_fini(&file);
}

Test(multiboot, section_3_1_2_checksum_sums_to_zero)
{
    image.data[AT + 8] ^= 1;
    refuse(-ENOEXEC, "no multiboot header");
}

Test(multiboot, a_file_shorter_than_a_header)
{
    image_resize(&image, 8);
    refuse(-ENOEXEC, "no multiboot header");
}

Test(multiboot, section_3_1_2_unknown_requirements_are_fatal)
{
    image_put_multiboot(&image, AT, 1U << 7, NULL);
    refuse(-ENOTSUP, "requires features 0x80");
}

Test(multiboot, section_3_1_2_unknown_wishes_are_not)
{
    image_put_multiboot(&image, AT, 1U << 17, NULL);
    load();
}

Test(multiboot, a_video_mode_is_logged_and_ignored)
{
    image_put_multiboot(&image, AT, MULTIBOOT_VIDEO_MODE, NULL);
    load();
    cr_assert_not_null(strstr(c.logged, "video mode"));
}

/* --- §3.1.3: where the kernel goes --- */

Test(multiboot, elf_segments_are_loaded)
{
    load();
    cr_assert_arr_eq(boot_case_at(&c, ELF_BASE, ELF_FILE), image.data + ELF_OFFSET, ELF_FILE);
    boot_case_expect_fill(&c, ELF_BASE + ELF_FILE, ELF_MEMORY - ELF_FILE, 0);
}

Test(multiboot, elf64_files_too)
{
    image_fini(&image);
    image_make_elf64(&image);
    image_put_multiboot(&image, AT, 0, NULL);
    load();
    cr_assert_eq(c.entry.rip, ELF_BASE);
    cr_assert_eq(c.entry.mode, X86_PROTECTED);
}

Test(multiboot, high_linked_entry_becomes_physical)
{
    image_fini(&image);
    image_make_elf64(&image);
    image_put_multiboot(&image, AT, 0, NULL);
    image_phdr(&image, 0)->p_vaddr = 0xffffffff80000000;
    image_ehdr(&image)->e_entry = 0xffffffff80000020;
    load();
    cr_assert_eq(c.entry.rip, ELF_BASE + 0x20);
}

Test(multiboot, entry_in_no_segment)
{
    ((Elf32_Ehdr *)(void *)image.data)->e_entry = 0x100000;
    refuse(-ENOEXEC, "the entry point 0x100000 lies in no segment");
}

Test(multiboot, entry_above_4_gib)
{
    image_fini(&image);
    image_make_elf64(&image);
    image_put_multiboot(&image, AT, 0, NULL);
    image_phdr(&image, 0)->p_paddr = 0x100000000;
    image_ehdr(&image)->e_entry = 0x100000000;
    refuse(-ENOEXEC, "above 4 GiB");
}

Test(multiboot, header_without_addresses_in_another_format)
{
    image.data[0] = 0;
    refuse(-ENOEXEC, "not an ELF file");
}

/* --- the addresses in the header (flags bit 16) --- */

/* A raw file: 0x40 bytes in front, then what is loaded at 1 MiB, whose header is at its 0x20. */
static uint32_t addresses[5];

static void make_raw(uint32_t load_addr, uint32_t data_end, uint32_t bss_end, uint32_t entry)
{
    addresses[0] = 0x100020;
    addresses[1] = load_addr;
    addresses[2] = data_end;
    addresses[3] = bss_end;
    addresses[4] = entry;
    image_fini(&image);
    image_put_pattern(&image, 0, 0x400, 5);
    image_put_multiboot(&image, 0x60, MULTIBOOT_ADDRESSES, addresses);
}

Test(multiboot, raw_kernel_with_data_end_and_bss)
{
    make_raw(0x100000, 0x100200, 0x100500, 0x100040);
    load();
    cr_assert_arr_eq(boot_case_at(&c, 0x100000, 0x200), image.data + 0x40, 0x200);
    boot_case_expect_fill(&c, 0x100200, 0x300, 0);
    boot_case_expect_fill(&c, 0x100500, 0x100, CASE_POISON);
    cr_assert_eq(c.entry.rip, 0x100040);
}

Test(multiboot, raw_kernel_load_end_0_is_the_whole_file_and_bss_end_0_is_no_bss)
{
    make_raw(0x100000, 0, 0, 0x100040);
    load();
    cr_assert_arr_eq(boot_case_at(&c, 0x100000, 0x3c0), image.data + 0x40, 0x3c0);
    boot_case_expect_fill(&c, 0x1003c0, 0x100, CASE_POISON);
}

Test(multiboot, raw_kernel_addresses_beat_elf)
{
    make_raw(0x100000, 0, 0, 0x100040);
    image_put(&image, 0, ELFMAG, SELFMAG);
    load();
}

Test(multiboot, raw_kernel_that_starts_before_the_file)
{
    make_raw(0x100020 - 0x61, 0, 0, 0x100040);
    refuse(-ENOEXEC, "does not fit its place in the file");
    make_raw(0x100021, 0, 0, 0x100040);
    refuse(-ENOEXEC, "does not fit its place in the file");
}

Test(multiboot, raw_kernel_that_ends_beyond_the_file)
{
    make_raw(0x100000, 0x1003c1, 0, 0x100040);
    refuse(-ENOEXEC, "lies beyond the end of the file");
    make_raw(0x100000, 0xfffff, 0, 0x100040);
    refuse(-ENOEXEC, "lies beyond the end of the file");
}

Test(multiboot, raw_kernel_whose_bss_ends_too_early)
{
    make_raw(0x100000, 0x100200, 0x1001ff, 0x100040);
    refuse(-ENOEXEC, "bss end 0x1001ff lies before the end of the data");
    make_raw(0x100000, 0x100200, 0xfffff, 0x100040);
    refuse(-ENOEXEC, "bss end");
}

Test(multiboot, raw_kernel_with_a_bss_beyond_ram)
{
    make_raw(0x100000, 0, 0xffffffff, 0x100040);
    refuse(-E2BIG, "not all in the guest's RAM");
}

Test(multiboot, raw_kernel_with_the_entry_outside)
{
    make_raw(0x100000, 0x100200, 0x100500, 0x100500);
    refuse(-ENOEXEC, "entry point 0x100500 lies outside the kernel");
    make_raw(0x100000, 0x100200, 0x100500, 0xfffff);
    refuse(-ENOEXEC, "lies outside the kernel");
}

/* --- §3.2, §3.3: machine state and information --- */

Test(multiboot, section_3_2_machine_state)
{
    load();
    cr_assert_eq(c.entry.protocol, BOOT_MULTIBOOT);
    cr_assert_eq(c.entry.mode, X86_PROTECTED);
    cr_assert_eq(c.entry.rax, 0x2BADB002);
    cr_assert_eq(c.entry.rip, ELF_BASE);
    cr_assert(c.entry.rbx >= CASE_SCRATCH && c.entry.rbx + 116 <= CASE_SCRATCH_END);
    cr_assert_eq(c.entry.rsi | c.entry.cr3, 0);
}

Test(multiboot, section_3_3_memory_and_loader_name)
{
    load();
    cr_assert_eq(info_field(0), 0x245); /* memory, command line, memory map, loader name */
    cr_assert_eq(info_field(4), CASE_HOLE / 1024);
    cr_assert_eq(info_field(8), (CASE_RAM - 0x100000) / 1024);
    cr_assert_str_eq(text_at(info_field(64)), "hv");
}

Test(multiboot, section_3_3_memory_map)
{
    uint64_t base, length;

    load();
    cr_assert_eq(info_field(44), 3 * 24);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t entry = info_field(48) + i * 24;
        cr_assert_eq(word_at(entry), 20);
        memcpy(&base, boot_case_at(&c, entry + 4, 8), 8);
        memcpy(&length, boot_case_at(&c, entry + 12, 8), 8);
        cr_assert_eq(base, c.req.layout.ranges[i].gpa);
        cr_assert_eq(length, c.req.layout.ranges[i].size);
        cr_assert_eq(word_at(entry + 20), c.req.layout.ranges[i].type);
    }
}

Test(multiboot, lower_memory_is_at_most_640_kib)
{
    c.req.layout.ranges[0] = (struct boot_range){0, CASE_RAM, BOOT_RANGE_RAM};
    c.req.layout.count = 1;
    load();
    cr_assert_eq(info_field(4), 640);
    cr_assert_eq(info_field(8), (CASE_RAM - 0x100000) / 1024);
}

Test(multiboot, command_line_is_just_what_was_given)
{
    c.req.cmdline = "console=com1 quiet";
    load();
    cr_assert_str_eq(text_at(info_field(16)), "console=com1 quiet");
}

Test(multiboot, no_initrd_is_no_module)
{
    load();
    cr_assert_eq(info_field(20), 0);
    cr_assert_eq(info_field(0) & (1U << 3), 0);
}

Test(multiboot, initrd_is_module_1_on_a_page_with_its_name)
{
    uint8_t initrd[5000];

    memset(initrd, 0x77, sizeof(initrd));
    c.req.initrd = initrd;
    c.req.initrd_size = sizeof(initrd);
    load();
    cr_assert_neq(info_field(0) & (1U << 3), 0);
    cr_assert_eq(info_field(20), 1);
    uint32_t start = word_at(info_field(24)), end = word_at(info_field(24) + 4);
    cr_assert_eq(start, CASE_RAM - 8192);
    cr_assert_eq(end, start + sizeof(initrd));
    cr_assert_arr_eq(boot_case_at(&c, start, sizeof(initrd)), initrd, sizeof(initrd));
    cr_assert_str_eq(text_at(word_at(info_field(24) + 8)), "initrd");
}

Test(multiboot, initrd_too_large)
{
    struct image initrd = {0};

    image_resize(&initrd, CASE_RAM);
    c.req.initrd = initrd.data;
    c.req.initrd_size = initrd.size;
    refuse(-E2BIG, "no room for the initrd (16777216 bytes)");
    image_fini(&initrd);
}

Test(multiboot, command_line_too_large)
{
    struct image text = {0};

    image_resize(&text, CASE_SCRATCH_END - CASE_SCRATCH + 1);
    memset(text.data, 'x', text.size - 1);
    c.req.cmdline = (const char *)text.data;
    refuse(-E2BIG, "no room for the command line");
    image_fini(&text);
}
