/*
 * The framing of gdb's protocol, both ways.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "control/rsp_priv.h"

static enum rsp_event feed_bytes(struct rsp_in *in, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    enum rsp_event event = RSP_NOTHING;

    for (size_t i = 0; i < len; i++) {
        cr_assert_eq(event, RSP_NOTHING, "an event before the end");
        event = rsp_feed(in, bytes[i]);
    }
    return event;
}

static enum rsp_event feed(struct rsp_in *in, const char *text)
{
    return feed_bytes(in, text, strlen(text));
}

static struct rsp_in *new_in(void)
{
    static struct rsp_in in;

    memset(&in, 0xa5, sizeof(in));
    rsp_in_init(&in);
    return &in;
}

/* --- in --- */

Test(rsp, takes_a_packet_apart)
{
    struct rsp_in *in = new_in();

    cr_assert_eq(feed(in, "+$g#67"), RSP_PACKET);
    cr_assert_str_eq(in->data, "g");
    cr_assert_eq(in->len, 1);
    cr_assert_eq(feed(in, "$#00"), RSP_PACKET, "an empty one");
    cr_assert_eq(in->len, 0);
}

Test(rsp, sum_may_be_in_capitals)
{
    cr_assert_eq(feed(new_in(), "$m1,1#fB"), RSP_PACKET);
}

Test(rsp, wrong_sums_are_bad_and_the_next_packet_is_found)
{
    struct rsp_in *in = new_in();

    cr_assert_eq(feed(in, "$g#68"), RSP_BAD);
    cr_assert_eq(feed(in, "$g#zz"), RSP_BAD);
    cr_assert_eq(feed(in, "$g#6z"), RSP_BAD);
    cr_assert_eq(feed(in, "$g#67"), RSP_PACKET);
}

Test(rsp, escaped_bytes_are_themselves)
{
    struct rsp_in *in = new_in();

    /* } 0x20^$ : the sum is of the bytes as they come: 0x7d + 0x04. */
    cr_assert_eq(feed(in, "$}\x04#81"), RSP_PACKET);
    cr_assert_eq(in->len, 1);
    cr_assert_eq(in->data[0], '$');
}

Test(rsp, a_packet_that_was_cut_off_does_not_swallow_the_next)
{
    struct rsp_in *in = new_in();

    cr_assert_eq(feed(in, "$m100$g#67"), RSP_PACKET);
    cr_assert_str_eq(in->data, "g");
}

Test(rsp, interrupt_and_nak_are_single_bytes)
{
    struct rsp_in *in = new_in();

    cr_assert_eq(rsp_feed(in, 0x03), RSP_INTERRUPT);
    cr_assert_eq(rsp_feed(in, '-'), RSP_NAK);
    cr_assert_eq(rsp_feed(in, 'x'), RSP_NOTHING);
    cr_assert_eq(feed(in, "$a\003#64"), RSP_PACKET, "inside a packet it is data");
}

Test(rsp, the_longest_packet_fits_and_a_longer_one_is_dropped)
{
    static char data[RSP_PACKET_MAX + 1];
    struct rsp_text frame = {0};
    struct rsp_in *in = new_in();

    memset(data, 'x', sizeof(data));
    rsp_put_packet(&frame, data, RSP_PACKET_MAX);
    cr_assert_eq(feed_bytes(in, frame.data, frame.len), RSP_PACKET);
    cr_assert_eq(in->len, RSP_PACKET_MAX);
    frame.len = 0;
    rsp_put_packet(&frame, data, RSP_PACKET_MAX + 1);
    cr_assert_eq(feed_bytes(in, frame.data, frame.len), RSP_TOO_LONG);
    cr_assert_eq(feed(in, "$g#67"), RSP_PACKET);
    rsp_text_fini(&frame);
}

/* --- reading --- */

static struct rsp_view view(const char *text)
{
    return (struct rsp_view){.at = text, .end = text + strlen(text)};
}

