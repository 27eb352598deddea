#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "support/vsock_rig.h"
#include "virtio/vsock_priv.h"

/* How connections end, VIRTIO 1.2 §5.10.6.5. */

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

TestSuite(vsock_end, .init = setup, .fini = teardown, .timeout = 60);

static struct vsock_conn *conn(void)
{
    return &container_of(r.rig.v, struct vsock, v)->conns[0];
}

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

/* Sends until the kernel takes no more, and some waits with the device. */
static uint32_t fill_up(void)
{
    static uint8_t data[4096];
    struct vsock_got got;
    uint32_t sent = 0;

    while (conn()->in.len < 2 * sizeof(data)) {
        memset(data, (int)(sent / sizeof(data)), sizeof(data));
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, sizeof(data));
        sent += sizeof(data);
        while (vsock_receive_any(&r, &got))
            vsock_offer(&r, 1);
    }
    return sent;
}

/* Reads what is there; returns how many bytes have come in all. */
static uint32_t hear_pattern(uint32_t heard)
{
    uint8_t byte[512];
    ssize_t n;

    while ((n = recv(fd, byte, sizeof(byte), MSG_DONTWAIT)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            cr_assert_eq(byte[i], (uint8_t)((heard + (uint32_t)i) / 4096));
        heard += (uint32_t)n;
    }
    return heard;
}

static void hear_all(uint32_t sent)
{
    uint32_t heard = 0;

    while (heard < sent) {
        heard = hear_pattern(heard);
        virtio_rig_work(&r.rig);
    }
    cr_assert_eq(heard, sent);
}

/* The guest offers no buffers, whatever it is owed. */
static void use_up_buffers(void)
{
    struct vsock_got got;

    while (r.taken < r.offered) {
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST + 9, HOST, NULL, 0);
        while (vsock_receive_any(&r, &got))
            ;
    }
}

Test(vsock_end, a_guest_that_closes_is_answered_and_the_program_sees_the_end)
{
    open_out();
    send_text("bye");
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, RCV | SEND);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    vsock_hear(fd, "bye");
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
    vsock_expect_nothing(&r);
}

Test(vsock_end, a_guest_that_sends_no_more_can_still_receive)
{
    open_out();
    send_text("question");
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, SEND);
    vsock_hear(fd, "question");
    cr_assert(vsock_has_ended(fd));
    vsock_say(fd, "answer");
    expect_text("answer");
    fd_close(&fd);
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    cr_assert_eq(le32toh(got.h.flags), RCV | SEND);
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, GUEST, HOST, NULL, 0);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
    vsock_expect_nothing(&r);
}

Test(vsock_end, a_guest_that_receives_no_more_can_still_send)
{
    open_out();
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, RCV);
    cr_assert_eq(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    cr_assert_eq(errno, EPIPE);
    send_text("still here");
    vsock_hear(fd, "still here");
    vsock_expect_nothing(&r);
    fd_close(&fd);
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    cr_assert_eq(le32toh(got.h.flags), RCV | SEND);
}

Test(vsock_end, virtio_5_10_6_5_shutdown_hints_are_permanent)
{
    open_out();
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, SEND);
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, 0);
    vsock_expect_nothing(&r);
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, RCV);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
}

Test(vsock_end, a_program_that_closes_ends_with_its_last_byte)
{
    open_out();
    vsock_say(fd, "last words");
    fd_close(&fd);
    expect_text("last words");
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    cr_assert_eq(le32toh(got.h.flags), RCV | SEND);
    vsock_expect_nothing(&r);
    cr_assert_eq(vsock_rig_stats(&r).connections, 1); /* the guest has not answered */
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, GUEST, HOST, NULL, 0);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
    vsock_expect_nothing(&r);
}

Test(vsock_end, a_program_that_sends_no_more_can_still_read)
{
    open_out();
    vsock_say(fd, "question");
    cr_assert_eq(shutdown(fd, SHUT_WR), 0);
    expect_text("question");
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    cr_assert_eq(le32toh(got.h.flags), SEND);
    send_text("answer");
    vsock_hear(fd, "answer");
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, RCV | SEND);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock_end, a_program_that_reads_no_more_can_still_send)
{
    open_out();
    cr_assert_eq(shutdown(fd, SHUT_RD), 0);
    send_text("unheard");
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    cr_assert_eq(le32toh(got.h.flags), RCV);
    cr_assert_eq(le32toh(got.h.fwd_cnt), 7); /* nobody waits for it */
    send_text("again");
    vsock_say(fd, "but listen");
    expect_text("but listen");
    fd_close(&fd);
    got = vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    cr_assert_eq(le32toh(got.h.flags), RCV | SEND);
}

