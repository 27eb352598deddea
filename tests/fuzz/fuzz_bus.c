/* Fuzzes window management and dispatch against a byte-wise model. */
#include <errno.h>

#include "fuzz/dev_fuzz.h"
#include "hv/base/num.h"
#include "hv/bus/bus.h"

#define SPACE 256 /* bytes of bus, and of a device's registers */
#define DEVICES 4

struct plain {
    struct device dev;
    struct dev_ops ops;
    uint8_t mem[SPACE];
};

static uint64_t plain_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct plain *p = container_of(dev, struct plain, dev);
    uint64_t value = UINT64_MAX;

    fuzz_check(is_power_of_two(size) && size <= dev->ops->max_access);
    fuzz_check(range_fits(offset, size, SPACE));
    memcpy(&value, p->mem + offset, size);
    return value;
}

static void plain_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct plain *p = container_of(dev, struct plain, dev);

    fuzz_check(is_power_of_two(size) && size <= dev->ops->max_access);
    fuzz_check(range_fits(offset, size, SPACE));
    fuzz_check(size == 8 || value >> (8 * size) == 0);
    memcpy(p->mem + offset, &value, size);
}

static struct plain devs[DEVICES];
static uint8_t model_mem[DEVICES][SPACE];
static uint8_t *target[SPACE]; /* of each bus address in model_mem; NULL: nobody */

static bool is_free(unsigned base, unsigned size)
{
    for (unsigned i = base; i < base + size; i++)
        if (target[i])
            return false;
    return true;
}

static void map(struct bus *bus, struct fuzz_input *in)
{
    unsigned who = fuzz_u8(in) % DEVICES, base = fuzz_u8(in), size = fuzz_u8(in) % 16;
    unsigned offset = fuzz_u8(in) % (SPACE - 16);
    int err = bus_map(bus, base, size, &devs[who].dev, offset);

    if (size == 0 || base + size > SPACE)
        fuzz_check(err == -EINVAL);
    else if (!is_free(base, size))
        fuzz_check(err == -EEXIST);
    else
        fuzz_check(err == 0 || (err == -ENOSPC && bus->count == BUS_WINDOWS_MAX));
    for (unsigned i = 0; err == 0 && i < size; i++)
        target[base + i] = &model_mem[who][offset + i];
}

static void unmap(struct bus *bus, struct fuzz_input *in)
{
    uint64_t base = fuzz_u8(in);

    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->windows[i].base != base)
            continue;
        memset(&target[base], 0, bus->windows[i].size * sizeof(target[0]));
        fuzz_check(bus_unmap(bus, base) == 0);
        return;
    }
    fuzz_check(bus_unmap(bus, base) == -ENOENT);
}

static void access_bus(struct bus *bus, struct fuzz_input *in, bool is_write)
{
    unsigned addr = fuzz_u8(in), size = 1 + fuzz_u8(in) % 8;
    uint64_t value = is_write ? fuzz_u64(in, 8) : 0;
    uint8_t data[8];

    memcpy(data, &value, sizeof(data));
    if (is_write)
        bus_write(bus, addr, data, size);
    else
        bus_read(bus, addr, data, size);
    for (unsigned i = 0; i < size; i++) {
        uint8_t *reg = addr + i < SPACE ? target[addr + i] : NULL;

        if (is_write && reg)
            *reg = data[i];
        if (!is_write)
            fuzz_check(data[i] == (reg ? *reg : 0xff));
    }
    for (unsigned d = 0; d < DEVICES; d++)
        fuzz_check(memcmp(devs[d].mem, model_mem[d], SPACE) == 0);
}

static void start(struct bus *bus)
{
    bus_init(bus, SPACE - 1);
    memset(target, 0, sizeof(target));
    memset(model_mem, 0, sizeof(model_mem));
    for (unsigned i = 0; i < DEVICES; i++) {
        memset(&devs[i], 0, sizeof(devs[i]));
        devs[i].ops =
            (struct dev_ops){.read = plain_read, .write = plain_write, .max_access = 1U << i};
        dev_init(&devs[i].dev, &devs[i].ops, "plain");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct bus bus;

    start(&bus);
    while (in.left > 0) {
        uint8_t what = fuzz_u8(&in) % 8;

        if (what < 2)
            map(&bus, &in);
        else if (what == 2)
            unmap(&bus, &in);
        else
            access_bus(&bus, &in, what & 1);
    }
    for (unsigned i = 0; i < DEVICES; i++)
        dev_fini(&devs[i].dev);
    bus_fini(&bus);
    return 0;
}
