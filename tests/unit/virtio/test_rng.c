#include <criterion/criterion.h>
#include <string.h>

#include "hv/base/fd.h"

#include "hv/virtio/rng.h"
#include "support/virtio_rig.h"

#define DATA 0x80000

static struct virtio_rig rig;

static void create(uint64_t rate)
{
    struct virtio_rng_setup cfg = {.mem = &rig.mem, .loop = rig.loop, .rate = rate};
    struct virtio_dev *v = NULL;

    cr_assert_eq(virtio_rng_create("rng", &cfg, &v), 0);
    virtio_rig_take(&rig, v);
    virtio_rig_start(&rig, UINT64_MAX);
}

static void setup(void)
{
    virtio_rig_init(&rig);
}

static void teardown(void)
{
    virtio_rig_fini(&rig);
}

TestSuite(virtio_rng, .init = setup, .fini = teardown, .timeout = 60);

static bool is_zero(uint64_t gpa, uint32_t len)
{
    const uint8_t *p = mem_ptr(&rig.mem, gpa, len, false);

    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static uint32_t ask(const struct ring_buf *bufs, unsigned count)
{
    struct vring_used_elem used = {.len = UINT32_MAX};

    ring_send(&rig.rings[0], bufs, count);
    virtio_rig_kick(&rig, 0);
    cr_assert(ring_take_used(&rig.rings[0], &used));
    return used.len;
}

Test(virtio_rng, fills_buffers_and_nothing_behind_them)
{
    const struct ring_buf bufs[] = {{DATA, 64, true}, {DATA + 0x1000, 32, true}};

    create(0);
    cr_assert_eq(ask(bufs, 2), 96);
    cr_assert_not(is_zero(DATA, 64));
    cr_assert_not(is_zero(DATA + 0x1000, 32));
    cr_assert(is_zero(DATA + 64, 0x800));
    cr_assert(is_zero(DATA + 0x1000 + 32, 0x800));
}

Test(virtio_rng, two_answers_differ)
{
    const struct ring_buf one = {DATA, 64, true}, two = {DATA + 64, 64, true};

    create(0);
    ask(&one, 1);
    ask(&two, 1);
    const char *p = mem_ptr(&rig.mem, DATA, 128, false);
    cr_assert_neq(memcmp(p, p + 64, 64), 0);
}

Test(virtio_rng, a_large_buffer_is_answered_in_part)
{
    const struct ring_buf buf = {DATA, 0x40000, true};

    create(0);
    cr_assert_eq(ask(&buf, 1), 4096);
    cr_assert(is_zero(DATA + 4096, 0x1000));
}

Test(virtio_rng, a_buffer_that_cannot_be_written_stays_as_it_is)
{
    const struct ring_buf buf = {DATA, 64, false};

    create(0);
    cr_assert_eq(ask(&buf, 1), 0);
    cr_assert(is_zero(DATA, 64));
}

Test(virtio_rng, a_limit_delays_and_loses_nothing)
{
    const struct ring_buf buf = {DATA, 100, true};
    struct vring_used_elem used;
    unsigned done = 0;

    create(10000); /* a burst of 1000 bytes, then 100 bytes in 10 ms */
    for (unsigned i = 0; i < 20; i++)
        ring_send(&rig.rings[0], &buf, 1);
    uint64_t begin = now_ns();
    virtio_rig_kick(&rig, 0);
    while (done < 20) {
        cr_assert_eq(loop_run_once(rig.loop, -1), 0);
        while (ring_take_used(&rig.rings[0], &used))
            done++;
    }
    cr_assert_geq(now_ns() - begin, 50000000);
}
