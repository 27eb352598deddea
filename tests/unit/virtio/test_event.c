/*
 * The event index (VIRTIO 1.2 §2.7.7): after which used entry the driver is told.
 */
#include <criterion/criterion.h>
#include <linux/virtio_config.h>

#include "hv/base/num.h"
#include "hv/virtio/queue.h"
#include "support/ring.h"

#define RINGS 0x10000
#define DATA 0x40000
#define SIZE 8

#define EVENT_IDX (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)

static struct mem mem;
static struct ring ring;
static struct vq vq;
static struct iovec iov[SIZE];
static struct vq_chain chain;

static void setup(void)
{
    mem_init(&mem);
    cr_assert_eq(mem_add(&mem, 0, 1 * MIB, MEM_RAM, MEM_ANONYMOUS, NULL), 0);
    ring_init(&ring, &mem, RINGS, SIZE);
    vq_init(&vq, &mem, SIZE);
    vq.at = ring.at;
    chain = (struct vq_chain){.iov = iov, .iov_max = SIZE};
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(event, .init = setup, .fini = teardown);

static void enable(uint64_t features)
{
    cr_assert_eq(vq_enable(&vq, features), 0);
}

static void send(uint64_t gpa, uint32_t len, bool write)
{
    struct ring_buf buf = {gpa, len, write};

    (void)ring_send(&ring, &buf, 1);
}

static bool serve_one(void)
{
    send(DATA, 1, true);
    cr_assert_eq(vq_pop(&vq, &chain), 1);
    vq_push(&vq, &chain, 1);
    return vq_publish(&vq);
}

Test(event, virtio_2_7_7_2_used_event)
{
    enable(EVENT_IDX);
    ring_set_avail_flags(&ring, VRING_AVAIL_F_NO_INTERRUPT); /* ignored with the event index */
    ring_set_used_event(&ring, 0);
    cr_assert(serve_one());
    ring_set_used_event(&ring, 2);
    cr_assert_not(serve_one());
    cr_assert(serve_one());
    cr_assert_not(serve_one());
}

Test(event, used_event_inside_a_batch)
{
    enable(EVENT_IDX);
    for (unsigned last = 0; last < 4; last++)
        send(DATA, 1, true);
    ring_set_used_event(&ring, 2);
    for (unsigned i = 0; i < 4; i++) {
        cr_assert_eq(vq_pop(&vq, &chain), 1);
        vq_push(&vq, &chain, 1);
    }
    cr_assert(vq_publish(&vq));
}

Test(event, used_event_across_the_wrap_of_the_index)
{
    enable(EVENT_IDX);
    ring_set_used_event(&ring, 0xffff);
    for (unsigned i = 0; i < 0xffff; i++)
        cr_assert_not(serve_one());
    cr_assert(serve_one());
}

Test(event, what_was_told_is_saved)
{
    struct codec_writer w;
    struct codec_reader r;
    struct vq loaded;
    uint32_t version;

    enable(EVENT_IDX);
    ring_set_used_event(&ring, 2);
    cr_assert_not(serve_one());
    codec_writer_init(&w);
    codec_begin(&w, "queue", 1);
    vq_save(&vq, &w);
    cr_assert_eq(codec_end(&w), 0);
    vq_init(&loaded, &mem, SIZE);
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(codec_enter(&r, "queue", &version), 0);
    cr_assert_eq(vq_load(&loaded, &r), 0);
    cr_assert_eq(codec_leave(&r), 0);
    codec_writer_fini(&w);
    vq = loaded;
    cr_assert_not(serve_one());
    cr_assert(serve_one());
}
