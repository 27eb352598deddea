#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/virtio/net.h"
#include "support/virtio_rig.h"

#define RX 0
#define TX 1
#define CTRL 2
#define DATA 0x80000
#define BUFFER 0x1000 /* bytes from one receive buffer to the next */
#define HEADER sizeof(struct virtio_net_hdr_v1)
#define ALL UINT64_MAX
#define MRG VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF)

static const uint8_t MAC[6] = {0x52, 0x54, 0, 1, 2, 3};
static const uint8_t OTHER[6] = {0x52, 0x54, 0, 9, 9, 9};
static const uint8_t GROUP[6] = {0x01, 0x00, 0x5e, 1, 2, 3};
static const uint8_t EVERYBODY[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static struct virtio_rig rig;
static struct net *near_end, *far_end;

static void setup(void)
{
    virtio_rig_init(&rig);
}

static void teardown(void)
{
    virtio_rig_fini(&rig);
    net_destroy(near_end);
    net_destroy(far_end);
}

TestSuite(virtio_net, .init = setup, .fini = teardown, .timeout = 60);

static void start_limited(uint64_t features, uint64_t packets)
{
    struct virtio_dev *v = NULL;

    cr_assert_eq(net_pair_create(&near_end, &far_end), 0);
    const struct virtio_net_pair pair = {.net = near_end, .loop = rig.loop};
    struct virtio_net_setup s = {
        .mem = &rig.mem, .pairs = &pair, .pair_count = 1, .limits.packets = packets};
    memcpy(s.mac, MAC, 6);
    cr_assert_eq(virtio_net_create("net", &s, &v), 0);
    virtio_rig_take(&rig, v);
    virtio_rig_start(&rig, features);
}

static void start(uint64_t features)
{
    start_limited(features, 0);
}

/* --- the other end of the wire: frames with a header, as the device and it have agreed --- */

static struct {
    struct virtio_net_hdr_v1 header;
    uint8_t bytes[70000];
} frame;

static void make(const uint8_t to[6], uint8_t byte)
{
    memset(&frame, 0, sizeof(frame.header));
    memset(frame.bytes, byte, sizeof(frame.bytes));
    memcpy(frame.bytes, to, 6);
}

static void wire_send(size_t size)
{
    struct iovec iov = {&frame, HEADER + size};

    cr_assert_eq(net_send(far_end, &iov, 1), (ssize_t)(HEADER + size));
}

static ssize_t wire_receive(void)
{
    struct iovec iov = {&frame, sizeof(frame)};

    return net_receive(far_end, &iov, 1);
}

/* --- the driver --- */

static void offer_buffers(unsigned count, uint32_t size)
{
    for (unsigned i = 0; i < count; i++) {
        struct ring_buf buf = {DATA + i * BUFFER, size, true};
        ring_send(&rig.rings[RX], &buf, 1);
    }
    virtio_rig_kick(&rig, RX);
}

static bool received(struct vring_used_elem *used)
{
    virtio_rig_work(&rig);
    return ring_take_used(&rig.rings[RX], used);
}

static const uint8_t *at(uint64_t gpa)
{
    return mem_ptr(&rig.mem, gpa, 1, false);
}

static void transmit(const struct virtio_net_hdr_v1 *header, uint32_t size)
{
    const struct ring_buf bufs[] = {{DATA, HEADER, false}, {DATA + 0x100, size, false}};
    struct vring_used_elem used;

    cr_assert_eq(mem_write(&rig.mem, DATA, header, HEADER), 0);
    ring_send(&rig.rings[TX], bufs, 2);
    virtio_rig_kick(&rig, TX);
    cr_assert(ring_take_used(&rig.rings[TX], &used)); /* always, whatever became of it */
}

static uint8_t command(uint8_t class, uint8_t number, const void *data, uint32_t size)
{
    const uint8_t head[] = {class, number, 0xaa};
    const struct ring_buf bufs[] = {
        {DATA, 2, false}, {DATA + 0x100, size, false}, {DATA + 2, 1, true}};
    struct vring_used_elem used;

    cr_assert_eq(mem_write(&rig.mem, DATA, head, 3), 0);
    cr_assert_eq(mem_write(&rig.mem, DATA + 0x100, data, size), 0);
    ring_send(&rig.rings[CTRL], bufs, 3);
    virtio_rig_kick(&rig, CTRL);
    cr_assert(ring_take_used(&rig.rings[CTRL], &used));
    return *at(DATA + 2);
}

static struct virtio_net_stats stats(void)
{
    struct virtio_net_stats s;

    virtio_net_stats(rig.v, &s);
    return s;
}

/* --- configuration --- */

Test(virtio_net, virtio_5_1_4_describes_the_interface)
{
    struct virtio_net_config config;

    start(ALL);
    virtio_config_read(rig.v, 0, &config, sizeof(config));
    cr_assert_eq(memcmp(config.mac, MAC, 6), 0);
    cr_assert_eq(config.status, VIRTIO_NET_S_LINK_UP);
    virtio_net_set_link(rig.v, false);
    cr_assert_eq(rig.config, 1);
    virtio_config_read(rig.v, 0, &config, sizeof(config));
    cr_assert_eq(config.status, 0);
    virtio_net_set_link(rig.v, false);
    cr_assert_eq(rig.config, 1);
}

/* --- receiving --- */

Test(virtio_net, a_frame_comes_with_its_header)
{
    struct vring_used_elem used;

    start(MRG);
    offer_buffers(4, 2048);
    make(MAC, 0x5a);
    wire_send(100);
    cr_assert(received(&used));
    cr_assert_eq(used.len, HEADER + 100);
    const struct virtio_net_hdr_v1 *header = (const void *)at(DATA);
    cr_assert_eq(header->num_buffers, 1);
    cr_assert_eq(header->gso_type, VIRTIO_NET_HDR_GSO_NONE);
    cr_assert_eq(memcmp(at(DATA + HEADER), MAC, 6), 0);
    cr_assert_eq(*at(DATA + HEADER + 99), 0x5a);
    cr_assert_eq(*at(DATA + HEADER + 100), 0);
    cr_assert_geq(rig.used[RX], 1);
}

Test(virtio_net, virtio_5_1_6_4_a_long_frame_takes_several_buffers)
{
    struct vring_used_elem used;

    start(ALL);
    offer_buffers(60, 1024);
    make(MAC, 0x77);
    wire_send(5000);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert(received(&used));
        cr_assert_eq(used.len, i < 4 ? 1024 : HEADER + 5000 - 4 * 1024);
    }
    cr_assert_not(received(&used));
    cr_assert_eq(((const struct virtio_net_hdr_v1 *)(const void *)at(DATA))->num_buffers, 5);
    cr_assert_eq(*at(DATA + 4 * BUFFER), 0x77);
    wire_send(60); /* the next one begins in the next buffer */
    cr_assert(received(&used));
    cr_assert_eq(*at(DATA + 5 * BUFFER + HEADER), MAC[0]);
}

