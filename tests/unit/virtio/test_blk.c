#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/virtio/blk.h"
#include "support/virtio_rig.h"

#define HEADER 0x80000
#define STATUS 0x80100
#define DATA 0x81000
#define DISK_SECTORS 2048
#define DISK_SIZE (DISK_SECTORS * (uint64_t)BLOCK_SECTOR)
#define NO_STATUS 0xaa
#define ALL UINT64_MAX

static struct virtio_rig rig;
static struct block *disk;

static void setup(void)
{
    virtio_rig_init(&rig);
    cr_assert_eq(block_mem_create(DISK_SIZE, &disk), 0);
}

static void teardown(void)
{
    virtio_rig_fini(&rig);
    block_destroy(disk);
}

TestSuite(virtio_blk, .init = setup, .fini = teardown, .timeout = 60);

static void start_limited(uint64_t iops, uint64_t bps)
{
    struct loop *loops[] = {rig.loop, rig.loop};
    struct virtio_blk_setup cfg = {.mem = &rig.mem,
                                   .block = disk,
                                   .loops = loops,
                                   .queues = 2,
                                   .serial = "a serial number that is too long",
                                   .iops = iops,
                                   .bps = bps};
    struct virtio_dev *v = NULL;

    cr_assert_eq(virtio_blk_create("blk", &cfg, &v), 0);
    virtio_rig_take(&rig, v);
    virtio_rig_start(&rig, ALL);
}

static void start(void)
{
    start_limited(0, 0);
}

static void break_disk(struct block_fault fault)
{
    cr_assert_eq(block_fault_create(disk, &fault, 1, &disk), 0);
}

static void write_header(uint32_t type, uint64_t sector)
{
    struct virtio_blk_outhdr header = {.type = type, .sector = sector};
    uint8_t none = NO_STATUS;

    cr_assert_eq(mem_write(&rig.mem, HEADER, &header, sizeof(header)), 0);
    cr_assert_eq(mem_write(&rig.mem, STATUS, &none, 1), 0);
}

static uint8_t status(void)
{
    uint8_t value;

    cr_assert_eq(mem_read(&rig.mem, STATUS, &value, 1), 0);
    return value;
}

static void await(unsigned queue, struct vring_used_elem *used)
{
    while (!ring_take_used(&rig.rings[queue], used))
        cr_assert_eq(loop_run_once(rig.loop, -1), 0);
}

/* One request with one buffer of data (none if size is 0); returns the status, and what was used.
 */
static uint8_t ask(uint32_t type, uint64_t sector, uint32_t size, bool write, uint32_t *used_len)
{
    const struct ring_buf bufs[] = {{HEADER, 16, false}, {DATA, size, write}, {STATUS, 1, true}};
    struct vring_used_elem used;

    write_header(type, sector);
    ring_send(&rig.rings[0], bufs, 3);
    virtio_kick(virtio_queue(rig.v, 0));
    await(0, &used);
    if (used_len)
        *used_len = used.len;
    return status();
}

static void fill(uint8_t byte, uint32_t size)
{
    memset(mem_ptr(&rig.mem, DATA, size, true), byte, size);
}

static bool is_filled(uint8_t byte, uint32_t size)
{
    const uint8_t *p = mem_ptr(&rig.mem, DATA, size, false);

    return p[0] == byte && memcmp(p, p + 1, size - 1) == 0;
}

/* --- the configuration --- */

Test(virtio_blk, virtio_5_2_4_describes_the_disk)
{
    struct virtio_blk_config config;

    start();
    virtio_config_read(rig.v, 0, &config, sizeof(config));
    cr_assert_eq(config.capacity, DISK_SECTORS);
    cr_assert_eq(config.blk_size, 512);
    cr_assert_eq(config.physical_block_exp, 3);
    cr_assert_eq(config.num_queues, 2);
    cr_assert_eq(config.max_discard_seg, 1);
    cr_assert_gt(config.seg_max, 0);
    cr_assert(virtio_has(rig.v, VIRTIO_BLK_F_FLUSH));
    cr_assert(virtio_has(rig.v, VIRTIO_BLK_F_MQ));
    cr_assert_not(virtio_has(rig.v, VIRTIO_BLK_F_RO));
}

/* --- requests --- */

