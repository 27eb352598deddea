#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/virtio/balloon.h"
#include "support/tmp.h"
#include "support/virtio_rig.h"

#define INFLATE 0
#define DEFLATE 1
#define STATS 2
#define REPORT 3 /* as Linux counts */
#define QUEUES 5
#define FAR_RINGS 0x70000 /* those that the rig does not place */
#define FAR_STRIDE 0x18000
#define DATA 0xa0000
#define PAGES 0xc0 /* page numbers from here to the end of the rig's RAM are for the balloon */
#define RAM_PAGES (VIRTIO_RIG_RAM / VIRTIO_BALLOON_PAGE)
/* A second piece of RAM, then ROM, far from the first. */
#define HIGH (16 * MIB)
#define HIGH_SIZE (256 * MIB)
#define HIGH_PFN (HIGH / VIRTIO_BALLOON_PAGE)
#define ROM (1 * GIB)
#define ALL UINT64_MAX

static struct virtio_rig rig;
static struct ring far_rings[QUEUES]; /* from queue 3 on */
static unsigned logged, fds_before;

static struct ring *ring(unsigned queue)
{
    return queue < VIRTIO_RIG_QUEUES ? &rig.rings[queue] : &far_rings[queue];
}

static void on_log(void *ctx, enum log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    cr_assert_not_null(strstr(text, "balloon"));
    logged++;
}

static const struct log log_to_count = {.level = LOG_DEBUG, .write = on_log};

static void create_with(bool reporting)
{
    const struct virtio_balloon_setup setup = {.mem = &rig.mem,
                                               .loop = rig.loop,
                                               .log = &log_to_count,
                                               .deflate_on_oom = true,
                                               .reporting = reporting};
    struct virtio_dev *v = NULL;

    virtio_destroy(rig.v);
    rig.v = NULL;
    cr_assert_eq(virtio_balloon_create("balloon", &setup, &v), 0);
    virtio_rig_take(&rig, v);
}

static void setup_with(enum mem_backing backing)
{
    fds_before = count_open_fds();
    virtio_rig_init(&rig);
    if (mem_add(&rig.mem, HIGH, HIGH_SIZE, MEM_RAM, backing, NULL) < 0)
        cr_skip_test("the host has no such memory");
    cr_assert_eq(mem_add(&rig.mem, ROM, MIB, MEM_ROM, MEM_ANONYMOUS, NULL), 0);
    create_with(true);
}

static void setup(void)
{
    setup_with(MEM_ANONYMOUS);
}

static void teardown(void)
{
    virtio_rig_fini(&rig);
    cr_assert_eq(count_open_fds(), fds_before);
}

TestSuite(virtio_balloon, .init = setup, .fini = teardown, .timeout = 60);

/* --- the driver --- */

static void start(uint64_t features)
{
    virtio_rig_start_all(&rig, features, far_rings, QUEUES, FAR_RINGS, FAR_STRIDE);
}

static bool is_used(unsigned queue)
{
    struct vring_used_elem used = {.len = UINT32_MAX};

    if (!ring_take_used(ring(queue), &used))
        return false;
    cr_assert_eq(used.len, 0);
    return true;
}

/* Sends bytes, at most 256 of them. */
static void send_bytes(unsigned queue, const void *data, uint32_t len)
{
    const struct ring_buf buf = {DATA + queue * 0x1000U, len, false};

    cr_assert_eq(mem_write(&rig.mem, buf.gpa, data, len), 0);
    ring_send(ring(queue), &buf, 1);
    virtio_rig_kick(&rig, queue);
}

static void send_pages(unsigned queue, const uint32_t *pfns, unsigned count)
{
    __le32 numbers[64];

    for (unsigned i = 0; i < count; i++)
        numbers[i] = htole32(pfns[i]);
    send_bytes(queue, numbers, count * (uint32_t)sizeof(numbers[0]));
    cr_assert(is_used(queue));
}

static void send_page(unsigned queue, uint32_t pfn)
{
    send_pages(queue, &pfn, 1);
}

/* Fills pages with something. */
static void dirty(uint32_t pfn, uint64_t pages)
{
    for (; pages > 0; pfn++, pages--)
        memset(mem_ptr(&rig.mem, (uint64_t)pfn << 12, VIRTIO_BALLOON_PAGE, false), 0xa5,
               VIRTIO_BALLOON_PAGE);
}

