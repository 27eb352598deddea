/*
 * Real devices under drivers that break the rules; tests/fuzz/README.md says which test answers
 * for which kind of input. What a queue or a transport refuses by itself is tested beside it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/virtio/blk.h"
#include "hv/virtio/mmio.h"
#include "hv/virtio/net.h"
#include "hv/virtio/pci.h"
#include "support/fake_irq.h"
#include "support/virtio_rig.h"

#define HEADER 0x80000 /* the first page of data */
#define STATUS 0x80100
#define DATA 0x81000
#define HOLE VIRTIO_RIG_RAM  /* what lies behind the RAM: nothing, then more RAM */
#define FAR (HOLE + 0x10000) /* where it goes on */
#define SEAM (FAR + 0x1000)  /* where another region begins at once */
#define ROM (SEAM + 0x1000)  /* and ROM behind that */
#define DISK_SIZE (UINT64_C(1) << 20)
#define ALL UINT64_MAX
#define BASE UINT64_C(0xd0000000)
#define BROKEN VIRTIO_CONFIG_S_NEEDS_RESET

static struct virtio_rig rig;
static struct block *disk;

static void add_memory(uint64_t gpa, enum mem_kind kind)
{
    cr_assert_eq(mem_add(&rig.mem, gpa, 0x1000, kind, MEM_ANONYMOUS, NULL), 0);
}

static void setup(void)
{
    virtio_rig_init(&rig);
    add_memory(FAR, MEM_RAM);
    add_memory(SEAM, MEM_RAM);
    add_memory(ROM, MEM_ROM);
    cr_assert_eq(block_mem_create(DISK_SIZE, &disk), 0);
}

static void teardown(void)
{
    virtio_rig_fini(&rig);
    block_destroy(disk);
}

TestSuite(hostile, .init = setup, .fini = teardown, .timeout = 60);

static struct virtio_dev *create_disk(void)
{
    struct loop *loops[] = {rig.loop};
    const struct virtio_blk_setup cfg = {
        .mem = &rig.mem, .block = disk, .loops = loops, .queues = 1};
    struct virtio_dev *v = NULL;

    cr_assert_eq(virtio_blk_create("blk", &cfg, &v), 0);
    return v;
}

static void start_disk(void)
{
    virtio_rig_take(&rig, create_disk());
    virtio_rig_start(&rig, ALL);
}

static void write_header(uint32_t type, uint64_t sector)
{
    const struct virtio_blk_outhdr header = {.type = type, .sector = sector};

    cr_assert_eq(mem_write(&rig.mem, HEADER, &header, sizeof(header)), 0);
}

static uint8_t byte_at(uint64_t gpa)
{
    uint8_t value = 0;

    cr_assert_eq(mem_read(&rig.mem, gpa, &value, 1), 0);
    return value;
}

static void fill(uint64_t gpa, uint8_t byte, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        cr_assert_eq(mem_write(&rig.mem, gpa + i, &byte, 1), 0);
}

static bool is_filled(uint64_t gpa, uint8_t byte, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        if (byte_at(gpa + i) != byte)
            return false;
    return true;
}

static bool ask(const struct ring_buf *bufs, unsigned count, struct vring_used_elem *used)
{
    ring_send(&rig.rings[0], bufs, count);
    virtio_rig_kick(&rig, 0);
    return ring_take_used(&rig.rings[0], used);
}

/* A good read of the disk's first sector. */
static void assert_served(void)
{
    const struct ring_buf bufs[] = {{HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};
    struct vring_used_elem used;

    write_header(VIRTIO_BLK_T_IN, 0);
    fill(STATUS, 0xaa, 1);
    cr_assert(ask(bufs, 3, &used));
    cr_assert_eq(used.len, 513);
    cr_assert_eq(byte_at(STATUS), VIRTIO_BLK_S_OK);
}

static bool is_broken(void)
{
    return virtio_status(rig.v) & BROKEN;
}

/* --- 1: descriptors --- */

Test(hostile, buffers_over_a_hole_are_refused_whole)
{
    static const struct ring_buf bad[] = {
        {HOLE - 256, 512, true},       /* runs into it */
        {FAR - 256, 512, true},        /* begins in it */
        {HOLE - 256, 0x10200, true},   /* spans it */
        {ROM - 256, 512, true},        /* runs into ROM */
        {UINT64_MAX - 255, 512, true}, /* wraps to RAM */
        {HOLE - 256, UINT32_MAX, true},
    };
    struct vring_used_elem used;

    start_disk();
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        const struct ring_buf bufs[] = {{HEADER, 16, false}, bad[i], {STATUS, 1, true}};
        fill(HOLE - 256, 0x77, 256);
        fill(FAR, 0x77, 256);
        fill(0, 0x77, 256);
        fill(STATUS, 0xaa, 1);
        write_header(VIRTIO_BLK_T_IN, 0);
        cr_assert_not(ask(bufs, 3, &used));
        cr_assert(is_broken());
        cr_assert(is_filled(HOLE - 256, 0x77, 256) && is_filled(FAR, 0x77, 256));
        cr_assert(is_filled(0, 0x77, 256));
        cr_assert_eq(byte_at(STATUS), 0xaa);
        virtio_rig_start(&rig, ALL);
        assert_served();
    }
}

