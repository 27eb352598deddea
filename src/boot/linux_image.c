/*
 * Reading a bzImage, the file that every distribution installs as vmlinuz.
 *
 *   0                  0x200                     setup_sects * 512 + 512
 *   | old boot sector  | real-mode setup code    | protected-mode kernel           |
 *            | setup header |                    | decompressor | payload | …       |
 *          0x1f1        0x202 + byte at 0x201                    = packed vmlinux
 *
 * The setup header is the contract between kernel and loader (Linux
 * Documentation/arch/x86/boot.rst, "the boot protocol"). It has grown with its version; fields that
 * an image is too old to have are given the values that the document says loaders assume.
 *
 * Left out: protocols before 2.06 (Linux 2.6.22, 2007) and zImages, which load below 1 MiB.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "boot/boot_priv.h"
#include "hv/base/todo.h"

#define SECTOR 512
#define HEADER_START 0x1f1
#define HEADER_LENGTH_AT 0x201 /* the header ends this many bytes after … */
#define HEADER_LENGTH_FROM 0x202
#define BOOT_FLAG_AT 0x1fe
#define BOOT_FLAG 0xaa55
#define MAGIC_AT 0x202
#define MAGIC "HdrS"
#define VERSION_MIN 0x206 /* cmdline_size */
#define DEFAULT_SETUP_SECTS 4
#define DEFAULT_LOAD MIB

_Static_assert(offsetof(struct boot_params, hdr) == HEADER_START, "boot.rst, The Real-Mode Header");

bool linux_is(struct bytes file)
{
    uint16_t flag;

    if (file.size < MAGIC_AT + 4 || memcmp(file.data + MAGIC_AT, MAGIC, 4) != 0)
        return false;
    memcpy(&flag, file.data + BOOT_FLAG_AT, sizeof(flag));
    return le16toh(flag) == BOOT_FLAG;
}

/* Copies just the header: Linux fills the boot sector around it with traps for loaders that take
 * more. */
static int copy_header(struct bytes file, struct setup_header *out, struct error *err)
{
    /* EXERCISE 5.1: copy the setup header, which begins at HEADER_START, to *out, and judge it
     * (boot.rst, "The Real-Mode Kernel Header"). Where it ends, the image says itself: the byte at
     * HEADER_LENGTH_AT counts from HEADER_LENGTH_FROM. It may be shorter than the structure (then
     * the rest of *out is 0) or longer (what we have no names for is not copied), but not longer
     * than the file. Broken, -ENOEXEC: a header that the file cuts short, or that ends before
     * hardware_subarch, the first field after those of VERSION_MIN. Not for us, -ENOTSUP: a version
     * below VERSION_MIN, a zImage (LOADED_HIGH clear). The version is judged before its length. */
    // SOLUTION 5.1
    size_t end = HEADER_LENGTH_FROM + (size_t)file.data[HEADER_LENGTH_AT];
    size_t size = end - HEADER_START;

    if (end > file.size)
        return error_set(err, -ENOEXEC, "the Linux setup header is cut short");
    memset(out, 0, sizeof(*out));
    memcpy(out, file.data + HEADER_START, size < sizeof(*out) ? size : sizeof(*out));
    if (out->version < VERSION_MIN)
        return error_set(err, -ENOTSUP,
                         "boot protocol %d.%02d is older than 2.06; Linux 2.6.22 and later have it",
                         out->version >> 8, out->version & 0xff);
    if (size < offsetof(struct setup_header, hardware_subarch))
        return error_set(err, -ENOEXEC, "the Linux setup header is too short for its version");
    if (!(out->loadflags & LOADED_HIGH))
        return error_set(err, -ENOTSUP, "a zImage, which loads below 1 MiB; build a bzImage");
    return 0;
    // END 5.1
}

/* boot.rst, Details of Header Fields: what loaders assume where a field is missing. */
static void default_missing(struct setup_header *h, size_t kernel_size)
{
    if (h->setup_sects == 0)
        h->setup_sects = DEFAULT_SETUP_SECTS;
    if (h->version < 0x208)
        h->payload_offset = h->payload_length = 0;
    if (h->version < 0x20a) {
        h->pref_address = DEFAULT_LOAD;
        h->init_size = (uint32_t)(kernel_size < GIB ? 3 * kernel_size : 3 * GIB);
    }
    if (h->version < 0x20c)
        h->xloadflags = 0;
}

static int check_alignment(const struct setup_header *h, struct error *err)
{
    if (h->relocatable_kernel && !is_power_of_two(h->kernel_alignment))
        return error_set(err, -ENOEXEC, "kernel_alignment 0x%x is not a power of two",
                         h->kernel_alignment);
    return 0;
}

/* The protected-mode part follows the setup code. Its size in the header counts 16-byte
 * paragraphs, so the file may end up to 15 bytes early; what follows it is a signature. */
static int find_kernel(struct bytes file, const struct setup_header *h, struct bytes *out,
                       struct error *err)
{
    /* EXERCISE 5.2: find the protected-mode part in the file (boot.rst, "Details of Header Fields":
     * setup_sects, syssize). It begins after the boot sector and setup_sects sectors more, of which
     * 0 means DEFAULT_SETUP_SECTS; syssize counts it in paragraphs of 16 bytes, the last of them
     * perhaps not full, and 0 means that it goes on to the end of the file. *out is exactly what
     * belongs to it and is in the file. -ENOEXEC if it begins at the end of the file or later, or
     * if the file lacks a whole paragraph or more of it. The header's numbers are an attacker's. */
    // SOLUTION 5.2
    unsigned sectors = h->setup_sects == 0 ? DEFAULT_SETUP_SECTS : h->setup_sects;
    size_t start = (size_t)(sectors + 1) * SECTOR;
    uint64_t size = (uint64_t)h->syssize * 16;

