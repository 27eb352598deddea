#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/listen.h"
#include "support/vsock_rig.h"

/* Connections, and what passes through them. What breaks rules is in test_vsock_rules.c. */

#define GUEST 1024 /* ports */
#define HOST 5000
#define RCV VIRTIO_VSOCK_SHUTDOWN_RCV
#define SEND VIRTIO_VSOCK_SHUTDOWN_SEND

static struct vsock_rig r;
static int fd; /* the host's end */

static void setup(void)
{
    fd = -1;
    vsock_rig_init(&r);
}

static void teardown(void)
{
    fd_close(&fd);
    vsock_rig_fini(&r);
}

TestSuite(vsock, .init = setup, .fini = teardown, .timeout = 60);

static void open_out(void)
{
    vsock_offer(&r, 16);
    fd = vsock_connect_out(&r, GUEST, HOST);
}

static void send_text(const char *text)
{
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, text, (uint32_t)strlen(text));
}

static void expect_text(const char *text)
{
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RW);

    cr_assert_eq(le32toh(got.h.len), strlen(text));
    cr_assert_eq(memcmp(got.data, text, strlen(text)), 0);
}

/* --- configuration --- */

Test(vsock, virtio_5_10_4_the_configuration_is_the_cid)
{
    uint64_t cid = 0;
    uint32_t high = 1;

    virtio_config_read(r.rig.v, 0, &cid, sizeof(cid));
    cr_assert_eq(le64toh(cid), VSOCK_CID);
    virtio_config_read(r.rig.v, 4, &high, sizeof(high));
    cr_assert_eq(high, 0);
    virtio_config_read(r.rig.v, 6, &high, sizeof(high));
    cr_assert_eq(high, 0); /* beyond its end */
}

Test(vsock, offers_streams_only)
{
    cr_assert_eq(r.rig.v->offered & 0xffffff, 0);
    cr_assert_eq(r.rig.v->queue_count, 3);
    cr_assert_eq(r.rig.v->ops->id, VIRTIO_ID_VSOCK);
}

Test(vsock, refuses_cids_that_are_no_guests)
{
    static const uint64_t bad[] = {0, 1, 2, 0xffffffff, UINT64_C(0x100000003), UINT64_MAX};
    struct virtio_vsock_setup setup = {.mem = &r.rig.mem, .loop = r.rig.loop, .path = "x"};
    struct virtio_dev *v = r.rig.v;

    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        setup.cid = bad[i];
        cr_assert_eq(virtio_vsock_create("vsock", &setup, &v), -EINVAL);
        cr_assert_eq(v, r.rig.v);
    }
}

Test(vsock, a_device_that_cannot_be_made_leaves_the_listener_to_its_caller)
{
    int listener, before;
    struct virtio_dev *v = NULL;
    char other[160];

    strcpy(other, tmp_path(&r.tmp, "other"));
    cr_assert_eq(virtio_vsock_listen(other, &listener, NULL), 0);
    before = listener;
    const struct virtio_vsock_setup setup = {
        .mem = &r.rig.mem, .loop = r.rig.loop, .cid = 3, .path = other, .listener = listener};
    unsigned fds = count_open_fds();
    cr_assert_eq(loop_add(r.rig.loop, listener, 0, NULL, NULL), 0); /* so that the device cannot */
    cr_assert_eq(virtio_vsock_create("vsock", &setup, &v), -EEXIST);
    loop_remove(r.rig.loop, listener);
    cr_assert_null(v);
    cr_assert_eq(count_open_fds(), fds);
    cr_assert_eq(listener, before);
    cr_assert_eq(access(other, F_OK), 0);
    unlisten_unix(other, &listener);
    cr_assert_neq(access(other, F_OK), 0);
}

Test(vsock, a_path_must_fit_with_a_port_behind_it)
{
    char longest[200];
    struct error err;
    int listener = -77;

    (void)snprintf(longest, sizeof(longest), "%s/%0*d", r.tmp.path, 95 - (int)strlen(r.tmp.path),
                   0);
    cr_assert_eq(strlen(longest), 96);
    cr_assert_eq(virtio_vsock_listen(longest, &listener, &err), 0, "%s", err.text);
    unlisten_unix(longest, &listener);
    listener = -77;
    strcat(longest, "1");
    cr_assert_eq(virtio_vsock_listen(longest, &listener, &err), -ENAMETOOLONG);
    cr_assert_not_null(strstr(err.text, "1 to 96 characters"), "%s", err.text);
    cr_assert_eq(virtio_vsock_listen("", &listener, &err), -ENAMETOOLONG);
    cr_assert_eq(virtio_vsock_listen("/nonexistent/v", &listener, &err), -ENOENT);
    cr_assert_eq(listener, -77);
}

