#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "hv/base/codec.h"
#include "hv/base/num.h"
#include "hv/virtio/net.h"
#include "support/virtio_rig.h"

/* Several pairs of queues: which of them a driver uses, and what comes to the others. */

#define PAIRS 2U
#define QUEUES (2 * PAIRS + 1)
#define RX(pair) (2 * (pair))
#define TX(pair) (2 * (pair) + 1)
#define CTRL (2 * PAIRS)
#define CTRL_ALONE 2U /* where it is for a driver that knows of one pair */
#define DATA 0xa0000
#define DATA_STRIDE 0x4000 /* from one queue's buffers to the next one's */
#define FAR_RINGS 0xc0000  /* of the queues that the rig does not place */
#define FAR_STRIDE 0x18000
#define HEADER sizeof(struct virtio_net_hdr_v1)
#define MRG VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF)
#define MQ VIRTIO_FEATURE(VIRTIO_NET_F_MQ)

static const uint8_t MAC[6] = {0x52, 0x54, 0, 1, 2, 3};

static struct virtio_rig rig;
static struct ring far_rings[QUEUES];
static struct net *near_ends[PAIRS], *far_ends[PAIRS];

/* --- back ends that note what they are told --- */

static struct net_ops spying_ops;
static bool active[PAIRS];
static int failure; /* of what a back end is asked to do */

static int spy(struct net *n, bool on)
{
    unsigned pair = n == near_ends[1];

    cr_assert_eq(pair, 1, "the first queue always is active");
    if (failure < 0 && on)
        return failure;
    active[pair] = on;
    return 0;
}

static void make_wires(void)
{
    for (unsigned i = 0; i < PAIRS; i++) {
        cr_assert_eq(net_pair_create(&near_ends[i], &far_ends[i]), 0);
        active[i] = i == 0;
    }
    spying_ops = *near_ends[0]->ops;
    spying_ops.set_active = spy;
    for (unsigned i = 0; i < PAIRS; i++)
        near_ends[i]->ops = &spying_ops;
}

/* --- the rig --- */

static void setup(void)
{
    failure = 0;
    virtio_rig_init(&rig);
    make_wires();
}

static void teardown(void)
{
    virtio_rig_fini(&rig);
    for (unsigned i = 0; i < PAIRS; i++) {
        net_destroy(near_ends[i]);
        net_destroy(far_ends[i]);
    }
}

TestSuite(virtio_net_pairs, .init = setup, .fini = teardown, .timeout = 60);

static void create(unsigned pairs, uint64_t packets)
{
    struct virtio_dev *v = NULL;
    struct virtio_net_pair p[PAIRS];
    struct virtio_net_setup s = {
        .mem = &rig.mem, .pairs = p, .pair_count = pairs, .limits.packets = packets};

    for (unsigned i = 0; i < pairs; i++)
        p[i] = (struct virtio_net_pair){.net = near_ends[i], .loop = rig.loop};
    memcpy(s.mac, MAC, 6);
    cr_assert_eq(virtio_net_create("net", &s, &v), 0);
    virtio_rig_take(&rig, v);
}

static struct ring *ring_of(unsigned queue)
{
    return queue < VIRTIO_RIG_QUEUES ? &rig.rings[queue] : &far_rings[queue];
}

static void start(uint64_t features)
{
    virtio_rig_start_all(&rig, features, far_rings, QUEUES, FAR_RINGS, FAR_STRIDE);
}

static void start_with_pairs(void)
{
    create(PAIRS, 0);
    start(MRG | MQ);
}

/* --- the driver, and the other ends of the wires --- */

static uint64_t data_of(unsigned queue)
{
    return DATA + (uint64_t)queue * DATA_STRIDE;
}

static void offer_buffers(unsigned pair, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct ring_buf buf = {data_of(RX(pair)) + i * 0x100U, 0x100, true};
        ring_send(ring_of(RX(pair)), &buf, 1);
    }
    virtio_rig_kick(&rig, RX(pair));
}

static void wire_send(unsigned pair)
{
    struct {
        struct virtio_net_hdr_v1 header;
        uint8_t frame[60];
    } f = {0};
    const struct iovec iov = {&f, HEADER + sizeof(f.frame)};

    memcpy(f.frame, MAC, 6);
    cr_assert_eq(net_send(far_ends[pair], &iov, 1), (ssize_t)iov.iov_len);
}

static unsigned received(unsigned pair)
{
    struct vring_used_elem used;
    unsigned count = 0;

    virtio_rig_work(&rig);
    while (ring_take_used(ring_of(RX(pair)), &used))
        count++;
    return count;
}

/* Sends a frame through a pair; does it arrive? */
static bool transmits(unsigned pair)
{
    const struct ring_buf buf = {data_of(TX(pair)), HEADER + 60, false};
    struct vring_used_elem used;
    uint8_t bytes[256];
    const struct iovec iov = {bytes, sizeof(bytes)};

    ring_send(ring_of(TX(pair)), &buf, 1);
    virtio_rig_kick(&rig, TX(pair));
    cr_assert(ring_take_used(ring_of(TX(pair)), &used));
    return net_receive(far_ends[pair], &iov, 1) == (ssize_t)HEADER + 60;
}

