#include <criterion/criterion.h>
#include <endian.h>
#include <linux/vm_sockets.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "support/vsock_rig.h"

/* Drivers that break the rules: it costs them a connection, a packet, or the device, and nobody
 * else anything. */

#define GUEST 1024
#define HOST 5000
#define RX 0
#define TX 1
#define EVENT 2
#define DATA 0xf0000
#define HEADER ((uint32_t)sizeof(struct virtio_vsock_hdr))
#define BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

static struct vsock_rig r;
static int fd, other; /* the host's ends: of the connection with the bad driver, and of another */

static void setup(void)
{
    vsock_rig_init(&r);
    vsock_offer(&r, 32);
    fd = vsock_connect_out(&r, GUEST, HOST);
    other = vsock_connect_out(&r, GUEST, HOST + 1);
}

static void teardown(void)
{
    fd_close(&fd);
    fd_close(&other);
    vsock_rig_fini(&r);
}

TestSuite(vsock_rules, .init = setup, .fini = teardown, .timeout = 60);

/* The connection is gone, with a RST, and the other one does not know. */
static void assert_broken(void)
{
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RST);

    cr_assert_eq(le32toh(got.h.src_port), HOST);
    cr_assert_eq(le32toh(got.h.dst_port), GUEST);
    vsock_expect_nothing(&r);
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).broken, 1);
    cr_assert_eq(vsock_rig_stats(&r).connections, 1);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST + 1, "fine", 4);
    vsock_hear(other, "fine");
    cr_assert_eq(virtio_status(r.rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void assert_unharmed(void)
{
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, "fine", 4);
    vsock_hear(fd, "fine");
    vsock_expect_nothing(&r);
    cr_assert_eq(vsock_rig_stats(&r).connections, 2);
    cr_assert_eq(virtio_status(r.rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

/* --- lengths --- */

Test(vsock_rules, a_length_beyond_the_buffer_breaks_the_connection)
{
    const struct virtio_vsock_hdr h = vsock_make(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, 5);

    vsock_send_header(&r, &h, "four", 4);
    assert_broken();
}

Test(vsock_rules, a_length_without_any_buffer_breaks_the_connection)
{
    const struct virtio_vsock_hdr h = vsock_make(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, UINT32_MAX);

    vsock_send_header(&r, &h, NULL, 0);
    assert_broken();
}

Test(vsock_rules, virtio_5_10_6_a_buffer_may_be_longer_than_its_payload)
{
    const struct virtio_vsock_hdr h = vsock_make(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, 4);

    vsock_send_header(&r, &h, "four and more", 13);
    vsock_hear(fd, "four");
    assert_unharmed();
}

Test(vsock_rules, empty_data_is_no_harm)
{
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, NULL, 0);
    assert_unharmed();
}

/* --- credit --- */

Test(vsock_rules, virtio_5_10_6_3_more_than_the_credit_breaks_the_connection)
{
    static char data[VIRTIO_VSOCK_BUFFER];

    /* Though the program reads all of it: what counts is what we promised. */
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, VIRTIO_VSOCK_BUFFER / 2 - 1);
    cr_assert_eq(fd_read_full(fd, data, VIRTIO_VSOCK_BUFFER / 2 - 1), 0);
    vsock_expect_nothing(&r);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, VIRTIO_VSOCK_BUFFER / 2 + 2);
    assert_broken();
}

Test(vsock_rules, all_of_the_credit_is_allowed)
{
    static const char data[VIRTIO_VSOCK_BUFFER];

    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, VIRTIO_VSOCK_BUFFER);
    vsock_expect(&r, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, VIRTIO_VSOCK_BUFFER);
    cr_assert_eq(vsock_rig_stats(&r).broken, 0);
}

/* --- states --- */

Test(vsock_rules, a_second_request_breaks_the_connection)
{
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST, NULL, 0);
    assert_broken();
}

Test(vsock_rules, a_response_to_nothing_breaks_the_connection)
{
    vsock_send(&r, VIRTIO_VSOCK_OP_RESPONSE, GUEST, HOST, NULL, 0);
    assert_broken();
}

Test(vsock_rules, data_after_its_end_breaks_the_connection)
{
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, VIRTIO_VSOCK_SHUTDOWN_SEND);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, "more", 4);
    assert_broken();
}

