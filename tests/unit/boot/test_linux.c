/*
 * The Linux boot protocol: zero page, initrd, both entries of a bzImage, and the vmlinux inside.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/boot_case.h"

static struct boot_case c;
static struct image image;   /* a bzImage without a payload */
static struct image vmlinux; /* an ELF64 file that passes for a kernel */
static struct setup_header *h;

static void setup(void)
{
    boot_case_init(&c);
    image_make_bzimage(&image);
    h = image_setup_header(&image);
    image_make_elf64(&vmlinux);
    image_put(&vmlinux, ELF_OFFSET + 0x80, "Linux version 6", 15);
}

static void teardown(void)
{
    image_fini(&image);
    image_fini(&vmlinux);
    boot_case_fini(&c);
}

TestSuite(linux_boot, .init = setup, .fini = teardown);

static const struct boot_params *zero_page(void)
{
    return (const void *)boot_case_at(&c, c.entry.rsi, sizeof(struct boot_params));
}

static void load(void)
{
    boot_case_load(&c, BOOT_LINUX, &image);
}

static void refuse(int rc, const char *text)
{
    boot_case_refuse(&c, BOOT_LINUX, &image, rc, text);
}

static struct image initrd; /* grows on demand; lives as long as the test's process */

static void give_initrd(size_t size)
{
    image_put_pattern(&initrd, 0, size, 4);
    c.req.initrd = initrd.data;
    c.req.initrd_size = initrd.size;
}

/* --- where the bzImage goes and how it starts --- */

Test(linux_boot, kernel_without_64_bit_entry_starts_at_code32_start)
{
    load();
    cr_assert_eq(c.entry.protocol, BOOT_LINUX);
    cr_assert_eq(c.entry.mode, X86_PROTECTED);
    cr_assert_eq(c.entry.rip, 0x100000);
    cr_assert_eq(c.entry.rax | c.entry.rbx | c.entry.cr3, 0); /* boot.rst: ebx, ebp, edi are 0 */
    cr_assert_arr_eq(boot_case_at(&c, 0x100000, BZIMAGE_KERNEL), image.data + BZIMAGE_SETUP,
                     BZIMAGE_KERNEL);
    boot_case_expect_fill(&c, 0x100000 + BZIMAGE_KERNEL, 0x1000, CASE_POISON);
}

Test(linux_boot, kernel_with_64_bit_entry_starts_0x200_later)
{
    h->xloadflags = XLF_KERNEL_64;
    load();
    cr_assert_eq(c.entry.mode, X86_LONG);
    cr_assert_eq(c.entry.rip, 0x100200);
    cr_assert_neq(c.entry.cr3, 0);
}

Test(linux_boot, everything_is_mapped_for_the_64_bit_entry)
{
    struct kvm_sregs sregs = {0};
    struct page_walk w;

    h->xloadflags = XLF_KERNEL_64;
    load();
    x86_long_mode(&sregs, c.entry.gdt, c.entry.cr3);
    const uint64_t addresses[] = {c.entry.rip, c.entry.rsi, zero_page()->hdr.cmd_line_ptr,
                                  CASE_RAM - 1};
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        page_walk(&c.mem, &sregs, 0, addresses[i], PAGE_WRITE, false, &w);
        cr_assert_eq(w.result, WALK_OK);
        cr_assert_eq(w.pa, addresses[i]);
    }
}

Test(linux_boot, relocatable_kernel_goes_to_its_preferred_address)
{
    h->relocatable_kernel = 1;
    h->pref_address = 0x300001;
    h->kernel_alignment = 0x100000;
    h->code32_start = 0x100010;
    load();
    cr_assert_eq(c.entry.rip, 0x400010);
    cr_assert_eq(zero_page()->hdr.code32_start, 0x400010);
    boot_case_expect_fill(&c, 0x100000, 0x2000, CASE_POISON);
}

Test(linux_boot, relocatable_kernel_without_a_preference_is_aligned_too)
{
    h->relocatable_kernel = 1;
    h->pref_address = 0;
    h->kernel_alignment = 0x200000;
    load();
    cr_assert_eq(c.entry.rip, 0x200000);
}

Test(linux_boot, entry_outside_the_kernel)
{
    h->code32_start = 0x100000 + BZIMAGE_KERNEL;
    refuse(-ENOEXEC, "entry point 0x102000 lies outside");
    h->code32_start = 0xfffff;
    refuse(-ENOEXEC, "lies outside");
    h->xloadflags = XLF_KERNEL_64;
    h->syssize = 0x200 / 16;
    refuse(-ENOEXEC, "too short for its 64-bit entry");
}

