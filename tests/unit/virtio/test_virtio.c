#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hv/base/num.h"
#include "hv/virtio/virtio.h"
#include "support/echo_dev.h"
#include "support/virtio_rig.h"

#define ACK VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRV VIRTIO_CONFIG_S_DRIVER
#define FOK VIRTIO_CONFIG_S_FEATURES_OK
#define DOK VIRTIO_CONFIG_S_DRIVER_OK
#define BAD VIRTIO_CONFIG_S_NEEDS_RESET
#define FAIL VIRTIO_CONFIG_S_FAILED
#define RUNNING (ACK | DRV | FOK | DOK)
#define DATA 0x80000

static struct virtio_rig rig;
static struct echo *echo;

static void setup(void)
{
    virtio_rig_init(&rig);
    echo = echo_create(&rig);
}

static void teardown(void)
{
    virtio_rig_fini(&rig);
}

TestSuite(virtio, .init = setup, .fini = teardown);

static uint8_t set(uint8_t status)
{
    virtio_set_status(rig.v, status);
    return virtio_status(rig.v);
}

static void accept(uint64_t features)
{
    virtio_accept(rig.v, 0, (uint32_t)features);
    virtio_accept(rig.v, 1, (uint32_t)(features >> 32));
}

#define VERSION_1 VIRTIO_FEATURE(VIRTIO_F_VERSION_1)

/* --- features --- */

Test(virtio, does_not_offer_what_is_withheld_nor_take_it)
{
    virtio_withhold(rig.v, VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX));
    cr_assert_not(virtio_offered(rig.v, 0) & (1U << VIRTIO_RING_F_EVENT_IDX));
    cr_assert(virtio_offered(rig.v, 0) & (1U << VIRTIO_RING_F_INDIRECT_DESC));
    set(ACK);
    set(ACK | DRV);
    accept(VERSION_1 | VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX));
    cr_assert_eq(set(ACK | DRV | FOK), ACK | DRV);
}

Test(virtio, offers_its_own_and_the_common_features)
{
    uint64_t offered = virtio_offered(rig.v, 0) | (uint64_t)virtio_offered(rig.v, 1) << 32;

    cr_assert_eq(offered, VERSION_1 | VIRTIO_FEATURE(ECHO_FEATURE) |
                              VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX) |
                              VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC));
    cr_assert_eq(virtio_offered(rig.v, 2), 0);
    cr_assert_eq(virtio_offered(rig.v, UINT32_MAX), 0);
}

Test(virtio, virtio_2_2_2_features_not_offered_are_refused)
{
    set(ACK | DRV);
    accept(VERSION_1 | VIRTIO_FEATURE(ECHO_FEATURE + 1));
    cr_assert_eq(set(ACK | DRV | FOK), ACK | DRV);
    accept(VERSION_1);
    cr_assert_eq(set(ACK | DRV | FOK), ACK | DRV | FOK);
}

Test(virtio, virtio_6_2_a_driver_of_version_0_is_refused)
{
    set(ACK | DRV);
    accept(VIRTIO_FEATURE(ECHO_FEATURE));
    cr_assert_eq(set(ACK | DRV | FOK), ACK | DRV);
}

Test(virtio, virtio_3_1_1_features_are_fixed_by_features_ok)
{
    set(ACK | DRV);
    accept(VERSION_1);
    set(ACK | DRV | FOK);
    accept(VERSION_1 | VIRTIO_FEATURE(ECHO_FEATURE));
    cr_assert_not(virtio_has(rig.v, ECHO_FEATURE));
    virtio_accept(rig.v, 7, UINT32_MAX);
    cr_assert_eq(virtio_accepted(rig.v, 1), (uint32_t)(VERSION_1 >> 32));
    cr_assert_eq(virtio_accepted(rig.v, 7), 0);
}

/* --- status --- */

Test(virtio, status_steps_are_taken_in_order)
{
    cr_assert_eq(set(DRV), 0);
    cr_assert_eq(set(FOK), 0);
    cr_assert_eq(set(DOK), 0);
    cr_assert_eq(set(ACK), ACK);
    cr_assert_eq(set(ACK | DOK), ACK);
    cr_assert_eq(set(ACK | DRV), ACK | DRV);
    cr_assert_eq(set(ACK | DRV | DOK), ACK | DRV); /* FEATURES_OK was skipped */
    cr_assert_eq(echo->starts, 0);
}

Test(virtio, several_steps_at_once_are_taken_as_far_as_they_go)
{
    accept(VERSION_1);
    cr_assert_eq(set(RUNNING), RUNNING);
    cr_assert_eq(echo->starts, 1);
}

Test(virtio, bits_are_not_taken_back_but_by_a_reset)
{
    virtio_rig_start(&rig, 0);
    cr_assert_eq(set(ACK), RUNNING);
    cr_assert_eq(echo->starts, 1);
    cr_assert_eq(set(0), 0);
    cr_assert_eq(echo->resets, 2); /* the rig's, too */
    cr_assert_eq(rig.v->features, 0);
    cr_assert_not(virtio_queue(rig.v, 0)->vq.enabled);
}

