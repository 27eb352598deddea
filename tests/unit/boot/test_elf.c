/*
 * ELF64 programs in long mode. Mappings are judged by the page-table walker.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/boot_case.h"

#define HIGH 0xffffffff80000000ULL

static struct boot_case c;
static struct image image;

static void setup(void)
{
    boot_case_init(&c);
    image_make_elf64(&image);
}

static void teardown(void)
{
    image_fini(&image);
    boot_case_fini(&c);
}

TestSuite(elf, .init = setup, .fini = teardown);

static void load(void)
{
    boot_case_load(&c, BOOT_ELF, &image);
}

static void refuse(int rc, const char *text)
{
    boot_case_refuse(&c, BOOT_ELF, &image, rc, text);
}

static struct page_walk walk(uint64_t va, enum page_access access)
{
    struct kvm_sregs sregs = {0};
    struct page_walk w;

    x86_long_mode(&sregs, c.entry.gdt, c.entry.cr3);
    page_walk(&c.mem, &sregs, 0, va, access, false, &w);
    return w;
}

/* Adds a second segment of one page, at the end of the file. */
static Elf64_Phdr *add_segment(uint64_t va, uint64_t pa, uint32_t flags)
{
    size_t at = image.size;

    image_put_pattern(&image, at, 0x1000, 9);
    *image_phdr(&image, 1) = (Elf64_Phdr){.p_type = PT_LOAD,
                                          .p_flags = flags,
                                          .p_offset = at,
                                          .p_vaddr = va,
                                          .p_paddr = pa,
                                          .p_filesz = 0x1000,
                                          .p_memsz = 0x1000};
    return image_phdr(&image, 1);
}

/* --- loading --- */

Test(elf, file_bytes_then_zeroes_then_nothing)
{
    load();
    cr_assert_arr_eq(boot_case_at(&c, ELF_BASE, ELF_FILE), image.data + ELF_OFFSET, ELF_FILE);
    boot_case_expect_fill(&c, ELF_BASE + ELF_FILE, ELF_MEMORY - ELF_FILE, 0);
    boot_case_expect_fill(&c, ELF_BASE + ELF_MEMORY, 0x1000, CASE_POISON);
    boot_case_expect_fill(&c, 0x100000, ELF_BASE - 0x100000, CASE_POISON);
}

Test(elf, starts_in_long_mode_with_an_aligned_stack_in_scratch)
{
    load();
    cr_assert_eq(c.entry.protocol, BOOT_ELF);
    cr_assert_eq(c.entry.mode, X86_LONG);
    cr_assert_eq(c.entry.rip, ELF_BASE);
    cr_assert_eq(c.entry.rsp, CASE_SCRATCH + BOOT_STACK_SIZE);
    cr_assert_eq(c.entry.rax | c.entry.rbx | c.entry.rsi | c.entry.cs, 0);
    cr_assert(c.entry.gdt >= c.entry.rsp && c.entry.gdt + X86_GDT_SIZE <= c.entry.cr3);
    cr_assert(c.entry.cr3 % 4096 == 0 && c.entry.cr3 < CASE_SCRATCH_END);
}

Test(elf, loader_writes_nothing_below_or_above_scratch)
{
    load();
    boot_case_expect_fill(&c, 0, CASE_SCRATCH, CASE_POISON);
    boot_case_expect_fill(&c, CASE_SCRATCH_END, 0x100000 - CASE_SCRATCH_END, CASE_POISON);
}

Test(elf, empty_segments_are_skipped)
{
    Elf64_Phdr *ph = add_segment(0, 0, PF_R);

    ph->p_filesz = ph->p_memsz = 0;
    load();
}

Test(elf, packed_file_is_unpacked)
{
    struct image packed = {0};

    image_pack(&packed, COMPRESSION_XZ, image.data, image.size);
    boot_case_load(&c, BOOT_ELF, &packed);
    cr_assert_arr_eq(boot_case_at(&c, ELF_BASE, ELF_FILE), image.data + ELF_OFFSET, ELF_FILE);
    image_fini(&packed);
}

/* --- mapping --- */

Test(elf, low_4_gib_are_mapped_to_themselves)
{
    static const uint64_t addresses[] = {0, 0xfff, ELF_BASE, 0xfee00000, 0xffffffff};

    load();
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        cr_assert_eq(walk(addresses[i], PAGE_WRITE).result, WALK_OK);
        cr_assert_eq(walk(addresses[i], PAGE_EXECUTE).result, WALK_OK);
        cr_assert_eq(walk(addresses[i], PAGE_READ).pa, addresses[i]);
    }
    cr_assert_eq(walk(0x100000000, PAGE_READ).result, WALK_NOT_PRESENT);
}

Test(elf, high_segment_has_its_flags_permissions)
{
    add_segment(HIGH, 0x300000, PF_R | PF_X);
    image_ehdr(&image)->e_entry = HIGH + 8;
    load();
    cr_assert_eq(c.entry.rip, HIGH + 8);
    cr_assert_eq(walk(HIGH + 8, PAGE_EXECUTE).pa, 0x300008);
    cr_assert_eq(walk(HIGH, PAGE_WRITE).result, WALK_NOT_WRITABLE);
    cr_assert_eq(walk(HIGH + 0x1000, PAGE_READ).result, WALK_NOT_PRESENT);
}