Test(virtio_blk, what_is_written_is_read_again)
{
    uint32_t used;

    start();
    fill(0x5a, 4096);
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 8, 4096, false, &used), VIRTIO_BLK_S_OK);
    cr_assert_eq(used, 1);
    fill(0, 4096);
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 8, 4096, true, &used), VIRTIO_BLK_S_OK);
    cr_assert_eq(used, 4097);
    cr_assert(is_filled(0x5a, 4096));
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 16, 512, true, NULL), VIRTIO_BLK_S_OK);
    cr_assert(is_filled(0, 512)); /* the next sector was not touched */
    cr_assert_eq(ask(VIRTIO_BLK_T_FLUSH, 0, 0, false, NULL), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, virtio_2_7_4_buffers_may_be_cut_anywhere)
{
    /* Header in two parts; data and status in one buffer; an odd cut within the data. */
    const struct ring_buf out[] = {{HEADER, 5, false},
                                   {HEADER + 5, 11, false},
                                   {DATA, 100, false},
                                   {DATA + 100, 412, false},
                                   {STATUS, 1, true}};
    const struct ring_buf in[] = {{HEADER, 16, false}, {DATA, 300, true}, {DATA + 300, 213, true}};
    struct vring_used_elem used;

    start();
    fill(0x77, 512);
    write_header(VIRTIO_BLK_T_OUT, 3);
    ring_send(&rig.rings[0], out, 5);
    virtio_kick(virtio_queue(rig.v, 0));
    await(0, &used);
    cr_assert_eq(status(), VIRTIO_BLK_S_OK);
    fill(0, 513);
    write_header(VIRTIO_BLK_T_IN, 3);
    ring_send(&rig.rings[0], in, 3);
    virtio_kick(virtio_queue(rig.v, 0));
    await(0, &used);
    cr_assert_eq(used.len, 513);
    cr_assert(is_filled(0x77, 512));
    cr_assert_eq(*(uint8_t *)mem_ptr(&rig.mem, DATA + 512, 1, false), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, get_id_gives_the_serial_number)
{
    uint32_t used;

    start();
    cr_assert_eq(ask(VIRTIO_BLK_T_GET_ID, 0, 20, true, &used), VIRTIO_BLK_S_OK);
    cr_assert_eq(used, 21);
    cr_assert_eq(memcmp(mem_ptr(&rig.mem, DATA, 20, false), "a serial number that", 20), 0);
    cr_assert_eq(ask(VIRTIO_BLK_T_GET_ID, 0, 7, true, &used), VIRTIO_BLK_S_OK);
    cr_assert_eq(used, 8);
}

static uint8_t ask_range(uint32_t type, uint64_t sector, uint32_t count, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes range = {sector, count, flags};

    cr_assert_eq(mem_write(&rig.mem, DATA, &range, sizeof(range)), 0);
    return ask(type, 0, sizeof(range), false, NULL);
}

Test(virtio_blk, ranges_are_zeroed_and_discarded)
{
    start();
    fill(0xff, 0x2000);
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 0, 0x2000, false, NULL), VIRTIO_BLK_S_OK);
    cr_assert_eq(ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 1, 3, 0), VIRTIO_BLK_S_OK);
    cr_assert_eq(ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 5, 1, 1), VIRTIO_BLK_S_OK);
    cr_assert_eq(ask_range(VIRTIO_BLK_T_DISCARD, 8, 8, 0), VIRTIO_BLK_S_OK);
    fill(0x11, 0x2000);
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 0x1000, true, NULL), VIRTIO_BLK_S_OK);
    const uint8_t *p = mem_ptr(&rig.mem, DATA, 0x1000, false);
    for (unsigned sector = 0; sector < 8; sector++)
        cr_assert_eq(p[sector * 512 + 7], (sector >= 1 && sector <= 3) || sector == 5 ? 0 : 0xff);
}

/* --- wrong requests: PITFALLS "Inputs a monitor must survive", 10 --- */

