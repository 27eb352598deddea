#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "support/vsock_rig.h"
#include "virtio/vsock_priv.h"

/* What outlives a connection: resets, pauses, saved state, limits, and time. */

#define GUEST 1024
#define HOST 5000
#define DATA 0xf0000
#define MS UINT64_C(1000000)

static struct vsock_rig r;
static int fd;

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

TestSuite(vsock_life, .init = setup, .fini = teardown, .timeout = 60);

static struct vsock *device(void)
{
    return container_of(r.rig.v, struct vsock, v);
}

static unsigned connections(void)
{
    return vsock_rig_stats(&r).connections;
}

static void open_out(void)
{
    vsock_offer(&r, 16);
    fd = vsock_connect_out(&r, GUEST, HOST);
}

/* --- reset --- */

Test(vsock_life, a_reset_closes_all_connections_and_says_nothing)
{
    uint32_t port;

    open_out();
    int other = vsock_connect_in(&r, 52, &port), asking = vsock_call(&r);
    vsock_say(asking, "CONNECT 53\n");
    vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
    virtio_set_status(r.rig.v, 0);
    virtio_rig_work(&r.rig);
    cr_assert_eq(connections(), 0);
    cr_assert(vsock_has_ended(fd));
    cr_assert(vsock_has_ended(other));
    cr_assert(vsock_has_ended(asking));
    vsock_rig_start(&r);
    vsock_offer(&r, 4);
    vsock_expect_nothing(&r);
    fd_close(&other);
    fd_close(&asking);
}

Test(vsock_life, ports_can_be_used_again_after_a_reset)
{
    open_out();
    vsock_rig_start(&r);
    fd_close(&fd);
    cr_assert_eq(unlink(tmp_path(&r.tmp, "v_5000")), 0);
    open_out();
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, "new", 3);
    vsock_hear(fd, "new");
}

Test(vsock_life, answers_that_are_owed_are_forgotten_with_a_reset)
{
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, NULL, 0); /* there is no receive buffer */
    cr_assert_eq(device()->reset_count, 1);
    vsock_rig_start(&r);
    vsock_offer(&r, 4);
    vsock_expect_nothing(&r);
}

/* A driver that comes up while the loop sleeps; its last word is not said. */
static void come_up(void)
{
    const uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

    virtio_set_status(r.rig.v, 0);
    virtio_set_status(r.rig.v, status);
    virtio_accept(r.rig.v, 1, 1U << (VIRTIO_F_VERSION_1 - 32));
    virtio_set_status(r.rig.v, status | VIRTIO_CONFIG_S_FEATURES_OK);
    for (unsigned i = 0; i < VSOCK_QUEUES; i++) {
        struct virtio_queue *q = virtio_queue(r.rig.v, i);
        uint64_t base = VIRTIO_RIG_RINGS + (uint64_t)i * VIRTIO_RIG_STRIDE;
        cr_assert_eq(mem_zero(&r.rig.mem, base, VIRTIO_RIG_STRIDE), 0);
        ring_init(&r.rig.rings[i], &r.rig.mem, base, q->vq.size_max);
        q->vq.at = r.rig.rings[i].at;
        virtio_enable_queue(q);
        cr_assert(q->vq.enabled);
    }
}

Test(vsock_life, a_driver_that_comes_at_once_finds_no_old_connections)
{
    const struct virtio_vsock_hdr h = vsock_make(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, 1);
    const struct ring_buf buf = {DATA, sizeof(h) + 1, false};

    open_out();
    virtio_kick(virtio_queue(r.rig.v, VSOCK_TX)); /* so it is served first */
    come_up();
    cr_assert_eq(connections(), 1); /* the loop has not run */
    cr_assert_eq(mem_write(&r.rig.mem, DATA, &h, sizeof(h)), 0);
    ring_send(&r.rig.rings[VSOCK_TX], &buf, 1);
    virtio_set_status(r.rig.v, virtio_status(r.rig.v) | VIRTIO_CONFIG_S_DRIVER_OK);
    r.offered = r.taken = 0;
    vsock_offer(&r, 4);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert(vsock_has_ended(fd)); /* without having heard anything */
}