Test(virtio, the_driver_cannot_set_bits_of_the_device)
{
    cr_assert_eq(set(ACK | BAD | 0x10 | 0x20), ACK);
}

Test(virtio, failed_stops_it)
{
    struct ring_buf buf = {DATA, 4, true};
    struct vring_used_elem used;

    virtio_rig_start(&rig, 0);
    cr_assert_eq(set(RUNNING | FAIL), RUNNING | FAIL);
    ring_send(&rig.rings[0], &buf, 1);
    virtio_rig_kick(&rig, 0);
    cr_assert_not(ring_take_used(&rig.rings[0], &used));
}

/* --- queues --- */

Test(virtio, serves_a_kicked_queue)
{
    struct ring_buf buf = {DATA, 4, true};
    struct vring_used_elem used;

    virtio_rig_start(&rig, 0);
    uint16_t head = ring_send(&rig.rings[0], &buf, 1);
    virtio_rig_kick(&rig, 0);
    cr_assert(ring_take_used(&rig.rings[0], &used));
    cr_assert_eq(used.id, head);
    cr_assert_eq(used.len, 4);
    cr_assert_eq(rig.used[0], 1);
}

Test(virtio, what_was_available_before_driver_ok_is_served)
{
    struct ring_buf buf = {DATA, 4, true};
    struct vring_used_elem used;

    accept(VERSION_1);
    set(ACK | DRV | FOK);
    struct virtio_queue *q = virtio_queue(rig.v, 0);
    ring_init(&rig.rings[0], &rig.mem, VIRTIO_RIG_RINGS, 16);
    q->vq.at = rig.rings[0].at;
    virtio_enable_queue(q);
    ring_send(&rig.rings[0], &buf, 1);
    virtio_rig_kick(&rig, 0);
    cr_assert_not(ring_take_used(&rig.rings[0], &used)); /* §3.1.1: not before DRIVER_OK */
    set(RUNNING);
    virtio_rig_work(&rig);
    cr_assert(ring_take_used(&rig.rings[0], &used));
}

Test(virtio, a_queue_cannot_be_enabled_before_features_ok)
{
    struct virtio_queue *q = virtio_queue(rig.v, 0);

    ring_init(&rig.rings[0], &rig.mem, VIRTIO_RIG_RINGS, 16);
    q->vq.at = rig.rings[0].at;
    virtio_enable_queue(q);
    cr_assert_not(q->vq.enabled);
    cr_assert(virtio_can_place(q));
}

Test(virtio, there_is_no_queue_beyond_the_last)
{
    cr_assert_null(virtio_queue(rig.v, 2));
    cr_assert_null(virtio_queue(rig.v, 0xffff));
}

Test(virtio, virtio_2_1_2_a_broken_queue_needs_a_reset)
{
    virtio_rig_start(&rig, 0);
    ring_offer(&rig.rings[0], 999);
    virtio_rig_kick(&rig, 0);
    cr_assert_eq(virtio_status(rig.v), RUNNING | BAD);
    cr_assert_eq(rig.config, 1);
    virtio_rig_kick(&rig, 0);
    cr_assert_eq(rig.config, 1); /* told once */

    struct ring_buf buf = {DATA, 4, true};
    struct vring_used_elem used;
    virtio_rig_start(&rig, 0); /* the way out */
    ring_send(&rig.rings[0], &buf, 1);
    virtio_rig_kick(&rig, 0);
    cr_assert(ring_take_used(&rig.rings[0], &used));
}

Test(virtio, virtio_2_1_2_no_interrupt_before_driver_ok)
{
    accept(VERSION_1);
    set(ACK | DRV | FOK);
    struct virtio_queue *q = virtio_queue(rig.v, 0);
    q->vq.at.desc = 1; /* unaligned */
    virtio_enable_queue(q);
    cr_assert_eq(virtio_status(rig.v), ACK | DRV | FOK | BAD);
    cr_assert_eq(rig.config, 0);
}

/* --- answers that come later --- */

static void send_later(void)
{
    struct ring_buf buf = {DATA, 4, true};

    virtio_rig_start(&rig, 0);
    ring_send(&rig.rings[1], &buf, 1);
    virtio_rig_kick(&rig, 1);
    cr_assert(echo->has_later);
}

static void *answer_soon(void *arg)
{
    (void)arg;
    while (__atomic_load_n(&virtio_queue(rig.v, 1)->running, __ATOMIC_RELAXED))
        sched_yield(); /* until the reset waits, or is about to */
    echo_answer(echo);
    return NULL;
}

Test(virtio, a_reset_waits_for_what_is_in_flight, .timeout = 30)
{
    struct vring_used_elem used;
    pthread_t thread;

    send_later();
    cr_assert_eq(pthread_create(&thread, NULL, answer_soon, NULL), 0);
    set(0);
    cr_assert_eq(virtio_queue(rig.v, 1)->in_flight, 0);
    cr_assert_not(virtio_queue(rig.v, 1)->vq.enabled);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert(ring_take_used(&rig.rings[1], &used)); /* answered before it was reset */
    cr_assert_not(ring_take_used(&rig.rings[1], &used));
}

