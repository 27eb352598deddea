#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/bus/bus.h"
#include "support/scratch_dev.h"

static struct bus bus;
static struct scratch_dev a, b;

static void setup(void)
{
    bus_init(&bus, 0xffff);
    scratch_init(&a, "a", 8);
    scratch_init(&b, "b", 8);
}

static void teardown(void)
{
    bus_fini(&bus);
    scratch_fini(&a);
    scratch_fini(&b);
}

TestSuite(bus, .init = setup, .fini = teardown);

static uint64_t read_bus(uint64_t addr, unsigned size)
{
    uint64_t value = 0;

    bus_read(&bus, addr, &value, size);
    return value;
}

static void write_bus(uint64_t addr, unsigned size, uint64_t value)
{
    bus_write(&bus, addr, &value, size);
}

Test(bus, reaches_the_window_at_the_devices_own_offset)
{
    cr_assert_eq(bus_map(&bus, 0x100, 0x10, &a.dev, 0x40), 0);
    write_bus(0x104, 2, 0xbeef);
    cr_assert_eq(a.accesses, 1);
    cr_assert(a.log[0].is_write);
    cr_assert_eq(a.log[0].offset, 0x44);
    cr_assert_eq(a.log[0].size, 2);
    cr_assert_eq(a.log[0].value, 0xbeef);
    cr_assert_eq(read_bus(0x104, 2), 0xbeef);
}

Test(bus, reads_all_ones_where_nobody_answers)
{
    cr_assert_eq(bus_map(&bus, 0x100, 0x10, &a.dev, 0), 0);
    cr_assert_eq(read_bus(0xff, 1), 0xff);
    cr_assert_eq(read_bus(0x110, 4), 0xffffffff);
    cr_assert_eq(read_bus(0x2000, 8), UINT64_MAX);
    cr_assert_eq(a.accesses, 0);
    cr_assert_eq(bus.unclaimed, 13);
}

Test(bus, counts_dropped_writes)
{
    write_bus(0x80, 1, 0);
    write_bus(0x80, 4, 0);
    cr_assert_eq(bus.unclaimed, 5);
}

Test(bus, read_leaves_bytes_beyond_the_size_alone)
{
    uint8_t data[9];

    memset(data, 0xa5, sizeof(data));
    bus_read(&bus, 0x80, data, 3);
    cr_assert_eq(data[2], 0xff);
    cr_assert_eq(data[3], 0xa5);
}

Test(bus, splits_what_is_wider_than_the_device_takes)
{
    a.ops.max_access = 1;
    cr_assert_eq(bus_map(&bus, 0x100, 0x10, &a.dev, 0), 0);
    write_bus(0x102, 4, 0x44332211);
    cr_assert_eq(a.accesses, 4);
    for (unsigned i = 0; i < 4; i++) {
        cr_assert_eq(a.log[i].offset, 2 + i);
        cr_assert_eq(a.log[i].size, 1);
        cr_assert_eq(a.log[i].value, 0x11 * (i + 1));
    }
    cr_assert_eq(read_bus(0x102, 4), 0x44332211);
}

Test(bus, odd_sizes_become_powers_of_two)
{
    cr_assert_eq(bus_map(&bus, 0x100, 0x10, &a.dev, 0), 0);
    write_bus(0x101, 7, 0x77665544332211);
    cr_assert_eq(a.accesses, 3);
    cr_assert_eq(a.log[0].size, 4);
    cr_assert_eq(a.log[1].size, 2);
    cr_assert_eq(a.log[1].offset, 5);
    cr_assert_eq(a.log[2].size, 1);
    cr_assert_eq(a.log[2].value, 0x77);
}

Test(bus, an_access_may_cross_from_one_window_through_a_gap_into_another)
{
    cr_assert_eq(bus_map(&bus, 0x100, 3, &a.dev, 0), 0);
    cr_assert_eq(bus_map(&bus, 0x104, 4, &b.dev, 0x10), 0);
    a.mem[2] = 0xaa;
    b.mem[0x10] = 0xb0;
    b.mem[0x11] = 0xb1;
    cr_assert_eq(read_bus(0x102, 4), 0xb1b0ffaa);
    cr_assert_eq(bus.unclaimed, 1);
    write_bus(0x102, 4, 0x04030201);
    cr_assert_eq(a.mem[2], 1);
    cr_assert_eq(b.mem[0x10], 3);
    cr_assert_eq(b.mem[0x11], 4);
}

Test(bus, bytes_beyond_the_limit_read_as_ones)
{
    cr_assert_eq(bus_map(&bus, 0xfffe, 2, &a.dev, 0), 0);
    a.mem[0] = 0x11;
    a.mem[1] = 0x22;
    cr_assert_eq(read_bus(0xfffe, 4), 0xffff2211);
    cr_assert_eq(read_bus(0x10000, 4), 0xffffffff);
    write_bus(0xffff, 8, 0x99);
    cr_assert_eq(a.mem[1], 0x99);
    cr_assert_eq(bus.unclaimed, 2 + 4 + 7);
}