static bool is_zero(uint32_t pfn)
{
    const uint8_t *p = mem_ptr(&rig.mem, (uint64_t)pfn << 12, VIRTIO_BALLOON_PAGE, false);

    return p[0] == 0 && memcmp(p, p + 1, VIRTIO_BALLOON_PAGE - 1) == 0;
}

static bool is_dirty(uint32_t pfn)
{
    const uint8_t *p = mem_ptr(&rig.mem, (uint64_t)pfn << 12, VIRTIO_BALLOON_PAGE, false);

    return p[0] == 0xa5 && memcmp(p, p + 1, VIRTIO_BALLOON_PAGE - 1) == 0;
}

static bool is_broken(void)
{
    return virtio_status(rig.v) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static struct virtio_balloon_counts counts(void)
{
    struct virtio_balloon_counts c;

    memset(&c, 0xa5, sizeof(c));
    virtio_balloon_counts(rig.v, &c);
    return c;
}

/* --- configuration --- */

Test(virtio_balloon, virtio_5_5_3_features_are_as_they_were_set_up)
{
    const uint64_t set =
        VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ) | VIRTIO_FEATURE(VIRTIO_BALLOON_F_DEFLATE_ON_OOM);

    cr_assert_eq(rig.v->offered & 0xff, set | VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING));
    create_with(false);
    cr_assert_eq(rig.v->offered & 0xff, set);
}

Test(virtio_balloon, virtio_5_5_4_a_target_is_announced)
{
    struct virtio_balloon_config config;

    start(ALL);
    virtio_balloon_set_target(rig.v, 100);
    cr_assert_eq(rig.config, 1);
    virtio_balloon_set_target(rig.v, 100);
    cr_assert_eq(rig.config, 1);
    memset(&config, 0xa5, sizeof(config));
    virtio_config_read(rig.v, 0, &config, sizeof(config));
    cr_assert_eq(config.num_pages, htole32(100));
    cr_assert_eq(config.actual, 0);
    cr_assert_eq(config.free_page_hint_cmd_id, 0);
    cr_assert_eq(config.poison_val, 0);
    virtio_balloon_set_target(rig.v, UINT64_MAX);
    cr_assert_eq(virtio_balloon_target(rig.v), RAM_PAGES + HIGH_SIZE / VIRTIO_BALLOON_PAGE);
    virtio_config_read(rig.v, 13, &config, 8);
    cr_assert_eq(config.num_pages, 0);
}

Test(virtio_balloon, virtio_5_5_4_the_driver_writes_what_it_has_and_nothing_else)
{
    const __le32 value = htole32(0x01020304);
    uint8_t bytes[16];

    memset(bytes, 0xff, sizeof(bytes));
    start(ALL);
    virtio_config_write(rig.v, 4, &value, 4);
    cr_assert_eq(virtio_balloon_actual(rig.v), 0x01020304);
    virtio_config_write(rig.v, 0, bytes, 4);
    virtio_config_write(rig.v, 0, bytes, 8);
    virtio_config_write(rig.v, 8, bytes, 4);
    virtio_config_write(rig.v, 6, bytes, 2);
    virtio_config_write(rig.v, UINT64_MAX - 1, bytes, 4);
    cr_assert_eq(virtio_balloon_actual(rig.v), 0x01020304);
    cr_assert_eq(virtio_balloon_target(rig.v), 0);
    virtio_set_status(rig.v, 0);
    cr_assert_eq(virtio_balloon_actual(rig.v), 0);
}

/* --- pages --- */

Test(virtio_balloon, a_page_goes_back_to_the_host_and_its_neighbours_stay)
{
    unsigned char resident = 1;

    start(ALL);
    dirty(PAGES, 3);
    send_page(INFLATE, PAGES + 1);
    cr_assert_eq(mincore(mem_ptr(&rig.mem, (PAGES + 1) << 12, 4096, false), 4096, &resident), 0);
    cr_assert_eq(resident & 1, 0);
    cr_assert(is_dirty(PAGES));
    cr_assert(is_zero(PAGES + 1));
    cr_assert(is_dirty(PAGES + 2));
    cr_assert_eq(counts().held, 1);
    cr_assert_eq(counts().inflated, 1);
    cr_assert_geq(rig.used[INFLATE], 1);
}