Test(virtio_net, without_merging_a_frame_fits_one_buffer_or_is_dropped)
{
    struct vring_used_elem used;

    start(0);
    offer_buffers(2, 1024);
    make(MAC, 1);
    wire_send(1500);
    wire_send(500);
    cr_assert(received(&used));
    cr_assert_eq(used.len, HEADER + 500);
    cr_assert_eq(stats().dropped_in, 1);
}

Test(virtio_net, without_buffers_frames_wait_outside)
{
    struct vring_used_elem used;

    start(MRG);
    make(MAC, 1);
    for (unsigned i = 0; i < 10; i++)
        wire_send(100);
    cr_assert_not(received(&used));
    offer_buffers(20, 2048);
    for (unsigned i = 0; i < 10; i++)
        cr_assert(received(&used));
}

Test(virtio_net, frames_that_are_too_short_are_dropped)
{
    struct vring_used_elem used;

    start(MRG);
    offer_buffers(4, 2048);
    make(MAC, 1);
    wire_send(13);
    wire_send(0);
    wire_send(14);
    cr_assert(received(&used));
    cr_assert_eq(used.len, HEADER + 14);
    cr_assert_eq(stats().dropped_in, 2);
}

Test(virtio_net, a_buffer_too_small_for_a_header_breaks_the_rules)
{
    start(MRG);
    offer_buffers(1, HEADER - 1);
    cr_assert(virtio_status(rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

Test(virtio_net, many_frames_in_one_go)
{
    struct vring_used_elem used;
    unsigned got = 0;

    start(MRG);
    make(MAC, 1);
    for (unsigned round = 0; round < 50; round++) {
        offer_buffers(64, 2048);
        for (unsigned i = 0; i < 64; i++)
            wire_send(60 + i);
        while (received(&used))
            got++;
    }
    cr_assert_eq(got, 50 * 64);
}

/* --- transmitting --- */

Test(virtio_net, a_frame_goes_out)
{
    struct virtio_net_hdr_v1 header = {0};

    start(0);
    cr_assert_eq(mem_write(&rig.mem, DATA + 0x100, "0123456789abcdef", 16), 0);
    transmit(&header, 16);
    cr_assert_eq(wire_receive(), (ssize_t)HEADER + 16);
    cr_assert_eq(memcmp(frame.bytes, "0123456789abcdef", 16), 0);
    cr_assert_eq(stats().sent, 1);
}

Test(virtio_net, virtio_5_1_6_2_offloads_pass_through)
{
    struct virtio_net_hdr_v1 header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                       .hdr_len = 54,
                                       .gso_size = 1448,
                                       .csum_start = 34,
                                       .csum_offset = 16,
                                       .num_buffers = 77};

    start(ALL);
    transmit(&header, 3000);
    cr_assert_eq(wire_receive(), (ssize_t)HEADER + 3000);
    cr_assert_eq(frame.header.gso_size, 1448);
    cr_assert_eq(frame.header.csum_start, 34);
    cr_assert_eq(frame.header.num_buffers, 0);
}

Test(virtio_net, malformed_frames_are_dropped)
{
    const struct virtio_net_hdr_v1 bad[] = {
        {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .flags = 1, .gso_size = 0, .csum_start = 34},
        {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .flags = 0, .gso_size = 1448},
        {.gso_type = 0x7f},
        {.gso_type = VIRTIO_NET_HDR_GSO_UDP, .flags = 1, .gso_size = 100},
        {.flags = 1, .csum_start = 99, .csum_offset = 0},
        {.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff},
        {.hdr_len = 101},
    };
    const struct virtio_net_hdr_v1 good = {0};

    start(ALL);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        transmit(&bad[i], 100);
        cr_assert_eq(wire_receive(), -EAGAIN);
    }
    transmit(&good, 13);
    transmit(&good, 0x10000 + 100);
    cr_assert_eq(wire_receive(), -EAGAIN);
    cr_assert_eq(stats().dropped_out, ARRAY_LEN(bad) + 2);
    transmit(&good, 14);
    cr_assert_eq(wire_receive(), (ssize_t)HEADER + 14);
}

Test(virtio_net, offloads_that_were_not_negotiated_are_dropped)
{
    const struct virtio_net_hdr_v1 csum = {.flags = 1, .csum_start = 34, .csum_offset = 16};

    start(0);
    transmit(&csum, 100);
    cr_assert_eq(wire_receive(), -EAGAIN);
}

Test(virtio_net, a_chain_shorter_than_the_header_is_dropped)
{
    const struct ring_buf buf = {DATA, HEADER - 1, false};
    struct vring_used_elem used;

    start(0);
    ring_send(&rig.rings[TX], &buf, 1);
    virtio_rig_kick(&rig, TX);
    cr_assert(ring_take_used(&rig.rings[TX], &used));
    cr_assert_eq(stats().dropped_out, 1);
}

Test(virtio_net, a_wire_that_is_full_delays_and_loses_nothing)
{
    const struct virtio_net_hdr_v1 header = {0};
    const struct ring_buf bufs[] = {{DATA, HEADER, false}, {DATA + 0x100, 60000, false}};
    struct vring_used_elem used;
    unsigned sent = 0, came = 0;

    start(0);
    cr_assert_eq(mem_write(&rig.mem, DATA, &header, HEADER), 0);
    while (sent < 100) {
        ring_send(&rig.rings[TX], bufs, 2);
        sent++;
    }
    virtio_rig_kick(&rig, TX);
    unsigned used_count = 0;
    while (came < sent) {
        while (wire_receive() > 0)
            came++;
        virtio_rig_work(&rig);
        while (ring_take_used(&rig.rings[TX], &used))
            used_count++;
    }
    cr_assert_eq(used_count, sent);
    cr_assert_eq(stats().dropped_out, 0);
}

/* --- what the guest wants --- */

static bool comes(const uint8_t to[6])
{
    struct vring_used_elem used;

    make(to, 1);
    wire_send(60);
    return received(&used);
}

Test(virtio_net, frames_for_others_are_filtered)
{
    const uint8_t off = 0, on = 1;

    start(MRG);
    offer_buffers(30, 2048);
    cr_assert(comes(MAC));
    cr_assert(comes(EVERYBODY));
    cr_assert(comes(GROUP)); /* until the driver says otherwise */
    cr_assert_not(comes(OTHER));
    cr_assert_eq(stats().filtered, 1);
    cr_assert_eq(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &off, 1), VIRTIO_NET_OK);
    cr_assert_not(comes(GROUP));
    cr_assert(comes(EVERYBODY));
    cr_assert_eq(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), VIRTIO_NET_OK);
    cr_assert(comes(OTHER));
}

