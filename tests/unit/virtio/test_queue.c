#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/virtio/queue.h"
#include "support/ring.h"

/*
 *   0              RAM_SIZE     ROM      ROM + 0x1000
 *   | RAM          | nothing    | ROM    |
 */
#define RAM_SIZE (1 * MIB)
#define ROM (2 * MIB)
#define RINGS 0x10000
#define DATA 0x40000
#define SIZE 8
#define IOV_MAX_TEST 16

#define EVENT_IDX (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)

static struct mem mem;
static struct ring ring;
static struct vq vq;
static struct iovec iov[IOV_MAX_TEST];
static struct vq_chain chain;

static void setup(void)
{
    mem_init(&mem);
    cr_assert_eq(mem_add(&mem, 0, RAM_SIZE, MEM_RAM, MEM_ANONYMOUS, NULL), 0);
    cr_assert_eq(mem_add(&mem, ROM, 0x1000, MEM_ROM, MEM_ANONYMOUS, NULL), 0);
    ring_init(&ring, &mem, RINGS, SIZE);
    vq_init(&vq, &mem, SIZE);
    vq.at = ring.at;
    chain = (struct vq_chain){.iov = iov, .iov_max = IOV_MAX_TEST};
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(queue, .init = setup, .fini = teardown);

static void enable(uint64_t features)
{
    cr_assert_eq(vq_enable(&vq, features), 0);
}

static uint16_t send(uint64_t gpa, uint32_t len, bool write)
{
    struct ring_buf buf = {gpa, len, write};

    return ring_send(&ring, &buf, 1);
}

/* --- enabling --- */

Test(queue, takes_the_largest_layout)
{
    enable(0);
    cr_assert(vq.enabled);
    cr_assert_eq(vq_enable(&vq, 0), -EALREADY);
}

static void refuses(struct vq_layout at)
{
    vq.at = at;
    cr_assert_eq(vq_enable(&vq, 0), -EINVAL);
    cr_assert_not(vq.enabled);
    cr_assert_null(vq.used);
}

Test(queue, refuses_sizes_that_are_no_power_of_two_or_too_large)
{
    static const uint16_t sizes[] = {0, 3, 7, SIZE * 2, 0x8000, 0xffff};

    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        struct vq_layout at = ring.at;
        at.size = sizes[i];
        refuses(at);
    }
}

Test(queue, refuses_unaligned_areas)
{
    for (unsigned off = 1; off < 16; off++) {
        struct vq_layout at = ring.at;
        at.desc += off;
        refuses(at);
    }
    struct vq_layout at = ring.at;
    at.driver += 1;
    refuses(at);
    at = ring.at;
    at.device += 2;
    refuses(at);
}

Test(queue, refuses_areas_outside_ram)
{
    static const uint64_t places[] = {RAM_SIZE - 16, RAM_SIZE, UINT64_MAX - 15, 0xfee00000};

    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        struct vq_layout at = ring.at;
        at.desc = places[i];
        refuses(at);
        at = ring.at;
        at.driver = places[i];
        refuses(at);
        at = ring.at;
        at.device = places[i];
        refuses(at);
    }
}

Test(queue, refuses_a_used_ring_in_rom_or_over_another_area)
{
    struct vq_layout at = ring.at;

    at.device = ROM;
    refuses(at);
    at.device = at.desc + (SIZE - 1) * 16;
    refuses(at);
    at.device = at.driver;
    refuses(at);
}

/* --- taking chains --- */

Test(queue, is_empty_before_and_after)
{
    cr_assert_eq(vq_pop(&vq, &chain), 0); /* not enabled */
    enable(0);
    cr_assert_eq(vq_pop(&vq, &chain), 0);
    cr_assert_not(vq_has_work(&vq));
    send(DATA, 16, false);
    cr_assert(vq_has_work(&vq));
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(vq_pop(&vq, &chain), 0);
}