Test(virtio_balloon, pages_come_in_any_order)
{
    const uint32_t pfns[] = {PAGES + 3, PAGES + 4, PAGES + 2,    PAGES + 8,    HIGH_PFN,
                             PAGES + 7, PAGES + 6, HIGH_PFN + 2, HIGH_PFN + 1, RAM_PAGES - 1};

    start(ALL);
    dirty(PAGES, RAM_PAGES - PAGES);
    dirty(HIGH_PFN, 4);
    send_pages(INFLATE, pfns, ARRAY_LEN(pfns));
    for (unsigned i = 0; i < ARRAY_LEN(pfns); i++)
        cr_assert(is_zero(pfns[i]), "page %u", i);
    cr_assert(is_dirty(PAGES + 1));
    cr_assert(is_dirty(PAGES + 5));
    cr_assert(is_dirty(PAGES + 9));
    cr_assert(is_dirty(RAM_PAGES - 2));
    cr_assert(is_dirty(HIGH_PFN + 3));
    cr_assert_eq(counts().held, ARRAY_LEN(pfns));
    cr_assert_eq(logged, 0);
}

Test(virtio_balloon, pages_come_out_again)
{
    const uint32_t pfns[] = {PAGES, PAGES + 1};

    start(ALL);
    dirty(PAGES, 2);
    send_pages(INFLATE, pfns, 2);
    send_page(DEFLATE, PAGES);
    cr_assert_eq(counts().held, 1);
    cr_assert_eq(counts().deflated, 1);
    dirty(PAGES, 1);
    send_page(INFLATE, PAGES);
    cr_assert(is_zero(PAGES));
    cr_assert_eq(counts().again, 0);
    cr_assert_eq(counts().held, 2);
}

Test(virtio_balloon, page_numbers_without_ram_are_counted_and_logged_once)
{
    const uint32_t pfns[] = {RAM_PAGES, HIGH_PFN - 1, HIGH_PFN + HIGH_SIZE / VIRTIO_BALLOON_PAGE,
                             ROM >> 12, 0x80000000,   UINT32_MAX,
                             PAGES};

    start(ALL);
    memset(mem_ptr(&rig.mem, ROM, MIB, false), 0xa5, MIB);
    dirty(PAGES, 1);
    send_pages(INFLATE, pfns, ARRAY_LEN(pfns));
    cr_assert_eq(counts().no_ram, 6);
    cr_assert_eq(counts().held, 1);
    cr_assert(is_zero(PAGES));
    cr_assert(is_dirty(ROM >> 12));
    send_pages(DEFLATE, pfns, ARRAY_LEN(pfns));
    cr_assert_eq(counts().no_ram, 12);
    cr_assert_eq(counts().held, 0);
    cr_assert_eq(logged, 1);
    cr_assert_not(is_broken());
}

Test(virtio_balloon, page_numbers_that_come_twice_are_counted_and_harm_nobody)
{
    start(ALL);
    send_page(INFLATE, PAGES);
    dirty(PAGES, 1); /* whoever uses it nevertheless does so at his own risk; but not at ours */
    send_page(INFLATE, PAGES);
    cr_assert_eq(counts().held, 1);
    cr_assert_eq(counts().again, 1);
    send_page(DEFLATE, PAGES);
    send_page(DEFLATE, PAGES);
    send_page(DEFLATE, PAGES + 1);
    cr_assert_eq(counts().held, 0);
    cr_assert_eq(counts().again, 3);
    cr_assert_eq(logged, 1);
}

Test(virtio_balloon, a_request_that_ends_within_a_number)
{
    const __le32 numbers[] = {htole32(PAGES), htole32(PAGES + 1)};

    start(ALL);
    for (uint32_t len = 0; len <= 8; len++) {
        send_bytes(INFLATE, numbers, len);
        cr_assert(is_used(INFLATE));
    }
    cr_assert_eq(counts().torn, 6);
    cr_assert_eq(counts().held, 2);
    cr_assert_not(is_broken());
}