Test(linux_boot, init_size_beyond_ram)
{
    h->init_size = CASE_RAM;
    refuse(-E2BIG, "the memory that the kernel unpacks to: 0x1000000 bytes at 0x100000");
}

Test(linux_boot, preferred_address_beyond_ram_or_reason)
{
    h->relocatable_kernel = 1;
    h->pref_address = CASE_RAM;
    refuse(-E2BIG, "the kernel: 0x2000 bytes at 0x1000000 are not all in the guest's RAM");
    h->pref_address = UINT64_MAX - 5;
    refuse(-ENOEXEC, "its preferred address 0xfffffffffffffffa is absurd");
}

Test(linux_boot, kernel_larger_than_ram)
{
    image_put_pattern(&image, BZIMAGE_SETUP, CASE_RAM, 2);
    image_setup_header(&image)->syssize = CASE_RAM / 16;
    refuse(-E2BIG, "not all in the guest's RAM");
}

/* --- the zero page --- */

Test(linux_boot, zero_page_has_the_setup_header_and_nothing_else_of_the_file)
{
    const struct boot_params *p;

    load();
    p = zero_page();
    cr_assert_eq(c.entry.rsi % 4096, 0);
    cr_assert_eq(p->sentinel, 0); /* Linux fills its boot sector with 0xff to catch this */
    cr_assert_eq(p->hdr.header, 0x53726448);
    cr_assert_eq(p->hdr.version, 0x20f);
    cr_assert_eq(p->hdr.cmdline_size, 255);
    cr_assert_eq(p->_pad7[0], 0); /* what follows the header in the file is 0xff too */
    cr_assert_eq(p->screen_info.orig_video_isVGA, 0);
}

Test(linux_boot, zero_page_has_the_loader_s_fields)
{
    const struct boot_params *p;

    c.req.cmdline = "console=ttyS0 quiet";
    load();
    p = zero_page();
    cr_assert_eq(p->hdr.type_of_loader, 0xff);
    cr_assert_eq(p->acpi_rsdp_addr, CASE_RSDP);
    cr_assert_str_eq((const char *)boot_case_at(&c, p->hdr.cmd_line_ptr, 64),
                     "console=ttyS0 quiet");
    cr_assert_eq(p->hdr.ramdisk_image | p->hdr.ramdisk_size, 0);
    cr_assert_eq(p->ext_ramdisk_image | p->ext_ramdisk_size | p->ext_cmd_line_ptr, 0);
    cr_assert_eq(p->hdr.setup_data, 0);
}

Test(linux_boot, zero_page_has_the_memory_map)
{
    const struct boot_params *p;

    load();
    p = zero_page();
    cr_assert_eq(p->e820_entries, 3);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(p->e820_table[i].addr, c.req.layout.ranges[i].gpa);
        cr_assert_eq(p->e820_table[i].size, c.req.layout.ranges[i].size);
        cr_assert_eq(p->e820_table[i].type, c.req.layout.ranges[i].type);
    }
}

Test(linux_boot, command_line_of_the_greatest_length)
{
    char text[257];

    memset(text, 'x', sizeof(text));
    text[255] = '\0';
    c.req.cmdline = text;
    load();
    text[255] = 'x';
    text[256] = '\0';
    refuse(-E2BIG, "the command line has 256 characters; this kernel takes 255");
}

Test(linux_boot, command_line_larger_than_scratch)
{
    struct image text = {0};

    image_resize(&text, 1 << 20);
    memset(text.data, 'x', text.size - 1);
    c.req.cmdline = (const char *)text.data;
    h->cmdline_size = UINT32_MAX;
    refuse(-E2BIG, "no room for the command line");
    image_fini(&text);
}

/* --- initrd --- */

Test(linux_boot, initrd_lies_high_on_a_page)
{
    const struct boot_params *p;

    give_initrd(5000);
    load();
    p = zero_page();
    cr_assert_eq(p->hdr.ramdisk_image, CASE_RAM - 8192);
    cr_assert_eq(p->hdr.ramdisk_size, 5000);
    cr_assert_arr_eq(boot_case_at(&c, CASE_RAM - 8192, 5000), initrd.data, 5000);
}

Test(linux_boot, initrd_lies_below_initrd_addr_max)
{
    give_initrd(5000);
    h->initrd_addr_max = 0x7fffff;
    load();
    cr_assert_eq(zero_page()->hdr.ramdisk_image, 0x800000 - 8192);
}

