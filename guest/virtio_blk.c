/*
 * A driver for a disk, as small as one can be: virtio-mmio, one queue, and it polls.
 *
 * Shows: what a request is made of (VIRTIO 1.2 §5.2.6): header, data, status, in one chain. Then
 * several at once, answered in any order, and a flush that waits for the writes it is to cover.
 * What the last run has written it finds again: the disk's first sector counts the runs.
 *
 * run: --boot elf --virtio mmio --disk DISK
 * disk: 1048576
 * needs: kvm
 * expect: @ok device_id
 * expect: @ok driver_ok
 * expect: @ok read
 * expect: @ok written
 * expect: @ok flushed
 * expect: @ok same
 * expect: @ok beyond_the_end
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
#define CAPACITY REG(0x100) /* sectors, the low half */

#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8

#define SIZE 32
#define DESC_NEXT 1
#define DESC_WRITE 2
#define REQUESTS 8
#define SECTOR 512
#define BYTES (8 * SECTOR)      /* of one request's data */
#define ROUNDS_MAX 20000000     /* of polling: seconds on a slow machine */
#define FLUSH_FEATURE (1U << 9) /* VIRTIO_BLK_F_FLUSH */

enum { IN, OUT, FLUSH = 4 }; /* types of requests */
enum { OK, IOERR };          /* their status */

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

/* One request: its header and status, and the data elsewhere. */
struct request {
    uint32_t type, reserved;
    uint64_t sector;
    uint8_t status;
    uint8_t padding[47];
};

/* The first 4 GiB are mapped one to one, so these are pointers and guest-physical addresses. */
#define RINGS 0x400000UL
#define BUFFERS 0x410000UL

static volatile struct desc *const desc = (void *)RINGS;
static volatile struct avail *const avail = (void *)(RINGS + 0x1000);
static volatile struct used *const used = (void *)(RINGS + 0x2000);
static volatile struct request *const requests = (void *)(RINGS + 0x3000);

static uint8_t *buffer(unsigned i)
{
    return (uint8_t *)(BUFFERS + (uint64_t)i * BYTES);
}

/* §3.1.1 */
static void start(void)
{
    STATUS = 0;
    STATUS = ACKNOWLEDGE;
    STATUS = ACKNOWLEDGE | DRIVER;
    DRIVER_FEATURES_SEL = 1;
    DRIVER_FEATURES = 1; /* VIRTIO_F_VERSION_1, bit 32 */
    DRIVER_FEATURES_SEL = 0;
    DRIVER_FEATURES = FLUSH_FEATURE;
    STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    memset((void *)RINGS, 0, 0x4000);
    QUEUE_SEL = 0;
    QUEUE_NUM = SIZE;
    QUEUE_DESC = RINGS;
    QUEUE_DRIVER = RINGS + 0x1000;
    QUEUE_DEVICE = RINGS + 0x2000;
    QUEUE_READY = 1;
    STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}

/* Request i: three descriptors, two for a flush. */
static void offer(unsigned i, uint32_t type, uint64_t sector)
{
    uint16_t head = (uint16_t)(3 * i), status = (uint16_t)(head + 2);
    uint16_t data_flags = type == IN ? DESC_NEXT | DESC_WRITE : DESC_NEXT;
    uint16_t second = type == FLUSH ? status : (uint16_t)(head + 1);

    requests[i] = (struct request){.type = type, .sector = sector, .status = 0xff};
    desc[head] = (struct desc){(uint64_t)&requests[i], 16, DESC_NEXT, second};
    desc[head + 1] = (struct desc){(uint64_t)buffer(i), BYTES, data_flags, status};
    desc[status] = (struct desc){(uint64_t)&requests[i].status, 1, DESC_WRITE, 0};
    avail->ring[avail->idx % SIZE] = head;
    __atomic_signal_fence(__ATOMIC_RELEASE);
    avail->idx++;
}

/* Notifies, and waits until all that was offered came back. */
static bool wait_for_all(void)
{
    QUEUE_NOTIFY = 0;
    for (unsigned i = 0; i < ROUNDS_MAX && used->idx != avail->idx; i++)
        __asm__ volatile("pause" : : : "memory");
    return used->idx == avail->idx;
}

static unsigned good(unsigned count)
{
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++)
        n += requests[i].status == OK;
    return n;
}

static void fill(uint8_t *bytes, uint64_t value)
{
    for (unsigned i = 0; i < BYTES / 8; i++, bytes += 8)
        memcpy(bytes, &value, 8);
}

void main(void)
{
    uint64_t run;

    check("magic", 0x74726976, MAGIC);
    check("device_id", 2, DEVICE_ID);
    start();
    check("driver_ok", DRIVER_OK, STATUS & DRIVER_OK);
    value("sectors", CAPACITY);

    offer(0, IN, 0);
    wait_for_all();
    check("read", 1, good(1));
    memcpy(&run, buffer(0), 8);
    value("runs_before", run);

    for (unsigned i = 0; i < REQUESTS; i++) {
        fill(buffer(i), run + 1 + i);
        offer(i, OUT, i * (BYTES / SECTOR));
    }
    wait_for_all();
    check("written", REQUESTS, good(REQUESTS));
    offer(0, FLUSH, 0); /* it covers what was answered before it was offered, §5.2.6.2 */
    wait_for_all();
    check("flushed", 1, good(1));

    unsigned same = 0;
    for (unsigned i = 0; i < REQUESTS; i++) {
        memset(buffer(i), 0, BYTES);
        offer(i, IN, i * (BYTES / SECTOR));
    }
    wait_for_all();
    for (unsigned i = 0; i < REQUESTS; i++)
        same += *(uint64_t *)(void *)(buffer(i) + BYTES - 8) == run + 1 + i;
    check("same", REQUESTS, same);

    offer(0, IN, CAPACITY);
    wait_for_all();
    check("beyond_the_end", IOERR, requests[0].status);
}