Test(vsock_life, a_program_that_has_not_named_a_port_survives_a_reset)
{
    fd = vsock_call(&r);
    vsock_say(fd, "CONN");
    virtio_rig_work(&r.rig);
    vsock_rig_start(&r);
    cr_assert_eq(connections(), 1);
    vsock_say(fd, "ECT 52\n");
    vsock_offer(&r, 4);
    vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
}

Test(vsock_life, what_the_guest_sent_before_a_reset_is_still_delivered)
{
    static uint8_t data[4096];
    uint32_t sent = 0, heard = 0;
    struct vsock_got got;

    open_out();
    while (device()->conns[0].in.len == 0) { /* until the kernel takes no more */
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, sizeof(data));
        sent += sizeof(data);
        while (vsock_receive_any(&r, &got))
            vsock_offer(&r, 1);
    }
    virtio_set_status(r.rig.v, 0);
    virtio_rig_work(&r.rig);
    cr_assert_eq(connections(), 1);
    while (heard < sent) {
        ssize_t n = recv(fd, data, sizeof(data), MSG_DONTWAIT);
        cr_assert_gt(n, 0);
        heard += (uint32_t)n;
        virtio_rig_work(&r.rig);
    }
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(connections(), 0);
}

/* --- pause --- */

Test(vsock_life, while_paused_nothing_moves_and_nothing_is_lost)
{
    open_out();
    virtio_stop(r.rig.v);
    vsock_say(fd, "meanwhile");
    int other = vsock_call(&r);
    vsock_say(other, "CONNECT 52\n");
    vsock_expect_nothing(&r);
    virtio_go_on(r.rig.v);
    struct vsock_got got = vsock_expect(&r, VIRTIO_VSOCK_OP_RW);
    cr_assert_eq(memcmp(got.data, "meanwhile", 9), 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
    fd_close(&other);
}

Test(vsock_life, a_program_that_talks_to_a_paused_guest_does_not_spin)
{
    open_out();
    virtio_stop(r.rig.v);
    vsock_say(fd, "x");
    cr_assert_eq(shutdown(fd, SHUT_WR), 0);
    virtio_rig_work(&r.rig);
    uint64_t begin = now_ns();
    cr_assert_eq(loop_run_once(r.rig.loop, 20), 0);
    cr_assert_geq(now_ns() - begin, 15 * MS);
}

/* --- state --- */

static void save(struct virtio_dev *v, struct codec_writer *w)
{
    codec_writer_init(w);
    codec_begin(w, "vsock", 1);
    virtio_save(v, w);
    cr_assert_eq(codec_end(w), 0);
}

static int load(struct virtio_dev *v, const struct codec_writer *w)
{
    struct codec_reader reader;
    uint32_t version;

    codec_reader_init(&reader, w->data, w->size);
    cr_assert_eq(codec_enter(&reader, "vsock", &version), 0);
    return virtio_load(v, &reader);
}

static void offer_event_buffer(void)
{
    const struct ring_buf buf = {DATA, sizeof(struct virtio_vsock_event), true};

    ring_send(&r.rig.rings[VSOCK_EVENT], &buf, 1);
    virtio_rig_kick(&r.rig, VSOCK_EVENT);
}

static void expect_event(void)
{
    struct vring_used_elem used;
    uint32_t id;

    cr_assert(ring_take_used(&r.rig.rings[VSOCK_EVENT], &used));
    cr_assert_eq(used.len, sizeof(struct virtio_vsock_event));
    cr_assert_eq(mem_read_u32(&r.rig.mem, DATA, &id), 0);
    cr_assert_eq(id, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    cr_assert_not(ring_take_used(&r.rig.rings[VSOCK_EVENT], &used));
}

Test(vsock_life, virtio_5_10_6_7_a_restored_guest_is_told_that_its_connections_are_gone)
{
    struct codec_writer w;

    open_out();
    cr_assert_eq(mem_write_u32(&r.rig.mem, DATA, UINT32_MAX), 0);
    offer_event_buffer();
    save(r.rig.v, &w);
    cr_assert_eq(r.rig.used[VSOCK_EVENT], 0);
    cr_assert_eq(load(r.rig.v, &w), 0);
    virtio_rig_work(&r.rig);
    expect_event();
    cr_assert_eq(r.rig.used[VSOCK_EVENT], 1);
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(connections(), 0);
    vsock_expect_nothing(&r);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, "?", 1);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    codec_writer_fini(&w);
}

Test(vsock_life, the_event_waits_for_a_buffer)
{
    struct codec_writer w;

    open_out();
    save(r.rig.v, &w);
    cr_assert_eq(load(r.rig.v, &w), 0);
    virtio_rig_work(&r.rig);
    offer_event_buffer();
    expect_event();
    offer_event_buffer(); /* once is enough */
    struct vring_used_elem used;
    cr_assert_not(ring_take_used(&r.rig.rings[VSOCK_EVENT], &used));
    codec_writer_fini(&w);
}

Test(vsock_life, an_event_buffer_that_is_too_small_breaks_the_device)
{
    const struct ring_buf buf = {DATA, sizeof(struct virtio_vsock_event) - 1, true};
    struct codec_writer w;

    ring_send(&r.rig.rings[VSOCK_EVENT], &buf, 1);
    virtio_rig_kick(&r.rig, VSOCK_EVENT);
    save(r.rig.v, &w);
    cr_assert_eq(load(r.rig.v, &w), 0);
    virtio_rig_work(&r.rig);
    cr_assert(virtio_status(r.rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET);
    codec_writer_fini(&w);
}

Test(vsock_life, a_new_driver_is_not_told_of_old_connections)
{
    struct codec_writer w;
    struct vring_used_elem used;

    save(r.rig.v, &w);
    cr_assert_eq(load(r.rig.v, &w), 0);
    vsock_rig_start(&r);
    offer_event_buffer();
    cr_assert_not(ring_take_used(&r.rig.rings[VSOCK_EVENT], &used));
    codec_writer_fini(&w);
}

Test(vsock_life, state_goes_round_through_another_device)
{
    struct codec_writer first, second;
    struct virtio_dev *twin = NULL;
    char path[160];

    open_out();
    strcpy(path, tmp_path(&r.tmp, "twin"));
    struct virtio_vsock_setup setup = {
        .mem = &r.rig.mem, .loop = r.rig.loop, .cid = 1000, .path = path};
    cr_assert_eq(virtio_vsock_listen(path, &setup.listener, NULL), 0);
    cr_assert_eq(virtio_vsock_create("vsock", &setup, &twin), 0);
    save(r.rig.v, &first);
    cr_assert_eq(load(twin, &first), 0);
    save(twin, &second);
    cr_assert_eq(first.size, second.size);
    cr_assert_eq(memcmp(first.data, second.data, first.size), 0);
    virtio_destroy(twin);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, "unmoved", 7); /* who was saved lives on */
    vsock_hear(fd, "unmoved");
    codec_writer_fini(&first);
    codec_writer_fini(&second);
}

Test(vsock_life, a_damaged_state_changes_nothing)
{
    struct codec_writer w, longer;

    open_out();
    save(r.rig.v, &w);
    codec_writer_init(&longer);
    codec_begin(&longer, "vsock", 1);
    virtio_save(r.rig.v, &longer);
    codec_put_u8(&longer, 0);
    cr_assert_eq(codec_end(&longer), 0);
    cr_assert_eq(load(r.rig.v, &longer), -EBADMSG);
    virtio_rig_work(&r.rig);
    cr_assert_eq(connections(), 1);
    vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, "still", 5);
    vsock_hear(fd, "still");
    cr_assert_not(atomic_load(&device()->event_due));
    codec_writer_fini(&w);
    codec_writer_fini(&longer);
}

