/*
 * The ELF reader on malformed files: everything is refused by elf_open(), or harmless after it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/images.h"

static struct image image;
static struct elf_image elf, poison;
static struct error err;

static void setup(void)
{
    image_make_elf64(&image);
    memset(&poison, 0xa5, sizeof(poison));
    elf = poison;
}

static void teardown(void)
{
    image_fini(&image);
}

TestSuite(elf_image, .init = setup, .fini = teardown);

static int open_image(void)
{
    return elf_open((struct bytes){image.data, image.size}, &elf, &err);
}

static void refuse(const char *text)
{
    cr_assert_eq(open_image(), -ENOEXEC);
    cr_assert_not_null(strstr(err.text, text), "'%s' is not in '%s'", text, err.text);
    cr_assert_eq(memcmp(&elf, &poison, sizeof(elf)), 0);
}

/* --- header --- */

Test(elf_image, both_classes_read_alike)
{
    struct elf_image elf32;
    Elf64_Phdr wide, narrow;

    cr_assert_eq(open_image(), 0);
    wide = elf_segment(&elf, 0);
    cr_assert(elf.is_64);
    elf32 = elf;
    image_fini(&image);
    image_make_elf32(&image);
    cr_assert_eq(elf_open((struct bytes){image.data, image.size}, &elf32, &err), 0);
    narrow = elf_segment(&elf32, 0);
    cr_assert(!elf32.is_64);
    cr_assert_eq(elf32.entry, ELF_BASE);
    cr_assert_eq(memcmp(&wide, &narrow, sizeof(wide)), 0);
}

Test(elf_image, every_truncation_of_the_headers)
{
    struct bytes file = {image.data, 0};

    for (; file.size < ELF_OFFSET + ELF_FILE; file.size++)
        cr_assert_eq(elf_open(file, &elf, &err), -ENOEXEC);
    cr_assert_eq(elf_open(file, &elf, &err), 0);
}

Test(elf_image, wrong_class)
{
    image.data[EI_CLASS] = 3;
    refuse("class 3");
}

Test(elf_image, other_processors)
{
    image_ehdr(&image)->e_machine = EM_AARCH64;
    refuse("another processor (ELF machine 183)");
    image_ehdr(&image)->e_machine = EM_386;
    refuse("another processor");
    image_ehdr(&image)->e_machine = EM_X86_64;
    image.data[EI_DATA] = ELFDATA2MSB;
    refuse("another processor");
}

Test(elf_image, not_linked)
{
    image_ehdr(&image)->e_type = ET_REL;
    refuse("not an executable");
    image_ehdr(&image)->e_type = ET_DYN;
    refuse("position-independent");
}

/* --- program headers --- */

Test(elf_image, no_program_headers)
{
    image_ehdr(&image)->e_phnum = 0;
    refuse("without program headers");
}

Test(elf_image, too_many_program_headers)
{
    image_ehdr(&image)->e_phnum = 65535;
    refuse("65535 program headers");
}

Test(elf_image, program_headers_of_another_size)
{
    image_ehdr(&image)->e_phentsize = 32;
    refuse("program headers of 32 bytes instead of 56");
}

Test(elf_image, phoff_overflow)
{
    image_ehdr(&image)->e_phoff = UINT64_MAX - 8;
    refuse("program headers lie beyond the end");
    image_ehdr(&image)->e_phoff = image.size - 56;
    refuse("program headers lie beyond the end");
}

Test(elf_image, segment_bytes_beyond_the_file)
{
    image_phdr(&image, 0)->p_offset = UINT64_MAX - 0x10;
    refuse("program header 0: its 0x800 bytes at offset 0xffffffffffffffef lie beyond the end");
    image_phdr(&image, 0)->p_offset = ELF_OFFSET;
    image_phdr(&image, 0)->p_filesz = UINT64_MAX;
    refuse("lie beyond the end");
}

Test(elf_image, file_size_above_memory_size)
{
    image_phdr(&image, 0)->p_memsz = ELF_FILE - 1;
    refuse("more bytes in the file than in memory");
}

Test(elf_image, memsz_overflow)
{
    image_phdr(&image, 0)->p_memsz = UINT64_MAX;
    refuse("wrap around");
    image_phdr(&image, 0)->p_memsz = ELF_MEMORY;
    image_phdr(&image, 0)->p_vaddr = UINT64_MAX - ELF_MEMORY + 2;
    refuse("wrap around");
}

Test(elf_image, note_bytes_beyond_the_file)
{
    *image_phdr(&image, 1) = (Elf64_Phdr){.p_type = PT_NOTE, .p_filesz = UINT64_MAX};
    refuse("program header 1");
}

Test(elf_image, unknown_segments_are_not_looked_at)
{
    struct bytes desc;

    *image_phdr(&image, 1) = (Elf64_Phdr){.p_type = 0x12345678, .p_offset = UINT64_MAX};
    cr_assert_eq(open_image(), 0);
    cr_assert(!elf_find_note(&elf, "Xen", NOTE_PHYS32_ENTRY, &desc));
    cr_assert(!elf_is_linux(&elf));
}