Test(virtio_blk, what_lies_beyond_the_end_is_an_error)
{
    static const uint64_t sectors[] = {DISK_SECTORS,     DISK_SECTORS - 1,     UINT64_MAX,
                                       UINT64_MAX / 512, UINT64_MAX / 512 + 1, UINT64_MAX - 7};
    uint32_t used;

    start();
    for (unsigned i = 0; i < ARRAY_LEN(sectors); i++) {
        cr_assert_eq(ask(VIRTIO_BLK_T_IN, sectors[i], 1024, true, &used), VIRTIO_BLK_S_IOERR);
        cr_assert_eq(used, 1);
        cr_assert_eq(ask(VIRTIO_BLK_T_OUT, sectors[i], 1024, false, NULL), VIRTIO_BLK_S_IOERR);
        cr_assert_eq(ask_range(VIRTIO_BLK_T_DISCARD, sectors[i], 2, 0), VIRTIO_BLK_S_IOERR);
    }
    cr_assert_eq(ask_range(VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(virtio_status(rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

Test(virtio_blk, lengths_that_are_no_sectors_are_errors)
{
    start();
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 511, true, NULL), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 0, 513, false, NULL), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 0, true, NULL),
                 VIRTIO_BLK_S_OK); /* nothing is a multiple */
}

Test(virtio_blk, data_in_the_wrong_direction_moves_nothing)
{
    start();
    fill(0x33, 512);
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 512, false, NULL), VIRTIO_BLK_S_OK); /* reads 0 bytes */
    cr_assert(is_filled(0x33, 512));
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, unknown_types_and_flags_are_unsupported)
{
    start();
    cr_assert_eq(ask(99, 0, 512, true, NULL), VIRTIO_BLK_S_UNSUPP);
    cr_assert_eq(ask(UINT32_MAX, 0, 512, false, NULL), VIRTIO_BLK_S_UNSUPP);
    cr_assert_eq(ask_range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
    cr_assert_eq(ask_range(VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
    cr_assert_eq(ask(VIRTIO_BLK_T_DISCARD, 0, 15, false, NULL), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(ask(VIRTIO_BLK_T_DISCARD, 0, 32, false, NULL), VIRTIO_BLK_S_IOERR);
}

Test(virtio_blk, a_header_that_is_too_short_is_an_error)
{
    const struct ring_buf bufs[] = {{HEADER, 15, false}, {STATUS, 1, true}};
    struct vring_used_elem used;

    start();
    write_header(VIRTIO_BLK_T_FLUSH, 0);
    ring_send(&rig.rings[0], bufs, 2);
    virtio_kick(virtio_queue(rig.v, 0));
    await(0, &used);
    cr_assert_eq(status(), VIRTIO_BLK_S_IOERR);
}

Test(virtio_blk, without_room_for_a_status_the_device_needs_a_reset)
{
    const struct ring_buf buf = {HEADER, 16, false};

    start();
    write_header(VIRTIO_BLK_T_FLUSH, 0);
    ring_send(&rig.rings[0], &buf, 1);
    virtio_rig_kick(&rig, 0);
    cr_assert(virtio_status(rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET);
    virtio_rig_start(&rig, ALL); /* the way out */
    cr_assert_eq(ask(VIRTIO_BLK_T_FLUSH, 0, 0, false, NULL), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, a_read_only_disk_takes_no_writes)
{
    disk->read_only = true;
    start();
    cr_assert(virtio_has(rig.v, VIRTIO_BLK_F_RO));
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 0, 512, false, NULL), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, a_chain_offered_twice_is_answered_twice)
{
    const struct ring_buf bufs[] = {{HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};
    struct vring_used_elem used;

    start();
    write_header(VIRTIO_BLK_T_IN, 0);
    uint16_t head = ring_add(&rig.rings[0], bufs, 3);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 256; i++)
            ring_offer(&rig.rings[0], head);
        virtio_kick(virtio_queue(rig.v, 0));
        for (unsigned i = 0; i < 256; i++)
            await(0, &used);
    }
    cr_assert_eq(virtio_queue(rig.v, 0)->in_flight, 0);
}

/* --- disks that fail --- */

Test(virtio_blk, an_error_of_the_disk_reaches_the_guest)
{
    break_disk((struct block_fault){.op = BLOCK_WRITE, .nth = 2, .result = -ENOSPC});
    start();
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 0, 512, false, NULL), VIRTIO_BLK_S_OK);
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 0, 512, false, NULL), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 0, 512, false, NULL), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, a_torn_write_is_an_error_with_some_of_its_bytes)
{
    break_disk((struct block_fault){.op = BLOCK_WRITE, .nth = 1, .result = -EIO, .torn = 1024});
    start();
    fill(0x99, 4096);
    cr_assert_eq(ask(VIRTIO_BLK_T_OUT, 0, 4096, false, NULL), VIRTIO_BLK_S_IOERR);
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 4096, true, NULL), VIRTIO_BLK_S_OK);
    const uint8_t *p = mem_ptr(&rig.mem, DATA, 4096, false);
    cr_assert_eq(p[1023], 0x99);
    cr_assert_eq(p[1024], 0);
}

Test(virtio_blk, requests_overtake_one_that_is_slow)
{
    const struct ring_buf slow[] = {{HEADER, 16, false}, {STATUS, 1, true}};
    struct vring_used_elem used;

    break_disk((struct block_fault){.op = BLOCK_FLUSH, .nth = 1, .never = true});
    start();
    write_header(VIRTIO_BLK_T_FLUSH, 0);
    uint16_t head = ring_send(&rig.rings[0], slow, 2);
    virtio_rig_kick(&rig, 0);
    cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
    cr_assert_eq(virtio_queue(rig.v, 0)->in_flight, 1);
    block_fault_release(disk);
    await(0, &used);
    cr_assert_eq(used.id, head);
    cr_assert_eq(virtio_queue(rig.v, 0)->in_flight, 0);
}