    if (start >= file.size)
        return error_set(err, -ENOEXEC, "cut short: %zu bytes, of which %zu are setup code",
                         file.size, start);
    *out = (struct bytes){file.data + start, file.size - start};
    if (size > out->size + 15)
        return error_set(err, -ENOEXEC,
                         "cut short: the kernel should have %" PRIu64 " bytes and has %zu", size,
                         out->size);
    if (size != 0 && size < out->size)
        out->size = size;
    return 0;
    // ELSE
    // (void)todo("5.2"); /* and go on as if there were none */
    // *out = (struct bytes){0};
    // return 0;
    // END 5.2
}

static int find_payload(struct bytes kernel, const struct setup_header *h, struct bytes *out,
                        struct error *err)
{
    *out = (struct bytes){0};
    if (h->payload_length == 0)
        return 0;
    if (!range_fits(h->payload_offset, h->payload_length, kernel.size))
        return error_set(err, -ENOEXEC,
                         "cut short: its payload of %u bytes ends beyond the end of the kernel",
                         h->payload_length);
    *out = (struct bytes){kernel.data + h->payload_offset, h->payload_length};
    return 0;
}

/* The text that header.kernel_version points at, from 0x200 on. Only printable characters: it ends
 * up on a terminal. */
static void copy_version_text(struct bytes file, const struct setup_header *h, char *out)
{
    size_t at = (size_t)h->kernel_version + 0x200;
    size_t end = (size_t)(h->setup_sects + 1) * SECTOR;
    size_t n = 0;

    if (end > file.size)
        end = file.size;
    while (h->kernel_version != 0 && at < end && file.data[at] != 0 &&
           n < LINUX_VERSION_TEXT_MAX - 1) {
        uint8_t c = file.data[at++];
        out[n++] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    out[n] = 0;
}

int linux_open(struct bytes file, struct linux_image *out, struct error *err)
{
    struct linux_image image = {0};
    int rc = linux_is(file) ? 0 : error_set(err, -ENOEXEC, "not a Linux bzImage");

    if (rc == 0)
        rc = copy_header(file, &image.header, err);
    if (rc == 0)
        rc = find_kernel(file, &image.header, &image.kernel, err);
    if (rc < 0)
        return rc;
    default_missing(&image.header, image.kernel.size);
    rc = check_alignment(&image.header, err);
    if (rc == 0)
        rc = find_payload(image.kernel, &image.header, &image.payload, err);
    if (rc < 0)
        return rc;
    copy_version_text(file, &image.header, image.version_text);
    *out = image;
    return 0;
}

int linux_check_cmdline(const struct setup_header *h, const char *cmdline, struct error *err)
{
    size_t size = strlen(cmdline);

    if (size > h->cmdline_size)
        return error_set(err, -E2BIG, "the command line has %zu characters; this kernel takes %u",
                         size, h->cmdline_size);
    return 0;
}

/* --- the payload --- */

/* Every payload ends in the size of what comes out: gzip's own last field, or four bytes that
 * Linux's build appends to all other formats. */
#define TRAILER_SIZE 4

enum compression linux_compression(const struct linux_image *image)
{
    return image->payload.size <= TRAILER_SIZE ? COMPRESSION_NONE
                                               : compression_detect(image->payload);
}

uint32_t linux_unpacked_size(const struct linux_image *image)
{
    uint32_t size;

    if (image->payload.size < TRAILER_SIZE)
        return 0;
    memcpy(&size, image->payload.data + image->payload.size - TRAILER_SIZE, sizeof(size));
    return le32toh(size);
}

int linux_unpack(const struct linux_image *image, struct unpacked *out, struct error *err)
{
    uint32_t promised = linux_unpacked_size(image);
    struct bytes packed = image->payload;
    struct unpacked u;
    int rc;

    if (!compression_is_supported(linux_compression(image)))
        return error_set(err, -ENOTSUP, "%s; use --boot linux", linux_why_not_unpack(image));
    if (promised > UNPACK_MAX)
        return error_set(err, -E2BIG, "the payload says it unpacks to %u bytes; hv stops at 1 GiB",
                         promised);
    if (linux_compression(image) != COMPRESSION_GZIP)
        packed.size -= TRAILER_SIZE;
    rc = unpack(packed, UNPACK_MAX, &u, err);
    if (rc < 0)
        return error_prefix(err, rc, "the payload");
    if (u.size != promised) {
        rc = error_set(err, -ENOEXEC, "the payload unpacks to %zu bytes instead of %u", u.size,
                       promised);
        unpacked_fini(&u);
        return rc;
    }
    *out = u;
    return 0;
}

const char *linux_why_not_unpack(const struct linux_image *image)
{
    switch (linux_compression(image)) {
    case COMPRESSION_NONE:
        return "it has no compressed payload";
    case COMPRESSION_BZIP2:
        return "its payload is packed with bzip2, which hv does not unpack";
    case COMPRESSION_LZMA:
        return "its payload is packed with lzma, which hv does not unpack";
    case COMPRESSION_LZO:
        return "its payload is packed with lzo, which hv does not unpack";
    default:
        return image->header.xloadflags & XLF_KERNEL_64 ? NULL
                                                        : "it does not say that it is 64-bit";
    }
}
