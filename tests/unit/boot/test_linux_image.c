/*
 * The bzImage reader, on good and on broken headers.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/images.h"

static struct image image;
static struct linux_image parsed, poison;
static struct error err;
static struct setup_header *h;

static void setup(void)
{
    image_make_bzimage(&image);
    h = image_setup_header(&image);
    memset(&poison, 0xa5, sizeof(poison));
    parsed = poison;
}

static void teardown(void)
{
    image_fini(&image);
}

TestSuite(linux_image, .init = setup, .fini = teardown);

static int open_image(void)
{
    return linux_open((struct bytes){image.data, image.size}, &parsed, &err);
}

static void expect_open(void)
{
    cr_assert_eq(open_image(), 0, "%s", err.text);
}

static void refuse(int rc, const char *text)
{
    cr_assert_eq(open_image(), rc);
    cr_assert_not_null(strstr(err.text, text), "'%s' is not in '%s'", text, err.text);
    cr_assert_eq(memcmp(&parsed, &poison, sizeof(parsed)), 0);
}

Test(linux_image, kernel_follows_the_setup_sectors)
{
    expect_open();
    cr_assert_eq(parsed.kernel.data, image.data + BZIMAGE_SETUP);
    cr_assert_eq(parsed.kernel.size, BZIMAGE_KERNEL);
    cr_assert_eq(parsed.payload.size, 0);
    cr_assert_str_eq(parsed.version_text, "6.1.0-test");
}

Test(linux_image, setup_sects_0_means_4)
{
    h->setup_sects = 0;
    expect_open();
    cr_assert_eq(parsed.kernel.data, image.data + BZIMAGE_SETUP);
    cr_assert_eq(parsed.header.setup_sects, 4);
}

Test(linux_image, header_ends_where_its_jump_goes)
{
    image.data[0x201] = 0x3a; /* 0x23c: just up to cmdline_size */
    expect_open();
    cr_assert_eq(parsed.header.cmdline_size, 255);
    cr_assert_eq(parsed.header.pref_address, 0);
    cr_assert_eq(parsed.header.kernel_info_offset, 0);
}

Test(linux_image, header_too_short_for_its_version)
{
    image.data[0x201] = 0x39;
    refuse(-ENOEXEC, "too short for its version");
    image.data[0x201] = 0;
    refuse(-ENOTSUP, "older than 2.06"); /* the version lies beyond its end */
}

Test(linux_image, header_beyond_the_file)
{
    image_resize(&image, 0x202 + 0x69);
    refuse(-ENOEXEC, "header is cut short");
}

Test(linux_image, every_truncation)
{
    for (struct bytes file = {image.data, 0}; file.size < image.size - 15; file.size++)
        cr_assert_neq(linux_open(file, &parsed, &err), 0, "%zu", file.size);
}

Test(linux_image, not_linux)
{
    image.data[0x1fe] = 0;
    refuse(-ENOEXEC, "not a Linux bzImage");
    image.data[0x1fe] = 0x55;
    image.data[0x202] = 'h';
    refuse(-ENOEXEC, "not a Linux bzImage");
}

Test(linux_image, old_protocol)
{
    h->version = 0x205;
    refuse(-ENOTSUP, "boot protocol 2.05 is older than 2.06");
}

Test(linux_image, zimage)
{
    h->loadflags = 0;
    refuse(-ENOTSUP, "zImage");
}

Test(linux_image, fields_that_a_version_lacks_have_defaults)
{
    h->version = 0x207;
    h->payload_offset = h->payload_length = 0xffffffff;
    h->pref_address = 42;
    h->init_size = 42;
    h->xloadflags = XLF_KERNEL_64;
    expect_open();
    cr_assert_eq(parsed.payload.size, 0);
    cr_assert_eq(parsed.header.pref_address, 0x100000);
    cr_assert_eq(parsed.header.init_size, 3 * BZIMAGE_KERNEL);
    cr_assert_eq(parsed.header.xloadflags, 0);
}

Test(linux_image, file_that_ends_in_its_last_paragraph)
{
    image_resize(&image, image.size - 15);
    expect_open();
    cr_assert_eq(parsed.kernel.size, BZIMAGE_KERNEL - 15);
}

Test(linux_image, file_that_ends_before_its_last_paragraph)
{
    image_resize(&image, image.size - 16);
    refuse(-ENOEXEC, "the kernel should have 8192 bytes and has 8176");
}

Test(linux_image, signature_after_the_kernel_is_not_loaded)
{
    image_resize(&image, image.size + 1000);
    expect_open();
    cr_assert_eq(parsed.kernel.size, BZIMAGE_KERNEL);
}

Test(linux_image, no_kernel_at_all)
{
    h->setup_sects = 255;
    refuse(-ENOEXEC, "of which 131072 are setup code");
    h->setup_sects = 4;
    h->syssize = 0;
    image_resize(&image, BZIMAGE_SETUP);
    refuse(-ENOEXEC, "cut short");
}

