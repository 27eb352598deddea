#include "support/bus_rig.h"

#include <criterion/criterion.h>
#include <string.h>

void rig_init(struct bus_rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    bus_init(&rig->bus, 0xffff);
    rig->line = fake_irq_line(&rig->irq, 4);
    cr_assert_eq(chr_mem_create(1 << 16, &rig->chr), 0);
}

void rig_fini(struct bus_rig *rig)
{
    while (rig->count > 0)
        dev_destroy(rig->devs[--rig->count]);
    chr_destroy(rig->chr);
    bus_fini(&rig->bus);
}

void rig_map(struct bus_rig *rig, struct device *dev, uint16_t port, uint64_t size, uint64_t offset)
{
    cr_assert_eq(bus_map(&rig->bus, port, size, dev, offset), 0);
}

void rig_add(struct bus_rig *rig, struct device *dev, uint16_t port, uint64_t size)
{
    cr_assert_lt(rig->count, RIG_DEVICES_MAX);
    rig->devs[rig->count++] = dev;
    rig_map(rig, dev, port, size, 0);
}

uint8_t rig_in8(struct bus_rig *rig, uint16_t port)
{
    uint8_t value = 0xa5;

    bus_read(&rig->bus, port, &value, sizeof(value));
    return value;
}

uint16_t rig_in16(struct bus_rig *rig, uint16_t port)
{
    uint16_t value = 0xa5a5;

    bus_read(&rig->bus, port, &value, sizeof(value));
    return value;
}

uint32_t rig_in32(struct bus_rig *rig, uint16_t port)
{
    uint32_t value = 0xa5a5a5a5;

    bus_read(&rig->bus, port, &value, sizeof(value));
    return value;
}

void rig_out8(struct bus_rig *rig, uint16_t port, uint8_t value)
{
    bus_write(&rig->bus, port, &value, sizeof(value));
}

void rig_out16(struct bus_rig *rig, uint16_t port, uint16_t value)
{
    bus_write(&rig->bus, port, &value, sizeof(value));
}

void rig_out32(struct bus_rig *rig, uint16_t port, uint32_t value)
{
    bus_write(&rig->bus, port, &value, sizeof(value));
}

const char *rig_output(struct bus_rig *rig)
{
    return chr_mem_output(rig->chr, NULL);
}