/* --- limits --- */

Test(vsock_life, connections_beyond_the_limit_are_refused_both_ways)
{
    int listener = vsock_serve_port(&r, HOST);

    for (uint32_t i = 0; i < VIRTIO_VSOCK_CONNECTIONS; i++) {
        vsock_offer(&r, 1);
        vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST + i, HOST, NULL, 0);
        vsock_expect(&r, VIRTIO_VSOCK_OP_RESPONSE);
    }
    cr_assert_eq(connections(), VIRTIO_VSOCK_CONNECTIONS);
    vsock_offer(&r, 8);
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, 1, HOST, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    fd = vsock_call(&r);
    virtio_rig_work(&r.rig);
    cr_assert(vsock_has_ended(fd));
    fd_close(&fd);
    cr_assert_eq(vsock_rig_stats(&r).refused, 2);
    vsock_send(&r, VIRTIO_VSOCK_OP_RST, GUEST + 7, HOST, NULL, 0); /* one goes, another may come */
    uint32_t port;
    fd = vsock_connect_in(&r, 52, &port);
    cr_assert_eq(connections(), VIRTIO_VSOCK_CONNECTIONS);
    fd_close(&listener);
}

static struct rlimit limit_descriptors(void)
{
    struct rlimit before, now;

    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    now = before;
    int next = dup(0);
    now.rlim_cur = (rlim_t)next; /* it would be the first one beyond */
    fd_close(&next);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &now), 0);
    return before;
}

