/*
 * A driver for the entropy device, as small as one can be: virtio-mmio, one queue, and it polls.
 *
 * Shows: a virtqueue from the other side (VIRTIO 1.2 §2.7, §4.2). Discovery, the steps of the
 * status register, placing the queue; then descriptors, available ring, index, notification; and
 * the used ring, watched until its index moves. At the end the driver breaks a rule on purpose.
 *
 * run: --boot elf --rng --virtio mmio
 * needs: kvm
 * expect: @ok device_id
 * expect: @ok features_ok
 * expect: @ok driver_ok
 * expect: @ok all_used
 * expect: @ok lengths
 * expect: @ok filled
 * expect: @ok nothing_behind
 * expect: @ok needs_reset
 * expect: @ok after_reset
 * status: 33
 */
#include "lib/guest.h"
#include "lib/string.h"

#define WINDOW 0xfe000000UL
#define REG(offset) (*(volatile uint32_t *)(WINDOW + (offset)))
#define MAGIC REG(0x00)
#define DEVICE_ID REG(0x08)
#define DRIVER_FEATURES REG(0x20)
#define DRIVER_FEATURES_SEL REG(0x24)
#define QUEUE_SEL REG(0x30)
#define QUEUE_NUM REG(0x38)
#define QUEUE_READY REG(0x44)
#define QUEUE_NOTIFY REG(0x50)
#define STATUS REG(0x70)
#define QUEUE_DESC REG(0x80) /* the low half; the high one is 4 further */
#define QUEUE_DRIVER REG(0x90)
#define QUEUE_DEVICE REG(0xa0)

#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8
#define NEEDS_RESET 0x40

#define SIZE 8
#define DESC_WRITE 2
#define ROUNDS_MAX 20000000 /* of polling: seconds on a slow machine */

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct avail {
    uint16_t flags, idx, ring[SIZE], used_event;
};

struct used {
    uint16_t flags, idx;
    struct {
        uint32_t id, len;
    } ring[SIZE];
    uint16_t avail_event;
};

/* The first 4 GiB are mapped one to one, so these are pointers and guest-physical addresses. */
#define RINGS 0x400000UL
#define BUFFERS 0x410000UL
#define STRIDE 0x1000

static volatile struct desc *const desc = (void *)RINGS;
static volatile struct avail *const avail = (void *)(RINGS + 0x1000);
static volatile struct used *const used = (void *)(RINGS + 0x2000);

static uint8_t *buffer(unsigned i)
{
    return (uint8_t *)(BUFFERS + (uint64_t)i * STRIDE);
}

/* §3.1.1 */
static void start_device(void)
{
    STATUS = 0;
    STATUS = ACKNOWLEDGE;
    STATUS = ACKNOWLEDGE | DRIVER;
    DRIVER_FEATURES_SEL = 1;
    DRIVER_FEATURES = 1; /* VIRTIO_F_VERSION_1, bit 32 */
    DRIVER_FEATURES_SEL = 0;
    DRIVER_FEATURES = 0;
    STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK;
}

static void start_queue(void)
{
    memset((void *)RINGS, 0, 0x3000);
    QUEUE_SEL = 0;
    QUEUE_NUM = SIZE;
    QUEUE_DESC = RINGS;
    QUEUE_DRIVER = RINGS + 0x1000;
    QUEUE_DEVICE = RINGS + 0x2000;
    QUEUE_READY = 1;
    STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}

/* What an x86 processor writes, others see in this order; the compiler has to keep it, too. */
static void offer(uint16_t i, uint32_t len)
{
    desc[i] = (struct desc){.addr = (uint64_t)buffer(i), .len = len, .flags = DESC_WRITE};
    avail->ring[avail->idx % SIZE] = i;
    __atomic_signal_fence(__ATOMIC_RELEASE);
    avail->idx++;
}

static bool wait_for_used(uint16_t idx)
{
    for (unsigned i = 0; i < ROUNDS_MAX && used->idx != idx; i++)
        __asm__ volatile("pause" : : : "memory");
    return used->idx == idx;
}

static unsigned zeros(const uint8_t *bytes, unsigned count)
{
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++)
        n += bytes[i] == 0;
    return n;
}

/* Three buffers, one notification. */
static void ask_for_bytes(void)
{
    static const uint32_t lengths[] = {64, 256, 1000};
    unsigned good = 0, empty = 0, behind = 0;

    for (uint16_t i = 0; i < 3; i++) {
        memset(buffer(i), 0, STRIDE);
        offer(i, lengths[i]);
    }
    QUEUE_NOTIFY = 0;
    check("all_used", 1, wait_for_used(3));
    for (unsigned i = 0; i < 3; i++) {
        good += used->ring[i].id == i && used->ring[i].len == lengths[i];
        empty += zeros(buffer(i), lengths[i]) > lengths[i] / 4;
        behind += STRIDE - lengths[i] - zeros(buffer(i) + lengths[i], STRIDE - lengths[i]);
    }
    check("lengths", 3, good);
    check("filled", 0, empty);
    check("nothing_behind", 0, behind);
    value("first", *(uint64_t *)(void *)buffer(0));
}

/* The index is far ahead of what the ring holds: the device cannot go on. */
static void lie(void)
{
    avail->idx = (uint16_t)(avail->idx + 1000);
    QUEUE_NOTIFY = 0;
    for (unsigned i = 0; i < 1000 && !(STATUS & NEEDS_RESET); i++)
        __asm__ volatile("pause" : : : "memory");
    check("needs_reset", NEEDS_RESET, STATUS & NEEDS_RESET);
}

void main(void)
{
    check("magic", 0x74726976, MAGIC);
    check("device_id", 4, DEVICE_ID);
    start_device();
    check("features_ok", FEATURES_OK, STATUS & FEATURES_OK);
    start_queue();
    check("driver_ok", DRIVER_OK, STATUS & DRIVER_OK);
    ask_for_bytes();
    lie();
    start_device();
    start_queue();
    offer(0, 64);
    QUEUE_NOTIFY = 0;
    check("after_reset", 1, wait_for_used(1));
}
