/*
 * vCPUs access the bus while windows come and go: a window that stays is always reached, one that
 * moves is reached or reads as ones, and an access that crosses both sees each byte one way or the
 * other.
 */
#include <stdatomic.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/bus/bus.h"
#include "thread/crew.h"

#define VCPUS 3
#define MOVES 100000
#define STAYING 0x100 /* where `steady` answers, two bytes */
#define MOVING 0x102  /* where `moving` sometimes answers, two bytes */

/* A register that counts its accesses; the bus's promise to hold the device's lock guards it. */
struct counter {
    struct device dev;
    uint8_t value;
    uint64_t accesses;
};

static uint64_t counter_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct counter *c = container_of(dev, struct counter, dev);

    (void)offset, (void)size;
    c->accesses++;
    return c->value;
}

static void counter_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct counter *c = container_of(dev, struct counter, dev);

    (void)offset, (void)size, (void)value;
    c->accesses++;
}

static const struct dev_ops counter_ops = {
    .read = counter_read, .write = counter_write, .max_access = 1};

static struct bus bus;
static struct counter steady = {.value = 0x5a}, moving = {.value = 0xa5};
static atomic_bool stop;
static atomic_ullong to_steady;

static void access_bus(void *ctx, unsigned index)
{
    (void)ctx;
    while (!atomic_load(&stop)) {
        uint8_t data[4];
        bus_read(&bus, STAYING, data, 4);
        CHECK(data[0] == 0x5a && data[1] == 0x5a);
        CHECK(data[2] == 0xa5 || data[2] == 0xff);
        CHECK(data[3] == 0xa5 || data[3] == 0xff);
        bus_write(&bus, STAYING + 1 + index % 2, data, 2);
        CHECK(bus_find(&bus, STAYING) == &steady.dev);
        atomic_fetch_add(&to_steady, 3 - index % 2);
    }
}

/* In turns with windows below and above, so that the sorted list shifts. */
static void move_windows(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < MOVES; i++) {
        uint64_t other = i % 2 ? 0x10 : 0x200;
        CHECK(bus_map(&bus, MOVING, 2, &moving.dev, 0) == 0);
        CHECK(bus_map(&bus, other, 8, &moving.dev, 0) == 0);
        CHECK(bus_unmap(&bus, MOVING) == 0);
        CHECK(bus_unmap(&bus, other) == 0);
    }
    atomic_store(&stop, true);
}

int main(void)
{
    struct crew crew = {0};

    bus_init(&bus, 0xffff);
    dev_init(&steady.dev, &counter_ops, "steady");
    dev_init(&moving.dev, &counter_ops, "moving");
    CHECK(bus_map(&bus, STAYING, 2, &steady.dev, 0) == 0);
    crew_start(&crew, VCPUS, access_bus, NULL);
    crew_start(&crew, 1, move_windows, NULL);
    crew_join(&crew);
    CHECK(steady.accesses == atomic_load(&to_steady));
    CHECK(bus.count == 1);
    dev_fini(&steady.dev);
    dev_fini(&moving.dev);
    bus_fini(&bus);
    return 0;
}