Test(virtio, a_stopped_device_goes_on_where_it_was)
{
    struct ring_buf buf = {DATA, 4, true};
    struct vring_used_elem used;

    virtio_rig_start(&rig, 0);
    virtio_stop(rig.v);
    ring_send(&rig.rings[0], &buf, 1);
    virtio_rig_kick(&rig, 0);
    cr_assert_not(ring_take_used(&rig.rings[0], &used));
    virtio_go_on(rig.v);
    virtio_rig_work(&rig);
    cr_assert(ring_take_used(&rig.rings[0], &used));
}

/* --- configuration --- */

Test(virtio, configuration_beyond_its_end_is_zero)
{
    uint8_t byte = 0x55, bytes[4];

    virtio_config_write(rig.v, 0, &byte, 1);
    memset(bytes, 0xaa, sizeof(bytes));
    virtio_config_read(rig.v, 0, bytes, 4);
    cr_assert_eq(memcmp(bytes, "\x55\0\0\0", 4), 0);
    virtio_config_read(rig.v, UINT64_MAX, bytes, 4);
    cr_assert_eq(memcmp(bytes, "\0\0\0\0", 4), 0);
}

Test(virtio, a_change_of_configuration_is_a_new_generation)
{
    virtio_rig_start(&rig, 0);
    uint32_t before = atomic_load(&rig.v->generation);
    virtio_config_changed(rig.v);
    cr_assert_neq(atomic_load(&rig.v->generation), before);
    cr_assert_eq(rig.config, 1);
}

/* --- state --- */

/* Saves the device and loads it into a second one, which takes its place. */
static int reload(void (*spoil)(uint8_t *body))
{
    struct codec_writer w;
    struct codec_reader r;
    uint32_t version;

    virtio_stop(rig.v);
    codec_writer_init(&w);
    codec_begin(&w, "echo", 1);
    virtio_save(rig.v, &w);
    cr_assert_eq(codec_end(&w), 0);
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(codec_enter(&r, "echo", &version), 0);
    if (spoil)
        spoil(w.data + r.body_pos);

    virtio_destroy(rig.v);
    echo = echo_create(&rig);
    int rc = virtio_load(rig.v, &r);
    codec_writer_fini(&w);
    return rc;
}

Test(virtio, goes_on_after_load)
{
    struct ring_buf buf = {DATA, 4, true};
    struct vring_used_elem used;
    uint8_t byte = 0x77;

    virtio_rig_start(&rig, VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX));
    virtio_config_write(rig.v, 0, &byte, 1);
    virtio_stop(rig.v);
    ring_send(&rig.rings[0], &buf, 1); /* came, but was not served before the end */
    cr_assert_eq(reload(NULL), 0);
    cr_assert_eq(virtio_status(rig.v), RUNNING);
    cr_assert_eq(echo->value, 0x77);
    cr_assert_eq(echo->starts, 1);
    virtio_rig_work(&rig);
    cr_assert(ring_take_used(&rig.rings[0], &used));
}

static void spoil_features(uint8_t *body)
{
    body[7] = 0xff;
}

static void spoil_status(uint8_t *body)
{
    body[8] = DOK; /* without what comes before it */
}

static void spoil_queue_count(uint8_t *body)
{
    body[13] = 200;
}

static void spoil_queue(uint8_t *body)
{
    body[15] = 0x33; /* its size */
}

Test(virtio, load_refuses_what_no_device_saved)
{
    void (*const spoils[])(uint8_t *) = {spoil_features, spoil_status, spoil_queue_count,
                                         spoil_queue};

    for (unsigned i = 0; i < ARRAY_LEN(spoils); i++) {
        virtio_rig_start(&rig, 0);
        cr_assert_eq(reload(spoils[i]), -EINVAL);
        cr_assert_eq(virtio_status(rig.v), 0);
        cr_assert_not(virtio_queue(rig.v, 0)->vq.enabled);
    }
    echo->value = 0xee;
    cr_assert_eq(reload(NULL), -EINVAL);
}

Test(virtio, init_leaves_nothing_behind_without_descriptors)
{
    const struct virtio_queue_config queues[] = {{16, rig.loop}, {8, rig.loop}};
    struct rlimit limit;
    struct virtio_dev v;
    int lowest = dup(0);

    cr_assert_geq(lowest, 0);
    close(lowest);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = (rlim_t)lowest + 1; /* room for one queue's */
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    cr_assert_eq(virtio_init(&v, echo->v.ops, "echo", &rig.mem, 0, queues, 2), -EMFILE);
    limit.rlim_cur = before;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    cr_assert_null(v.queues);
    int again = dup(0);
    cr_assert_eq(again, lowest);
    close(again);
}