Test(bus, does_not_wrap_at_the_end_of_the_address_space)
{
    bus_fini(&bus);
    bus_init(&bus, UINT64_MAX);
    cr_assert_eq(bus_map(&bus, 0, 16, &a.dev, 0), 0);
    cr_assert_eq(bus_map(&bus, UINT64_MAX - 15, 16, &b.dev, 0), 0);
    b.mem[15] = 0x5a;
    cr_assert_eq(read_bus(UINT64_MAX, 2), 0xff5a);
    write_bus(UINT64_MAX, 8, 0);
    cr_assert_eq(a.accesses, 0);
    cr_assert_eq(b.mem[15], 0);
}

Test(bus, rejects_empty_and_outside_windows)
{
    cr_assert_eq(bus_map(&bus, 0x100, 0, &a.dev, 0), -EINVAL);
    cr_assert_eq(bus_map(&bus, 0x10000, 1, &a.dev, 0), -EINVAL);
    cr_assert_eq(bus_map(&bus, 0xffff, 2, &a.dev, 0), -EINVAL);
    cr_assert_eq(bus_map(&bus, 0x100, UINT64_MAX, &a.dev, 0), -EINVAL);
    cr_assert_eq(bus_map(&bus, UINT64_MAX, 1, &a.dev, 0), -EINVAL);
    cr_assert_eq(bus_map(&bus, 0x100, 2, &a.dev, UINT64_MAX), -EINVAL);
    cr_assert_eq(bus.count, 0);
}

Test(bus, rejects_wraparound)
{
    bus_fini(&bus);
    bus_init(&bus, UINT64_MAX);
    cr_assert_eq(bus_map(&bus, UINT64_MAX, 2, &a.dev, 0), -EINVAL);
    cr_assert_eq(bus_map(&bus, 1, UINT64_MAX, &a.dev, 0), 0);
    cr_assert_eq(bus_map(&bus, UINT64_MAX, 1, &b.dev, 0), -EEXIST);
    cr_assert_eq(bus_map(&bus, 0, 1, &b.dev, 0), 0);
}

Test(bus, rejects_overlap_on_every_side)
{
    cr_assert_eq(bus_map(&bus, 0x100, 0x10, &a.dev, 0), 0);
    cr_assert_eq(bus_map(&bus, 0x100, 0x10, &b.dev, 0), -EEXIST);
    cr_assert_eq(bus_map(&bus, 0xff, 2, &b.dev, 0), -EEXIST);
    cr_assert_eq(bus_map(&bus, 0x10f, 2, &b.dev, 0), -EEXIST);
    cr_assert_eq(bus_map(&bus, 0x104, 1, &b.dev, 0), -EEXIST);
    cr_assert_eq(bus_map(&bus, 0x80, 0x100, &b.dev, 0), -EEXIST);
    cr_assert_eq(bus_map(&bus, 0xf0, 0x10, &b.dev, 0), 0);
    cr_assert_eq(bus_map(&bus, 0x110, 0x10, &b.dev, 0), 0);
    cr_assert_eq(bus.count, 3);
}

Test(bus, is_full_at_its_maximum)
{
    for (unsigned i = 0; i < BUS_WINDOWS_MAX; i++)
        cr_assert_eq(bus_map(&bus, i * 2, 1, &a.dev, 0), 0);
    cr_assert_eq(bus_map(&bus, 0x8000, 1, &b.dev, 0), -ENOSPC);
    cr_assert_eq(bus_find(&bus, 0x8000), NULL);
    cr_assert_eq(bus_unmap(&bus, 0), 0);
    cr_assert_eq(bus_map(&bus, 0x8000, 1, &b.dev, 0), 0);
}

Test(bus, unmap_wants_the_first_address)
{
    cr_assert_eq(bus_map(&bus, 0x100, 0x10, &a.dev, 0), 0);
    cr_assert_eq(bus_unmap(&bus, 0x101), -ENOENT);
    cr_assert_eq(bus_unmap(&bus, 0xff), -ENOENT);
    cr_assert_eq(bus_unmap(&bus, 0x110), -ENOENT);
    cr_assert_eq(bus_unmap(&bus, 0x100), 0);
    cr_assert_eq(bus_unmap(&bus, 0x100), -ENOENT);
    cr_assert_eq(read_bus(0x100, 1), 0xff);
}