Test(queue, describes_a_chain)
{
    const struct ring_buf bufs[] = {
        {DATA, 16, false}, {DATA + 0x1000, 512, true}, {DATA + 16, 1, true}};

    enable(0);
    ring.next_desc = 5; /* the chain wraps around the table */
    uint16_t head = ring_send(&ring, bufs, 3);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(chain.head, head);
    cr_assert_eq(chain.out_count, 1);
    cr_assert_eq(chain.out_size, 16);
    cr_assert_eq(chain.in_count, 2);
    cr_assert_eq(chain.in_size, 513);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(iov[i].iov_base, mem_ptr(&mem, bufs[i].gpa, bufs[i].len, false));
        cr_assert_eq(iov[i].iov_len, bufs[i].len);
    }
}

Test(queue, an_empty_buffer_is_no_piece)
{
    const struct ring_buf bufs[] = {{RAM_SIZE + 5, 0, false}, {DATA, 4, true}, {DATA, 0, true}};

    enable(0);
    ring_send(&ring, bufs, 3);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(chain.out_count, 0);
    cr_assert_eq(chain.in_count, 1);
}

Test(queue, indices_wrap_around)
{
    struct vring_used_elem used;

    enable(0);
    for (unsigned i = 0; i < 70000; i++) {
        uint16_t head = send(DATA, i % 100 + 1, true);
        cr_assert_eq(vq_pop(&vq, &chain), 1);
        vq_push(&vq, &chain, i);
        cr_assert(vq_publish(&vq));
        cr_assert(ring_take_used(&ring, &used));
        cr_assert_eq(used.id, head);
        cr_assert_eq(used.len, i);
    }
}

Test(queue, unpopped_chains_come_again)
{
    enable(0);
    send(DATA, 1, true);
    uint16_t second = send(DATA, 2, true);
    send(DATA, 3, true);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(vq_pop(&vq, &chain), 1);
    vq_unpop(&vq, 2);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(chain.head, second);
    cr_assert_eq(chain.in_size, 2);
}

/* --- rings that break the rules --- */

static void is_broken(void)
{
    struct vring_used_elem used;

    cr_assert_eq(vq_pop(&vq, &chain), -EPROTO);
    cr_assert(vq.broken);
    cr_assert_eq(vq_pop(&vq, &chain), -EPROTO);
    cr_assert_not(vq_has_work(&vq));
    cr_assert_not(ring_take_used(&ring, &used));
    vq_reset(&vq);
    cr_assert_not(vq.broken);
    cr_assert_eq(vq.at.size, SIZE);
}

static void raw(uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    ring_desc(&ring, ring.at.desc, 0, (struct vring_desc){addr, len, flags, next});
    ring_offer(&ring, 0);
}

Test(queue, an_available_index_too_far_ahead_breaks_it)
{
    enable(0);
    ring_set_avail_idx(&ring, SIZE + 1);
    is_broken();
}

Test(queue, an_available_index_that_goes_back_breaks_it)
{
    enable(0);
    send(DATA, 1, false);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    ring_set_avail_idx(&ring, 0);
    is_broken();
}

Test(queue, a_head_beyond_the_table_breaks_it)
{
    enable(0);
    ring_offer(&ring, SIZE);
    is_broken();
}

Test(queue, a_next_beyond_the_table_breaks_it)
{
    enable(0);
    raw(DATA, 1, VRING_DESC_F_NEXT, SIZE);
    is_broken();
}

Test(queue, a_descriptor_that_follows_itself_breaks_it)
{
    enable(0);
    raw(DATA, 1, VRING_DESC_F_NEXT, 0);
    is_broken();
}

Test(queue, a_ring_of_descriptors_breaks_it)
{
    enable(0);
    for (uint16_t i = 0; i < SIZE; i++)
        ring_desc(&ring, ring.at.desc, i,
                  (struct vring_desc){DATA, 1, VRING_DESC_F_NEXT, (uint16_t)((i + 1) % SIZE)});
    ring_offer(&ring, 3);
    is_broken();
}

Test(queue, a_full_table_is_no_loop)
{
    struct ring_buf bufs[SIZE];

    for (unsigned i = 0; i < SIZE; i++)
        bufs[i] = (struct ring_buf){DATA, 1, false};
    enable(0);
    ring_send(&ring, bufs, SIZE);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(chain.out_count, SIZE);
}