Test(vsock_life, without_descriptors_callers_wait_and_the_loop_does_not_spin)
{
    vsock_offer(&r, 4);
    fd = vsock_call(&r);
    vsock_say(fd, "CONNECT 52\n");
    struct rlimit before = limit_descriptors();
    virtio_rig_work(&r.rig);
    uint64_t begin = now_ns();
    cr_assert_eq(loop_run_once(r.rig.loop, 20), 0);
    cr_assert_geq(now_ns() - begin, 15 * MS);
    cr_assert_eq(connections(), 0);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    while (connections() == 0)
        cr_assert_eq(loop_run_once(r.rig.loop, -1), 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
}

Test(vsock_life, without_descriptors_the_guest_is_refused)
{
    int listener = vsock_serve_port(&r, HOST);

    vsock_offer(&r, 4);
    struct rlimit before = limit_descriptors();
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RESPONSE);
    fd_close(&listener);
}

/* A descriptor that the loop believes to watch already: it will be the next one to be opened. */
static int squat_next_descriptor(void)
{
    int next = dup(fd);

    cr_assert_eq(loop_add(r.rig.loop, next, 0, NULL, NULL), 0);
    cr_assert_eq(close(next), 0);
    return next;
}

Test(vsock_life, a_socket_that_cannot_be_watched_is_refused)
{
    int listener = vsock_serve_port(&r, HOST + 1);

    open_out();
    int squatted = squat_next_descriptor();
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST + 1, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert_eq(connections(), 1);
    loop_remove(r.rig.loop, squatted);
    vsock_send(&r, VIRTIO_VSOCK_OP_REQUEST, GUEST, HOST + 1, NULL, 0);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RESPONSE);
    fd_close(&listener);
}

Test(vsock_life, one_wake_up_is_at_most_so_much_work)
{
    const struct virtio_vsock_hdr h = vsock_make(&r, VIRTIO_VSOCK_OP_RST, 1, 1, 0);
    const struct ring_buf out = {DATA, sizeof(h), false};
    const struct ring_buf in = {DATA + 0x100, sizeof(h) + 1, true};
    static const char data[250];

    vsock_offer(&r, 1);
    fd = vsock_connect_out(&r, GUEST, HOST);
    cr_assert_eq(mem_write(&r.rig.mem, DATA, &h, sizeof(h)), 0);
    for (unsigned i = 0; i < sizeof(data); i++) {
        ring_send(&r.rig.rings[VSOCK_TX], &out, 1);
        ring_send(&r.rig.rings[VSOCK_RX], &in, 1); /* a byte in each */
    }
    const struct vq *tx = &virtio_queue(r.rig.v, VSOCK_TX)->vq;
    uint16_t before = tx->next_used;
    virtio_kick(virtio_queue(r.rig.v, VSOCK_TX));
    cr_assert_eq(loop_run_once(r.rig.loop, 0), 0);
    cr_assert_eq((uint16_t)(tx->next_used - before), VSOCK_BUDGET);
    virtio_rig_work(&r.rig); /* and it goes on by itself */
    cr_assert_eq((uint16_t)(tx->next_used - before), sizeof(data));

    cr_assert_eq(send(fd, data, sizeof(data), 0), sizeof(data));
    while (device()->conns[0].sent == 0)
        cr_assert_eq(loop_run_once(r.rig.loop, -1), 0);
    cr_assert_eq(device()->conns[0].sent, VSOCK_BUDGET);
    virtio_rig_work(&r.rig);
    cr_assert_eq(device()->conns[0].sent, sizeof(data));
}

