#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/codec.h"
#include "hv/base/num.h"

/* Where the numbers of a section's header lie in the stream. */
#define AT_MAGIC 0
#define AT_NAME_LEN 4
#define AT_VERSION 8
#define AT_BODY_LEN 12
#define HEADER 16

static struct codec_writer w;
static struct codec_reader r;

static void setup(void)
{
    codec_writer_init(&w);
}

static void teardown(void)
{
    codec_writer_fini(&w);
}

TestSuite(codec, .init = setup, .fini = teardown);

/* The section that most tests read: "uart", version 3, every kind of field. */
static void write_uart(void)
{
    codec_begin(&w, "uart", 3);
    codec_put_u8(&w, 0x12);
    codec_put_u16(&w, 0x3456);
    codec_put_u32(&w, 0x789abcde);
    codec_put_u64(&w, 0x0123456789abcdef);
    codec_put_bytes(&w, "fifo", 4);
    cr_assert_eq(codec_end(&w), 0);
}

static int enter(const char *name)
{
    uint32_t version = 0xa5a5a5a5;
    int rc = codec_enter(&r, name, &version);

    cr_assert(rc == 0 || version == 0xa5a5a5a5, "version changed on failure");
    return rc;
}

static void start_reading(void)
{
    codec_reader_init(&r, w.data, w.size);
}

/* Puts the right CRC behind a header that a test has changed, so that the CRC is not what fails. */
static void mend_crc(void)
{
    uint32_t crc = htole32(crc32_ieee(0, w.data, w.size - 4));

    memcpy(w.data + w.size - 4, &crc, 4);
}

static void patch_u32(size_t at, uint32_t v)
{
    v = htole32(v);
    memcpy(w.data + at, &v, 4);
    mend_crc();
}

/* --- round trips --- */

Test(codec, reads_back_what_was_written)
{
    uint32_t version = 0;
    char text[4];

    write_uart();
    start_reading();
    cr_assert_eq(codec_enter(&r, "uart", &version), 0);
    cr_assert_eq(version, 3);
    cr_assert_eq(codec_get_u8(&r), 0x12);
    cr_assert_eq(codec_get_u16(&r), 0x3456);
    cr_assert_eq(codec_get_u32(&r), 0x789abcde);
    cr_assert_eq(codec_get_u64(&r), 0x0123456789abcdef);
    codec_get_bytes(&r, text, 4);
    cr_assert_arr_eq(text, "fifo", 4);
    cr_assert_eq(codec_leave(&r), 0);
    cr_assert_eq(enter("uart"), -ENOENT);
}

Test(codec, the_stream_is_little_endian_and_as_documented)
{
    static const uint8_t want[] = {'H', 'V', 'S', '1', 2, 0, 0,   0,   7,    0,
                                   0,   0,   2,   0,   0, 0, 'a', 'b', 0x34, 0x12};

    codec_begin(&w, "ab", 7);
    codec_put_u16(&w, 0x1234);
    cr_assert_eq(codec_end(&w), 0);
    cr_assert_eq(w.size, sizeof(want) + 4);
    cr_assert_arr_eq(w.data, want, sizeof(want));
}

Test(codec, sections_follow_one_another)
{
    for (uint32_t i = 0; i < 100; i++) {
        codec_begin(&w, "cpu", i);
        for (uint32_t j = 0; j < i; j++)
            codec_put_u64(&w, j);
        cr_assert_eq(codec_end(&w), 0);
    }
    start_reading();
    for (uint32_t i = 0; i < 100; i++) {
        uint32_t version = UINT32_MAX;
        cr_assert_eq(codec_enter(&r, "cpu", &version), 0);
        cr_assert_eq(version, i);
        for (uint32_t j = 0; j < i; j++)
            cr_assert_eq(codec_get_u64(&r), j);
        cr_assert_eq(codec_leave(&r), 0);
    }
    cr_assert_eq(enter("cpu"), -ENOENT);
}