Test(linux_image, alignment_of_a_relocatable_kernel)
{
    h->relocatable_kernel = 1;
    h->kernel_alignment = 0x300000;
    refuse(-ENOEXEC, "kernel_alignment 0x300000 is not a power of two");
}

Test(linux_image, payload_beyond_the_kernel)
{
    h->payload_offset = 0x1000;
    h->payload_length = BZIMAGE_KERNEL - 0x1000 + 1;
    refuse(-ENOEXEC, "its payload of 4097 bytes ends beyond the end");
    h->payload_offset = 0xffffffff;
    h->payload_length = 2;
    refuse(-ENOEXEC, "beyond the end");
}

Test(linux_image, version_text_is_fit_for_a_terminal)
{
    image_put(&image, 0x300, "\x1b[2Jx\xff\n", 8);
    expect_open();
    cr_assert_str_eq(parsed.version_text, "?[2Jx??");
}

Test(linux_image, version_text_without_an_end_or_beyond_the_setup_code)
{
    memset(image.data + 0x300, 'v', image.size - 0x300);
    expect_open();
    cr_assert_eq(strlen(parsed.version_text), LINUX_VERSION_TEXT_MAX - 1);
    h->kernel_version = 0xffff;
    expect_open();
    cr_assert_str_eq(parsed.version_text, "");
    h->kernel_version = 0;
    expect_open();
    cr_assert_str_eq(parsed.version_text, "");
}

/* --- payloads --- */

static void set_payload(enum compression how, uint32_t promise)
{
    static const uint8_t kernel[] = "not really a kernel";
    struct image packed = {0};

    image_pack(&packed, how, kernel, sizeof(kernel));
    image_set_payload(&image, &packed, how, promise);
    image_setup_header(&image)->xloadflags = XLF_KERNEL_64;
    image_fini(&packed);
    expect_open();
}

static void expect_unpack_error(int rc, const char *text)
{
    struct unpacked u, untouched;

    memset(&u, 0xa5, sizeof(u));
    untouched = u;
    cr_assert_eq(linux_unpack(&parsed, &u, &err), rc);
    cr_assert_not_null(strstr(err.text, text), "'%s' is not in '%s'", text, err.text);
    cr_assert_eq(memcmp(&u, &untouched, sizeof(u)), 0);
}

Test(linux_image, payload_of_every_supported_kind)
{
    static const enum compression how[] = {COMPRESSION_GZIP, COMPRESSION_XZ, COMPRESSION_LZ4,
                                           COMPRESSION_ZSTD};

    for (size_t i = 0; i < ARRAY_LEN(how); i++) {
        struct unpacked u;
        set_payload(how[i], 20);
        cr_assert_eq(linux_compression(&parsed), how[i]);
        cr_assert_eq(linux_unpacked_size(&parsed), 20);
        cr_assert_null(linux_why_not_unpack(&parsed));
        cr_assert_eq(linux_unpack(&parsed, &u, &err), 0, "%s", err.text);
        cr_assert_eq(u.size, 20);
        cr_assert_arr_eq(u.data, "not really a kernel", 20);
        unpacked_fini(&u);
    }
}

Test(linux_image, payload_that_breaks_its_promise)
{
    set_payload(COMPRESSION_ZSTD, 21);
    expect_unpack_error(-ENOEXEC, "the payload unpacks to 20 bytes instead of 21");
}

Test(linux_image, payload_that_promises_more_than_the_maximum)
{
    set_payload(COMPRESSION_ZSTD, 0x40000001);
    expect_unpack_error(-E2BIG, "hv stops at 1 GiB");
}

Test(linux_image, payload_that_is_damaged)
{
    set_payload(COMPRESSION_GZIP, 20);
    image.data[BZIMAGE_SETUP + 0x400 + 12] ^= 0x40;
    expect_unpack_error(-ENOEXEC, "the payload: the gzip data is damaged or cut short");
}

Test(linux_image, payloads_that_hv_does_not_unpack)
{
    static const char *const magic[] = {"BZh9", "\x5d\0\0\x80", "\x89LZO", "????"};

    for (size_t i = 0; i < ARRAY_LEN(magic); i++) {
        set_payload(COMPRESSION_ZSTD, 20);
        image_put(&image, BZIMAGE_SETUP + 0x400, magic[i], 4);
        cr_assert_not_null(linux_why_not_unpack(&parsed));
        expect_unpack_error(-ENOTSUP, "; use --boot linux");
    }
}

Test(linux_image, payload_of_a_32_bit_kernel_is_left_to_itself)
{
    set_payload(COMPRESSION_ZSTD, 20);
    parsed.header.xloadflags = 0;
    cr_assert_str_eq(linux_why_not_unpack(&parsed), "it does not say that it is 64-bit");
}

Test(linux_image, payload_shorter_than_its_trailer)
{
    h->payload_offset = 0x400;
    h->payload_length = 3;
    expect_open();
    cr_assert_eq(linux_unpacked_size(&parsed), 0);
    cr_assert_eq(linux_compression(&parsed), COMPRESSION_NONE);
    expect_unpack_error(-ENOTSUP, "it has no compressed payload");
}