Test(vsock_life, ports_that_are_taken_are_not_chosen_again)
{
    uint32_t first, second;

    vsock_offer(&r, 4);
    fd = vsock_connect_in(&r, 52, &first);
    device()->next_port = VSOCK_PORT_LAST;
    int other = vsock_connect_in(&r, 52, &second);
    cr_assert_eq(second, VSOCK_PORT_LAST);
    int third = vsock_connect_in(&r, 52, &second); /* the first one again, but for who has it */
    cr_assert_eq(first, VSOCK_PORT_FIRST);
    cr_assert_eq(second, VSOCK_PORT_FIRST + 1);
    fd_close(&other);
    fd_close(&third);
}

Test(vsock_life, no_descriptor_is_left_behind)
{
    unsigned before = count_open_fds();
    uint32_t port;

    open_out();
    fd_close(&fd);
    vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    fd = vsock_connect_in(&r, 52, &port);
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, 52, port, VSOCK_SHUT_BOTH);
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    fd_close(&fd);
    cr_assert_eq(count_open_fds(), before);
}

/* --- time --- */

static void wait_until_gone(void)
{
    while (connections() > 0)
        cr_assert_eq(loop_run_once(r.rig.loop, -1), 0);
}

Test(vsock_life, a_program_that_never_names_a_port_is_hung_up_on)
{
    device()->patience[VSOCK_GREETING] = MS;
    fd = vsock_call(&r);
    while (!vsock_has_ended(fd))
        cr_assert_eq(loop_run_once(r.rig.loop, -1), 0);
    cr_assert_eq(connections(), 0);
}

Test(vsock_life, a_guest_that_never_answers_is_reset)
{
    device()->patience[VSOCK_ASKED] = MS;
    vsock_offer(&r, 4);
    fd = vsock_call(&r);
    vsock_say(fd, "CONNECT 52\n");
    vsock_expect(&r, VIRTIO_VSOCK_OP_REQUEST);
    wait_until_gone();
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
    cr_assert(vsock_has_ended(fd));
    cr_assert_eq(vsock_rig_stats(&r).refused, 1);
}

Test(vsock_life, a_guest_that_cannot_be_asked_is_not_waited_for)
{
    device()->patience[VSOCK_ASKED] = MS;
    fd = vsock_call(&r);
    vsock_say(fd, "CONNECT 52\n");
    while (!vsock_has_ended(fd))
        cr_assert_eq(loop_run_once(r.rig.loop, -1), 0);
    vsock_offer(&r, 4);
    vsock_expect_nothing(&r);
}

Test(vsock_life, a_guest_that_does_not_answer_a_shutdown_is_reset)
{
    device()->patience[VSOCK_CLOSING] = MS;
    open_out();
    fd_close(&fd);
    vsock_expect(&r, VIRTIO_VSOCK_OP_SHUTDOWN);
    wait_until_gone();
    vsock_expect(&r, VIRTIO_VSOCK_OP_RST);
}

Test(vsock_life, a_program_that_never_reads_what_is_left_is_not_waited_for)
{
    static const uint8_t data[4096];
    struct vsock_got got;

    device()->patience[VSOCK_LINGERING] = MS;
    open_out();
    while (device()->conns[0].in.len == 0) {
        vsock_send(&r, VIRTIO_VSOCK_OP_RW, GUEST, HOST, data, sizeof(data));
        while (vsock_receive_any(&r, &got))
            vsock_offer(&r, 1);
    }
    vsock_send_flags(&r, VIRTIO_VSOCK_OP_SHUTDOWN, GUEST, HOST, VSOCK_SHUT_BOTH);
    wait_until_gone();
}

Test(vsock_life, the_first_deadline_comes_first)
{
    device()->patience[VSOCK_GREETING] = 3600 * 1000 * MS;
    fd = vsock_call(&r);
    virtio_rig_work(&r.rig);
    device()->patience[VSOCK_GREETING] = MS;
    int second = vsock_call(&r);
    while (!vsock_has_ended(second))
        cr_assert_eq(loop_run_once(r.rig.loop, -1), 0);
    cr_assert_eq(connections(), 1);
    cr_assert_gt(device()->clock_at, now_ns() + 1000 * MS); /* and is set for the other */
    fd_close(&second);
}

Test(vsock_life, an_open_connection_may_be_silent_for_ever)
{
    open_out();
    cr_assert_eq(device()->conns[0].state, VSOCK_OPEN);
    cr_assert_eq(device()->conns[0].deadline, 0);
}
