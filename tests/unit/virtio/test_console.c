#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/chr/stream.h"
#include "hv/virtio/console.h"
#include "support/tmp.h"
#include "support/virtio_rig.h"

#define QUEUES 6
#define RX0 0
#define TX0 1
#define TO_DRIVER 2
#define FROM_DRIVER 3
#define RX1 4
#define TX1 5
#define FAR_RINGS 0x70000 /* those that the rig does not place */
#define FAR_STRIDE 0x18000
#define DATA 0xc0000 /* each queue has 64 KiB at 0x8000 bytes' distance, in turn */
#define BUFFER 0x100 /* bytes from one buffer of a queue to the next */
#define OUTSIDE 0x40000000
#define ALL UINT64_MAX
#define MULTIPORT VIRTIO_FEATURE(VIRTIO_CONSOLE_F_MULTIPORT)
#define BIG (4 * CHR_OUTPUT_MAX)

static struct virtio_rig rig;
static struct ring far_rings[QUEUES]; /* from queue 3 on */
static struct chr *chr[2];
static int in[2][2], out[2][2]; /* pipes: the back ends have in[i][0] and out[i][1] */
static uint8_t big[BIG], got[BIG];
static unsigned fds_before;

static struct ring *ring(unsigned queue)
{
    return queue < VIRTIO_RIG_QUEUES ? &rig.rings[queue] : &far_rings[queue];
}

static void create(unsigned stall_ms)
{
    const struct virtio_console_port ports[] = {{chr[0], NULL, stall_ms}, {chr[1], "agent", 0}};
    const struct virtio_console_setup setup = {
        .mem = &rig.mem, .loop = rig.loop, .ports = ports, .port_count = 2, .cols = 80, .rows = 25};
    struct virtio_dev *v = NULL;

    cr_assert_eq(virtio_console_create("console", &setup, &v), 0);
    virtio_rig_take(&rig, v);
}

static void setup(void)
{
    signal(SIGPIPE, SIG_IGN);
    fds_before = count_open_fds();
    virtio_rig_init(&rig);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(pipe2(in[i], O_CLOEXEC), 0);
        cr_assert_eq(pipe2(out[i], O_CLOEXEC), 0);
        cr_assert_eq(chr_fds_create(rig.loop, in[i][0], out[i][1], NULL, NULL, &chr[i]), 0);
    }
    for (size_t i = 0; i < BIG; i++)
        big[i] = (uint8_t)(i * 7 + i / 256);
    create(0);
}

static void teardown(void)
{
    virtio_destroy(rig.v);
    rig.v = NULL;
    for (unsigned i = 0; i < 2; i++) {
        fd_close(&out[i][0]); /* destroying a back end would wait for a reader */
        chr_destroy(chr[i]);
        fd_close(&out[i][1]);
        fd_close(&in[i][0]);
        fd_close(&in[i][1]);
    }
    virtio_rig_fini(&rig);
    cr_assert_eq(count_open_fds(), fds_before);
}

TestSuite(virtio_console, .init = setup, .fini = teardown, .timeout = 60);

/* --- the driver --- */

static void start(uint64_t features)
{
    virtio_rig_start_all(&rig, features, far_rings, QUEUES, FAR_RINGS, FAR_STRIDE);
}

static uint64_t data_of(unsigned queue)
{
    return DATA + queue * 0x8000U;
}

static void send(unsigned queue, const void *data, uint32_t len)
{
    const struct ring_buf buf = {data_of(queue), len, false};

    cr_assert_eq(mem_write(&rig.mem, buf.gpa, data, len), 0);
    ring_send(ring(queue), &buf, 1);
    virtio_rig_kick(&rig, queue);
}

/* Offers `count` buffers of `len` bytes to be filled. */
static void give(unsigned queue, unsigned count, uint32_t len)
{
    for (unsigned i = 0; i < count; i++) {
        uint16_t slot = ring(queue)->next_desc;
        struct ring_buf buf = {data_of(queue) + (uint64_t)slot * BUFFER, len, true};
        ring_send(ring(queue), &buf, 1);
    }
    virtio_rig_kick(&rig, queue);
}

/* The next used buffer: its bytes, or -1. */
static int take(unsigned queue, void *data, size_t size)
{
    struct vring_used_elem used;

    if (!ring_take_used(ring(queue), &used))
        return -1;
    cr_assert_leq(used.len, size);
    cr_assert_eq(mem_read(&rig.mem, data_of(queue) + used.id * BUFFER, data, used.len), 0);
    return (int)used.len;
}