Test(virtio_balloon, numbers_may_be_split_between_buffers)
{
    const struct ring_buf bufs[] = {{DATA, 5, false},
                                    {DATA + 0x100, 0, false},
                                    {DATA + 0x205, 1, false},
                                    {DATA + 0x306, 6, false}};
    const __le32 numbers[] = {htole32(PAGES), htole32(PAGES + 5), htole32(PAGES + 9)};

    start(ALL);
    cr_assert_eq(mem_write(&rig.mem, DATA, numbers, 5), 0);
    cr_assert_eq(mem_write(&rig.mem, DATA + 0x205, (const uint8_t *)numbers + 5, 1), 0);
    cr_assert_eq(mem_write(&rig.mem, DATA + 0x306, (const uint8_t *)numbers + 6, 6), 0);
    ring_send(ring(INFLATE), bufs, 4);
    virtio_rig_kick(&rig, INFLATE);
    cr_assert(is_used(INFLATE));
    cr_assert_eq(counts().held, 3);
    cr_assert_eq(counts().no_ram, 0);
}

Test(virtio_balloon, a_request_without_end_is_served_in_parts)
{
    struct ring_buf bufs[32];
    unsigned rounds = 0;

    start(ALL);
    memset(mem_ptr(&rig.mem, DATA, 0x10000, true), 0xff, 0x10000);
    for (unsigned i = 0; i < 32; i++)
        bufs[i] = (struct ring_buf){DATA, 0x10000, false};
    ring_send(ring(INFLATE), bufs, 32);
    virtio_kick(virtio_queue(rig.v, INFLATE));
    for (; !is_used(INFLATE); rounds++) {
        uint64_t before = counts().no_ram;
        cr_assert_eq(loop_run_once(rig.loop, 0), 0);
        cr_assert_leq(counts().no_ram - before, 1024);
    }
    cr_assert_eq(counts().no_ram, 32 * 0x10000 / 4);
    cr_assert_geq(rounds, 512);
}

Test(virtio_balloon, a_request_to_be_written_breaks_the_rules)
{
    const struct ring_buf buf = {DATA, 4, true};

    for (unsigned queue = INFLATE; queue <= DEFLATE; queue++) {
        start(ALL);
        ring_send(ring(queue), &buf, 1);
        virtio_rig_kick(&rig, queue);
        cr_assert(is_broken());
        cr_assert_eq(counts().held, 0);
    }
}

Test(virtio_balloon, a_reset_empties_the_balloon)
{
    start(ALL);
    send_page(INFLATE, PAGES);
    virtio_set_status(rig.v, 0);
    cr_assert_eq(counts().held, 0);
    start(ALL);
    dirty(PAGES, 1);
    send_page(INFLATE, PAGES);
    cr_assert(is_zero(PAGES));
    cr_assert_eq(counts().again, 0);
}

Test(virtio_balloon, memory_that_is_a_file_goes_back_too)
{
    virtio_rig_fini(&rig);
    setup_with(MEM_MEMFD);
    start(ALL);
    dirty(HIGH_PFN, 3);
    send_page(INFLATE, HIGH_PFN + 1);
    cr_assert(is_dirty(HIGH_PFN));
    cr_assert(is_zero(HIGH_PFN + 1));
    cr_assert(is_dirty(HIGH_PFN + 2));
}

Test(virtio_balloon, a_huge_page_goes_back_when_all_of_it_is_there)
{
    virtio_rig_fini(&rig);
    virtio_rig_init(&rig);
    if (mem_add(&rig.mem, HIGH, 4 * MIB, MEM_RAM, MEM_HUGETLB, NULL) < 0)
        cr_skip_test("no huge pages are reserved");
    create_with(true);
    start(ALL);
    dirty(HIGH_PFN, 1024);
    for (uint32_t i = 100; i < 1024; i++)
        send_page(INFLATE, HIGH_PFN + i);
    cr_assert(is_dirty(HIGH_PFN + 100));
    cr_assert(is_dirty(HIGH_PFN + 511));
    cr_assert(is_zero(HIGH_PFN + 512));
    cr_assert(is_zero(HIGH_PFN + 1023));
    for (uint32_t i = 100; i-- > 0;)
        send_page(INFLATE, HIGH_PFN + i);
    cr_assert(is_zero(HIGH_PFN));
    cr_assert(is_zero(HIGH_PFN + 511));
    cr_assert_eq(counts().held, 1024);
}

/* --- statistics --- */

/* One statistic, as it is sent. */
static struct virtio_balloon_stat stat_of(uint16_t tag, uint64_t value)
{
    return (struct virtio_balloon_stat){htole16(tag), htole64(value)};
}