Test(codec, a_section_may_be_empty)
{
    codec_begin(&w, "x", 0);
    cr_assert_eq(codec_end(&w), 0);
    start_reading();
    cr_assert_eq(enter("x"), 0);
    cr_assert_eq(codec_leave(&r), 0);
}

Test(codec, the_longest_name_fits_and_a_longer_one_does_not)
{
    char name[CODEC_NAME_MAX + 2];

    memset(name, 'n', sizeof(name) - 1);
    name[CODEC_NAME_MAX + 1] = '\0';
    codec_begin(&w, name, 1);
    cr_assert_eq(codec_end(&w), -EINVAL);
    codec_writer_fini(&w);
    name[CODEC_NAME_MAX] = '\0';
    codec_begin(&w, name, 1);
    cr_assert_eq(codec_end(&w), 0);
    start_reading();
    cr_assert_eq(enter(name), 0);
}

Test(codec, crc_is_ieee_802_3)
{
    cr_assert_eq(crc32_ieee(0, "123456789", 9), 0xcbf43926, "the check value of CRC-32");
    cr_assert_eq(crc32_ieee(0, "", 0), 0);
    cr_assert_eq(crc32_ieee(crc32_ieee(0, "1234", 4), "56789", 5), 0xcbf43926);
}

/* --- the writer remembers its first failure --- */

Test(codec, end_without_begin_fails)
{
    cr_assert_eq(codec_end(&w), -EINVAL);
}

Test(codec, fields_outside_a_section_fail)
{
    codec_put_u32(&w, 1);
    codec_begin(&w, "x", 1);
    cr_assert_eq(codec_end(&w), -EINVAL);
    cr_assert_eq(w.size, 0);
}

Test(codec, sections_do_not_nest)
{
    codec_begin(&w, "x", 1);
    codec_begin(&w, "y", 1);
    cr_assert_eq(codec_end(&w), -EINVAL);
}

Test(codec, a_section_needs_a_name)
{
    codec_begin(&w, "", 1);
    cr_assert_eq(codec_end(&w), -EINVAL);
}

Test(codec, a_body_above_the_maximum_fails)
{
    uint8_t *zeros = calloc(1, CODEC_BODY_MAX);

    codec_begin(&w, "ram", 1);
    codec_put_bytes(&w, zeros, CODEC_BODY_MAX);
    cr_assert_eq(codec_end(&w), 0);
    codec_begin(&w, "ram", 1);
    codec_put_bytes(&w, zeros, CODEC_BODY_MAX);
    codec_put_u8(&w, 0);
    cr_assert_eq(codec_end(&w), -EMSGSIZE);
    codec_begin(&w, "next", 1);
    cr_assert_eq(codec_end(&w), -EMSGSIZE, "the first failure stays");
    free(zeros);
}

Test(codec, fini_makes_the_writer_fresh)
{
    codec_put_u8(&w, 0);
    codec_writer_fini(&w);
    write_uart();
    codec_writer_fini(&w);
    cr_assert_null(w.data);
    cr_assert_eq(w.size, 0);
}

/* --- the reader trusts nothing --- */

Test(codec, an_empty_stream_is_at_its_end)
{
    codec_reader_init(&r, NULL, 0);
    cr_assert_eq(enter("uart"), -ENOENT);
    cr_assert_eq(codec_get_u64(&r), 0);
    cr_assert_eq(codec_leave(&r), -ENODATA);
}

Test(codec, every_truncation_is_found)
{
    write_uart();
    for (size_t size = 1; size < w.size; size++) {
        uint8_t *copy = malloc(size); /* exactly so long, for AddressSanitizer to see */
        memcpy(copy, w.data, size);
        codec_reader_init(&r, copy, size);
        cr_assert_eq(enter("uart"), -EBADMSG, "%zu of %zu bytes", size, w.size);
        free(copy);
    }
}