Test(hostile, a_buffer_over_a_seam_is_one_buffer)
{
    const struct ring_buf bufs[] = {
        {HEADER, 16, false}, {SEAM - 100, 512, true}, {STATUS, 1, true}};
    struct vring_used_elem used;

    start_disk();
    write_header(VIRTIO_BLK_T_IN, 0);
    fill(SEAM - 101, 0x77, 514);
    cr_assert(ask(bufs, 3, &used));
    cr_assert_eq(used.len, 513);
    cr_assert(is_filled(SEAM - 100, 0, 512));
    cr_assert_eq(byte_at(SEAM - 101), 0x77);
    cr_assert_eq(byte_at(SEAM + 412), 0x77);
}

Test(hostile, a_header_over_a_seam_or_in_rom_is_read)
{
    const struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_FLUSH};
    const uint64_t places[] = {SEAM - 7, ROM - 7, ROM};
    struct vring_used_elem used;

    start_disk();
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        const struct ring_buf bufs[] = {{places[i], 16, false}, {STATUS, 1, true}};
        for (unsigned j = 0; j < sizeof(header); j++)
            cr_assert_eq(mem_rom_write(&rig.mem, places[i] + j, (const uint8_t *)&header + j, 1),
                         0);
        fill(STATUS, 0xaa, 1);
        cr_assert(ask(bufs, 2, &used));
        cr_assert_eq(byte_at(STATUS), VIRTIO_BLK_S_OK);
    }
}

Test(hostile, buffers_of_length_0_count_for_nothing)
{
    /* Where they are does not matter either, for nobody goes there. */
    const struct ring_buf bufs[] = {
        {HOLE, 0, false},  {HEADER, 16, false}, {UINT64_MAX, 0, false}, {HOLE + 8, 0, true},
        {DATA, 512, true}, {ROM, 0, true},      {STATUS, 1, true},      {HOLE, 0, true}};
    struct vring_used_elem used;

    start_disk();
    write_header(VIRTIO_BLK_T_IN, 0);
    fill(STATUS, 0xaa, 1);
    cr_assert(ask(bufs, ARRAY_LEN(bufs), &used));
    cr_assert_eq(used.len, 513);
    cr_assert_eq(byte_at(STATUS), VIRTIO_BLK_S_OK);
}

Test(hostile, a_status_that_cannot_be_written_needs_a_reset)
{
    const struct ring_buf read_only[] = {{HEADER, 16, false}, {STATUS, 1, false}};
    const struct ring_buf in_rom[] = {{HEADER, 16, false}, {ROM, 1, true}};
    const struct ring_buf empty[] = {{HEADER, 16, false}, {STATUS, 0, true}};
    const struct ring_buf *bad[] = {read_only, in_rom, empty};
    struct vring_used_elem used;

    start_disk();
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        write_header(VIRTIO_BLK_T_FLUSH, 0);
        fill(STATUS, 0xaa, 1);
        cr_assert_not(ask(bad[i], 2, &used));
        cr_assert(is_broken());
        cr_assert_eq(byte_at(STATUS), 0xaa);
        virtio_rig_start(&rig, ALL);
        assert_served();
    }
}

/* --- 4, 5, 6: queues, notifications, features --- */