static struct virtio_balloon_stats told(void)
{
    struct virtio_balloon_stats s;

    memset(&s, 0xa5, sizeof(s));
    virtio_balloon_stats(rig.v, &s);
    return s;
}

static void answer(uint64_t free)
{
    struct virtio_balloon_stat stats[] = {stat_of(VIRTIO_BALLOON_S_MEMFREE, free),
                                          stat_of(VIRTIO_BALLOON_S_MEMTOT, MIB)};

    send_bytes(STATS, stats, sizeof(stats));
}

Test(virtio_balloon, virtio_5_5_6_3_numbers_come_when_they_are_asked_for)
{
    start(ALL);
    cr_assert_eq(told().at_ns, 0);
    answer(1000); /* the first buffer, with which the driver begins */
    cr_assert_not(is_used(STATS));
    cr_assert_eq(told().value[VIRTIO_BALLOON_S_MEMFREE], 1000);
    virtio_balloon_ask(rig.v);
    virtio_rig_work(&rig);
    cr_assert(is_used(STATS));
    cr_assert_geq(rig.used[STATS], 1);
    answer(2000);
    cr_assert_not(is_used(STATS));
    cr_assert_eq(told().value[VIRTIO_BALLOON_S_MEMFREE], 2000);
    cr_assert_eq(told().known, 1U << VIRTIO_BALLOON_S_MEMFREE | 1U << VIRTIO_BALLOON_S_MEMTOT);
    cr_assert_gt(told().at_ns, 0);
}

Test(virtio_balloon, a_question_waits_for_a_driver)
{
    start(ALL);
    virtio_balloon_ask(rig.v);
    virtio_rig_work(&rig);
    answer(1);
    cr_assert(is_used(STATS));
    answer(2);
    cr_assert_not(is_used(STATS));
    cr_assert_eq(told().value[VIRTIO_BALLOON_S_MEMFREE], 2);
}

Test(virtio_balloon, virtio_5_5_6_3_2_unknown_tags_are_no_mistake)
{
    const struct virtio_balloon_stat stats[] = {stat_of(VIRTIO_BALLOON_S_NR, 1), stat_of(0xffff, 2),
                                                stat_of(VIRTIO_BALLOON_S_AVAIL, 3)};

    start(ALL);
    send_bytes(STATS, stats, sizeof(stats) - 1); /* and a torn one is left out */
    cr_assert_eq(told().known, 0);
    virtio_balloon_ask(rig.v);
    virtio_rig_work(&rig);
    send_bytes(STATS, stats, sizeof(stats));
    cr_assert_eq(told().known, 1U << VIRTIO_BALLOON_S_AVAIL);
    cr_assert_eq(told().value[VIRTIO_BALLOON_S_AVAIL], 3);
    virtio_balloon_ask(rig.v);
    virtio_rig_work(&rig);
    send_bytes(STATS, "", 0);
    cr_assert_eq(told().known, 0);
    cr_assert_not(is_broken());
}

Test(virtio_balloon, questions_come_again_and_again)
{
    start(ALL);
    answer(0);
    virtio_balloon_ask_every(rig.v, 1);
    for (unsigned i = 1; i <= 5; i++) {
        while (!is_used(STATS))
            cr_assert_eq(loop_run_once(rig.loop, -1), 0);
        answer(i);
        cr_assert_eq(told().value[VIRTIO_BALLOON_S_MEMFREE], i);
    }
    virtio_balloon_ask_every(rig.v, 0);
    virtio_rig_work(&rig);
    if (is_used(STATS)) /* it was due already */
        answer(6);
    cr_assert_eq(loop_run_once(rig.loop, 20), 0);
    virtio_rig_work(&rig);
    cr_assert_not(is_used(STATS));
}

Test(virtio_balloon, a_second_buffer_waits_behind_the_first)
{
    start(ALL);
    answer(1);
    answer(2);
    cr_assert_eq(told().value[VIRTIO_BALLOON_S_MEMFREE], 1);
    virtio_balloon_ask(rig.v);
    virtio_rig_work(&rig);
    cr_assert(is_used(STATS));
    cr_assert_not(is_used(STATS));
    cr_assert_eq(told().value[VIRTIO_BALLOON_S_MEMFREE], 2);
}