Test(elf, data_segment_cannot_be_executed)
{
    add_segment(HIGH, 0x300000, PF_R | PF_W);
    load();
    cr_assert_eq(walk(HIGH, PAGE_WRITE).result, WALK_OK);
    cr_assert_eq(walk(HIGH, PAGE_EXECUTE).result, WALK_NOT_EXECUTABLE);
}

Test(elf, segment_inside_a_page_is_mapped_with_its_page)
{
    add_segment(HIGH + 0x123, 0x300123, PF_R);
    load();
    cr_assert_eq(walk(HIGH, PAGE_READ).pa, 0x300000);
    cr_assert_eq(walk(HIGH + 0x1122, PAGE_READ).pa, 0x301122);
    cr_assert_eq(walk(HIGH + 0x2000, PAGE_READ).result, WALK_NOT_PRESENT);
}

Test(elf, segment_may_end_at_the_top_of_the_address_space)
{
    add_segment(0xfffffffffffff000, 0x300000, PF_R);
    load();
    cr_assert_eq(walk(UINT64_MAX, PAGE_READ).pa, 0x300fff);
}

Test(elf, low_virtual_address_that_is_not_the_physical_one)
{
    add_segment(0x400000, 0x300000, PF_R);
    refuse(-ENOTSUP, "program header 1: virtual address 0x400000 shares a page");
}

Test(elf, two_segments_in_one_virtual_page)
{
    image_phdr(&image, 0)->p_vaddr = HIGH + 0x2000;
    image_ehdr(&image)->e_entry = HIGH + 0x2000;
    add_segment(HIGH + 0x3800, 0x300800, PF_R);
    refuse(-ENOTSUP, "program header 1: virtual address 0xffffffff80003800 shares a page");
}

Test(elf, different_places_in_a_page)
{
    add_segment(HIGH + 0x100, 0x300000, PF_R);
    refuse(-ENOEXEC, "program header 1: virtual address 0xffffffff80000100 cannot be mapped");
}

Test(elf, not_canonical)
{
    add_segment(0x900000000000, 0x300000, PF_R);
    refuse(-ENOEXEC, "program header 1: virtual address 0x900000000000 cannot be mapped");
}

Test(elf, too_little_room_for_page_tables)
{
    c.req.layout.scratch_end = CASE_SCRATCH + 0x9000;
    refuse(-E2BIG, "no room for page tables");
    c.req.layout.scratch_end = CASE_SCRATCH + BOOT_STACK_SIZE;
    refuse(-E2BIG, "no room for the GDT");
    c.req.layout.scratch_end = CASE_SCRATCH + BOOT_STACK_SIZE - 1;
    refuse(-E2BIG, "no room for the stack");
}

Test(elf, a_segment_that_takes_too_many_page_tables)
{
    c.req.layout.scratch_end = CASE_SCRATCH + 0xb000 + 0x1000;
    add_segment(HIGH + 0x1000, 0x300000, PF_R);
    refuse(-E2BIG, "takes too many page tables");
}

/* --- what is refused --- */

Test(elf, entry_in_no_segment)
{
    image_ehdr(&image)->e_entry = ELF_BASE + ELF_MEMORY;
    refuse(-ENOEXEC, "the entry point 0x201400 lies in no segment");
}

Test(elf, entry_that_is_a_physical_address)
{
    image_phdr(&image, 0)->p_vaddr = HIGH;
    load();
    cr_assert_eq(c.entry.rip, ELF_BASE);
}

Test(elf, segment_beyond_ram)
{
    image_phdr(&image, 0)->p_paddr = CASE_RAM - ELF_MEMORY + 1;
    refuse(-E2BIG, "program header 0: a segment: 0x1400 bytes at 0xffec01 are not all in");
}

Test(elf, memory_size_beyond_ram)
{
    image_phdr(&image, 0)->p_memsz = 0x7fffffff00000000;
    refuse(-E2BIG, "are not all in the guest's RAM");
}

Test(elf, segment_in_a_hole)
{
    image_phdr(&image, 0)->p_paddr = CASE_HOLE - 0x100;
    refuse(-E2BIG, "are not all in the guest's RAM");
}

Test(elf, segment_over_scratch)
{
    image_phdr(&image, 0)->p_paddr = CASE_SCRATCH - 0x100;
    refuse(-ENOEXEC, "overlap the loader's own memory at 0x10000-0x60000");
}

Test(elf, segments_that_overlap)
{
    add_segment(HIGH, ELF_BASE + ELF_MEMORY - 1, PF_R);
    refuse(-ENOEXEC, "program header 1: a segment at 0x2013ff overlaps a segment at 0x200000");
}

Test(elf, thirty_two_bit_file)
{
    image_fini(&image);
    image_make_elf32(&image);
    refuse(-ENOTSUP, "a 32-bit ELF file");
}

Test(elf, not_an_elf_file)
{
    image.data[0] = 0;
    refuse(-ENOEXEC, "not an ELF file");
}

Test(elf, an_initrd_is_not_silently_ignored)
{
    c.req.initrd = image.data;
    c.req.initrd_size = 10;
    refuse(-ENOTSUP, "elf protocol cannot pass an initrd");
}