Test(hostile, notifications_before_driver_ok_move_nothing_and_are_not_needed)
{
    const struct ring_buf bufs[] = {{HEADER, 16, false}, {STATUS, 1, true}};
    struct vring_used_elem used;
    struct virtio_queue *q;

    start_disk();
    virtio_set_status(rig.v, 0);
    q = virtio_queue(rig.v, 0);
    virtio_rig_kick(&rig, 0); /* it is not enabled */
    virtio_set_status(rig.v, 3);
    virtio_accept(rig.v, 1, 1);
    virtio_set_status(rig.v, 0xb);
    ring_init(&rig.rings[0], &rig.mem, VIRTIO_RIG_RINGS, 16);
    cr_assert_eq(mem_zero(&rig.mem, VIRTIO_RIG_RINGS, VIRTIO_RIG_STRIDE), 0);
    q->vq.at = rig.rings[0].at;
    virtio_enable_queue(q);
    write_header(VIRTIO_BLK_T_FLUSH, 0);
    cr_assert_not(ask(bufs, 2, &used)); /* it is, but nobody drives */
    virtio_set_status(rig.v, 0xf);
    virtio_rig_work(&rig);
    cr_assert(ring_take_used(&rig.rings[0], &used));
}

Test(hostile, a_failed_driver_is_served_no_more)
{
    const struct ring_buf bufs[] = {{HEADER, 16, false}, {STATUS, 1, true}};
    struct vring_used_elem used;

    start_disk();
    virtio_set_status(rig.v, 0x8f);
    write_header(VIRTIO_BLK_T_FLUSH, 0);
    cr_assert_not(ask(bufs, 2, &used));
    virtio_set_status(rig.v, 0xf); /* that takes nothing back */
    cr_assert_not(ask(bufs, 2, &used));
    virtio_rig_start(&rig, ALL);
    assert_served();
}

/* --- 7: resets --- */

Test(hostile, a_queue_is_taken_back_with_requests_in_flight)
{
    const struct block_fault late = {.op = BLOCK_READ, .nth = 1, .never = true};
    const struct ring_buf bufs[] = {{HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};
    struct vring_used_elem used;

    cr_assert_eq(block_fault_create(disk, &late, 1, &disk), 0);
    start_disk();
    write_header(VIRTIO_BLK_T_IN, 0);
    cr_assert_not(ask(bufs, 3, &used));
    cr_assert_eq(virtio_queue(rig.v, 0)->in_flight, 1);
    block_fault_release(disk);
    virtio_rig_work(&rig); /* else it would wait for this thread */
    virtio_reset_queue(virtio_queue(rig.v, 0));
    cr_assert_not(virtio_queue(rig.v, 0)->vq.enabled);
    cr_assert(ring_take_used(&rig.rings[0], &used)); /* that was before */
    ring_init(&rig.rings[0], &rig.mem, VIRTIO_RIG_RINGS, 16);
    cr_assert_eq(mem_zero(&rig.mem, VIRTIO_RIG_RINGS, VIRTIO_RIG_STRIDE), 0);
    virtio_queue(rig.v, 0)->vq.at = rig.rings[0].at;
    virtio_enable_queue(virtio_queue(rig.v, 0));
    assert_served();
}

/* --- 8: accesses --- */

static struct bus memory;
static struct fake_irq irq;
static struct device *window;

static void start_mmio(void)
{
    const struct irq_line line = fake_irq_line(&irq, 5);

    bus_init(&memory, UINT64_MAX);
    cr_assert_eq(virtio_mmio_create("mmio", create_disk(), &line, &window), 0);
    cr_assert_eq(bus_map(&memory, BASE, VIRTIO_MMIO_SIZE, window, 0), 0);
}

static void end_mmio(void)
{
    dev_destroy(window);
    bus_fini(&memory);
}

Test(hostile, accesses_over_the_ends_of_a_window_read_ones_outside)
{
    uint64_t value = 0;

    start_mmio();
    bus_read(&memory, BASE - 4, &value, 8);
    cr_assert_eq(value, 0x74726976ffffffff);
    value = 0;
    bus_read(&memory, BASE + VIRTIO_MMIO_SIZE - 4, &value, 8);
    cr_assert_eq(value, 0xffffffff00000000);
    value = UINT64_MAX;
    bus_write(&memory, BASE - 3, &value, 8);
    bus_write(&memory, BASE + VIRTIO_MMIO_SIZE - 1, &value, 8);
    bus_read(&memory, BASE + VIRTIO_MMIO_SIZE, &value, 8);
    cr_assert_eq(value, UINT64_MAX);
    end_mmio();
}

Test(hostile, registers_read_at_any_place_and_width_change_nothing)
{
    struct codec_writer before, after;
    uint64_t value;

    start_mmio();
    codec_writer_init(&before);
    codec_writer_init(&after);
    cr_assert_eq(dev_save(window, &before), 0);
    for (uint64_t at = 0; at < VIRTIO_MMIO_SIZE; at++)
        for (unsigned size = 1; size <= 8; size *= 2)
            bus_read(&memory, BASE + at, &value, size);
    cr_assert_eq(dev_save(window, &after), 0);
    cr_assert_eq(before.size, after.size);
    cr_assert_eq(memcmp(before.data, after.data, before.size), 0);
    codec_writer_fini(&before);
    codec_writer_fini(&after);
    end_mmio();
}

/* --- 10: requests --- */

Test(hostile, a_read_only_disk_is_not_discarded_or_zeroed_either)
{
    static const uint32_t types[] = {VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD,
                                     VIRTIO_BLK_T_WRITE_ZEROES};
    const struct virtio_blk_discard_write_zeroes range = {.num_sectors = 1};
    struct vring_used_elem used;

    disk->read_only = true;
    start_disk();
    cr_assert_eq(mem_write(&rig.mem, DATA, &range, sizeof(range)), 0);
    for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
        const struct ring_buf bufs[] = {{HEADER, 16, false},
                                        {DATA, types[i] == VIRTIO_BLK_T_OUT ? 512 : 16, false},
                                        {STATUS, 1, true}};
        write_header(types[i], 0);
        cr_assert(ask(bufs, 3, &used));
        cr_assert_eq(byte_at(STATUS), VIRTIO_BLK_S_IOERR);
    }
}