static void say(uint32_t id, uint16_t event, uint16_t value)
{
    const struct virtio_console_control m = {htole32(id), htole16(event), htole16(value)};
    struct vring_used_elem used;

    send(FROM_DRIVER, &m, sizeof(m));
    cr_assert(ring_take_used(ring(FROM_DRIVER), &used));
}

/* The next message from the device is this one, with as many bytes behind it. */
static void hear(uint32_t id, uint16_t event, uint16_t value, const void *more, size_t size)
{
    uint8_t m[BUFFER];
    struct virtio_console_control head;

    cr_assert_eq(take(TO_DRIVER, m, sizeof(m)), (int)(sizeof(head) + size));
    memcpy(&head, m, sizeof(head));
    cr_assert_eq(le32toh(head.id), id);
    cr_assert_eq(le16toh(head.event), event);
    cr_assert_eq(le16toh(head.value), value);
    cr_assert_eq(memcmp(m + sizeof(head), more ? more : m, size), 0);
}

static void hear_nothing(void)
{
    uint8_t m[BUFFER];

    cr_assert_eq(take(TO_DRIVER, m, sizeof(m)), -1);
}

/* As Linux begins. */
static void start_ports(void)
{
    const uint16_t size[] = {htole16(80), htole16(25)};

    start(MULTIPORT);
    give(TO_DRIVER, 20, BUFFER);
    say(VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
    hear(0, VIRTIO_CONSOLE_PORT_ADD, 1, NULL, 0);
    hear(1, VIRTIO_CONSOLE_PORT_ADD, 1, NULL, 0);
    say(0, VIRTIO_CONSOLE_PORT_READY, 1);
    hear(0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL, 0);
    hear(0, VIRTIO_CONSOLE_RESIZE, 1, size, sizeof(size));
    hear(0, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
    say(0, VIRTIO_CONSOLE_PORT_OPEN, 1);
    say(1, VIRTIO_CONSOLE_PORT_READY, 1);
    hear(1, VIRTIO_CONSOLE_PORT_NAME, 1, "agent", 5);
    hear(1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
    say(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    hear_nothing();
}

static bool is_broken(void)
{
    return virtio_status(rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* --- the host --- */

static void type(unsigned port, const void *data, size_t len)
{
    cr_assert_eq(fd_write_full(in[port][1], data, len), 0);
    virtio_rig_work(&rig);
}

static size_t read_now(unsigned port, void *data, size_t len)
{
    struct pollfd p = {.fd = out[port][0], .events = POLLIN};

    if (poll(&p, 1, 0) <= 0)
        return 0;
    ssize_t n = read(out[port][0], data, len);
    cr_assert_gt(n, 0);
    return (size_t)n;
}

static void expect(unsigned port, const char *text)
{
    char found[256] = {0};

    cr_assert_eq(read_now(port, found, sizeof(found) - 1), strlen(text));
    cr_assert_str_eq(found, text);
}

static struct virtio_console_stats stats(void)
{
    struct virtio_console_stats s;

    memset(&s, 0xa5, sizeof(s));
    virtio_console_stats(rig.v, &s);
    return s;
}

/* --- configuration --- */

Test(virtio_console, virtio_5_3_2_has_queues_for_ports_and_two_for_control)
{
    cr_assert_eq(rig.v->queue_count, QUEUES);
    cr_assert_null(virtio_queue(rig.v, QUEUES));
}

Test(virtio_console, virtio_5_3_4_describes_screen_and_ports)
{
    struct virtio_console_config config;
    uint8_t bytes[8];

    memset(&config, 0xa5, sizeof(config));
    virtio_config_read(rig.v, 0, &config, sizeof(config));
    cr_assert_eq(config.cols, htole16(80));
    cr_assert_eq(config.rows, htole16(25));
    cr_assert_eq(config.max_nr_ports, htole32(2));
    cr_assert_eq(config.emerg_wr, 0);
    virtio_config_read(rig.v, UINT64_MAX - 3, bytes, 8);
    cr_assert_eq(memcmp(bytes, "\0\0\0\0\0\0\0\0", 8), 0);
}

Test(virtio_console, virtio_5_3_4_1_an_emergency_needs_no_driver)
{
    for (const char *s = "oops"; *s; s++) {
        uint32_t value = htole32(0x41424300U | (uint8_t)*s);
        virtio_config_write(rig.v, offsetof(struct virtio_console_config, emerg_wr), &value, 4);
    }
    expect(0, "oops");
    virtio_config_write(rig.v, 0, "abcdefgh", 8);
    virtio_config_write(rig.v, 9, "abc", 3);
    virtio_config_write(rig.v, UINT64_MAX, "a", 1);
    cr_assert_eq(read_now(0, got, 16), 0);
}

Test(virtio_console, emergencies_without_a_reader_are_dropped_and_counted)
{
    for (unsigned i = 0; i < 3 * CHR_OUTPUT_MAX; i++)
        virtio_config_write(rig.v, offsetof(struct virtio_console_config, emerg_wr), "x", 1);
    cr_assert_gt(stats().dropped, 0);
    cr_assert_eq(stats().dropped + stats().sent, 3 * CHR_OUTPUT_MAX);
}

/* --- one port --- */

Test(virtio_console, virtio_5_3_2_without_multiport_there_is_port_0)
{
    uint8_t text[BUFFER];

    start(VIRTIO_FEATURE(VIRTIO_CONSOLE_F_SIZE));
    cr_assert(virtio_console_is_open(rig.v, 0));
    send(TX0, "hello", 5);
    expect(0, "hello");
    cr_assert_eq(take(TX0, text, 0), 0);
    give(RX0, 2, 64);
    type(0, "world", 5);
    cr_assert_eq(take(RX0, text, sizeof(text)), 5);
    cr_assert_eq(memcmp(text, "world", 5), 0);
    cr_assert_geq(rig.used[RX0], 1);
}

Test(virtio_console, virtio_5_3_2_without_multiport_the_other_queues_are_dead)
{
    const struct virtio_console_control m = {0, VIRTIO_CONSOLE_DEVICE_READY, 1};
    struct vring_used_elem used;

    start(0);
    give(TO_DRIVER, 4, BUFFER);
    send(FROM_DRIVER, &m, sizeof(m));
    send(TX1, "hello", 5);
    cr_assert_not(ring_take_used(ring(FROM_DRIVER), &used));
    cr_assert_not(ring_take_used(ring(TX1), &used));
    cr_assert_eq(virtio_console_resize(rig.v, 0, 1, 1), 0);
    virtio_rig_work(&rig);
    hear_nothing();
    cr_assert_eq(read_now(1, got, 16), 0);
    cr_assert_not(is_broken());
}

Test(virtio_console, a_chain_of_several_buffers_is_one_text)
{
    const struct ring_buf bufs[] = {
        {DATA, 3, false}, {DATA + 0x100, 0, false}, {DATA + 0x200, 4, false}};
    struct vring_used_elem used;

    start(0);
    cr_assert_eq(mem_write(&rig.mem, DATA, "abc", 3), 0);
    cr_assert_eq(mem_write(&rig.mem, DATA + 0x200, "defg", 4), 0);
    ring_send(ring(TX0), bufs, 3);
    virtio_rig_kick(&rig, TX0);
    expect(0, "abcdefg");
    cr_assert(ring_take_used(ring(TX0), &used));
    cr_assert_eq(used.len, 0);
    send(TX0, "", 0);
    cr_assert(ring_take_used(ring(TX0), &used));
    cr_assert_not(is_broken());
}

/* --- input --- */

Test(virtio_console, input_waits_for_buffers_and_keeps_its_order)
{
    uint8_t bytes[BUFFER];
    size_t typed = 0, came = 0;

    start(0);
    cr_assert_eq(fd_set_nonblock(in[0][1]), 0);
    for (;;) { /* until the pipe is full: nobody reads without bound */
        ssize_t n = write(in[0][1], big + typed, 1000);
        virtio_rig_work(&rig);
        if (n < 0 && typed > 0 && write(in[0][1], big + typed, 1) < 0)
            break;
        typed += n > 0 ? (size_t)n : 1;
    }
    cr_assert_lt(typed, 200000);
    while (came < typed) {
        give(RX0, 1, 100);
        int n = take(RX0, bytes, sizeof(bytes));
        cr_assert_gt(n, 0);
        cr_assert_arr_eq(bytes, big + came, (size_t)n);
        came += (size_t)n;
    }
    cr_assert_eq(came, typed);
    cr_assert_eq(stats().received, typed);
}

Test(virtio_console, input_waits_until_the_guest_opens_the_port)
{
    uint8_t text[BUFFER];

    start_ports();
    say(1, VIRTIO_CONSOLE_PORT_OPEN, 0);
    cr_assert_not(virtio_console_is_open(rig.v, 1));
    give(RX1, 2, 64);
    type(1, "early", 5);
    cr_assert_eq(take(RX1, text, sizeof(text)), -1);
    say(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    virtio_rig_work(&rig);
    cr_assert_eq(take(RX1, text, sizeof(text)), 5);
    cr_assert_eq(memcmp(text, "early", 5), 0);
}

Test(virtio_console, input_is_split_over_small_buffers)
{
    uint8_t text[BUFFER];

    start(VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX));
    give(RX0, 3, 4);
    type(0, "0123456789", 10);
    cr_assert_eq(take(RX0, text, sizeof(text)), 4);
    cr_assert_eq(take(RX0, text, sizeof(text)), 4);
    cr_assert_eq(take(RX0, text, sizeof(text)), 2);
    cr_assert_eq(memcmp(text, "89", 2), 0);
    cr_assert_eq(take(RX0, text, sizeof(text)), -1);
}

Test(virtio_console, a_broken_queue_of_one_port_is_a_device_that_needs_a_reset)
{
    const struct ring_buf readable = {DATA, 16, false};

    start(0);
    type(0, "x", 1);
    ring_send(ring(RX0), &readable, 1);
    virtio_rig_kick(&rig, RX0);
    cr_assert(is_broken());
}

Test(virtio_console, a_buffer_without_room_breaks_the_rules)
{
    const struct ring_buf empty = {DATA, 0, true};

    start(0);
    type(0, "x", 1);
    ring_send(ring(RX0), &empty, 1);
    virtio_rig_kick(&rig, RX0);
    cr_assert(is_broken());
}

/* --- output --- */

Test(virtio_console, virtio_5_3_6_1_a_transmit_queue_has_nothing_to_write)
{
    const struct ring_buf bufs[] = {{DATA, 1, false}, {DATA + 0x100, 1, true}};

    start(0);
    ring_send(ring(TX0), bufs, 2);
    virtio_rig_kick(&rig, TX0);
    cr_assert(is_broken());
    cr_assert_eq(read_now(0, got, 16), 0);
}

/* Offers 256 KiB in eight chains, the same 32 KiB each time. */
static void send_big(unsigned queue)
{
    for (size_t i = 0; i < 8; i++) {
        struct ring_buf buf = {data_of(0), 0x8000, false};
        ring_send(ring(queue), &buf, 1);
    }
    cr_assert_eq(mem_write(&rig.mem, data_of(0), big, 0x8000), 0);
    virtio_rig_kick(&rig, queue);
}

/* Reads what send_big() sent, to its end, and checks it from byte `from` of it on. */
static void expect_big(unsigned port, size_t from)
{
    while (from < 8 * 0x8000) {
        size_t n = read_now(port, got, 3000);
        for (size_t i = 0; i < n; i++)
            cr_assert_eq(got[i], big[(from + i) % 0x8000], "byte %zu", from + i);
        from += n;
        virtio_rig_work(&rig);
    }
    cr_assert_eq(read_now(port, got, 1), 0);
}

static unsigned used_count(unsigned queue)
{
    struct vring_used_elem used;
    unsigned n = 0;

    while (ring_take_used(ring(queue), &used))
        n++;
    return n;
}

Test(virtio_console, a_full_back_end_holds_the_queue_and_loses_nothing)
{
    start_ports();
    send_big(TX1);
    unsigned before = used_count(TX1);
    cr_assert_lt(before, 8);
    send(TX0, "meanwhile", 9); /* the other port goes on */
    expect(0, "meanwhile");
    expect_big(1, 0);
    cr_assert_eq(before + used_count(TX1), 8);
    cr_assert_eq(stats().dropped, 0);
}

Test(virtio_console, what_is_held_survives_a_stop)
{
    start_ports();
    send_big(TX1);
    virtio_stop(rig.v);
    size_t n = 0, more;
    while ((more = read_now(1, got + n, 4096)) > 0) {
        n += more;
        virtio_rig_work(&rig);
    }
    cr_assert_lt(n, 8 * 0x8000);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(got[i], big[i % 0x8000]);
    virtio_go_on(rig.v);
    virtio_rig_work(&rig);
    expect_big(1, n);
}

Test(virtio_console, what_is_held_is_forgotten_by_a_reset)
{
    start_ports();
    send_big(TX1);
    virtio_set_status(rig.v, 0);
    while (read_now(1, got, sizeof(got)) > 0)
        virtio_rig_work(&rig);
    start_ports();
    send(TX1, "afresh", 6);
    expect(1, "afresh");
}

Test(virtio_console, a_chain_that_shrinks_while_it_is_held_is_done)
{
    start_ports();
    send_big(TX1);
    for (uint16_t i = 0; i < 8; i++)
        ring_desc(ring(TX1), ring(TX1)->at.desc, i,
                  (struct vring_desc){.addr = data_of(0), .len = 1});
    while (read_now(1, got, sizeof(got)) > 0)
        virtio_rig_work(&rig);
    cr_assert_eq(used_count(TX1), 8);
    cr_assert_not(is_broken());
}

Test(virtio_console, a_console_does_not_wait_for_ever)
{
    virtio_destroy(rig.v);
    rig.v = NULL;
    create(1);
    start(0);
    send_big(TX0);
    while (used_count(TX0) == 0 || stats().dropped == 0)
        cr_assert_eq(loop_run_once(rig.loop, -1), 0);
    virtio_rig_work(&rig);
    uint64_t dropped = stats().dropped;
    send(TX0, "lost", 4); /* at once now */
    cr_assert_eq(stats().dropped, dropped + 4);
    while (read_now(0, got, sizeof(got)) > 0)
        virtio_rig_work(&rig);
    send(TX0, "and back", 8);
    expect(0, "and back");
    cr_assert_eq(stats().dropped, dropped + 4);
    cr_assert_eq(stats().dropped, dropped + 4);
}

Test(virtio_console, nobody_at_the_host_means_nothing_to_wait_for)
{
    uint8_t text[BUFFER];

    start_ports();
    send_big(TX1);
    unsigned before = used_count(TX1);
    cr_assert_eq(virtio_console_set_open(rig.v, 1, false), 0);
    virtio_rig_work(&rig);
    cr_assert_eq(before + used_count(TX1), 8);
    cr_assert_gt(stats().dropped, 0);
    hear(1, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL, 0);
    give(RX1, 1, 16);
    type(1, "not yet", 7);
    cr_assert_eq(take(RX1, text, sizeof(text)), -1);
    cr_assert_eq(virtio_console_set_open(rig.v, 1, true), 0);
    virtio_rig_work(&rig);
    hear(1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
    cr_assert_eq(take(RX1, text, sizeof(text)), 7);
    cr_assert_eq(virtio_console_set_open(rig.v, 1, true), 0);
    virtio_rig_work(&rig);
    hear_nothing();
    cr_assert_eq(virtio_console_set_open(rig.v, 2, true), -ENOENT);
}

Test(virtio_console, a_back_end_that_ended_takes_everything)
{
    start_ports();
    fd_close(&out[1][0]);
    send_big(TX1);
    virtio_rig_work(&rig);
    cr_assert_eq(used_count(TX1), 8);
}

Test(virtio_console, a_chain_of_megabytes_is_sent_in_parts)
{
    struct ring_buf bufs[32];
    struct vring_used_elem used;
    struct chr *null;
    const struct virtio_console_port port = {.chr = NULL};
    struct virtio_console_setup s = {
        .mem = &rig.mem, .loop = rig.loop, .ports = &port, .port_count = 1};

    virtio_destroy(rig.v);
    rig.v = NULL;
    cr_assert_eq(chr_null_create(&null), 0);
    s.ports = &(struct virtio_console_port){.chr = null};
    struct virtio_dev *v = NULL;
    cr_assert_eq(virtio_console_create("console", &s, &v), 0);
    virtio_rig_take(&rig, v);
    virtio_rig_start(&rig, 0);
    for (unsigned i = 0; i < 32; i++)
        bufs[i] = (struct ring_buf){0, VIRTIO_RIG_RAM, false};
    ring_send(ring(TX0), bufs, 32);
    virtio_kick(virtio_queue(rig.v, TX0));
    cr_assert_eq(loop_run_once(rig.loop, 0), 0);
    cr_assert_leq(stats().sent, 65536);
    unsigned rounds = 1;
    for (; !ring_take_used(ring(TX0), &used); rounds++)
        cr_assert_eq(loop_run_once(rig.loop, 0), 0);
    cr_assert_geq(rounds, 32 * VIRTIO_RIG_RAM / 65536);
    cr_assert_eq(stats().sent, 32 * VIRTIO_RIG_RAM);
    virtio_destroy(rig.v);
    rig.v = NULL;
    chr_destroy(null);
}

/* --- ports --- */

Test(virtio_console, virtio_5_3_5_ports_are_announced_and_described)
{
    start_ports();
    cr_assert(virtio_console_is_open(rig.v, 0));
    cr_assert(virtio_console_is_open(rig.v, 1));
    cr_assert_not(virtio_console_is_open(rig.v, 2));
    send(TX1, "from 1", 6);
    expect(1, "from 1");
    cr_assert_eq(read_now(0, got, 16), 0);
}

Test(virtio_console, virtio_5_3_6_2_1_a_port_is_added_once)
{
    start_ports();
    say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
    hear_nothing();
    say(0, VIRTIO_CONSOLE_DEVICE_READY, 0);
    hear_nothing();
    cr_assert_eq(stats().ignored, 0);
}

Test(virtio_console, messages_wait_for_buffers)
{
    start(MULTIPORT);
    say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
    hear_nothing();
    give(TO_DRIVER, 1, BUFFER);
    hear(0, VIRTIO_CONSOLE_PORT_ADD, 1, NULL, 0);
    hear_nothing();
    for (unsigned i = 0; i < 1000; i++) /* costs nothing */
        cr_assert_eq(virtio_console_resize(rig.v, 0, (uint16_t)i, 1), 0);
    say(0, VIRTIO_CONSOLE_PORT_READY, 1);
    give(TO_DRIVER, 3, BUFFER);
    hear(0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL, 0);
    hear(0, VIRTIO_CONSOLE_RESIZE, 1, "\xe7\3\1\0", 4);
    hear(0, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
    give(TO_DRIVER, 2, BUFFER);
    hear(1, VIRTIO_CONSOLE_PORT_ADD, 1, NULL, 0);
    hear_nothing();
}

Test(virtio_console, virtio_5_3_6_2_a_resize_reaches_configuration_and_driver)
{
    struct virtio_console_config config;

    start_ports();
    uint32_t generation = rig.v->generation;
    unsigned interrupts = rig.config;
    cr_assert_eq(virtio_console_resize(rig.v, 0, 132, 43), 0);
    virtio_rig_work(&rig);
    cr_assert_neq(rig.v->generation, generation);
    cr_assert_eq(rig.config, interrupts + 1);
    virtio_config_read(rig.v, 0, &config, sizeof(config));
    cr_assert_eq(config.cols, htole16(132));
    cr_assert_eq(config.rows, htole16(43));
    hear(0, VIRTIO_CONSOLE_RESIZE, 1, "\x84\0\x2b\0", 4);
    cr_assert_eq(virtio_console_resize(rig.v, 1, 10, 20), 0);
    virtio_rig_work(&rig);
    cr_assert_eq(rig.config, interrupts + 1);
    hear(1, VIRTIO_CONSOLE_RESIZE, 1, "\x0a\0\x14\0", 4);
    cr_assert_eq(virtio_console_resize(rig.v, 2, 1, 1), -ENOENT);
}

Test(virtio_console, messages_that_make_no_sense_are_counted)
{
    const struct ring_buf writable = {data_of(FROM_DRIVER), 64, true};

    start(MULTIPORT);
    give(TO_DRIVER, 10, BUFFER);
    say(0, VIRTIO_CONSOLE_PORT_READY, 1); /* it was not added yet */
    say(0, VIRTIO_CONSOLE_PORT_OPEN, 1);
    cr_assert_not(virtio_console_is_open(rig.v, 0));
    say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
    say(2, VIRTIO_CONSOLE_PORT_READY, 1);
    say(UINT32_MAX, VIRTIO_CONSOLE_PORT_OPEN, 1);
    say(0x80000000, VIRTIO_CONSOLE_PORT_OPEN, 1);
    say(0, VIRTIO_CONSOLE_PORT_NAME, 1);
    say(0, VIRTIO_CONSOLE_PORT_REMOVE, 1);
    say(0, UINT16_MAX, 1);
    send(FROM_DRIVER, "1234567", 7);
    send(FROM_DRIVER, "", 0);
    ring_send(ring(FROM_DRIVER), &writable, 1);
    virtio_rig_kick(&rig, FROM_DRIVER);
    cr_assert_eq(stats().ignored, 11);
    cr_assert_not(is_broken());
    hear(0, VIRTIO_CONSOLE_PORT_ADD, 1, NULL, 0);
    hear(1, VIRTIO_CONSOLE_PORT_ADD, 1, NULL, 0);
    hear_nothing();
}

Test(virtio_console, a_control_buffer_that_holds_no_message_breaks_the_rules)
{
    start(MULTIPORT);
    give(TO_DRIVER, 1, 9);
    say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
    virtio_rig_work(&rig);
    cr_assert(is_broken());
}

Test(virtio_console, ready_without_end_costs_nothing)
{
    start_ports();
    for (unsigned i = 0; i < 1000; i++)
        say(0, VIRTIO_CONSOLE_PORT_READY, 1);
    unsigned n = used_count(TO_DRIVER);
    cr_assert_leq(n, 20);
    for (unsigned i = 0; i < 30; i++)
        give(TO_DRIVER, 1, BUFFER);
    cr_assert_leq(n + used_count(TO_DRIVER), 30);
    cr_assert_not(is_broken());
}

/* --- hostile rings --- */

static void outside_ram(struct ring *r)
{
    const struct ring_buf buf = {OUTSIDE, 16, false};

    ring_send(r, &buf, 1);
}

static void beyond_the_end_of_ram(struct ring *r)
{
    const struct ring_buf buf = {VIRTIO_RIG_RAM - 8, 16, false};

    ring_send(r, &buf, 1);
}

static void wrapping(struct ring *r)
{
    const struct ring_buf buf = {UINT64_MAX - 7, 16, true};

    ring_send(r, &buf, 1);
}

static void a_head_too_large(struct ring *r)
{
    ring_offer(r, 64);
}

static void a_next_too_large(struct ring *r)
{
    ring_desc(r, r->at.desc, 0, (struct vring_desc){DATA, 1, VRING_DESC_F_NEXT, 64});
    ring_offer(r, 0);
}

static void a_loop(struct ring *r)
{
    ring_desc(r, r->at.desc, 0, (struct vring_desc){DATA, 1, VRING_DESC_F_NEXT, 0});
    ring_offer(r, 0);
}

static void an_index_ahead(struct ring *r)
{
    ring_set_avail_idx(r, (uint16_t)(r->avail_idx + 65));
}

static void an_indirect_table_of_no_size(struct ring *r)
{
    ring_desc(r, r->at.desc, 0, (struct vring_desc){DATA, 0, VRING_DESC_F_INDIRECT, 0});
    ring_offer(r, 0);
}

static void an_indirect_table_outside(struct ring *r)
{
    ring_desc(r, r->at.desc, 0, (struct vring_desc){OUTSIDE, 16, VRING_DESC_F_INDIRECT, 0});
    ring_offer(r, 0);
}

Test(virtio_console, a_hostile_ring_breaks_its_device_until_the_reset)
{
    void (*const attacks[])(struct ring *) = {outside_ram,
                                              beyond_the_end_of_ram,
                                              wrapping,
                                              a_head_too_large,
                                              a_next_too_large,
                                              a_loop,
                                              an_index_ahead,
                                              an_indirect_table_of_no_size,
                                              an_indirect_table_outside};

    for (unsigned a = 0; a < ARRAY_LEN(attacks); a++) {
        for (unsigned queue = 0; queue < QUEUES; queue++) {
            start_ports();
            (void)used_count(TO_DRIVER);
            if (queue == TO_DRIVER) /* of these it has enough, else */
                start(MULTIPORT);
            attacks[a](ring(queue));
            virtio_rig_kick(&rig, queue);
            if (queue == TO_DRIVER)
                say(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
            if (queue == RX0 || queue == RX1)
                type(queue == RX1, "x", 1);
            virtio_rig_work(&rig);
            cr_assert(is_broken(), "attack %u on queue %u", a, queue);
        }
    }
    start_ports();
    send(TX1, "alive", 5);
    expect(1, "alive");
}

Test(virtio_console, kicks_for_nobody_are_harmless)
{
    for (unsigned q = 0; q < QUEUES; q++)
        virtio_rig_kick(&rig, q);
    virtio_rig_start(&rig, MULTIPORT); /* queues 3 to 5 are not enabled */
    for (unsigned q = 0; q < QUEUES; q++)
        virtio_rig_kick(&rig, q);
    cr_assert_eq(virtio_console_resize(rig.v, 1, 1, 1), 0);
    virtio_rig_work(&rig);
    cr_assert_not(is_broken());
}

/* --- state --- */

static struct codec_writer saved;

static void save(void)
{
    codec_writer_init(&saved);
    codec_begin(&saved, "console", 1);
    virtio_save(rig.v, &saved);
    cr_assert_eq(codec_end(&saved), 0);
}

static int load(const uint8_t *data, size_t size)
{
    struct codec_reader r;
    uint32_t version;

    codec_reader_init(&r, data, size);
    cr_assert_eq(codec_enter(&r, "console", &version), 0);
    return virtio_load(rig.v, &r);
}

/* A second device takes the place of the first, with its state and its back ends. */
static void move(void)
{
    struct codec_writer first;

    virtio_stop(rig.v);
    save();
    first = saved;
    virtio_destroy(rig.v);
    create(0);
    cr_assert_eq(load(first.data, first.size), 0);
    save();
    cr_assert_eq(saved.size, first.size);
    cr_assert_arr_eq(saved.data, first.data, first.size);
    codec_writer_fini(&saved);
    codec_writer_fini(&first);
    virtio_rig_work(&rig);
}

Test(virtio_console, state_moves_to_another_device)
{
    uint8_t text[BUFFER];

    start_ports();
    type(1, "waits for a buffer", 18);
    send_big(TX1);
    say(0, VIRTIO_CONSOLE_PORT_OPEN, 0);
    cr_assert_eq(virtio_console_resize(rig.v, 0, 100, 50), 0);
    cr_assert_eq(virtio_console_set_open(rig.v, 0, false), 0);
    move();
    cr_assert_not(virtio_console_is_open(rig.v, 0));
    cr_assert(virtio_console_is_open(rig.v, 1));
    give(RX1, 1, 64);
    cr_assert_eq(take(RX1, text, sizeof(text)), 18);
    cr_assert_eq(memcmp(text, "waits for a buffer", 18), 0);
    expect_big(1, 0);
    hear(0, VIRTIO_CONSOLE_RESIZE, 1, "\x64\0\x32\0", 4);
    hear(0, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL, 0);
}

Test(virtio_console, state_of_a_fresh_device_moves_too)
{
    move();
    start_ports();
    move();
    send(TX0, "here", 4);
    expect(0, "here");
}

/* The same state with one byte of its body changed, and a right checksum. */
static int load_spoilt(const struct codec_writer *good, size_t at, uint8_t value)
{
    const size_t head = 16 + strlen("console");
    struct codec_writer w;

    codec_writer_init(&w);
    codec_begin(&w, "console", 1);
    codec_put_bytes(&w, good->data + head, at);
    codec_put_u8(&w, value);
    codec_put_bytes(&w, good->data + head + at + 1, good->size - head - 4 - at - 1);
    cr_assert_eq(codec_end(&w), 0);
    int rc = load(w.data, w.size);
    codec_writer_fini(&w);
    return rc;
}

Test(virtio_console, a_spoilt_state_is_refused_or_loads_as_another)
{
    start_ports();
    type(1, "input", 5);
    virtio_stop(rig.v);
    save();
    struct codec_writer good = saved;
    size_t body = good.size - (16 + strlen("console")) - 4;
    static const uint8_t values[] = {0, 1, 0x0f, 0x10, 0x40, 0x80, 0xff};

    for (size_t at = 0; at < body; at++) {
        for (unsigned i = 0; i < ARRAY_LEN(values); i++) {
            int rc = load_spoilt(&good, at, values[i]);
            cr_assert(rc == 0 || rc == -EINVAL || rc == -ENODATA || rc == -EBADMSG, "%d", rc);
            virtio_stop(rig.v);
            save();
            if (rc < 0)
                cr_assert_arr_eq(saved.data, good.data, good.size, "byte %zu", at);
            codec_writer_fini(&saved);
            cr_assert_eq(load(good.data, good.size), 0);
            virtio_stop(rig.v);
        }
    }
    codec_writer_fini(&good);
}

/* --- life --- */

Test(virtio_console, names_are_checked)
{
    char name[VIRTIO_CONSOLE_NAME_MAX + 2];
    struct virtio_console_port ports[] = {{chr[0], "same", 0}, {chr[1], "same", 0}};
    struct virtio_console_setup s = {
        .mem = &rig.mem, .loop = rig.loop, .ports = ports, .port_count = 2};
    struct virtio_dev *v = rig.v;

    cr_assert_eq(virtio_console_create("console", &s, &v), -EINVAL);
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    ports[1].name = name;
    cr_assert_eq(virtio_console_create("console", &s, &v), -EINVAL);
    cr_assert_eq(v, rig.v);
    name[VIRTIO_CONSOLE_NAME_MAX] = '\0';
    virtio_destroy(rig.v);
    cr_assert_eq(virtio_console_create("console", &s, &v), 0);
    virtio_rig_take(&rig, v);
}

Test(virtio_console, without_descriptors_nothing_is_left_behind)
{
    const struct virtio_console_port ports[] = {{chr[0], NULL, 0}, {chr[1], NULL, 0}};
    const struct virtio_console_setup s = {
        .mem = &rig.mem, .loop = rig.loop, .ports = ports, .port_count = 2};
    struct virtio_dev *v = NULL;
    struct rlimit old, few;

    virtio_destroy(rig.v);
    rig.v = NULL;
    unsigned before = count_open_fds();
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    int lowest = dup(0);
    cr_assert_geq(lowest, 0);
    (void)close(lowest);
    for (unsigned spare = 0; spare < QUEUES + 2; spare++) {
        few = old;
        few.rlim_cur = (rlim_t)lowest + spare;
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
        int rc = virtio_console_create("console", &s, &v);
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
        cr_assert_eq(rc, -EMFILE);
        cr_assert_null(v);
        cr_assert_eq(count_open_fds(), before);
    }
}

Test(virtio_console, a_back_end_survives_its_device)
{
    start_ports();
    send_big(TX1);
    virtio_destroy(rig.v);
    rig.v = NULL;
    type(1, "nobody there", 12);
    while (read_now(1, got, sizeof(got)) > 0)
        virtio_rig_work(&rig);
    create(0);
    start_ports();
    give(RX1, 1, 64);
    virtio_rig_work(&rig);
    cr_assert_eq(take(RX1, got, sizeof(got)), 12);
}