Test(queue, buffers_outside_memory_break_it)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags;
    } bad[] = {
        {RAM_SIZE, 1, 0},      {RAM_SIZE - 1, 2, 0},
        {UINT64_MAX, 1, 0},    {UINT64_MAX - 7, 16, VRING_DESC_F_WRITE},
        {DATA, UINT32_MAX, 0}, {ROM, 1, VRING_DESC_F_WRITE},
        {ROM + 0xfff, 2, 0},
    };

    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        vq.at = ring.at;
        enable(0);
        ring_set_avail_idx(&ring, 0);
        raw(bad[i].addr, bad[i].len, bad[i].flags, 0);
        is_broken();
    }
}

Test(queue, rom_may_be_read)
{
    enable(0);
    raw(ROM, 0x1000, 0, 0);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
}

Test(queue, a_readable_buffer_after_a_writable_one_breaks_it)
{
    const struct ring_buf bufs[] = {{DATA, 1, true}, {DATA, 1, false}};

    enable(0);
    ring_send(&ring, bufs, 2);
    is_broken();
}

Test(queue, more_pieces_than_the_device_takes_break_it)
{
    const struct ring_buf bufs[] = {{DATA, 1, true}, {DATA, 1, true}, {DATA, 1, true}};

    enable(0);
    chain.iov_max = 2;
    ring_send(&ring, bufs, 3);
    is_broken();
}

Test(queue, more_than_4_gib_break_it)
{
    struct mem large;

    mem_init(&large);
    cr_assert_eq(mem_add(&large, 0, 5 * GIB, MEM_RAM, MEM_ANONYMOUS, NULL), 0);
    ring_init(&ring, &large, RINGS, SIZE);
    vq_init(&vq, &large, SIZE);
    vq.at = ring.at;
    enable(0);
    const struct ring_buf bufs[] = {{0, UINT32_MAX, false}, {0, 1, false}, {0, 1, false}};
    ring_send(&ring, bufs, 2);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    ring_send(&ring, bufs, 3);
    is_broken();
    mem_fini(&large);
}

/* --- indirect descriptors --- */

#define TABLE (DATA + 0x10000)

static void offer_table(uint32_t len, uint16_t flags)
{
    raw(TABLE, len, (uint16_t)(VRING_DESC_F_INDIRECT | flags), 1);
}

Test(queue, follows_an_indirect_table)
{
    enable(INDIRECT);
    ring_desc(&ring, TABLE, 0, (struct vring_desc){DATA, 16, VRING_DESC_F_NEXT, 2});
    ring_desc(&ring, TABLE, 2, (struct vring_desc){DATA + 16, 32, VRING_DESC_F_WRITE, 0});
    offer_table(3 * 16, VRING_DESC_F_WRITE); /* §2.7.5.3.2: the write flag here means nothing */
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(chain.out_size, 16);
    cr_assert_eq(chain.in_size, 32);
}

Test(queue, an_indirect_table_may_end_a_chain)
{
    enable(INDIRECT);
    ring_desc(&ring, TABLE, 0, (struct vring_desc){DATA, 16, VRING_DESC_F_WRITE, 0});
    ring_desc(&ring, ring.at.desc, 1, (struct vring_desc){TABLE, 16, VRING_DESC_F_INDIRECT, 0});
    raw(DATA, 5, VRING_DESC_F_NEXT, 1);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(chain.out_size, 5);
    cr_assert_eq(chain.in_size, 16);
}

Test(queue, an_indirect_table_nobody_negotiated_breaks_it)
{
    enable(0);
    offer_table(16, 0);
    is_broken();
}

Test(queue, indirect_tables_of_impossible_length_break_it)
{
    static const uint32_t lengths[] = {0, 1, 15, 17, 16 * (SIZE + 1), UINT32_MAX, 0xfffffff0};

    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        vq.at = ring.at;
        enable(INDIRECT);
        ring_set_avail_idx(&ring, 0);
        offer_table(lengths[i], 0);
        is_broken();
    }
}

Test(queue, an_indirect_table_that_something_follows_breaks_it)
{
    enable(INDIRECT);
    offer_table(16, VRING_DESC_F_NEXT);
    is_broken();
}