Test(virtio_balloon, the_buffer_survives_a_stop_and_no_reset)
{
    start(ALL);
    answer(1);
    virtio_stop(rig.v);
    virtio_go_on(rig.v);
    virtio_rig_work(&rig);
    virtio_balloon_ask(rig.v);
    virtio_rig_work(&rig);
    cr_assert(is_used(STATS));
    answer(2);
    start(ALL);
    cr_assert_eq(told().at_ns, 0);
    virtio_balloon_ask(rig.v);
    virtio_rig_work(&rig);
    cr_assert_not(is_used(STATS));
}

/* --- free pages --- */

static void report(unsigned queue, uint64_t gpa, uint32_t len)
{
    const struct ring_buf buf = {gpa, len, true};

    ring_send(ring(queue), &buf, 1);
    virtio_rig_kick(&rig, queue);
}

Test(virtio_balloon, virtio_5_5_6_7_free_pages_go_back)
{
    const struct ring_buf bufs[] = {{HIGH + 0x800, 0x2000, true}, {HIGH + 0x4000, 0x1000, true}};

    start(ALL);
    dirty(HIGH_PFN, 6);
    ring_send(ring(REPORT), bufs, 2);
    virtio_rig_kick(&rig, REPORT);
    cr_assert(is_used(REPORT));
    cr_assert(is_dirty(HIGH_PFN));
    cr_assert(is_zero(HIGH_PFN + 1));
    cr_assert(is_dirty(HIGH_PFN + 2));
    cr_assert(is_dirty(HIGH_PFN + 3));
    cr_assert(is_zero(HIGH_PFN + 4));
    cr_assert_eq(counts().reported, 0x3000);
    cr_assert_eq(counts().held, 0);
}

Test(virtio_balloon, virtio_5_5_2_reports_come_by_whichever_queue_the_driver_counts)
{
    dirty(HIGH_PFN, 1);
    start(ALL);
    report(4, HIGH, 0x1000);
    cr_assert(is_used(4));
    cr_assert(is_zero(HIGH_PFN));
    dirty(HIGH_PFN, 1);
    start(VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING));
    report(2, HIGH, 0x1000);
    cr_assert(is_used(2));
    cr_assert(is_zero(HIGH_PFN));
}

Test(virtio_balloon, without_the_feature_nothing_is_reported)
{
    dirty(HIGH_PFN, 1);
    start(VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ));
    report(3, HIGH, 0x1000);
    report(4, HIGH, 0x1000);
    cr_assert_not(is_used(3));
    cr_assert_not(is_used(4));
    start(0);
    report(2, HIGH, 0x1000);
    cr_assert_not(is_used(2));
    cr_assert(is_dirty(HIGH_PFN));
}

Test(virtio_balloon, a_large_report_is_served_in_parts)
{
    unsigned rounds = 0;

    start(ALL);
    dirty(HIGH_PFN, 1);
    dirty(HIGH_PFN + HIGH_SIZE / VIRTIO_BALLOON_PAGE - 1, 1);
    const struct ring_buf buf = {HIGH, HIGH_SIZE, true};
    ring_send(ring(REPORT), &buf, 1);
    virtio_kick(virtio_queue(rig.v, REPORT));
    for (; !is_used(REPORT); rounds++) {
        uint64_t before = counts().reported;
        cr_assert_eq(loop_run_once(rig.loop, 0), 0);
        cr_assert_leq(counts().reported - before, 64 * MIB);
    }
    cr_assert_geq(rounds, 4);
    cr_assert(is_zero(HIGH_PFN));
    cr_assert(is_zero(HIGH_PFN + HIGH_SIZE / VIRTIO_BALLOON_PAGE - 1));
    cr_assert_eq(counts().reported, HIGH_SIZE);
}

Test(virtio_balloon, a_report_that_is_no_ram_or_to_be_read_breaks_the_rules)
{
    const struct ring_buf bufs[] = {
        {HIGH - 0x1000, 0x2000, true}, {ROM, 0x1000, true}, {HIGH, 0x1000, false}};

    for (unsigned i = 0; i < ARRAY_LEN(bufs); i++) {
        start(ALL);
        dirty(HIGH_PFN, 1);
        ring_send(ring(REPORT), &bufs[i], 1);
        virtio_rig_kick(&rig, REPORT);
        cr_assert(is_broken());
        cr_assert(is_dirty(HIGH_PFN));
        cr_assert_eq(counts().reported, 0);
    }
}