Test(elf_image, nothing_to_load)
{
    struct boot_layout layout = {.count = 0};
    struct plan plan;

    image_phdr(&image, 0)->p_type = PT_NULL;
    cr_assert_eq(open_image(), 0);
    plan_init(&plan, NULL, &layout);
    cr_assert_eq(elf_plan(&elf, &plan, &err), -ENOEXEC);
    cr_assert_not_null(strstr(err.text, "no program header loads anything"));
}

/* --- addresses --- */

Test(elf_image, translates_virtual_addresses)
{
    uint64_t pa = 0xa5;

    image_phdr(&image, 0)->p_vaddr = 0xffffffff80000000;
    cr_assert_eq(open_image(), 0);
    cr_assert(elf_to_physical(&elf, 0xffffffff80000010, &pa));
    cr_assert_eq(pa, ELF_BASE + 0x10);
    pa = 0xa5;
    cr_assert(!elf_to_physical(&elf, 0xffffffff80000000 + ELF_MEMORY, &pa));
    cr_assert_eq(pa, 0xa5);
    cr_assert(elf_has_physical(&elf, ELF_BASE + ELF_MEMORY - 1));
    cr_assert(!elf_has_physical(&elf, ELF_BASE + ELF_MEMORY));
    cr_assert(!elf_has_physical(&elf, ELF_BASE - 1));
}

/* --- notes --- */

static bool find(uint32_t type, struct bytes *desc)
{
    cr_assert_eq(open_image(), 0, "%s", err.text);
    return elf_find_note(&elf, "Xen", type, desc);
}

Test(elf_image, note_in_4_and_8_byte_alignment)
{
    static const uint64_t alignments[] = {0, 4, 8};
    struct bytes desc;

    for (size_t i = 0; i < ARRAY_LEN(alignments); i++) {
        uint64_t align = alignments[i];
        image_add_note(&image, 1, "Xen", 7, "abcdef", 6, align == 0 ? 4 : align);
        image_phdr(&image, 1)->p_align = align;
        cr_assert(find(7, &desc));
        cr_assert_eq(desc.size, 6);
        cr_assert_arr_eq(desc.data, "abcdef", 6);
    }
}

Test(elf_image, note_after_another)
{
    struct bytes desc;

    image_add_note(&image, 1, "GNU", 7, "no", 2, 4);
    size_t at = image_phdr(&image, 1)->p_offset;
    image_add_note(&image, 1, "Xen", 7, "yes", 3, 4);
    image_phdr(&image, 1)->p_filesz += image_phdr(&image, 1)->p_offset - at;
    image_phdr(&image, 1)->p_offset = at;
    /* The second note starts at a multiple of 16; the first is made to reach there. */
    image.data[at + 4] = 16;
    cr_assert(find(7, &desc));
    cr_assert_arr_eq(desc.data, "yes", 3);
}

Test(elf_image, note_of_another_type_or_owner)
{
    struct bytes desc = {image.data, 42};

    image_add_note(&image, 1, "Xen", 7, "no", 2, 4);
    cr_assert(!find(8, &desc));
    image_add_note(&image, 1, "Xenia", 8, "no", 2, 4);
    cr_assert(!find(8, &desc));
    cr_assert_eq(desc.size, 42);
}

Test(elf_image, note_sizes_beyond_their_segment)
{
    struct bytes desc;

    for (size_t field = 0; field < 8; field += 4) { /* namesz, descsz */
        image_add_note(&image, 1, "Xen", 7, "data", 4, 4);
        memset(image.data + image_phdr(&image, 1)->p_offset + field, 0xff, 4);
        cr_assert(!find(7, &desc));
    }
}

Test(elf_image, note_of_size_zero_does_not_loop)
{
    struct bytes desc;
    size_t at = image.size;

    image_resize(&image, at + 0x1000);
    *image_phdr(&image, 1) =
        (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = at, .p_filesz = 0x1000, .p_align = 4};
    cr_assert(!find(7, &desc));
}

Test(elf_image, note_without_padding_at_the_end)
{
    struct bytes desc;

    image_add_note(&image, 1, "Xen", 7, "abcde", 5, 4);
    image_phdr(&image, 1)->p_filesz -= 3;
    cr_assert(find(7, &desc));
    image_phdr(&image, 1)->p_filesz -= 1;
    cr_assert(!find(7, &desc));
}

Test(elf_image, linux_is_recognised_by_its_banner)
{
    cr_assert_eq(open_image(), 0);
    cr_assert(!elf_is_linux(&elf));
    image_put(&image, ELF_OFFSET + 100, "Linux version 6.1", 17);
    cr_assert(elf_is_linux(&elf));
}