Test(queue, a_nested_indirect_table_breaks_it)
{
    enable(INDIRECT);
    ring_desc(&ring, TABLE, 0, (struct vring_desc){TABLE, 16, VRING_DESC_F_INDIRECT, 0});
    offer_table(16, 0);
    is_broken();
}

Test(queue, an_indirect_table_outside_ram_breaks_it)
{
    enable(INDIRECT);
    raw(RAM_SIZE - 8, 16, VRING_DESC_F_INDIRECT, 0);
    is_broken();
}

Test(queue, a_loop_inside_an_indirect_table_breaks_it)
{
    enable(INDIRECT);
    ring_desc(&ring, TABLE, 0, (struct vring_desc){DATA, 1, VRING_DESC_F_NEXT, 1});
    ring_desc(&ring, TABLE, 1, (struct vring_desc){DATA, 1, VRING_DESC_F_NEXT, 0});
    offer_table(2 * 16, 0);
    is_broken();
}

/* --- giving back --- */

Test(queue, used_elements_appear_only_when_published)
{
    struct vring_used_elem used;
    uint16_t heads[3];

    enable(0);
    for (unsigned i = 0; i < 3; i++)
        heads[i] = send(DATA, 10, true);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(vq_pop(&vq, &chain), 1);
        vq_push(&vq, &chain, i);
        cr_assert_not(ring_take_used(&ring, &used));
    }
    cr_assert(vq_publish(&vq));
    for (unsigned i = 0; i < 3; i++) {
        cr_assert(ring_take_used(&ring, &used));
        cr_assert_eq(used.id, heads[i]);
        cr_assert_eq(used.len, i);
    }
    cr_assert_not(vq_publish(&vq)); /* nothing new */
}

Test(queue, a_push_after_reset_touches_nothing)
{
    struct vring_used_elem used;

    enable(0);
    send(DATA, 10, true);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    vq_reset(&vq);
    vq_push(&vq, &chain, 10);
    cr_assert_not(vq_publish(&vq));
    cr_assert_not(ring_take_used(&ring, &used));
}

static bool serve_one(void)
{
    send(DATA, 1, true);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    vq_push(&vq, &chain, 1);
    return vq_publish(&vq);
}

Test(queue, virtio_2_7_7_2_no_interrupt_flag)
{
    enable(0);
    cr_assert(serve_one());
    ring_set_avail_flags(&ring, VRING_AVAIL_F_NO_INTERRUPT);
    cr_assert_not(serve_one());
    ring_set_avail_flags(&ring, 0);
    cr_assert(serve_one());
}

/* --- notifications --- */

Test(queue, virtio_2_7_10_flag)
{
    enable(0);
    vq_mute(&vq);
    cr_assert_eq(ring_used_flags(&ring), VRING_USED_F_NO_NOTIFY);
    cr_assert_not(vq_unmute(&vq));
    cr_assert_eq(ring_used_flags(&ring), 0);
}

Test(queue, virtio_2_7_10_avail_event)
{
    enable(EVENT_IDX);
    serve_one();
    vq_mute(&vq);
    cr_assert_eq(ring_used_flags(&ring), 0);
    cr_assert_not(vq_unmute(&vq));
    cr_assert_eq(ring_avail_event(&ring), 1);
}

Test(queue, what_came_while_muted_is_told)
{
    enable(EVENT_IDX);
    vq_mute(&vq);
    send(DATA, 1, true);
    cr_assert(vq_unmute(&vq));
}

Test(queue, a_disabled_queue_has_nothing_to_mute)
{
    vq_mute(&vq);
    cr_assert_not(vq_unmute(&vq));
    cr_assert_not(vq_has_work(&vq));
}

/* --- copying --- */