/* --- hostile rings --- */

static void outside_ram(struct ring *r)
{
    const struct ring_buf buf = {ROM + GIB, 16, false};

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
    ring_desc(r, r->at.desc, 0, (struct vring_desc){DATA, 4, VRING_DESC_F_NEXT, 64});
    ring_offer(r, 0);
}

static void a_loop(struct ring *r)
{
    ring_desc(r, r->at.desc, 0, (struct vring_desc){DATA, 4, VRING_DESC_F_NEXT, 0});
    ring_offer(r, 0);
}

static void an_index_ahead(struct ring *r)
{
    ring_set_avail_idx(r, (uint16_t)(r->avail_idx + 65));
}

static void a_nested_table(struct ring *r)
{
    ring_desc(r, DATA, 0, (struct vring_desc){DATA, 16, VRING_DESC_F_INDIRECT, 0});
    ring_desc(r, r->at.desc, 0, (struct vring_desc){DATA, 16, VRING_DESC_F_INDIRECT, 0});
    ring_offer(r, 0);
}

Test(virtio_balloon, a_hostile_ring_breaks_its_device_until_the_reset)
{
    void (*const attacks[])(struct ring *) = {outside_ram,      wrapping, a_head_too_large,
                                              a_next_too_large, a_loop,   an_index_ahead,
                                              a_nested_table};

    for (unsigned a = 0; a < ARRAY_LEN(attacks); a++) {
        for (unsigned queue = 0; queue < QUEUES; queue++) {
            start(ALL);
            attacks[a](ring(queue));
            virtio_rig_kick(&rig, queue);
            cr_assert(is_broken(), "attack %u on queue %u", a, queue);
        }
    }
    start(ALL);
    send_page(INFLATE, PAGES);
    cr_assert_eq(counts().held, 1);
    cr_assert_eq(counts().no_ram, 0);
}

Test(virtio_balloon, a_page_under_a_ring_is_the_guests_own_harm)
{
    start(ALL);
    uint32_t pfn = (uint32_t)(ring(DEFLATE)->at.driver >> 12);
    send_page(DEFLATE, PAGES);
    send_page(INFLATE, pfn);
    virtio_rig_kick(&rig, DEFLATE); /* its available ring is zero now, and went back */
    cr_assert(is_broken());
    start(ALL);
    send_page(INFLATE, PAGES);
    cr_assert_eq(counts().held, 1);
}

Test(virtio_balloon, kicks_for_nobody_are_harmless)
{
    for (unsigned q = 0; q < QUEUES; q++)
        virtio_rig_kick(&rig, q);
    virtio_rig_start(&rig, ALL); /* queues 3 and 4 are not enabled */
    for (unsigned q = 0; q < QUEUES; q++)
        virtio_rig_kick(&rig, q);
    virtio_balloon_ask(rig.v);
    virtio_balloon_ask_every(rig.v, 1000);
    virtio_rig_work(&rig);
    cr_assert_not(is_broken());
}

/* --- state --- */

static struct codec_writer saved;

static void save(void)
{
    codec_writer_init(&saved);
    codec_begin(&saved, "balloon", 1);
    virtio_save(rig.v, &saved);
    cr_assert_eq(codec_end(&saved), 0);
}

static int load(const uint8_t *data, size_t size)
{
    struct codec_reader r;
    uint32_t version;

    codec_reader_init(&r, data, size);
    cr_assert_eq(codec_enter(&r, "balloon", &version), 0);
    return virtio_load(rig.v, &r);
}

/* A second device takes the place of the first, with its state. */
static void move(void)
{
    struct codec_writer first;

    virtio_stop(rig.v);
    save();
    first = saved;
    create_with(true);
    cr_assert_eq(load(first.data, first.size), 0);
    save();
    cr_assert_eq(saved.size, first.size);
    cr_assert_arr_eq(saved.data, first.data, first.size);
    codec_writer_fini(&saved);
    codec_writer_fini(&first);
}