Test(bus, finds_the_device_for_explanations)
{
    cr_assert_eq(bus_map(&bus, 0xfffe, 2, &a.dev, 0), 0);
    cr_assert_eq(bus_find(&bus, 0xfffd), NULL);
    cr_assert_eq(bus_find(&bus, 0xfffe), &a.dev);
    cr_assert_eq(bus_find(&bus, 0xffff), &a.dev);
    cr_assert_eq(bus_find(&bus, 0x10000), NULL);
}

/* A device whose register moves a window of the bus it is reached through, as a BAR does. */
static void move_window(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    (void)dev, (void)offset, (void)size;
    cr_assert_eq(bus_unmap(&bus, 0x200), 0);
    cr_assert_eq(bus_map(&bus, value, 4, &b.dev, 0), 0);
}

Test(bus, a_device_may_move_windows_while_it_is_accessed)
{
    a.ops.write = move_window;
    cr_assert_eq(bus_map(&bus, 0x100, 4, &a.dev, 0), 0);
    cr_assert_eq(bus_map(&bus, 0x200, 4, &b.dev, 0), 0);
    write_bus(0x100, 4, 0x300);
    cr_assert_eq(bus_find(&bus, 0x200), NULL);
    cr_assert_eq(bus_find(&bus, 0x300), &b.dev);
}

/* --- The bus against a byte-wise model of itself. --- */

#define MODEL_SIZE 512

struct model {
    uint8_t *target[MODEL_SIZE]; /* the byte of `regs` behind each bus address; NULL: nobody */
    uint8_t regs[2][SCRATCH_SIZE];
};

static uint32_t random_below(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(*state >> 33) % n;
}

static bool model_free(const struct model *m, unsigned base, unsigned size)
{
    for (unsigned i = base; i < base + size; i++)
        if (i >= MODEL_SIZE || m->target[i])
            return false;
    return true;
}

static void map_at_random(struct model *m, uint64_t *seed)
{
    unsigned who = random_below(seed, 2);
    unsigned base = random_below(seed, MODEL_SIZE), size = 1 + random_below(seed, 12);
    unsigned offset = random_below(seed, SCRATCH_SIZE - 16);
    bool fits = base + size <= MODEL_SIZE, is_free = model_free(m, base, size);
    int err = bus_map(&bus, base, size, who ? &b.dev : &a.dev, offset);

    cr_assert_eq(err, !fits ? -EINVAL : is_free ? 0 : -EEXIST);
    for (unsigned i = 0; err == 0 && i < size; i++)
        m->target[base + i] = &m->regs[who][offset + i];
}

static void unmap_at_random(struct model *m, uint64_t *seed)
{
    if (bus.count == 0)
        return;
    struct bus_window w = bus.windows[random_below(seed, bus.count)];
    cr_assert_eq(bus_unmap(&bus, w.base), 0);
    for (uint64_t i = w.base; i < w.base + w.size; i++)
        m->target[i] = NULL;
}

static uint8_t *model_at(const struct model *m, unsigned addr)
{
    return addr < MODEL_SIZE ? m->target[addr] : NULL;
}

static void access_at_random(struct model *m, uint64_t *seed)
{
    unsigned addr = random_below(seed, MODEL_SIZE + 8), size = 1 + random_below(seed, 8);
    bool is_write = random_below(seed, 2);
    uint8_t data[8];

    for (unsigned i = 0; i < size; i++)
        data[i] = (uint8_t)random_below(seed, 256);
    if (is_write)
        bus_write(&bus, addr, data, size);
    else
        bus_read(&bus, addr, data, size);
    for (unsigned i = 0; i < size; i++) {
        uint8_t *reg = model_at(m, addr + i);

        if (is_write && reg)
            *reg = data[i];
        if (!is_write)
            cr_assert_eq(data[i], reg ? *reg : 0xff);
    }
    cr_assert_arr_eq(a.mem, m->regs[0], SCRATCH_SIZE);
    cr_assert_arr_eq(b.mem, m->regs[1], SCRATCH_SIZE);
}

Test(bus, behaves_like_a_bytewise_model)
{
    for (uint64_t round = 1; round <= 40; round++) {
        struct model m = {0};
        uint64_t seed = round;

        bus_fini(&bus);
        bus_init(&bus, MODEL_SIZE - 1);
        memset(a.mem, 0, sizeof(a.mem));
        memset(b.mem, 0, sizeof(b.mem));
        a.ops.max_access = 1U << random_below(&seed, 4);
        b.ops.max_access = 1U << random_below(&seed, 4);
        for (unsigned step = 0; step < 2000; step++) {
            unsigned what = random_below(&seed, 10);

            if (what == 0)
                map_at_random(&m, &seed);
            else if (what == 1 && random_below(&seed, 2))
                unmap_at_random(&m, &seed);
            else
                access_at_random(&m, &seed);
        }
    }
}