Test(queue, copies_across_pieces)
{
    const struct ring_buf bufs[] = {
        {DATA, 3, false}, {DATA + 100, 5, false}, {DATA + 200, 2, true}, {DATA + 300, 6, true}};
    char text[9] = "........";

    cr_assert_eq(mem_write(&mem, DATA, "abc", 3), 0);
    cr_assert_eq(mem_write(&mem, DATA + 100, "defgh", 5), 0);
    enable(0);
    ring_send(&ring, bufs, 4);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(vq_chain_read(&chain, 0, text, 8), 8);
    cr_assert_str_eq(text, "abcdefgh");
    cr_assert_eq(vq_chain_read(&chain, 2, text, 3), 3);
    cr_assert_eq(memcmp(text, "cde", 3), 0);
    cr_assert_eq(vq_chain_read(&chain, 6, text, 8), 2);
    cr_assert_eq(vq_chain_read(&chain, 8, text, 1), 0);
    cr_assert_eq(vq_chain_read(&chain, UINT64_MAX, text, 1), 0);

    cr_assert_eq(vq_chain_write(&chain, 1, "123456789", 9), 7);
    cr_assert_eq(mem_read(&mem, DATA + 201, text, 1), 0);
    cr_assert_eq(mem_read(&mem, DATA + 300, text + 1, 6), 0);
    cr_assert_eq(memcmp(text, "1234567", 7), 0);
    cr_assert_eq(mem_read(&mem, DATA + 306, text, 1), 0);
    cr_assert_eq(text[0], 0);
}

Test(queue, pieces_can_be_taken_apart)
{
    const struct ring_buf bufs[] = {
        {DATA, 3, false}, {DATA + 100, 5, false}, {DATA + 200, 2, true}, {DATA + 300, 1, true}};
    char text[4];

    cr_assert_eq(mem_write(&mem, DATA, "abc", 3), 0);
    cr_assert_eq(mem_write(&mem, DATA + 100, "defgh", 5), 0);
    enable(0);
    ring_send(&ring, bufs, 4);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    vq_chain_skip_out(&chain, 4);
    cr_assert_eq(chain.out_size, 4);
    cr_assert_eq(vq_chain_read(&chain, 0, text, 4), 4);
    cr_assert_eq(memcmp(text, "efgh", 4), 0);
    vq_chain_trim_in(&chain, 2);
    cr_assert_eq(chain.in_size, 1);
    cr_assert_eq(vq_chain_write(&chain, 0, "1234", 4), 1);
    vq_chain_skip_out(&chain, 4);
    vq_chain_trim_in(&chain, 1);
    cr_assert_eq(vq_chain_write(&chain, 0, "1234", 4), 0);
}

Test(queue, a_device_can_break_it_too)
{
    enable(0);
    send(DATA, 1, true);
    vq_break(&vq);
    is_broken();
}

/* --- state --- */

static int reload(void)
{
    struct codec_writer w;
    struct codec_reader r;
    uint32_t version;
    struct vq loaded;

    codec_writer_init(&w);
    codec_begin(&w, "queue", 1);
    vq_save(&vq, &w);
    cr_assert_eq(codec_end(&w), 0);
    vq_init(&loaded, &mem, SIZE);
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(codec_enter(&r, "queue", &version), 0);
    int rc = vq_load(&loaded, &r);
    cr_assert_eq(codec_leave(&r), 0);
    codec_writer_fini(&w);
    if (rc == 0)
        vq = loaded;
    else
        cr_assert_not(loaded.enabled);
    return rc;
}

Test(queue, goes_on_after_load)
{
    struct vring_used_elem used;

    enable(EVENT_IDX | INDIRECT);
    serve_one();
    uint16_t head = send(DATA, 7, true);
    cr_assert_eq(reload(), 0);
    cr_assert(vq.event_idx && vq.indirect);
    cr_assert(ring_take_used(&ring, &used));
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    cr_assert_eq(chain.head, head);
    vq_push(&vq, &chain, 7);
    (void)!vq_publish(&vq);
    cr_assert(ring_take_used(&ring, &used));
    cr_assert_eq(used.id, head);
}

Test(queue, a_queue_that_is_not_enabled_is_loaded_so)
{
    cr_assert_eq(reload(), 0);
    cr_assert_not(vq.enabled);
    cr_assert_eq(vq.at.desc, ring.at.desc);
}

Test(queue, load_refuses_what_no_queue_saved)
{
    enable(0);
    vq.at.device = ROM;
    cr_assert_eq(reload(), -EINVAL);
    vq.at = ring.at;
    vq.at.size = SIZE * 2;
    cr_assert_eq(reload(), -EINVAL);
    vq_reset(&vq);
    vq.next_used = 3;
    cr_assert_eq(reload(), -EINVAL);
}
