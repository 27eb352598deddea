#include "support/images.h"

#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include <criterion/criterion.h>

void image_fini(struct image *image)
{
    free(image->data);
    *image = (struct image){0};
}

void image_resize(struct image *image, size_t size)
{
    uint8_t *data = realloc(image->data, size + 1); /* + 1: an empty file has an address too */

    cr_assert_not_null(data);
    if (size > image->size)
        memset(data + image->size, 0, size - image->size);
    image->data = data;
    image->size = size;
}

void image_put(struct image *image, size_t at, const void *data, size_t size)
{
    if (at + size > image->size)
        image_resize(image, at + size);
    memcpy(image->data + at, data, size);
}

void image_put_pattern(struct image *image, size_t at, size_t size, uint8_t seed)
{
    if (at + size > image->size)
        image_resize(image, at + size);
    for (size_t i = 0; i < size; i++)
        image->data[at + i] = (uint8_t)(seed + i * 7 + (i >> 8) * 13);
}

/* --- ELF --- */

void image_start_elf64(struct image *image, uint64_t entry, unsigned count)
{
    Elf64_Ehdr h = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = entry,
        .e_phoff = sizeof(h),
        .e_ehsize = sizeof(h),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = (uint16_t)count,
    };

    image_put(image, 0, &h, sizeof(h));
    image_resize(image, sizeof(h) + count * sizeof(Elf64_Phdr));
}

void image_start_elf32(struct image *image, uint32_t entry, unsigned count)
{
    Elf32_Ehdr h = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_386,
        .e_version = EV_CURRENT,
        .e_entry = entry,
        .e_phoff = sizeof(h),
        .e_ehsize = sizeof(h),
        .e_phentsize = sizeof(Elf32_Phdr),
        .e_phnum = (uint16_t)count,
    };

    image_put(image, 0, &h, sizeof(h));
    image_resize(image, sizeof(h) + count * sizeof(Elf32_Phdr));
}

Elf64_Ehdr *image_ehdr(struct image *image)
{
    return (Elf64_Ehdr *)(void *)image->data;
}

Elf64_Phdr *image_phdr(struct image *image, unsigned i)
{
    return (Elf64_Phdr *)(void *)(image->data + sizeof(Elf64_Ehdr)) + i;
}

Elf32_Phdr *image_phdr32(struct image *image, unsigned i)
{
    return (Elf32_Phdr *)(void *)(image->data + sizeof(Elf32_Ehdr)) + i;
}

void image_make_elf64(struct image *image)
{
    image_start_elf64(image, ELF_BASE, 2);
    *image_phdr(image, 0) = (Elf64_Phdr){
        .p_type = PT_LOAD,
        .p_flags = PF_R | PF_W | PF_X,
        .p_offset = ELF_OFFSET,
        .p_vaddr = ELF_BASE,
        .p_paddr = ELF_BASE,
        .p_filesz = ELF_FILE,
        .p_memsz = ELF_MEMORY,
    };
    image_put_pattern(image, ELF_OFFSET, ELF_FILE, 1);
}

void image_make_elf32(struct image *image)
{
    image_start_elf32(image, ELF_BASE, 2);
    *image_phdr32(image, 0) = (Elf32_Phdr){
        .p_type = PT_LOAD,
        .p_flags = PF_R | PF_W | PF_X,
        .p_offset = ELF_OFFSET,
        .p_vaddr = ELF_BASE,
        .p_paddr = ELF_BASE,
        .p_filesz = ELF_FILE,
        .p_memsz = ELF_MEMORY,
    };
    image_put_pattern(image, ELF_OFFSET, ELF_FILE, 1);
}

static size_t put_note(struct image *image, size_t at, const char *owner, uint32_t type,
                       const void *desc, uint32_t size, uint64_t align)
{
    Elf64_Nhdr h = {(uint32_t)strlen(owner) + 1, size, type};
    size_t desc_at = align_down(sizeof(h) + h.n_namesz + align - 1, align);

    image_put(image, at, &h, sizeof(h));
    image_put(image, at + sizeof(h), owner, h.n_namesz);
    image_put(image, at + desc_at, desc, size);
    return align_down(desc_at + size + align - 1, align);
}

void image_add_note(struct image *image, unsigned i, const char *owner, uint32_t type,
                    const void *desc, uint32_t size, uint64_t align)
{
    size_t at = align_down(image->size + 15, 16);
    size_t length = put_note(image, at, owner, type, desc, size, align);

    image_resize(image, at + length);
    if (image->data[EI_CLASS] == ELFCLASS64)
        *image_phdr(image, i) = (Elf64_Phdr){.p_type = PT_NOTE,
                                             .p_offset = at,
                                             .p_filesz = length,
                                             .p_memsz = length,
                                             .p_align = align};
    else
        *image_phdr32(image, i) = (Elf32_Phdr){.p_type = PT_NOTE,
                                               .p_offset = (uint32_t)at,
                                               .p_filesz = (uint32_t)length,
                                               .p_memsz = (uint32_t)length,
                                               .p_align = (uint32_t)align};
}

/* --- multiboot --- */