Test(linux_boot, initrd_does_not_meet_the_memory_that_the_kernel_unpacks_to)
{
    give_initrd(0x100000);
    h->init_size = CASE_RAM - 0x100000 - 0x80000;
    refuse(-E2BIG, "no room for the initrd (1048576 bytes) in the guest's RAM below 0x1000000");
    h->init_size -= 0x80000;
    load();
    cr_assert_eq(zero_page()->hdr.ramdisk_image, CASE_RAM - 0x100000);
}

Test(linux_boot, initrd_larger_than_ram)
{
    give_initrd(CASE_RAM);
    refuse(-E2BIG, "no room for the initrd");
}

/* --- the kernel inside --- */

Test(linux_boot, unpacked_kernel_starts_at_its_physical_entry)
{
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_LZ4);
    c.req.cmdline = "quiet";
    give_initrd(100);
    boot_case_load(&c, BOOT_LINUX_UNPACKED, &image);
    cr_assert_eq(c.entry.protocol, BOOT_LINUX_UNPACKED);
    cr_assert_eq(c.entry.mode, X86_LONG);
    cr_assert_eq(c.entry.rip, ELF_BASE);
    cr_assert_arr_eq(boot_case_at(&c, ELF_BASE, ELF_FILE), vmlinux.data + ELF_OFFSET, ELF_FILE);
    boot_case_expect_fill(&c, ELF_BASE + ELF_FILE, ELF_MEMORY - ELF_FILE, 0);
    cr_assert_eq(zero_page()->hdr.version, 0x20f);
    cr_assert_eq(zero_page()->hdr.cmdline_size, 255); /* from the bzImage's header */
    cr_assert_eq(zero_page()->hdr.ramdisk_size, 100);
    cr_assert_eq(zero_page()->e820_entries, 3);
}

Test(linux_boot, unpacked_kernel_keeps_its_init_size)
{
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_LZ4);
    image_setup_header(&image)->init_size = CASE_RAM - 0x100000;
    give_initrd(100);
    boot_case_refuse(&c, BOOT_LINUX_UNPACKED, &image, -E2BIG, "no room for the initrd");
}

Test(linux_boot, unpacked_kernel_that_is_damaged)
{
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_XZ);
    image.data[BZIMAGE_SETUP + 0x400 + 20] ^= 1;
    boot_case_refuse(&c, BOOT_LINUX_UNPACKED, &image, -ENOEXEC, "the xz data is damaged");
}

Test(linux_boot, unpacked_kernel_that_is_no_elf_file)
{
    memset(vmlinux.data, 0, 4);
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_GZIP);
    boot_case_refuse(&c, BOOT_LINUX_UNPACKED, &image, -ENOEXEC, "not an ELF file");
}

Test(linux_boot, unpacked_kernel_of_32_bits)
{
    image_fini(&vmlinux);
    image_make_elf32(&vmlinux);
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_GZIP);
    boot_case_refuse(&c, BOOT_LINUX_UNPACKED, &image, -ENOTSUP, "a 32-bit vmlinux");
}

Test(linux_boot, unpacked_kernel_with_a_virtual_entry)
{
    image_ehdr(&vmlinux)->e_entry = 0xffffffff81000000;
    image_wrap_vmlinux(&image, &vmlinux, COMPRESSION_GZIP);
    boot_case_refuse(&c, BOOT_LINUX_UNPACKED, &image, -ENOEXEC,
                     "entry point 0xffffffff81000000 lies in no segment");
}

Test(linux_boot, vmlinux_without_a_bzimage_gets_a_header)
{
    static const enum boot_protocol protocols[] = {BOOT_LINUX, BOOT_LINUX_UNPACKED};

    for (size_t i = 0; i < ARRAY_LEN(protocols); i++) {
        boot_case_load(&c, protocols[i], &vmlinux);
        cr_assert_eq(c.entry.protocol, BOOT_LINUX_UNPACKED);
        cr_assert_eq(c.entry.rip, ELF_BASE);
        cr_assert_eq(zero_page()->hdr.header, 0x53726448);
        cr_assert_eq(zero_page()->hdr.boot_flag, 0xaa55);
        cr_assert_eq(zero_page()->hdr.type_of_loader, 0xff);
    }
}

Test(linux_boot, neither_bzimage_nor_elf)
{
    memset(image.data, 0, image.size);
    refuse(-ENOEXEC, "not a Linux bzImage");
    boot_case_refuse(&c, BOOT_LINUX_UNPACKED, &image, -ENOEXEC, "not a Linux bzImage");
}
