/*
 * A balloon between its threads: the I/O thread, a vCPU that sends pages in and out and answers
 * questions, and others that ask, set targets, and stop and continue the device.
 */
#include <endian.h>
#include <stdatomic.h>
#include <string.h>

#include "driver.h"
#include "hv/base/iothread.h"
#include "hv/virtio/balloon.h"

#define INFLATE 0
#define DEFLATE 1
#define STATS 2
#define ROUNDS 3000
#define PAGES 64 /* in the balloon at a time, from FIRST on */
#define FIRST 0x80
#define FEATURES VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ)

static struct mem mem;
static struct iothread *io;
static struct virtio_dev *balloon;
static struct driver_queue queues[3];
static atomic_bool stop;

static void send(struct driver_queue *d, uint32_t pfn)
{
    __le32 number = htole32(pfn);

    memcpy(driver_slot(d, d->offered), &number, sizeof(number));
    driver_offer(d, sizeof(number), 0);
    (void)driver_await(d);
}

/* Answers the question, if there is one. */
static void answer(struct driver_queue *d, uint64_t value)
{
    const struct virtio_balloon_stat stat = {htole16(VIRTIO_BALLOON_S_MEMFREE), htole64(value)};

    if (d->offered != 0 && __atomic_load_n(&d->used->idx, __ATOMIC_SEQ_CST) == d->seen)
        return;
    if (d->offered != 0)
        (void)driver_await(d);
    memcpy(driver_slot(d, d->offered), &stat, sizeof(stat));
    driver_offer(d, sizeof(stat), 0);
}

static void drive(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint8_t *page = mem_ptr(&mem, (uint64_t)(FIRST + i % PAGES) << 12, 4096, true);
        __le32 actual = htole32(i);
        answer(&queues[STATS], i);
        page[17] = 1;
        send(&queues[INFLATE], FIRST + i % PAGES);
        CHECK(page[17] == 0);
        virtio_config_write(balloon, 4, &actual, sizeof(actual));
        send(&queues[DEFLATE], FIRST + i % PAGES);
    }
    atomic_store(&stop, true);
}

static void ask(void *ctx, unsigned index)
{
    struct virtio_balloon_counts counts;
    struct virtio_balloon_stats stats;
    uint64_t last = 0;

    (void)ctx;
    for (unsigned i = 0; !atomic_load(&stop); i++) {
        virtio_balloon_ask(balloon);
        virtio_balloon_ask_every(balloon, i % 3);
        virtio_balloon_set_target(balloon, i % 100 + index);
        virtio_balloon_counts(balloon, &counts);
        CHECK(counts.held <= 1 && counts.no_ram == 0 && counts.again == 0);
        CHECK(virtio_balloon_target(balloon) <= 102);
        CHECK(virtio_balloon_actual(balloon) < ROUNDS);
        virtio_balloon_stats(balloon, &stats);
        CHECK(stats.value[VIRTIO_BALLOON_S_MEMFREE] >= last);
        last = stats.value[VIRTIO_BALLOON_S_MEMFREE];
        (void)sched_yield();
    }
}

static void pause_all(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    while (!atomic_load(&stop)) {
        virtio_stop(balloon);
        virtio_go_on(balloon);
        (void)sched_yield();
    }
}

int main(void)
{
    struct crew crew = {0};

    mem_init(&mem);
    CHECK(mem_add(&mem, 0, DRIVER_RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    CHECK(iothread_create("io", &io) == 0);
    const struct virtio_balloon_setup setup = {.mem = &mem, .loop = iothread_loop(io)};
    CHECK(virtio_balloon_create("balloon", &setup, &balloon) == 0);
    driver_begin(balloon, FEATURES);
    for (unsigned i = 0; i < 3; i++)
        driver_place(&queues[i], &mem, balloon, i);
    driver_ok(balloon);
    CHECK(iothread_start(io) == 0);
    crew_start(&crew, 1, drive, NULL);
    crew_start(&crew, 2, ask, NULL);
    crew_start(&crew, 1, pause_all, NULL);
    crew_join(&crew);
    iothread_stop(io);
    virtio_destroy(balloon);
    iothread_destroy(io);
    mem_fini(&mem);
    return 0;
}