/* The answer; 0xaa: there is none. */
static uint8_t command(unsigned queue, uint8_t class, uint8_t number, const void *data,
                       uint32_t size)
{
    const uint64_t at = data_of(4);
    const uint8_t head[] = {class, number, 0xaa};
    const struct ring_buf bufs[] = {{at, 2, false}, {at + 0x100, size, false}, {at + 2, 1, true}};
    struct vring_used_elem used;
    uint8_t ack;

    cr_assert_eq(mem_write(&rig.mem, at, head, sizeof(head)), 0);
    cr_assert_eq(mem_write(&rig.mem, at + 0x100, data, size), 0);
    ring_send(ring_of(queue), bufs, 3);
    virtio_rig_kick(&rig, queue);
    (void)ring_take_used(ring_of(queue), &used);
    cr_assert_eq(mem_read(&rig.mem, at + 2, &ack, 1), 0);
    return ack;
}

static uint8_t set_pairs(uint16_t pairs)
{
    return command(CTRL, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs,
                   sizeof(pairs));
}

/* Frames come to the first `count` pairs, and to no other. What did not come stays on its wire. */
static void assert_used(unsigned count)
{
    for (unsigned i = 0; i < PAIRS; i++) {
        offer_buffers(i, 2);
        (void)received(i);
        wire_send(i);
        cr_assert_eq(received(i), i < count, "pair %u of %u", i, count);
        cr_assert_eq(active[i], i < count);
    }
}

/* --- what the device says --- */

Test(virtio_net_pairs, virtio_5_1_4_tells_how_many_there_are)
{
    struct virtio_net_config config;

    create(PAIRS, 0);
    cr_assert(rig.v->offered & MQ);
    cr_assert(rig.v->offered & VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ)); /* §5.1.3.1: it needs it */
    cr_assert_eq(rig.v->queue_count, QUEUES);
    virtio_config_read(rig.v, 0, &config, sizeof(config));
    cr_assert_eq(config.max_virtqueue_pairs, PAIRS);
}

Test(virtio_net_pairs, one_pair_is_not_several)
{
    create(1, 0);
    cr_assert_not(rig.v->offered & MQ);
}

/* --- the command --- */

Test(virtio_net_pairs, virtio_5_1_6_5_5_a_driver_begins_with_one)
{
    start_with_pairs();
    assert_used(1);
}

Test(virtio_net_pairs, virtio_5_1_6_5_5_frames_come_to_the_pairs_that_are_used)
{
    start_with_pairs();
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    assert_used(2);
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    assert_used(2);
    cr_assert_eq(set_pairs(1), VIRTIO_NET_OK);
    assert_used(1);
}

Test(virtio_net_pairs, buffers_that_were_offered_before_are_found)
{
    start_with_pairs();
    offer_buffers(1, 4);
    wire_send(1);
    wire_send(1);
    cr_assert_eq(received(1), 0);
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    cr_assert_eq(received(1), 2);
}

Test(virtio_net_pairs, a_frame_that_comes_after_the_answer_waits)
{
    start_with_pairs();
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    offer_buffers(1, 8); /* the device has looked at them, and listens */
    cr_assert_eq(set_pairs(1), VIRTIO_NET_OK);
    wire_send(1);
    cr_assert_eq(received(1), 0);
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    cr_assert_eq(received(1), 1);
}

Test(virtio_net_pairs, every_pair_sends_also_one_that_is_not_used)
{
    start_with_pairs();
    cr_assert(transmits(0));
    cr_assert(transmits(1));
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    cr_assert(transmits(0));
    cr_assert(transmits(1));
}