/* --- from the guest to the host --- */

Test(vsock, a_guest_reaches_a_program_of_the_host)
{
    open_out();
    send_text("hello");
    vsock_hear(fd, "hello");
    vsock_say(fd, "good day");
    expect_text("good day");
    cr_assert_eq(vsock_rig_stats(&r).connections, 1);
    cr_assert_eq(vsock_rig_stats(&r).opened, 1);
    cr_assert_gt(r.rig.used[0], 0);
}

Test(vsock, virtio_5_10_6_5_a_port_that_nobody_serves_refuses)
{
    vsock_offer(&r, 4);
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST, NULL, 0);
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(le32toh(got.h.src_port), HOST);
    cr_assert_eq(le32toh(got.h.dst_port), GUEST);
    cr_assert_eq(vsock_rig_stats(&r).refused, 1);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock, a_socket_that_was_left_behind_refuses)
{
    int listener = vsock_serve_port(&r, HOST);

    fd_close(&listener); /* its path stays */
    vsock_offer(&r, 4);
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
}

Test(vsock, a_full_backlog_refuses)
{
    int listener = vsock_serve_port(&r, HOST);
    unsigned opened = 0, refused = 0;

    cr_assert_eq(listen(listener, 1), 0);
    vsock_offer(&r, 8);
    for (uint32_t i = 0; i < 4; i++) {
        struct vsock_got got;
        vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST + i, HOST, NULL, 0);
        cr_assert(vsock_receive_any(&r, &got));
        opened += le16toh(got.h.op) == VIRTIO_VSOCK_OP_RESPONSE;
        refused += le16toh(got.h.op) == VIRTIO_VSOCK_OP_RST;
    }
    cr_assert_geq(opened, 1);
    cr_assert_geq(refused, 1);
    cr_assert_eq(opened + refused, 4);
    fd_close(&listener);
}

Test(vsock, several_connections_are_kept_apart)
{
    vsock_offer(&r, 16);
    fd = vsock_connect_out(&r, GUEST, HOST);
    int other = vsock_connect_out(&r, GUEST, HOST + 1), third = vsock_connect_out(&r, 9, HOST + 2);

    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST + 1, "b", 1);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, 9, HOST + 2, "c", 1);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, "a", 1);
    vsock_hear(fd, "a");
    vsock_hear(other, "b");
    vsock_hear(third, "c");
    vsock_say(third, "3");
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RW);
    cr_assert_eq(le32toh(got.h.src_port), HOST + 2);
    cr_assert_eq(le32toh(got.h.dst_port), 9);
    fd_close(&other);
    fd_close(&third);
}

/* --- from the host to the guest --- */

Test(vsock, a_program_of_the_host_reaches_the_guest)
{
    uint32_t port;

    vsock_offer(&r, 16);
    fd = vsock_connect_in(&r, 52, &port);
    vsock_say(fd, "ls\n");
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RW);
    cr_assert_eq(memcmp(got.data, "ls\n", 3), 0);
    cr_assert_eq(le32toh(got.h.src_port), port);
    cr_assert_eq(le32toh(got.h.dst_port), 52);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, 52, port, "bin etc", 7);
    vsock_hear(fd, "bin etc");
    cr_assert_eq(vsock_rig_stats(&r).opened, 1);
}

Test(vsock, what_follows_the_greeting_is_the_guests)
{
    char line[32];

    vsock_offer(&r, 16);
    fd = vsock_call(&r);
    vsock_say(fd, "CONNECT 52\nCONNECT 53\n");
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
    uint32_t port = le32toh(got.h.src_port);
    vsock_expect_nothing(&r); /* not before it has accepted */
    vsock_send(&r, VIRTIO_VSOCK_OP_RESPONSE, 52, port, NULL, 0);
    expect_text("CONNECT 53\n");
    (void)snprintf(line, sizeof(line), "OK %u\n", port);
    vsock_hear(fd, line);
}

Test(vsock, a_greeting_may_come_in_pieces)
{
    vsock_offer(&r, 16);
    fd = vsock_call(&r);
    for (const char *p = "CONNECT 4294967294\n"; *p != '\0'; p++) {
        vsock_expect_nothing(&r);
        cr_assert_eq(write(fd, p, 1), 1);
    }
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
    cr_assert_eq(le32toh(got.h.dst_port), 4294967294);
}

