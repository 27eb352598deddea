/*
 * The registers of the memory-mapped transport: accesses of any width at any place, over the
 * window's ends too, between those of a driver that comes up, asks and resets.
 */
#include <linux/virtio_mmio.h>

#include "fuzz/transport_fuzz.h"
#include "hv/base/num.h"
#include "hv/bus/bus.h"
#include "hv/virtio/mmio.h"

#define BASE 0xd0000000ULL

static struct fuzz_rig rig;
static struct bus bus;
static struct device *dev;
static struct virtio_dev *disk;
static unsigned edges;

static void on_edge(void *ctx, uint32_t gsi, bool level)
{
    (void)ctx;
    (void)gsi;
    edges += level;
}

static uint32_t get(uint64_t offset)
{
    uint32_t value = 0;

    bus_read(&bus, BASE + offset, &value, sizeof(value));
    return value;
}

/* The device may wait for what is in flight, and this thread is what brings it home. */
static void set_bytes(uint64_t offset, const void *data, unsigned size)
{
    fuzz_rig_settle(&rig, disk);
    bus_write(&bus, BASE + offset, data, size);
}

static void set(uint64_t offset, uint32_t value)
{
    set_bytes(offset, &value, sizeof(value));
}

static void place(unsigned queue)
{
    static const struct {
        uint32_t reg;
        uint64_t area;
    } areas[] = {{VIRTIO_MMIO_QUEUE_DESC_LOW, FUZZ_DESC},
                 {VIRTIO_MMIO_QUEUE_AVAIL_LOW, FUZZ_AVAIL},
                 {VIRTIO_MMIO_QUEUE_USED_LOW, FUZZ_USED}};

    set(VIRTIO_MMIO_QUEUE_SEL, queue);
    set(VIRTIO_MMIO_QUEUE_NUM, FUZZ_QUEUE_SIZE);
    for (unsigned i = 0; i < ARRAY_LEN(areas); i++) {
        set(areas[i].reg, (uint32_t)fuzz_rig_area(queue, areas[i].area));
        set(areas[i].reg + 4, 0);
    }
    set(VIRTIO_MMIO_QUEUE_READY, 1);
}

static void come_up(void)
{
    set(VIRTIO_MMIO_STATUS, 0);
    fuzz_rig_clear_rings(&rig);
    set(VIRTIO_MMIO_STATUS, 1);
    set(VIRTIO_MMIO_STATUS, 3);
    for (unsigned half = 0; half < 2; half++) {
        set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        set(VIRTIO_MMIO_DRIVER_FEATURES, half); /* VERSION_1 alone */
    }
    set(VIRTIO_MMIO_STATUS, 0xb);
    fuzz_check(get(VIRTIO_MMIO_STATUS) == 0xb);
    for (unsigned queue = 0; queue < FUZZ_QUEUES; queue++)
        place(queue);
    set(VIRTIO_MMIO_STATUS, 0xf);
    fuzz_check(get(VIRTIO_MMIO_STATUS) == 0xf);
}

static void ask(void)
{
    fuzz_rig_ask(&rig);
    set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

static void access_any(struct fuzz_input *in, uint8_t what)
{
    unsigned size = 1U << (what >> 4 & 3);
    uint64_t offset = fuzz_u64(in, 2), value;

    if (what & 0x80) /* mostly a register */
        offset = offset % 0x120 & ~3U;
    else
        offset = offset % (VIRTIO_MMIO_SIZE + 16) - 8;
    if (what & 0x40) {
        bus_read(&bus, BASE + offset, &value, size);
        return;
    }
    value = fuzz_u64(in, size);
    set_bytes(offset, &value, size);
}

static void check_registers(void)
{
    uint8_t status = (uint8_t)get(VIRTIO_MMIO_STATUS);

    fuzz_check(get(VIRTIO_MMIO_MAGIC_VALUE) == 0x74726976 && get(VIRTIO_MMIO_VERSION) == 2);
    fuzz_check(!(get(VIRTIO_MMIO_INTERRUPT_STATUS) & ~3U));
    fuzz_check(!(status & 4) || (status & 11) == 11);
    fuzz_check(!(status & 8) || (status & 3) == 3);
    for (unsigned i = 0; i < FUZZ_QUEUES; i++)
        fuzz_check(!disk->queues[i].vq.enabled || is_power_of_two(disk->queues[i].vq.at.size));
}

static void create(struct device **out, struct virtio_dev **out_disk)
{
    struct irq_line line;

    irq_init(&line, on_edge, NULL, 5);
    *out_disk = fuzz_rig_disk(&rig);
    fuzz_check(virtio_mmio_create("mmio", *out_disk, &line, out) == 0);
}

/* Saves, spoils perhaps, and loads. The twin is gone before it could serve the same rings. */
static void move_state(struct fuzz_input *in, bool is_hostile)
{
    struct virtio_dev *unused;
    struct device *twin;

    fuzz_rig_settle(&rig, disk);
    create(&twin, &unused);
    if (is_hostile)
        fuzz_spoiled_state(dev, twin, in);
    else
        fuzz_round_trip(dev, twin);
    dev_destroy(twin);
}

static void step(struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in);

    switch (what & 0x0f) {
    case 0:
    case 1:
        move_state(in, what & 1);
        break;
    case 2:
        come_up();
        break;
    case 3:
        ask();
        break;
    case 4:
        fuzz_rig_turn(&rig, 4);
        break;
    default:
        access_any(in, what);
        break;
    }
    check_registers();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    fuzz_rig_init(&rig);
    bus_init(&bus, UINT64_MAX);
    create(&dev, &disk);
    fuzz_check(bus_map(&bus, BASE, VIRTIO_MMIO_SIZE, dev, 0) == 0);
    for (unsigned i = 0; in.left > 0 && i < 256; i++)
        step(&in);

    come_up();
    edges = 0;
    ask();
    fuzz_rig_turn(&rig, 8);
    fuzz_check(fuzz_rig_answers(&rig) == 1 && edges == 1);
    fuzz_check(get(VIRTIO_MMIO_INTERRUPT_STATUS) == VIRTIO_MMIO_INT_VRING);

    dev_destroy(dev);
    bus_fini(&bus);
    fuzz_rig_fini(&rig);
    return 0;
}
