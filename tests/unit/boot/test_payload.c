/*
 * Unpacking: round trips, truncations, bombs.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/base/codec.h"
#include "support/images.h"

static const enum compression supported[] = {COMPRESSION_GZIP, COMPRESSION_XZ, COMPRESSION_LZ4,
                                             COMPRESSION_ZSTD};
static struct image plain, packed;
static struct unpacked out, poison;
static struct error err;

static void setup(void)
{
    image_put_pattern(&plain, 0, 100000, 1);
    memset(&poison, 0xa5, sizeof(poison));
    out = poison;
}

static void teardown(void)
{
    image_fini(&plain);
    image_fini(&packed);
}

TestSuite(payload, .init = setup, .fini = teardown);

static void pack(enum compression how)
{
    image_fini(&packed);
    image_pack(&packed, how, plain.data, plain.size);
}

static int unpack_it(size_t size, size_t max)
{
    return unpack((struct bytes){packed.data, size}, max, &out, &err);
}

static void expect_plain(void)
{
    cr_assert_eq(out.size, plain.size);
    cr_assert_arr_eq(out.data, plain.data, plain.size);
    unpacked_fini(&out);
    cr_assert_null(out.data);
    cr_assert_eq(out.size, 0);
}

static void expect_untouched(void)
{
    cr_assert_eq(memcmp(&out, &poison, sizeof(out)), 0);
}

Test(payload, round_trip)
{
    for (size_t i = 0; i < ARRAY_LEN(supported); i++) {
        pack(supported[i]);
        cr_assert_eq(unpack_it(packed.size, UNPACK_MAX), 0, "%s", err.text);
        expect_plain();
    }
}

Test(payload, lz4_of_several_blocks)
{
    image_put_pattern(&plain, 0, (16 << 20) + 5, 1);
    pack(COMPRESSION_LZ4);
    cr_assert_eq(unpack_it(packed.size, UNPACK_MAX), 0, "%s", err.text);
    expect_plain();
}

Test(payload, a_maximum_that_just_fits)
{
    for (size_t i = 0; i < ARRAY_LEN(supported); i++) {
        pack(supported[i]);
        cr_assert_eq(unpack_it(packed.size, plain.size), 0, "%s", err.text);
        expect_plain();
    }
}

Test(payload, a_bomb_ends_at_the_maximum)
{
    image_fini(&plain);
    image_resize(&plain, 20 << 20);
    for (size_t i = 0; i < ARRAY_LEN(supported); i++) {
        pack(supported[i]);
        out = poison;
        cr_assert_eq(unpack_it(packed.size, 1 << 20), -E2BIG);
        cr_assert_not_null(strstr(err.text, "unpacks to more than 1M"), "%s", err.text);
        expect_untouched();
    }
}

Test(payload, truncations)
{
    for (size_t i = 0; i < ARRAY_LEN(supported); i++) {
        pack(supported[i]);
        for (size_t size = packed.size - 1; size > 6; size = size > 3000 ? size - 997 : size - 1) {
            out = poison;
            cr_assert_eq(unpack_it(size, 1 << 20), -ENOEXEC, "%s: %zu of %zu",
                         compression_name(supported[i]), size, packed.size);
            expect_untouched();
        }
        cr_assert_not_null(strstr(err.text, "damaged or cut short"));
    }
}

Test(payload, bytes_after_the_end)
{
    static const enum compression with_end_mark[] = {COMPRESSION_GZIP, COMPRESSION_XZ,
                                                     COMPRESSION_ZSTD};

    for (size_t i = 0; i < ARRAY_LEN(with_end_mark); i++) {
        pack(with_end_mark[i]);
        image_put(&packed, packed.size, "more", 4);
        cr_assert_eq(unpack_it(packed.size, UNPACK_MAX), 0, "%s", err.text);
        expect_plain();
    }
    out = poison;
    pack(COMPRESSION_LZ4);
    image_put(&packed, packed.size, "more", 4); /* the size of a block that is not there */
    cr_assert_eq(unpack_it(packed.size, UNPACK_MAX), -ENOEXEC);
    expect_untouched();
}

Test(payload, lz4_block_sizes_that_lie)
{
    static const uint32_t sizes[] = {0, 1, 0x7fffffff, 0xffffffff};

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        pack(COMPRESSION_LZ4);
        image_put(&packed, 4, &sizes[i], 4);
        cr_assert_eq(unpack_it(packed.size, UNPACK_MAX), -ENOEXEC);
    }
    expect_untouched();
}

Test(payload, xz_dictionary_beyond_the_limit)
{
    uint8_t *header, *filter;
    uint32_t crc;
    size_t size;

    pack(COMPRESSION_XZ);
    header = packed.data + 12; /* .xz 1.1.0 §3.1: the block header follows the stream header */
    size = (header[0] + 1U) * 4;
    filter = memmem(header, size, "\x21\x01", 2); /* §5.3.1: LZMA2, one byte of properties */
    cr_assert_not_null(filter);
    filter[2] = 40; /* a dictionary of 4 GiB - 1 */
    crc = crc32_ieee(0, header, size - 4);
    memcpy(header + size - 4, &crc, 4);
    cr_assert_eq(unpack_it(packed.size, UNPACK_MAX), -ENOMEM);
    expect_untouched();
}

Test(payload, kinds_are_told_apart)
{
    static const struct {
        const char *magic;
        enum compression want;
        bool supported;
    } cases[] = {
        {"\x1f\x8b\x08\0\0\0\0\0", COMPRESSION_GZIP, true},
        {"\xfd\x37zXZ\0\0\0", COMPRESSION_XZ, true},
        {"\x02\x21\x4c\x18\0\0\0\0", COMPRESSION_LZ4, true},
        {"\x28\xb5\x2f\xfd\0\0\0\0", COMPRESSION_ZSTD, true},
        {"BZh91AY&", COMPRESSION_BZIP2, false},
        {"\x5d\0\0\0\x01\xff\xff\xff", COMPRESSION_LZMA, false},
        {"\x89LZO\0\r\n\x1a", COMPRESSION_LZO, false},
        {"\x7f\x45LF\0\0\0\0", COMPRESSION_NONE, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct bytes in = {(const uint8_t *)cases[i].magic, 8};
        cr_assert_eq(compression_detect(in), cases[i].want);
        cr_assert_eq(compression_is_supported(cases[i].want), cases[i].supported);
        if (!cases[i].supported) {
            cr_assert_eq(unpack(in, UNPACK_MAX, &out, &err), -ENOTSUP);
            cr_assert_not_null(strstr(err.text, compression_name(cases[i].want)));
        }
    }
    cr_assert_eq(compression_detect((struct bytes){NULL, 0}), COMPRESSION_NONE);
    expect_untouched();
}

Test(payload, fini_takes_what_is_empty)
{
    struct unpacked u = {0};

    unpacked_fini(&u);
}
