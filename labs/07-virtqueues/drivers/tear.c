/*
 * An entropy device on a thread of its own, and a driver on another one that rewrites everything
 * while the device looks at it.
 *
 *   [  rings and buffers  ]  hole  [ a secret ]  hole  [ ROM ]
 *
 * Whatever mixture of old and new the device sees, no descriptor of this driver's leads to the
 * secret; and ROM is no device's to write, though buffers may lie there.
 *
 * args: MS SEED   how long
 *
 * Reports: rounds of the driver's, resets that it needed, chains that it got back; what became of
 * the secret and the ROM; and whether after all that a good driver gets its bytes.
 */
#include <time.h>

#include "hv/base/iothread.h"
#include "hv/virtio/rng.h"
#include "observe.h"

#define ZONE_SIZE 0x20000
#define SECRET 0x40000
#define ROM 0x60000
#define PAGE_BYTES 0x1000
#define SIZE 16
#define DESC 0x0
#define AVAIL 0x1000
#define USED 0x2000
#define TABLE 0x3000 /* an indirect one */
#define BUFFERS 0x8000
#define FEATURES (VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC))

static struct mem mem;
static struct virtio_dev *v;
static uint8_t *zone;
static uint64_t dice;
static _Atomic unsigned interrupts;

static uint32_t roll(uint32_t sides)
{
    dice = dice * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(dice >> 33) % sides;
}

static void on_used(void *ctx, unsigned queue)
{
    (void)ctx;
    (void)queue;
    interrupts++;
}

static double seconds_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* --- the driver --- */

static void put16(uint64_t at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)(zone + at), value, __ATOMIC_SEQ_CST);
}

static uint16_t get16(uint64_t at)
{
    return __atomic_load_n((uint16_t *)(void *)(zone + at), __ATOMIC_SEQ_CST);
}

static void put_desc(uint64_t at, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    __atomic_store_n((uint64_t *)(void *)(zone + at), addr, __ATOMIC_RELAXED);
    __atomic_store_n((uint32_t *)(void *)(zone + at + 8), len, __ATOMIC_RELAXED);
    put16(at + 12, flags);
    put16(at + 14, next);
}

static void start(void)
{
    struct virtio_queue *q = virtio_queue(v, 0);

    virtio_set_status(v, 0);
    virtio_set_status(v, 3);
    virtio_accept(v, 0, (uint32_t)FEATURES);
    virtio_accept(v, 1, (uint32_t)(FEATURES >> 32));
    virtio_set_status(v, 11);
    put16(AVAIL, 0);
    put16(AVAIL + 2, 0);
    put16(USED + 2, 0);
    q->vq.at = (struct vq_layout){.size = SIZE, .desc = DESC, .driver = AVAIL, .device = USED};
    virtio_enable_queue(q);
    virtio_set_status(v, 15);
}

static void scribble(uint64_t table)
{
    static const uint64_t places[] = {BUFFERS, BUFFERS + 0x1000, BUFFERS + 7,    TABLE,
                                      ROM,     ROM + 0x800,      ZONE_SIZE - 64, ZONE_SIZE,
                                      0x30000, UINT64_MAX - 7};
    static const uint32_t sizes[] = {0, 1, 16, 64, 64, 64, 0x1000, 0x10000, 16 * SIZE, 0xffffffff};
    uint16_t flags = (uint16_t)(roll(4) == 0 ? roll(8) : roll(2) ? 2 : 3);

    put_desc(table + 16 * (uint64_t)roll(SIZE), places[roll(roll(2) ? 3 : 10)],
             sizes[roll(roll(2) ? 6 : 10)], flags, (uint16_t)roll(roll(4) ? SIZE : SIZE + 2));
}

static void attack(double seconds)
{
    double end = seconds_now() + seconds;
    unsigned rounds = 0, resets = 0, back = 0;
    uint16_t seen = 0;

    start();
    while (seconds_now() < end) {
        for (unsigned i = 0; i < 40; i++)
            scribble(roll(3) ? DESC : TABLE);
        put16(AVAIL + 4 + 2 * (uint64_t)roll(SIZE), (uint16_t)roll(roll(8) ? SIZE : SIZE + 2));
        put16(AVAIL + 2, (uint16_t)(get16(AVAIL + 2) + roll(4)));
        virtio_kick(virtio_queue(v, 0));
        back += (uint16_t)(get16(USED + 2) - seen);
        seen = get16(USED + 2);
        if ((virtio_status(v) & 0x40) && roll(4) == 0) {
            start();
            seen = 0;
            resets++;
        }
        rounds++;
    }
    report_int("rounds", rounds);
    report_int("resets", resets);
    report_int("back", back);
}

/* A driver that does nothing wrong. */
static void behave(void)
{
    double end = seconds_now() + 3;

    start();
    memset(zone + BUFFERS, 0, 64);
    put_desc(DESC, BUFFERS, 64, 2, 0);
    put16(AVAIL + 4, 0);
    put16(AVAIL + 2, 1);
    virtio_kick(virtio_queue(v, 0));
    while (get16(USED + 2) != 1 && seconds_now() < end) {
    }
    report_int("answered", get16(USED + 2) == 1);
    report_int("random", !all_bytes_are(zone + BUFFERS, 0, 64));
}

static int make(struct iothread **thread)
{
    int rc = iothread_create("device", thread);

    mem_init(&mem);
    if (rc < 0 || mem_add(&mem, 0, ZONE_SIZE, MEM_RAM, MEM_ANONYMOUS, NULL) < 0 ||
        mem_add(&mem, SECRET, PAGE_BYTES, MEM_RAM, MEM_ANONYMOUS, NULL) < 0 ||
        mem_add(&mem, ROM, PAGE_BYTES, MEM_ROM, MEM_ANONYMOUS, NULL) < 0)
        return -1;
    const struct virtio_rng_setup setup = {.mem = &mem, .loop = iothread_loop(*thread)};
    if (virtio_rng_create("rng", &setup, &v) < 0)
        return -1;
    virtio_attach(v, &(struct virtio_port){.used = on_used});
    zone = mem.regions[0].host;
    return iothread_start(*thread);
}

int main(int argc, char **argv)
{
    struct iothread *thread = NULL;

    if (argc < 3 || make(&thread) < 0)
        return 2;
    uint8_t *secret = mem.regions[1].host, *rom = mem.regions[2].host;
    memset(secret, 0x5e, PAGE_BYTES);
    memset(rom, 0xc3, PAGE_BYTES);
    dice = number(argv[2]);
    attack((double)number(argv[1]) / 1e3);
    behave();
    iothread_stop(thread);
    report_int("secret_kept", all_bytes_are(secret, 0x5e, PAGE_BYTES));
    report_int("rom_kept", all_bytes_are(rom, 0xc3, PAGE_BYTES));
    return report_end();
}