Test(vsock_rules, operations_that_there_are_not_break_the_connection)
{
    vsock_send(&r, VIRTIO_VSOCK_OP_INVALID, GUEST, HOST, NULL, 0);
    assert_broken();
    fd_close(&fd);
    fd = vsock_connect_out(&r, GUEST + 1, HOST + 2);
    vsock_send(&r, 8, GUEST + 1, HOST + 2, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    vsock_send(&r, 0xffff, GUEST, HOST + 1, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(vsock_rig_stats(&r).broken, 3);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock_rules, whatever_comes_before_the_answer_to_a_request_breaks_the_connection)
{
    static const uint8_t ops[] = {
        VIRTIO_VSOCK_OP_INVALID,       VIRTIO_VSOCK_OP_REQUEST,        VIRTIO_VSOCK_OP_RW,
        VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST, VIRTIO_VSOCK_OP_SHUTDOWN,
    };

    for (unsigned i = 0; i < sizeof(ops); i++) {
        int caller = vsock_call(&r);
        vsock_say(caller, "CONNECT 52\n");
        struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
        vsock_send(&r, ops[i], 52, le32toh(got.h.src_port), NULL, 0);
        vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
        cr_assert(vsock_has_ended(caller));
        fd_close(&caller);
    }
    cr_assert_eq(vsock_rig_stats(&r).broken, sizeof(ops));
    assert_unharmed();
}

Test(vsock_rules, packets_of_no_connection_are_reset)
{
    for (unsigned op = 0; op < 12; op++) {
        if (op == VIRTIO_VSOCK_OP_REQUEST || op == VIRTIO_VSOCK_OP_RST)
            continue;
        vsock_send(&r, op, GUEST + 5, HOST, NULL, 0);
        struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
        cr_assert_eq(le32toh(got.h.dst_port), GUEST + 5);
        cr_assert_eq(le16toh(got.h.type), VIRTIO_VSOCK_TYPE_STREAM);
    }
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, GUEST + 5, HOST, NULL, 0);
    assert_unharmed();
}

Test(vsock_rules, a_connection_that_is_ending_answers_once)
{
    struct vsock_got got;

    while (vsock_receive_any(&r, &got))
        ;
    for (unsigned i = 2; i < 32; i++) /* use the buffers up */
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST + 9, HOST, NULL, 0);
    while (vsock_receive_any(&r, &got))
        ;
    for (unsigned op = 0; op < 8; op++)
        if (op != VIRTIO_VSOCK_OP_RST)
            vsock_send(&r, op == 0 ? 99 : op, GUEST, HOST, NULL, 0);
    cr_assert_eq(vsock_rig_stats(&r).connections, 2); /* a RST is owed */
    vsock_offer(&r, 4);
    assert_broken();
}

Test(vsock_rules, a_reset_crosses_ours)
{
    struct vsock_got got;

    for (unsigned i = 2; i < 32; i++)
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST + 9, HOST, NULL, 0);
    while (vsock_receive_any(&r, &got))
        ;
    vsock_send(&r, 99, GUEST, HOST, NULL, 0);
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, GUEST, HOST, NULL, 0);
    cr_assert_eq(vsock_rig_stats(&r).connections, 1);
    vsock_offer(&r, 4);
    vsock_expect_nothing(&r);
}

/* --- addresses and types --- */

Test(vsock_rules, packets_from_and_to_others_are_dropped)
{
    static const uint64_t cids[] = {0, 1, 3, 0xffffffff, UINT64_C(0x100000000), UINT64_MAX};
    const struct virtio_vsock_hdr good = vsock_make(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, 0);
    const unsigned count = sizeof(cids) / sizeof(cids[0]);

    for (unsigned i = 0; i < count; i++) {
        struct virtio_vsock_hdr h = good;
        h.src_cid = htole64(VSOCK_CID ^ cids[i] ? cids[i] : 1);
        vsock_send_header(&r, &h, NULL, 0);
        h = good;
        h.dst_cid = htole64(cids[i]);
        vsock_send_header(&r, &h, NULL, 0);
    }
    vsock_expect_nothing(&r);
    cr_assert_eq(vsock_rig_stats(&r).dropped, 2 * count);
    assert_unharmed();
}

Test(vsock_rules, virtio_5_10_6_4_2_unknown_types_are_reset)
{
    static const uint16_t types[] = {0, VIRTIO_VSOCK_TYPE_SEQPACKET, 3, 0xffff};

    for (unsigned i = 0; i < 4; i++) {
        struct virtio_vsock_hdr h = vsock_make(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, 0);
        h.type = htole16(types[i]);
        vsock_send_header(&r, &h, NULL, 0);
        struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
        cr_assert_eq(le16toh(got.h.type), types[i]);
        h.op = htole16(VIRTIO_VSOCK_OP_REQUEST);
        vsock_send_header(&r, &h, NULL, 0);
        vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
        h.op = htole16(VIRTIO_VSOCK_OP_RST);
        vsock_send_header(&r, &h, NULL, 0);
    }
    assert_unharmed(); /* the stream of the same ports */
}

Test(vsock_rules, a_guest_cannot_name_a_path)
{
    /* Every port is a number; the largest one fits, too. */
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, UINT32_MAX, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, 0, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    assert_unharmed();
}

/* --- buffers --- */

static void send_chain(unsigned queue, const struct ring_buf *bufs, unsigned count)
{
    ring_send(&r.rig.rings[queue], bufs, count);
    virtio_rig_kick(&r.rig, queue);
}