Test(vsock, what_is_no_greeting_is_hung_up_on)
{
    static const char *const bad[] = {
        "GET / HTTP/1.1\r\n",
        "CONNECT\n",
        "CONNECT \n",
        "CONNECT 4294967295\n",
        "CONNECT 4294967296\n",
        "CONNECT -1\n",
        "CONNECT 1 2\n",
        "connect 1\n",
        "CONNECT 1\r\n",
        "\n",
        "CONNECT 1                         ",
    };

    vsock_offer(&r, 16);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        fd = vsock_call(&r);
        vsock_say(fd, bad[i]);
        vsock_expect_nothing(&r);
        cr_assert(vsock_has_ended(fd), "%s", bad[i]);
        fd_close(&fd);
    }
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock, a_program_that_leaves_before_its_greeting_is_whole_is_forgotten)
{
    vsock_offer(&r, 4);
    fd = vsock_call(&r);
    vsock_say(fd, "CONN");
    virtio_rig_work(&r.rig);
    cr_assert_eq(vsock_rig_stats(&r).connections, 1);
    cr_assert_eq(shutdown(fd, SHUT_WR), 0);
    virtio_rig_work(&r.rig);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
    vsock_expect_nothing(&r);
}

Test(vsock, a_guest_that_does_not_want_the_program_has_it_closed)
{
    vsock_offer(&r, 4);
    fd = vsock_call(&r);
    vsock_say(fd, "CONNECT 52\n");
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, 52, le32toh(got.h.src_port), NULL, 0);
    cr_assert(vsock_has_ended(fd));
    vsock_expect_nothing(&r);
    cr_assert_eq(vsock_rig_stats(&r).refused, 1);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock, a_program_that_gives_up_before_the_guest_was_asked_is_never_heard_of)
{
    fd = vsock_call(&r); /* there are no receive buffers */
    vsock_say(fd, "CONNECT 52\n");
    virtio_rig_work(&r.rig);
    fd_close(&fd);
    virtio_rig_work(&r.rig);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
    vsock_offer(&r, 4);
    vsock_expect_nothing(&r);
}

Test(vsock, a_program_that_gives_up_before_the_guest_answers_is_reset)
{
    vsock_offer(&r, 4);
    fd = vsock_call(&r);
    vsock_say(fd, "CONNECT 52\n");
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
    uint32_t port = le32toh(got.h.src_port);
    fd_close(&fd);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    vsock_send(&r, VIRTIO_VSOCK_OP_RESPONSE, 52, port, NULL, 0); /* it was on its way */
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock, programs_get_ports_of_their_own)
{
    uint32_t a, b;

    vsock_offer(&r, 8);
    fd = vsock_connect_in(&r, 52, &a);
    int other = vsock_connect_in(&r, 52, &b);
    cr_assert_neq(a, b);
    fd_close(&other);
}

/* --- credit, §5.10.6.3 --- */

Test(vsock, virtio_5_10_6_3_the_guest_is_never_sent_more_than_it_has_room_for)
{
    r.alloc = 10;
    open_out();
    vsock_say(fd, "0123456789abcdef");
    expect_text("0123456789");
    vsock_expect(&r, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    vsock_expect_nothing(&r); /* once is enough */
    r.forwarded = 4;
    vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST, HOST, NULL, 0);
    expect_text("abcd");
    vsock_expect(&r, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    r.forwarded = 14;
    vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST, HOST, NULL, 0);
    expect_text("ef");
    vsock_expect_nothing(&r);
}

Test(vsock, a_guest_that_takes_credit_back_is_sent_nothing)
{
    open_out();
    vsock_say(fd, "0123456789");
    expect_text("0123456789");
    r.alloc = 5; /* with 10 on their way */
    vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST, HOST, NULL, 0);
    vsock_say(fd, "x");
    vsock_expect(&r, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    vsock_expect_nothing(&r);
    r.alloc = VSOCK_ALLOC;
    r.forwarded = 20; /* more than we sent */
    vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST, HOST, NULL, 0);
    vsock_expect_nothing(&r);
    r.forwarded = 10;
    vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST, HOST, NULL, 0);
    expect_text("x");
}

Test(vsock, virtio_5_10_6_3_a_credit_request_is_answered)
{
    open_out();
    send_text("hello");
    vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_REQUEST, GUEST, HOST, NULL, 0);
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    cr_assert_eq(le32toh(got.h.buf_alloc), VIRTIO_VSOCK_BUFFER);
    cr_assert_eq(le32toh(got.h.fwd_cnt), 5);
    vsock_expect_nothing(&r);
}

/* Sends `bytes` of a pattern that begins at the stream's byte `from`. */
static void send_pattern(uint32_t from, uint32_t bytes)
{
    uint8_t *data = malloc(bytes);

    for (uint32_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)((from + i) * 7 >> 3);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, bytes);
    free(data);
}