Test(virtio_net_pairs, virtio_5_1_6_5_5_numbers_out_of_range_are_errors)
{
    const uint16_t bad[] = {0, PAIRS + 1, 0x100, 0x200, 0x8000, 0xffff};

    start_with_pairs();
    for (unsigned before = 1; before <= PAIRS; before++) {
        cr_assert_eq(set_pairs((uint16_t)before), VIRTIO_NET_OK);
        for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
            cr_assert_eq(set_pairs(bad[i]), VIRTIO_NET_ERR, "%u", bad[i]);
        cr_assert_eq(command(CTRL, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, "\2", 1),
                     VIRTIO_NET_ERR);
        cr_assert_eq(command(CTRL, VIRTIO_NET_CTRL_MQ, 1, "\2", 2), VIRTIO_NET_ERR); /* RSS */
        assert_used(before);
        cr_assert_not(virtio_status(rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET);
    }
}

Test(virtio_net_pairs, a_back_end_that_fails_is_an_error_and_changes_nothing)
{
    start_with_pairs();
    failure = -ENOMEM;
    cr_assert_eq(set_pairs(2), VIRTIO_NET_ERR);
    assert_used(1);
    failure = 0;
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    failure = -ENOTCONN;
    cr_assert_eq(set_pairs(1), VIRTIO_NET_OK);
    assert_used(1);
}

/* --- drivers that know of one pair --- */

Test(virtio_net_pairs, virtio_5_1_2_without_mq_the_third_queue_controls)
{
    const uint8_t on = 1;
    const uint16_t pairs = 2;

    create(PAIRS, 0);
    start(MRG);
    cr_assert_eq(command(CTRL_ALONE, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1),
                 VIRTIO_NET_OK);
    cr_assert_eq(
        command(CTRL_ALONE, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, 2),
        VIRTIO_NET_ERR);
    cr_assert_eq(set_pairs(2), 0xaa); /* there is no such queue */
    wire_send(1);
    virtio_rig_work(&rig);
    offer_buffers(0, 1);
    wire_send(0);
    cr_assert_eq(received(0), 1);
    cr_assert_not(active[1]);
    cr_assert_not(virtio_status(rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* --- limits, reset, state --- */

Test(virtio_net_pairs, one_pair_may_use_all_of_a_limit)
{
    create(PAIRS, 200); /* a burst of 20 */
    start(MRG | MQ);
    offer_buffers(0, 30);
    for (unsigned i = 0; i < 30; i++)
        wire_send(0);
    unsigned got = received(0);
    cr_assert_geq(got, 20);
    cr_assert_lt(got, 30);
}

Test(virtio_net_pairs, a_limit_is_for_all_pairs_together)
{
    create(PAIRS, 2); /* one at once, then one in half a second */
    start(MRG | MQ);
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    for (unsigned i = 0; i < PAIRS; i++) {
        offer_buffers(i, 4);
        for (unsigned j = 0; j < 4; j++)
            wire_send(i);
    }
    cr_assert_leq(received(0) + received(1), 2);
}

Test(virtio_net_pairs, a_reset_goes_back_to_one)
{
    start_with_pairs();
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    virtio_set_status(rig.v, 0);
    cr_assert_not(active[1]);
    start(MRG | MQ);
    assert_used(1);
}

static void save(struct codec_writer *w)
{
    virtio_stop(rig.v);
    codec_writer_init(w);
    codec_begin(w, "net", 1);
    virtio_save(rig.v, w);
    cr_assert_eq(codec_end(w), 0);
}

static int load(const struct codec_writer *w)
{
    struct codec_reader r;
    uint32_t version;

    codec_reader_init(&r, w->data, w->size);
    cr_assert_eq(codec_enter(&r, "net", &version), 0);
    return virtio_load(rig.v, &r);
}

Test(virtio_net_pairs, state_holds_how_many_are_used)
{
    struct codec_writer w;

    start_with_pairs();
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    save(&w);
    virtio_set_status(rig.v, 0);
    cr_assert_not(active[1]);
    cr_assert_eq(load(&w), 0);
    assert_used(2);
    codec_writer_fini(&w);
}

/* A saved state, changed in two places: the features, and how many pairs are used. */
static void save_lie(struct codec_writer *w, uint64_t features, uint16_t pairs)
{
    const size_t before = 16 + strlen("net"), behind = 4; /* around the body */
    const size_t pairs_end = 6 + 3;                       /* from its end: address and filter */
    struct codec_writer honest;

    save(&honest);
    uint8_t *body = honest.data + before;
    size_t size = honest.size - before - behind;
    memcpy(body, &features, sizeof(features));
    memcpy(body + size - pairs_end - sizeof(pairs), &pairs, sizeof(pairs));
    codec_writer_init(w);
    codec_begin(w, "net", 1);
    codec_put_bytes(w, body, size);
    cr_assert_eq(codec_end(w), 0);
    codec_writer_fini(&honest);
}

Test(virtio_net_pairs, a_state_with_a_number_that_cannot_be_is_refused)
{
    const uint16_t bad[] = {0, PAIRS + 1, 0xffff};
    struct codec_writer w;

    start_with_pairs();
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        save_lie(&w, rig.v->features, bad[i]);
        cr_assert_eq(load(&w), -EINVAL);
        codec_writer_fini(&w);
        assert_used(2);
    }
}

Test(virtio_net_pairs, a_state_without_mq_uses_one)
{
    struct codec_writer w;
    uint8_t on = 1;

    start_with_pairs();
    save_lie(&w, rig.v->features & ~MQ, 2);
    cr_assert_eq(load(&w), 0);
    codec_writer_fini(&w);
    cr_assert_not(active[1]);
    wire_send(1);
    virtio_rig_work(&rig);
    cr_assert_eq(command(CTRL_ALONE, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1),
                 VIRTIO_NET_OK);
}

Test(virtio_net_pairs, a_state_whose_back_end_fails_is_loaded_all_the_same)
{
    struct codec_writer w;

    start_with_pairs();
    cr_assert_eq(set_pairs(2), VIRTIO_NET_OK);
    save(&w);
    virtio_set_status(rig.v, 0);
    failure = -ENOTCONN;
    cr_assert_eq(load(&w), 0);
    offer_buffers(0, 1);
    wire_send(0);
    cr_assert_eq(received(0), 1);
    codec_writer_fini(&w);
}
