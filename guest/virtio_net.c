/*
 * A driver for a network interface on PCI, as small as one can be: it transmits, and it polls.
 *
 * Shows: configuration mechanism #1 (PCI §3.2.2.3.2), a base address register that is measured and
 * moved, the capabilities that say where virtio's structures are (VIRTIO 1.2 §4.1.4), and what a
 * packet costs: COUNT frames with a notification each; as many, notified only when the device asks
 * by its flag; and when it asks by the event index (§2.7.10).
 *
 * run: --boot elf --net none
 * needs: kvm
 * expect: @ok function
 * expect: @ok bar_size
 * expect: @ok bar_moved
 * expect: @ok structures
 * expect: @ok every_frame
 * expect: @ok when_asked
 * expect: @ok by_event_index
 * status: 33
 */
#include "lib/guest.h"
#include "lib/string.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define COMMAND 0x04
#define COMMAND_MEMORY 2
#define BAR0 0x10
#define CAPABILITIES 0x34
#define VENDOR_CAP 9
#define NEW_PLACE 0xd0000000U

enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_TYPES = 6 };

#define EVENT_IDX 29
#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8
#define NO_NOTIFY 1
#define TRANSMIT 1 /* the queue */

#define SIZE 64
#define COUNT 1000
#define HEADER 12
#define FRAME 200
#define ROUNDS_MAX 200000000 /* of polling: seconds on a slow machine */

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
#define BUFFER 0x410000UL

static volatile struct desc *const desc = (void *)RINGS;
static volatile struct avail *const avail = (void *)(RINGS + 0x1000);
static volatile struct used *const used = (void *)(RINGS + 0x2000);

static unsigned slot;
static uint64_t structures[CAP_TYPES]; /* where they are */
static uint32_t notify_multiplier;

/* --- configuration space --- */

static void point(unsigned offset)
{
    outl(CONFIG_ADDRESS, 0x80000000U | slot << 11 | (offset & 0xfc));
}

static uint32_t config_read(unsigned offset)
{
    point(offset);
    return inl(CONFIG_DATA);
}

static uint8_t config_byte(unsigned offset)
{
    point(offset);
    return inb((uint16_t)(CONFIG_DATA + offset % 4));
}

static void config_write(unsigned offset, uint32_t value)
{
    point(offset);
    outl(CONFIG_DATA, value);
}

static bool find_function(uint32_t id)
{
    for (slot = 0; slot < 32; slot++)
        if (config_read(0) == id)
            return true;
    return false;
}

static void place_bar(void)
{
    config_write(COMMAND, 0);
    config_write(BAR0, 0xffffffff);
    check("bar_size", 0x8000, ~(config_read(BAR0) & ~0xfU) + 1);
    config_write(BAR0, NEW_PLACE);
    config_write(BAR0 + 4, 0);
    config_write(COMMAND, COMMAND_MEMORY);
    check("bar_moved", NEW_PLACE, config_read(BAR0) & ~0xfU);
}

static void find_structures(void)
{
    unsigned found = 0;

    for (unsigned cap = config_byte(CAPABILITIES); cap != 0; cap = config_byte(cap + 1)) {
        unsigned type = config_byte(cap + 3);
        if (config_byte(cap) != VENDOR_CAP || type >= CAP_TYPES)
            continue;
        structures[type] = NEW_PLACE + config_read(cap + 8);
        if (type == CAP_NOTIFY)
            notify_multiplier = config_read(cap + 16);
        found++;
    }
    check("structures", 5, found);
}

/* --- the device --- */

#define COMMON8(offset) (*(volatile uint8_t *)(structures[CAP_COMMON] + (offset)))
#define COMMON16(offset) (*(volatile uint16_t *)(structures[CAP_COMMON] + (offset)))
#define COMMON32(offset) (*(volatile uint32_t *)(structures[CAP_COMMON] + (offset)))
#define FEATURE_SELECT COMMON32(8)
#define FEATURES COMMON32(12)
#define STATUS COMMON8(20)
#define QUEUE_SELECT COMMON16(22)
#define QUEUE_SIZE COMMON16(24)
#define QUEUE_ENABLE COMMON16(28)
#define QUEUE_NOTIFY_OFF COMMON16(30)
#define QUEUE_DESC COMMON32(32)
#define QUEUE_DRIVER COMMON32(40)
#define QUEUE_DEVICE COMMON32(48)

static volatile uint16_t *start(uint32_t features)
{
    STATUS = 0;
    STATUS = ACKNOWLEDGE | DRIVER;
    FEATURE_SELECT = 0;
    FEATURES = features;
    FEATURE_SELECT = 1;
    FEATURES = 1; /* VIRTIO_F_VERSION_1, bit 32 */
    STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    memset((void *)RINGS, 0, 0x3000);
    QUEUE_SELECT = TRANSMIT;
    QUEUE_SIZE = SIZE;
    QUEUE_DESC = RINGS;
    QUEUE_DRIVER = RINGS + 0x1000;
    QUEUE_DEVICE = RINGS + 0x2000;
    QUEUE_ENABLE = 1;
    STATUS = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    return (volatile uint16_t *)(structures[CAP_NOTIFY] +
                                 (uint64_t)QUEUE_NOTIFY_OFF * notify_multiplier);
}

enum asking { ALWAYS, BY_FLAG, BY_EVENT };

/* Does the device want to know of the entry that was just made available? We wrote avail->idx and
 * read the device's word, which writes it and reads avail->idx: a full barrier between them. */
static bool is_asked(enum asking how)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (how == BY_EVENT)
        return used->avail_event == (uint16_t)(avail->idx - 1);
    return how == ALWAYS || !(used->flags & NO_NOTIFY);
}

static bool wait_for_used(uint16_t idx)
{
    for (unsigned i = 0; i < ROUNDS_MAX && (uint16_t)(used->idx - idx) > SIZE; i++)
        __asm__ volatile("pause" : : : "memory");
    return (uint16_t)(used->idx - idx) <= SIZE;
}

/* Sends COUNT frames; returns how many notifications it took, 0 if the device gave up. */
static unsigned transmit(enum asking how, uint32_t features)
{
    volatile uint16_t *bell = start(features);
    unsigned rung = 0;

    memset((void *)BUFFER, 0, HEADER + FRAME);
    for (unsigned i = 0; i < COUNT; i++) {
        if (i >= SIZE && !wait_for_used((uint16_t)(i - SIZE + 1)))
            return 0;
        desc[i % SIZE] = (struct desc){.addr = BUFFER, .len = HEADER + FRAME};
        avail->ring[i % SIZE] = (uint16_t)(i % SIZE);
        __atomic_signal_fence(__ATOMIC_RELEASE);
        avail->idx++;
        if (is_asked(how)) {
            *bell = TRANSMIT;
            rung++;
        }
    }
    return wait_for_used(COUNT) ? rung : 0;
}

static void measure(const char *name, const char *count, enum asking how, uint32_t features)
{
    unsigned rung = transmit(how, features);

    check(name, 1, rung > 0);
    value(count, rung);
}

void main(void)
{
    check("function", 1, find_function(0x10411af4));
    place_bar();
    find_structures();
    measure("every_frame", "notified_for_every_frame", ALWAYS, 0);
    measure("when_asked", "notified_when_asked", BY_FLAG, 0);
    measure("by_event_index", "notified_by_event_index", BY_EVENT, 1U << EVENT_IDX);
}