void image_put_multiboot(struct image *image, size_t at, uint32_t flags, const uint32_t *addresses)
{
    uint32_t h[3] = {0x1BADB002, flags, 0U - 0x1BADB002 - flags};

    image_put(image, at, h, sizeof(h));
    if (addresses != NULL)
        image_put(image, at + sizeof(h), addresses, 5 * sizeof(uint32_t));
}

/* --- bzImage --- */

void image_make_bzimage(struct image *image)
{
    static const char version[] = "6.1.0-test";
    struct setup_header h = {
        .setup_sects = BZIMAGE_SETUP / 512 - 1,
        .syssize = BZIMAGE_KERNEL / 16,
        .boot_flag = 0xaa55,
        .jump = 0x6aeb, /* jmp over the header, which ends at 0x202 + 0x6a */
        .header = 0x53726448,
        .version = 0x20f,
        .kernel_version = 0x300 - 0x200,
        .loadflags = LOADED_HIGH,
        .code32_start = 0x100000,
        .initrd_addr_max = 0x7fffffff,
        .kernel_alignment = 0x200000,
        .cmdline_size = 255,
        .pref_address = 0x100000,
        .init_size = 0x10000,
    };

    image_resize(image, 0);
    image_resize(image, BZIMAGE_SETUP);
    memset(image->data, 0xff, 0x1f1); /* as Linux 6.1.88 and later do */
    memset(image->data + 0x270, 0xff, 0x80);
    image_put(image, 0x1f1, &h, sizeof(h));
    image_put(image, 0x300, version, sizeof(version));
    image_put_pattern(image, BZIMAGE_SETUP, BZIMAGE_KERNEL, 2);
}

struct setup_header *image_setup_header(struct image *image)
{
    return (struct setup_header *)(void *)(image->data + 0x1f1); /* a packed structure */
}

void image_set_payload(struct image *image, const struct image *payload, enum compression how,
                       uint32_t promise)
{
    const size_t at = 0x400;
    size_t length = payload->size + (how == COMPRESSION_GZIP ? 0 : sizeof(promise));
    size_t kernel = align_down(at + length + 15, 16);
    struct setup_header *h;

    image_put(image, BZIMAGE_SETUP + at, payload->data, payload->size);
    if (how != COMPRESSION_GZIP)
        image_put(image, BZIMAGE_SETUP + at + payload->size, &promise, sizeof(promise));
    image_resize(image, BZIMAGE_SETUP + kernel);
    h = image_setup_header(image);
    h->payload_offset = at;
    h->payload_length = (uint32_t)length;
    h->syssize = (uint32_t)(kernel / 16);
}

void image_wrap_vmlinux(struct image *bzimage, const struct image *vmlinux, enum compression how)
{
    struct image packed = {0};

    image_pack(&packed, how, vmlinux->data, vmlinux->size);
    image_make_bzimage(bzimage);
    image_set_payload(bzimage, &packed, how, (uint32_t)vmlinux->size);
    image_setup_header(bzimage)->xloadflags = XLF_KERNEL_64;
    image_fini(&packed);
}

/* --- packing --- */

static void pack_gzip(struct image *out, const void *data, size_t size)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)size};

    cr_assert_eq(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    image_resize(out, deflateBound(&z, size));
    z.next_out = out->data;
    z.avail_out = (uInt)out->size;
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    image_resize(out, z.total_out);
    deflateEnd(&z);
}

static void pack_xz(struct image *out, const void *data, size_t size)
{
    size_t used = 0;

    image_resize(out, lzma_stream_buffer_bound(size));
    cr_assert_eq(
        lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, NULL, data, size, out->data, &used, out->size),
        LZMA_OK);
    image_resize(out, used);
}

static void pack_zstd(struct image *out, const void *data, size_t size)
{
    image_resize(out, ZSTD_compressBound(size));
    size_t used = ZSTD_compress(out->data, out->size, data, size, 3);
    cr_assert(!ZSTD_isError(used));
    image_resize(out, used);
}

static void pack_lz4(struct image *out, const void *data, size_t size)
{
    const size_t block_max = 8 << 20;

    image_put(out, 0, "\x02\x21\x4c\x18", 4);
    for (size_t pos = 0; pos < size; pos += block_max) {
        size_t n = size - pos < block_max ? size - pos : block_max;
        size_t at = out->size;

        image_resize(out, at + 4 + (size_t)LZ4_compressBound((int)n));
        int used = LZ4_compress_default((const char *)data + pos, (char *)out->data + at + 4,
                                        (int)n, LZ4_compressBound((int)n));
        cr_assert_gt(used, 0);
        image_put(out, at, &(uint32_t){(uint32_t)used}, 4);
        image_resize(out, at + 4 + (size_t)used);
    }
}

void image_pack(struct image *out, enum compression how, const void *data, size_t size)
{
    switch (how) {
    case COMPRESSION_GZIP:
        pack_gzip(out, data, size);
        break;
    case COMPRESSION_XZ:
        pack_xz(out, data, size);
        break;
    case COMPRESSION_ZSTD:
        pack_zstd(out, data, size);
        break;
    case COMPRESSION_LZ4:
        pack_lz4(out, data, size);
        break;
    default:
        cr_assert_fail("no packer for %s", compression_name(how));
    }
}