Test(virtio_net, virtio_5_1_6_5_2_tables_and_address)
{
    const uint8_t off = 0;
    struct {
        uint32_t unicast;
        uint8_t one[6];
        uint8_t multicast[4];
        uint8_t group[6];
    } __attribute__((packed)) tables = {.unicast = 1, .multicast = {1, 0, 0, 0}};

    memcpy(tables.one, OTHER, 6);
    memcpy(tables.group, GROUP, 6);
    start(MRG);
    offer_buffers(30, 2048);
    command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &off, 1);
    cr_assert_eq(
        command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, &tables, sizeof(tables)),
        VIRTIO_NET_OK);
    cr_assert(comes(OTHER));
    cr_assert(comes(GROUP));
    cr_assert_eq(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, OTHER, 6),
                 VIRTIO_NET_OK);
    cr_assert_not(comes(MAC));
    struct virtio_net_config config;
    virtio_config_read(rig.v, 0, &config, sizeof(config));
    cr_assert_eq(memcmp(config.mac, OTHER, 6), 0);
}

Test(virtio_net, malformed_commands_change_nothing)
{
    uint8_t lies[64] = {0xff, 0xff, 0xff, 0xff};
    const uint16_t pairs[] = {0, 2, 0xffff};

    start(MRG);
    offer_buffers(8, 2048);
    cr_assert_eq(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, lies, 64),
                 VIRTIO_NET_ERR);
    memset(lies, 0, 4);
    cr_assert_eq(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, lies, 7),
                 VIRTIO_NET_ERR);
    cr_assert_eq(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, MAC, 5),
                 VIRTIO_NET_ERR);
    cr_assert_eq(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, GROUP, 6),
                 VIRTIO_NET_ERR);
    cr_assert_eq(command(VIRTIO_NET_CTRL_RX, 99, lies, 1), VIRTIO_NET_ERR);
    cr_assert_eq(command(99, 0, lies, 1), VIRTIO_NET_ERR);
    for (unsigned i = 0; i < ARRAY_LEN(pairs); i++)
        cr_assert_eq(command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs[i], 2),
                     VIRTIO_NET_ERR);
    cr_assert(comes(MAC));
    cr_assert_not(comes(OTHER));
}