Test(hostile, a_range_that_ends_one_sector_too_late_is_an_error)
{
    const uint64_t sectors = DISK_SIZE / BLOCK_SECTOR;
    const struct virtio_blk_discard_write_zeroes ranges[] = {
        {.sector = sectors - 1, .num_sectors = 2},
        {.sector = sectors, .num_sectors = 1},
        {.sector = UINT64_MAX / BLOCK_SECTOR, .num_sectors = 1},
        {.sector = UINT64_MAX, .num_sectors = 1},
        {.sector = 1, .num_sectors = UINT32_MAX},
    };
    const struct ring_buf bufs[] = {{HEADER, 16, false}, {DATA, 16, false}, {STATUS, 1, true}};
    struct vring_used_elem used;

    start_disk();
    for (unsigned i = 0; i < ARRAY_LEN(ranges); i++) {
        write_header(VIRTIO_BLK_T_WRITE_ZEROES, 0);
        cr_assert_eq(mem_write(&rig.mem, DATA, &ranges[i], 16), 0);
        cr_assert(ask(bufs, 3, &used));
        cr_assert_eq(byte_at(STATUS), VIRTIO_BLK_S_IOERR);
    }
}

/* Else a driver that trims its disk would wait for hours. */
Test(hostile, a_discard_costs_an_operation_and_no_bytes)
{
    const struct virtio_blk_discard_write_zeroes range = {.num_sectors = 1024};
    const struct ring_buf bufs[] = {{HEADER, 16, false}, {DATA, 16, false}, {STATUS, 1, true}};
    struct vring_used_elem used;

    start_disk();
    virtio_blk_limit(rig.v, 0, 1000);
    cr_assert_eq(mem_write(&rig.mem, DATA, &range, sizeof(range)), 0);
    for (unsigned i = 0; i < 2; i++) {
        write_header(i ? VIRTIO_BLK_T_WRITE_ZEROES : VIRTIO_BLK_T_DISCARD, 0);
        cr_assert(ask(bufs, 3, &used));
        cr_assert_eq(byte_at(STATUS), VIRTIO_BLK_S_OK);
    }
    assert_served();
}

/* --- nets --- */

static struct net *near_end, *far_end;

static void start_net(void)
{
    struct virtio_dev *v = NULL;

    cr_assert_eq(net_pair_create(&near_end, &far_end), 0);
    const struct virtio_net_pair pair = {near_end, rig.loop};
    const struct virtio_net_setup cfg = {
        .mem = &rig.mem, .pairs = &pair, .pair_count = 1, .mac = {2, 0, 0, 0, 0, 1}};
    cr_assert_eq(virtio_net_create("net", &cfg, &v), 0);
    virtio_rig_take(&rig, v);
    virtio_rig_start(&rig, ALL);
}