Test(codec, every_flipped_bit_is_found)
{
    write_uart();
    for (size_t bit = 0; bit < w.size * 8; bit++) {
        w.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        start_reading();
        cr_assert_eq(enter("uart"), -EBADMSG, "bit %zu", bit);
        w.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    start_reading();
    cr_assert_eq(enter("uart"), 0);
}

Test(codec, hostile_lengths_are_refused_even_with_a_good_crc)
{
    static const uint32_t lengths[] = {CODEC_BODY_MAX, CODEC_BODY_MAX + 1, 0x7fffffff,
                                       0x80000000,     UINT32_MAX - 3,     UINT32_MAX};

    write_uart();
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        uint8_t *copy = malloc(w.size);
        patch_u32(AT_BODY_LEN, lengths[i]);
        memcpy(copy, w.data, w.size);
        codec_reader_init(&r, copy, w.size);
        cr_assert_eq(enter("uart"), -EBADMSG, "body of 0x%x", lengths[i]);
        free(copy);
    }
}

Test(codec, hostile_name_lengths_are_refused_even_with_a_good_crc)
{
    static const uint32_t lengths[] = {0, CODEC_NAME_MAX, CODEC_NAME_MAX + 1, UINT32_MAX};

    write_uart();
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        patch_u32(AT_NAME_LEN, lengths[i]);
        start_reading();
        cr_assert_eq(enter("uart"), -EBADMSG, "name of %u", lengths[i]);
    }
}

Test(codec, another_magic_is_refused_even_with_a_good_crc)
{
    write_uart();
    patch_u32(AT_MAGIC, 0x32535648);
    start_reading();
    cr_assert_eq(enter("uart"), -EBADMSG);
}

Test(codec, another_name_leaves_the_section_for_who_wants_it)
{
    write_uart();
    start_reading();
    cr_assert_eq(enter("rtc"), -ENOTUNIQ);
    cr_assert_eq(enter("uar"), -ENOTUNIQ);
    cr_assert_eq(enter("uart0"), -ENOTUNIQ);
    cr_assert_eq(enter("uart"), 0);
}

Test(codec, a_name_does_not_end_at_a_zero_byte)
{
    write_uart();
    w.data[HEADER + 2] = '\0'; /* "ua\0t" */
    mend_crc();
    start_reading();
    cr_assert_eq(enter("ua"), -ENOTUNIQ);
}

Test(codec, reading_past_the_section_gives_zeroes_and_is_remembered)
{
    uint8_t bytes[8];

    codec_begin(&w, "x", 1);
    codec_put_u16(&w, 0xffff);
    cr_assert_eq(codec_end(&w), 0);
    write_uart(); /* the next section's bytes must not be reached */
    start_reading();
    cr_assert_eq(enter("x"), 0);
    memset(bytes, 0xa5, sizeof(bytes));
    codec_get_bytes(&r, bytes, 8);
    cr_assert_arr_eq(bytes, ((uint8_t[8]){0}), 8);
    cr_assert_eq(codec_get_u8(&r), 0, "even what would fit, after the first failure");
    cr_assert_eq(codec_get_u16(&r), 0);
    cr_assert_eq(codec_get_u32(&r), 0);
    cr_assert_eq(codec_get_u64(&r), 0);
    cr_assert_eq(codec_leave(&r), -ENODATA);
    cr_assert_eq(enter("uart"), 0, "the next section is whole");
    cr_assert_eq(codec_get_u8(&r), 0x12);
}

Test(codec, left_over_bytes_are_reported)
{
    write_uart();
    start_reading();
    cr_assert_eq(enter("uart"), 0);
    (void)codec_get_u8(&r);
    cr_assert_eq(codec_leave(&r), -EBADMSG);
}

Test(codec, nothing_is_read_outside_a_section)
{
    write_uart();
    start_reading();
    cr_assert_eq(codec_get_u8(&r), 0);
    cr_assert_eq(codec_leave(&r), -ENODATA);
}