Test(virtio_net, a_command_of_one_byte_is_an_error)
{
    const struct ring_buf bufs[] = {{DATA, 1, false}, {DATA + 1, 1, true}};
    struct vring_used_elem used;

    start(0);
    ring_send(&rig.rings[CTRL], bufs, 2);
    virtio_rig_kick(&rig, CTRL);
    cr_assert(ring_take_used(&rig.rings[CTRL], &used));
    cr_assert_eq(*at(DATA + 1), VIRTIO_NET_ERR);
}

/* --- limits, stops, state --- */

Test(virtio_net, a_limit_delays_and_loses_nothing)
{
    struct vring_used_elem used;
    unsigned got = 0;
    uint64_t begin = now_ns();

    start_limited(MRG, 200); /* a burst of 20, then one in 5 ms */
    offer_buffers(40, 2048);
    make(MAC, 1);
    for (unsigned i = 0; i < 30; i++)
        wire_send(60);
    while (got < 30) {
        cr_assert_eq(loop_run_once(rig.loop, -1), 0);
        while (ring_take_used(&rig.rings[RX], &used))
            got++;
    }
    cr_assert_geq(now_ns() - begin, 45000000);
    cr_assert_gt(stats().waits, 0);
    cr_assert_eq(stats().received_bytes, 30 * 60);
}

Test(virtio_net, limits_are_told_as_they_were_set)
{
    const struct virtio_net_limits odd = {.packets = 7, .bytes = 1001};
    struct virtio_net_limits told = {1, 1};

    start_limited(MRG, 200);
    virtio_net_limits(rig.v, &told);
    cr_assert_eq(told.packets, 200);
    cr_assert_eq(told.bytes, 0);
    virtio_net_limit(rig.v, &odd);
    virtio_net_limits(rig.v, &told);
    cr_assert_eq(told.packets, 7);
    cr_assert_eq(told.bytes, 1001);
    cr_assert_eq(stats().waits, 0);
}

Test(virtio_net, a_stopped_device_holds_no_buffers_and_goes_on)
{
    struct vring_used_elem used;

    start(ALL);
    offer_buffers(40, 2048);
    make(MAC, 1);
    wire_send(60);
    cr_assert(received(&used));
    virtio_stop(rig.v);
    cr_assert_eq(virtio_queue(rig.v, RX)->vq.next_avail, 1); /* what it had looked ahead at */
    wire_send(60);
    cr_assert_not(received(&used));
    virtio_go_on(rig.v);
    cr_assert(received(&used));
}

Test(virtio_net, state_survives)
{
    struct codec_writer w;
    struct codec_reader r;
    struct vring_used_elem used;
    uint32_t version;
    const uint8_t on = 1;

    start(ALL);
    offer_buffers(40, 2048);
    command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1);
    virtio_stop(rig.v);
    codec_writer_init(&w);
    codec_begin(&w, "net", 1);
    virtio_save(rig.v, &w);
    cr_assert_eq(codec_end(&w), 0);
    virtio_set_status(rig.v, 0);
    cr_assert_not(received(&used));
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(codec_enter(&r, "net", &version), 0);
    cr_assert_eq(virtio_load(rig.v, &r), 0);
    codec_writer_fini(&w);
    cr_assert(comes(OTHER));
}