Test(vsock_end, both_close_at_once)
{
    open_out();
    fd_close(&fd);
    vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    send_text("crosses");
    vsock_send(&r, VIRTIO_VSOCK_OP_CREDIT_REQUEST, GUEST, HOST, NULL, 0);
    vsock_expect_nothing(&r);
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, RCV | SEND);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock_end, a_reset_by_the_guest_ends_the_connection)
{
    open_out();
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, GUEST, HOST, NULL, 0);
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
    vsock_expect_nothing(&r); /* a RST is never answered */
}

Test(vsock_end, what_the_guest_sent_before_it_closed_is_still_delivered)
{
    open_out();
    uint32_t sent = fill_up();
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, RCV | SEND);
    vsock_offer(&r, 4);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST); /* at once: the guest need not wait */
    cr_assert_eq(vsock_rig_stats(&r).connections, 1);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, "x", 1); /* for the guest it is over */
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    hear_all(sent);
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock_end, the_end_of_the_guests_data_waits_for_the_data)
{
    open_out();
    uint32_t sent = fill_up();
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, SEND);
    hear_all(sent);
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).connections, 1);
    cr_assert_not(conn()->wants_room); /* or every byte that is read would wake us */
}

Test(vsock_end, a_program_that_leaves_its_data_unread_ends_the_connection)
{
    open_out();
    uint32_t sent = fill_up();
    vsock_offer(&r, 4);
    fd_close(&fd);
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    cr_assert_eq(le32toh(got.h.flags), RCV | SEND);
    cr_assert_eq(le32toh(got.h.fwd_cnt), sent);
}

/* --- while a RST is owed --- */

Test(vsock_end, what_is_left_is_delivered_before_the_guest_takes_its_reset)
{
    open_out();
    uint32_t sent = fill_up();
    use_up_buffers();
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, RCV | SEND);
    hear_all(sent);
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).connections, 1);
    vsock_offer(&r, 1);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock_end, a_program_may_leave_before_the_guest_takes_its_reset)
{
    open_out();
    fill_up();
    use_up_buffers();
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, RCV | SEND);
    fd_close(&fd);
    virtio_rig_work(&r.rig);
    cr_assert_eq(vsock_rig_stats(&r).connections, 1);
    cr_assert_eq(conn()->in.len, 0);
    vsock_offer(&r, 1);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock_end, a_program_that_leaves_while_the_rest_waits_is_forgotten)
{
    open_out();
    fill_up();
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, GUEST, HOST, NULL, 0);
    cr_assert_eq(conn()->state, VSOCK_LINGERING);
    fd_close(&fd);
    virtio_rig_work(&r.rig);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock_end, a_slow_program_is_given_more_time_while_it_reads)
{
    const int small = 4096;

    open_out();
    cr_assert_eq(setsockopt(conn()->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    uint32_t sent = fill_up();
    while (conn()->in.len < 10 * 4096) { /* several times what the kernel takes at once */
        uint8_t data[4096];
        memset(data, (int)(sent / sizeof(data)), sizeof(data));
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, sizeof(data));
        sent += sizeof(data);
    }
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, GUEST, HOST, NULL, 0);
    cr_assert_eq(conn()->state, VSOCK_LINGERING);
    uint64_t before = conn()->deadline;
    uint32_t heard = hear_pattern(0);
    virtio_rig_work(&r.rig);
    cr_assert_eq(conn()->state, VSOCK_LINGERING);
    cr_assert_gt(conn()->deadline, before);
    while (heard < sent) {
        heard = hear_pattern(heard);
        virtio_rig_work(&r.rig);
    }
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}

Test(vsock_end, a_program_that_cannot_hear_that_it_is_welcome_is_reset)
{
    vsock_offer(&r, 4);
    fd = vsock_call(&r);
    vsock_say(fd, "CONNECT 52\n");
    cr_assert_eq(shutdown(fd, SHUT_RD), 0);
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
    vsock_send(&r, VIRTIO_VSOCK_OP_RESPONSE, 52, le32toh(got.h.src_port), NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(vsock_rig_stats(&r).opened, 0);
    cr_assert_eq(vsock_rig_stats(&r).connections, 0);
}