Test(virtio_balloon, state_moves_to_another_device)
{
    const __le32 actual = htole32(7);

    start(ALL);
    virtio_balloon_set_target(rig.v, 33);
    virtio_config_write(rig.v, 4, &actual, 4);
    send_page(INFLATE, PAGES);
    send_page(INFLATE, HIGH_PFN + 77);
    answer(5);
    move();
    cr_assert_eq(virtio_balloon_target(rig.v), 33);
    cr_assert_eq(virtio_balloon_actual(rig.v), 7);
    cr_assert_eq(counts().held, 2);
    cr_assert_eq(told().value[VIRTIO_BALLOON_S_MEMFREE], 5);
    virtio_rig_work(&rig);
    send_page(INFLATE, PAGES);
    send_page(DEFLATE, HIGH_PFN + 77);
    cr_assert_eq(counts().again, 1);
    cr_assert_eq(counts().held, 1);
    virtio_balloon_ask(rig.v);
    virtio_rig_work(&rig);
    cr_assert(is_used(STATS)); /* the buffer came along */
}

Test(virtio_balloon, state_moves_in_the_middle_of_a_request)
{
    const struct ring_buf buf = {DATA, 0x2000, false};

    start(ALL);
    for (uint32_t i = 0; i < 0x2000 / 4; i++)
        cr_assert_eq(mem_write_u32(&rig.mem, DATA + i * 4, HIGH_PFN + i), 0);
    ring_send(ring(INFLATE), &buf, 1);
    virtio_kick(virtio_queue(rig.v, INFLATE));
    cr_assert_eq(loop_run_once(rig.loop, 0), 0);
    cr_assert_eq(counts().held, 1024);
    cr_assert_not(is_used(INFLATE));
    move();
    virtio_rig_work(&rig);
    cr_assert(is_used(INFLATE));
    cr_assert_eq(counts().held, 2048);
    cr_assert_eq(counts().again, 0, "a part was done twice");
}

Test(virtio_balloon, state_of_a_fresh_device_moves_too)
{
    move();
    start(ALL);
    send_page(INFLATE, PAGES);
    cr_assert_eq(counts().held, 1);
}

Test(virtio_balloon, state_of_another_machine_is_refused)
{
    struct codec_writer first;

    save();
    first = saved;
    cr_assert_eq(mem_add(&rig.mem, 2 * GIB, MIB, MEM_RAM, MEM_ANONYMOUS, NULL), 0);
    create_with(true);
    cr_assert_eq(load(first.data, first.size), -EINVAL);
    codec_writer_fini(&first);
}

/* The same state with one byte of its body changed, and a right checksum. */
static int load_spoilt(const struct codec_writer *good, size_t at, uint8_t value)
{
    const size_t head = 16 + strlen("balloon");
    struct codec_writer w;

    codec_writer_init(&w);
    codec_begin(&w, "balloon", 1);
    codec_put_bytes(&w, good->data + head, at);
    codec_put_u8(&w, value);
    codec_put_bytes(&w, good->data + head + at + 1, good->size - head - 4 - at - 1);
    cr_assert_eq(codec_end(&w), 0);
    int rc = load(w.data, w.size);
    codec_writer_fini(&w);
    return rc;
}

Test(virtio_balloon, a_spoilt_state_is_refused_or_loads_as_another)
{
    static const uint8_t values[] = {0, 1, 0x40, 0x80, 0xff};

    start(ALL);
    send_page(INFLATE, PAGES);
    virtio_stop(rig.v);
    save();
    struct codec_writer good = saved;
    size_t body = good.size - (16 + strlen("balloon")) - 4;

    for (size_t at = 0; at < body; at += at < 400 ? 1 : 97) {
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

Test(virtio_balloon, without_descriptors_nothing_is_left_behind)
{
    const struct virtio_balloon_setup s = {.mem = &rig.mem, .loop = rig.loop};
    struct virtio_dev *v = NULL;
    struct rlimit old, few;

    virtio_destroy(rig.v);
    rig.v = NULL;
    unsigned before = count_open_fds();
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    int lowest = dup(0);
    cr_assert_geq(lowest, 0);
    (void)close(lowest);
    for (unsigned spare = 0; spare < QUEUES + 1; spare++) {
        few = old;
        few.rlim_cur = (rlim_t)lowest + spare;
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
        int rc = virtio_balloon_create("balloon", &s, &v);
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
        cr_assert_eq(rc, -EMFILE);
        cr_assert_null(v);
        cr_assert_eq(count_open_fds(), before);
    }
}