static void *release(void *arg)
{
    (void)arg;
    while (__atomic_load_n(&virtio_queue(rig.v, 0)->running, __ATOMIC_RELAXED))
        sched_yield();
    block_fault_release(disk);
    virtio_rig_work(&rig);
    return NULL;
}

Test(virtio_blk, a_reset_waits_for_the_disk)
{
    const struct ring_buf slow[] = {{HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};
    pthread_t io; /* plays the I/O thread */

    break_disk((struct block_fault){.op = BLOCK_READ, .nth = 1, .never = true});
    start();
    write_header(VIRTIO_BLK_T_IN, 0);
    ring_send(&rig.rings[0], slow, 3);
    virtio_rig_kick(&rig, 0);
    cr_assert_eq(pthread_create(&io, NULL, release, NULL), 0);
    virtio_set_status(rig.v, 0);
    cr_assert_eq(virtio_queue(rig.v, 0)->in_flight, 0);
    cr_assert_eq(pthread_join(io, NULL), 0);
    virtio_rig_start(&rig, ALL);
    cr_assert_eq(ask(VIRTIO_BLK_T_FLUSH, 0, 0, false, NULL), VIRTIO_BLK_S_OK);
}

/* --- limits --- */

Test(virtio_blk, a_limit_of_operations_holds)
{
    uint64_t begin = now_ns();

    start_limited(100, 0); /* a burst of 10, then one in 10 ms */
    for (unsigned i = 0; i < 16; i++)
        cr_assert_eq(ask(VIRTIO_BLK_T_FLUSH, 0, 0, false, NULL), VIRTIO_BLK_S_OK);
    cr_assert_geq(now_ns() - begin, 50000000);
}

Test(virtio_blk, a_limit_of_bytes_holds_and_can_be_lifted)
{
    uint64_t begin = now_ns();

    start_limited(0, 100000); /* a burst of 10,000 bytes, then 4096 in 41 ms */
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 4096, true, NULL), VIRTIO_BLK_S_OK);
    cr_assert_geq(now_ns() - begin, 60000000);
    virtio_blk_limit(rig.v, 0, 0);
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_eq(ask(VIRTIO_BLK_T_IN, 0, 4096, true, NULL), VIRTIO_BLK_S_OK);
}

Test(virtio_blk, what_was_asked_for_is_counted)
{
    struct virtio_blk_stats s;

    start_limited(0, 100000);
    for (unsigned i = 0; i < 4; i++)
        (void)ask(VIRTIO_BLK_T_IN, 0, 4096, true, NULL);
    (void)ask(VIRTIO_BLK_T_OUT, 0, 512, false, NULL);
    (void)ask(VIRTIO_BLK_T_FLUSH, 0, 0, false, NULL);
    memset(&s, 0xa5, sizeof(s));
    virtio_blk_stats(rig.v, &s);
    cr_assert_eq(s.reads, 4);
    cr_assert_eq(s.read_bytes, 4 * 4096);
    cr_assert_eq(s.writes, 1);
    cr_assert_eq(s.written_bytes, 512);
    cr_assert_eq(s.flushes, 1);
    cr_assert_eq(s.discards, 0);
    cr_assert_eq(s.bytes.rate, 100000);
    cr_assert_gt(s.bytes.waits, 0);
    cr_assert_eq(s.ops.rate, 0);
    cr_assert_eq(s.ops.waits, 0);
    const struct virtio_queue *q = virtio_queue(rig.v, 0);
    cr_assert_eq(atomic_load(&q->chains), 6);
    cr_assert_geq(atomic_load(&q->kicks), 6);
    cr_assert_gt(atomic_load(&q->interrupts), 0);
}

/* --- state --- */

static int load(struct virtio_dev *v, const struct codec_writer *w)
{
    struct codec_reader r;
    uint32_t version;

    codec_reader_init(&r, w->data, w->size);
    cr_assert_eq(codec_enter(&r, "blk", &version), 0);
    return virtio_load(v, &r);
}

Test(virtio_blk, state_belongs_to_a_disk_of_its_size)
{
    struct codec_writer w;

    start();
    codec_writer_init(&w);
    codec_begin(&w, "blk", 1);
    virtio_save(rig.v, &w);
    cr_assert_eq(codec_end(&w), 0);
    cr_assert_eq(load(rig.v, &w), 0);
    cr_assert_eq(ask(VIRTIO_BLK_T_FLUSH, 0, 0, false, NULL), VIRTIO_BLK_S_OK);
    disk->size -= 512;
    cr_assert_eq(load(rig.v, &w), -EINVAL);
    disk->size += 512;
    codec_writer_fini(&w);
}