static bool needs_reset(void)
{
    return virtio_status(r.rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

Test(vsock_rules, headers_that_are_too_short_are_dropped)
{
    const struct ring_buf bufs[] = {{DATA, HEADER - 1, false}, {DATA, 0, false}, {DATA, 8, true}};
    struct vring_used_elem used;

    for (unsigned count = 1; count <= 3; count++) {
        send_chain(TX, bufs, count);
        cr_assert(ring_take_used(&r.rig.rings[TX], &used));
        cr_assert_eq(used.len, 0);
    }
    send_chain(TX, &bufs[2], 1); /* nothing to read at all */
    cr_assert(ring_take_used(&r.rig.rings[TX], &used));
    cr_assert_eq(vsock_rig_stats(&r).dropped, 4);
    assert_unharmed();
}

Test(vsock_rules, a_packet_may_be_cut_anywhere)
{
    struct virtio_vsock_hdr h = vsock_make(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, 10);
    struct ring_buf bufs[54];
    struct vring_used_elem used;

    cr_assert_eq(mem_write(&r.rig.mem, DATA, &h, HEADER), 0);
    cr_assert_eq(mem_write(&r.rig.mem, DATA + HEADER, "0123456789", 10), 0);
    for (unsigned i = 0; i < 54; i++)
        bufs[i] = (struct ring_buf){DATA + i, 1, false};
    send_chain(TX, bufs, 54);
    cr_assert(ring_take_used(&r.rig.rings[TX], &used));
    vsock_hear(fd, "0123456789");
}

/* Takes back what was offered, so that the test's own buffer is the next. */
static void use_up_buffers(void)
{
    struct vsock_got got;

    while (r.taken < r.offered) {
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST + 9, HOST, NULL, 0);
        while (vsock_receive_any(&r, &got))
            ;
    }
}

Test(vsock_rules, a_receive_buffer_may_be_cut_anywhere)
{
    struct ring_buf bufs[50];
    struct vring_used_elem used;
    const uint8_t *at = mem_ptr(&r.rig.mem, DATA, 64, false);

    use_up_buffers();
    for (unsigned i = 0; i < 50; i++)
        bufs[i] = (struct ring_buf){DATA + i, 1, true};
    send_chain(RX, bufs, 50);
    vsock_say(other, "0123456789");
    virtio_rig_work(&r.rig);
    cr_assert(ring_take_used(&r.rig.rings[RX], &used));
    cr_assert_eq(used.len, HEADER + 6);
    cr_assert_eq(memcmp(at + HEADER, "012345", 6), 0);
    cr_assert_eq(at[HEADER + 6], 0);
    send_chain(RX, bufs, 50);
    cr_assert(ring_take_used(&r.rig.rings[RX], &used));
    cr_assert_eq(used.len, HEADER + 4);
    cr_assert_eq(memcmp(at + HEADER, "6789", 4), 0);
}

Test(vsock_rules, receive_buffers_that_hold_no_data_break_the_device)
{
    const struct ring_buf bufs[] = {{DATA, HEADER, true}};

    use_up_buffers();
    send_chain(RX, bufs, 1);
    cr_assert_not(needs_reset()); /* nobody has looked at it */
    vsock_say(fd, "x");
    virtio_rig_work(&r.rig);
    cr_assert(needs_reset());
}

Test(vsock_rules, receive_buffers_to_be_read_break_the_device)
{
    const struct ring_buf bufs[] = {{DATA, 64, false}, {DATA, 4096, true}};

    use_up_buffers();
    send_chain(RX, bufs, 2);
    vsock_say(fd, "x");
    virtio_rig_work(&r.rig);
    cr_assert(needs_reset());
}

Test(vsock_rules, a_broken_device_works_after_a_reset)
{
    const struct ring_buf buf = {VIRTIO_RIG_RAM - 4, 8, false}; /* across the end of RAM */

    send_chain(TX, &buf, 1);
    cr_assert(needs_reset());
    vsock_rig_start(&r);
    cr_assert_not(needs_reset());
    cr_assert(vsock_has_ended(fd));
    fd_close(&fd);
    vsock_offer(&r, 4);
    fd = vsock_connect_out(&r, GUEST, HOST + 3);
}

Test(vsock_rules, resets_that_nobody_takes_make_the_guest_wait)
{
    const struct virtio_vsock_hdr h = vsock_make(&r, VIRTIO_VSOCK_OP_RW, GUEST + 9, HOST, 0);
    const struct ring_buf buf = {DATA, HEADER, false};
    struct vring_used_elem used;
    unsigned answers = 0;
    struct vsock_got got;

    use_up_buffers();
    for (unsigned i = 0; i < 256; i++)
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST + 9, HOST, NULL, 0);
    cr_assert_eq(mem_write(&r.rig.mem, DATA, &h, HEADER), 0);
    for (unsigned i = 0; i < 20; i++)
        send_chain(TX, &buf, 1);
    cr_assert_not(ring_take_used(&r.rig.rings[TX], &used));
    for (unsigned i = 0; i < 276; i++) {
        vsock_offer(&r, 1);
        while (vsock_receive_any(&r, &got))
            answers++;
    }
    cr_assert_eq(answers, 276);
    for (unsigned i = 0; i < 20; i++)
        cr_assert(ring_take_used(&r.rig.rings[TX], &used));
    assert_unharmed();
}