static uint32_t hear_pattern(uint32_t from)
{
    uint8_t data[8192];
    ssize_t n;

    while ((n = recv(fd, data, sizeof(data), MSG_DONTWAIT)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            cr_assert_eq(data[i], (uint8_t)((from + (uint32_t)i) * 7 >> 3));
        from += (uint32_t)n;
    }
    return from;
}

/* Fills the socket's buffer in the kernel and ours, as far as the credit goes. */
static uint32_t fill_up(void)
{
    struct vsock_got got;
    uint32_t sent = 0, forwarded = 0;

    while (sent - forwarded < VIRTIO_VSOCK_BUFFER) {
        send_pattern(sent, 4096);
        sent += 4096;
        vsock_offer(&r, 1);
        if (sent - forwarded == VIRTIO_VSOCK_BUFFER)
            vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_REQUEST, GUEST, HOST, NULL, 0);
        while (vsock_receive_any(&r, &got)) {
            cr_assert_eq(le16toh(got.h.op), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
            forwarded = le32toh(got.h.fwd_cnt);
        }
    }
    return sent;
}

Test(vsock, a_program_that_does_not_read_makes_the_guest_wait_and_loses_nothing)
{
    struct vsock_got got;
    uint32_t heard = 0;

    open_out();
    uint32_t sent = fill_up();
    vsock_expect_nothing(&r);
    vsock_offer(&r, 8);
    heard = hear_pattern(heard);
    cr_assert_geq(heard, sent - VIRTIO_VSOCK_BUFFER);
    uint32_t forwarded = 0;
    while (heard < sent) {
        while (vsock_receive_any(&r, &got)) /* without being asked: it has told us of room */
            forwarded = le32toh(got.h.fwd_cnt);
        heard = hear_pattern(heard);
    }
    cr_assert_eq(heard, sent);
    while (vsock_receive_any(&r, &got))
        forwarded = le32toh(got.h.fwd_cnt);
    cr_assert_lt(sent - forwarded, VIRTIO_VSOCK_BUFFER);
    send_pattern(sent, 100);
    cr_assert_eq(hear_pattern(heard), sent + 100);
}

Test(vsock, much_data_passes_whole_to_the_guest)
{
    static uint8_t data[300000];
    uint32_t written = 0, got_bytes = 0;

    open_out();
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 13 >> 4);
    while (got_bytes < sizeof(data)) {
        struct vsock_got got;
        ssize_t n = send(fd, data + written, sizeof(data) - written, MSG_DONTWAIT);
        written += n > 0 ? (uint32_t)n : 0;
        vsock_offer(&r, 1);
        while (vsock_receive_any(&r, &got)) {
            uint32_t len = le32toh(got.h.len);
            if (le16toh(got.h.op) == VIRTIO_VSOCK_OP_RW)
                cr_assert_eq(memcmp(got.data, data + got_bytes, len), 0);
            got_bytes += len;
            r.forwarded = got_bytes;
            vsock_offer(&r, 1);
        }
        vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_UPDATE, GUEST, HOST, NULL, 0);
    }
    cr_assert_eq(got_bytes, sizeof(data));
}

/* --- the receive queue --- */

Test(vsock, without_receive_buffers_nothing_is_lost)
{
    int listener = vsock_serve_port(&r, HOST);

    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST, NULL, 0);
    fd = accept(listener, NULL, NULL);
    fd_close(&listener);
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST + 1, NULL, 0);
    vsock_say(fd, "early");
    virtio_rig_work(&r.rig);
    vsock_offer(&r, 1);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    vsock_expect_nothing(&r);
    vsock_offer(&r, 1);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RESPONSE);
    vsock_say(fd, " bird");
    vsock_offer(&r, 1);
    expect_text("early bird");
    vsock_expect_nothing(&r);
}

Test(vsock, connections_take_turns)
{
    int fds[4];
    uint32_t last = 0;

    r.buffer = sizeof(struct virtio_vsock_hdr) + 1; /* a byte in each */
    vsock_offer(&r, 8);
    for (uint32_t i = 0; i < 4; i++)
        fds[i] = vsock_connect_out(&r, GUEST, HOST + i);
    vsock_offer(&r, 60 - 8);
    for (unsigned i = 0; i < 4; i++)
        vsock_say(fds[i], "0123456789");
    for (unsigned i = 0; i < 40; i++) {
        struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RW);
        uint32_t now = le32toh(got.h.src_port) - HOST;
        if (i > 0)
            cr_assert_eq(now, (last + 1) % 4);
        cr_assert_eq(got.data[0], '0' + i / 4);
        last = now;
    }
    vsock_expect_nothing(&r);
    for (unsigned i = 0; i < 4; i++)
        fd_close(&fds[i]);
}