Test(rsp, takes_numbers)
{
    struct rsp_view v = view("ffffffff80001000,2");
    uint64_t n = 77;

    cr_assert(rsp_take_number(&v, &n));
    cr_assert_eq(n, 0xffffffff80001000);
    cr_assert(rsp_take_text(&v, ","));
    cr_assert(rsp_take_number(&v, &n));
    cr_assert_eq(n, 2);
    cr_assert_eq(rsp_left(&v), 0);
}

Test(rsp, a_number_that_is_none_takes_nothing)
{
    const char *const wrong[] = {"", "x", "-1", "11112222333344445"};

    for (size_t i = 0; i < 4; i++) {
        struct rsp_view v = view(wrong[i]);
        uint64_t n = 77;
        cr_assert_not(rsp_take_number(&v, &n), "%s", wrong[i]);
        cr_assert_eq(n, 77);
        cr_assert_eq(rsp_left(&v), strlen(wrong[i]));
    }
}

Test(rsp, takes_threads)
{
    struct rsp_view v = view("-1");
    int id = 77;

    cr_assert(rsp_take_thread(&v, &id));
    cr_assert_eq(id, RSP_ALL_THREADS);
    v = view("1a");
    cr_assert(rsp_take_thread(&v, &id));
    cr_assert_eq(id, 0x1a);
    v = view("80000000");
    cr_assert_not(rsp_take_thread(&v, &id));
    v = view("p1.1");
    cr_assert_not(rsp_take_thread(&v, &id));
    cr_assert_eq(rsp_left(&v), 4);
}

Test(rsp, takes_bytes_or_none)
{
    struct rsp_view v = view("0aFF7");
    uint8_t bytes[3] = {1, 2, 3};

    cr_assert_not(rsp_take_bytes(&v, bytes, 3));
    cr_assert_eq(bytes[0], 1);
    cr_assert(rsp_take_bytes(&v, bytes, 2));
    cr_assert_eq(bytes[0], 0x0a);
    cr_assert_eq(bytes[1], 0xff);
    cr_assert_eq(rsp_left(&v), 1);
    v = view("0g");
    cr_assert_not(rsp_take_bytes(&v, bytes, 1));
    cr_assert_eq(bytes[0], 0x0a);
}

/* --- out --- */

Test(rsp, frames_what_it_sends)
{
    struct rsp_text out = {0};

    rsp_put_packet(&out, "OK", 2);
    cr_assert_eq(out.len, 6);
    cr_assert_eq(memcmp(out.data, "$OK#9a", 6), 0);
    rsp_text_fini(&out);
}

Test(rsp, every_byte_survives_the_way)
{
    struct rsp_text out = {0};
    struct rsp_in *in = new_in();
    uint8_t all[256];

    for (unsigned i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    rsp_put_packet(&out, all, sizeof(all));
    cr_assert_eq(feed_bytes(in, out.data, out.len), RSP_PACKET);
    cr_assert_eq(in->len, sizeof(all));
    cr_assert_eq(memcmp(in->data, all, sizeof(all)), 0);
    rsp_text_fini(&out);
}

Test(rsp, an_asterisk_is_escaped_because_it_would_mean_repetition)
{
    struct rsp_text out = {0};

    rsp_put_packet(&out, "a*", 2);
    cr_assert_eq(memcmp(out.data, "$a}\x0a#", 5), 0);
    rsp_text_fini(&out);
}

Test(rsp, writes_numbers_without_leading_zeros)
{
    struct rsp_text out = {0};

    rsp_put_number(&out, 0);
    rsp_put_text(&out, ",");
    rsp_put_number(&out, 0x1020);
    rsp_put_text(&out, ",");
    rsp_put_number(&out, UINT64_MAX);
    cr_assert_eq(out.len, 23);
    cr_assert_eq(memcmp(out.data, "0,1020,ffffffffffffffff", 23), 0);
    rsp_text_fini(&out);
}