static void end_net(void)
{
    virtio_destroy(rig.v);
    rig.v = NULL;
    net_destroy(near_end);
    net_destroy(far_end);
}

/* One driver's address must not become the next one's. */
Test(hostile, a_reset_takes_back_the_address_that_a_driver_chose)
{
    const uint8_t bytes[] = {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 2, 6, 6, 6, 6, 6};
    const struct ring_buf bufs[] = {{DATA, sizeof(bytes), false}, {STATUS, 1, true}};
    const uint8_t first[6] = {2, 0, 0, 0, 0, 1};
    uint8_t mac[6] = {0};

    start_net();
    cr_assert_eq(mem_write(&rig.mem, DATA, bytes, sizeof(bytes)), 0);
    ring_send(&rig.rings[2], bufs, 2);
    virtio_rig_kick(&rig, 2);
    cr_assert_eq(byte_at(STATUS), VIRTIO_NET_OK);
    virtio_config_read(rig.v, 0, mac, 6);
    cr_assert_arr_eq(mac, bytes + 2, 6);
    virtio_set_status(rig.v, 0);
    virtio_config_read(rig.v, 0, mac, 6);
    cr_assert_arr_eq(mac, first, 6);
    end_net();
}

Test(hostile, a_receive_buffer_that_can_be_read_breaks_the_rules)
{
    const struct ring_buf bufs[] = {{DATA, 12, false}, {DATA + 12, 2048, true}};

    start_net();
    ring_send(&rig.rings[0], bufs, 2);
    virtio_rig_kick(&rig, 0);
    cr_assert(is_broken());
    end_net();
}

Test(hostile, a_frame_over_a_hole_is_never_sent)
{
    const struct ring_buf bufs[] = {{DATA, 12, false}, {HOLE - 30, 60, false}};
    uint8_t frame[128];
    const struct iovec iov = {frame, sizeof(frame)};

    start_net();
    ring_send(&rig.rings[1], bufs, 2);
    virtio_rig_kick(&rig, 1);
    cr_assert(is_broken());
    cr_assert_eq(net_receive(far_end, &iov, 1), -EAGAIN);
    end_net();
}

/* VIRTIO 1.2 §5.1.6.2: those that vouch for a checksum, or tell of segments put together. */
Test(hostile, flags_that_devices_set_are_not_passed_on)
{
    const struct virtio_net_hdr_v1 header = {
        .flags = VIRTIO_NET_HDR_F_DATA_VALID | VIRTIO_NET_HDR_F_RSC_INFO | 0xf8, .num_buffers = 3};
    const struct ring_buf bufs[] = {{DATA, 12, false}, {DATA + 12, 60, false}};
    struct {
        struct virtio_net_hdr_v1 header;
        uint8_t bytes[100];
    } frame;
    const struct iovec iov = {&frame, sizeof(frame)};

    start_net();
    cr_assert_eq(mem_write(&rig.mem, DATA, &header, sizeof(header)), 0);
    ring_send(&rig.rings[1], bufs, 2);
    virtio_rig_kick(&rig, 1);
    cr_assert_eq(net_receive(far_end, &iov, 1), 72);
    cr_assert_eq(frame.header.flags, 0);
    cr_assert_eq(frame.header.num_buffers, 0);
    end_net();
}

/* A wire that is gone is a cable without an end: frames out are dropped, none come, all goes on. */
Test(hostile, a_driver_outlives_its_wire)
{
    const struct ring_buf out[] = {{DATA, 12, false}, {DATA + 12, 60, false}};
    const struct ring_buf in = {DATA + 0x1000, 2048, true};
    struct virtio_net_stats stats;
    struct vring_used_elem used;

    start_net();
    net_destroy(far_end);
    far_end = NULL;
    ring_send(&rig.rings[0], &in, 1);
    virtio_rig_kick(&rig, 0);
    ring_send(&rig.rings[1], out, 2);
    virtio_rig_kick(&rig, 1);
    cr_assert(ring_take_used(&rig.rings[1], &used));
    cr_assert_not(ring_take_used(&rig.rings[0], &used));
    virtio_net_stats(rig.v, &stats);
    cr_assert_eq(stats.dropped_out, 1);
    cr_assert_eq(stats.received + stats.dropped_in, 0);
    cr_assert_not(is_broken());
    end_net();
}
