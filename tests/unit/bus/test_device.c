#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/bus/device.h"
#include "support/scratch_dev.h"

static struct scratch_dev dev;
static struct codec_writer w;

static void setup(void)
{
    scratch_init(&dev, "scratch", 8);
    codec_writer_init(&w);
}

static void teardown(void)
{
    codec_writer_fini(&w);
    scratch_fini(&dev);
}

TestSuite(device, .init = setup, .fini = teardown);

Test(device, write_clears_the_bytes_beyond_the_size)
{
    static const uint64_t masks[] = {[1] = 0xff, [2] = 0xffff, [4] = 0xffffffff, [8] = UINT64_MAX};

    for (unsigned size = 1; size <= 8; size *= 2) {
        dev.accesses = 0;
        dev_write(&dev.dev, 0, size, 0xfedcba9876543210);
        cr_assert_eq(dev.log[0].value, 0xfedcba9876543210 & masks[size]);
        cr_assert_eq(dev.log[0].size, size);
    }
}

Test(device, read_clears_the_bytes_beyond_the_size)
{
    dev.junk = UINT64_MAX;
    dev.mem[0] = 0x5a;
    cr_assert_eq(dev_read(&dev.dev, 0, 1), 0x5a);
    cr_assert_eq(dev_read(&dev.dev, 0, 4), 0x5a);
}

Test(device, destroy_takes_null_and_calls_the_device)
{
    dev_destroy(NULL);
    dev_destroy(&dev.dev);
    cr_assert_eq(dev.destroyed, 1);
}

Test(device, state_round_trips)
{
    struct codec_reader r;

    memset(dev.mem, 0x42, sizeof(dev.mem));
    cr_assert_eq(dev_save(&dev.dev, &w), 0);
    memset(dev.mem, 0, sizeof(dev.mem));
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(dev_load(&dev.dev, &r), 0);
    for (size_t i = 0; i < sizeof(dev.mem); i++)
        cr_assert_eq(dev.mem[i], 0x42);
}

Test(device, load_refuses_what_the_device_refuses)
{
    struct codec_reader r;

    dev.mem[0] = 0xee;
    cr_assert_eq(dev_save(&dev.dev, &w), 0);
    dev.mem[0] = 0x11;
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(dev_load(&dev.dev, &r), -EINVAL);
    cr_assert_eq(dev.mem[0], 0x11);
}

Test(device, load_refuses_another_version)
{
    struct codec_reader r;

    cr_assert_eq(dev_save(&dev.dev, &w), 0);
    dev.ops.version++;
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(dev_load(&dev.dev, &r), -ENOTSUP);
}

Test(device, load_refuses_another_devices_section)
{
    struct codec_reader r;

    cr_assert_eq(dev_save(&dev.dev, &w), 0);
    dev.dev.name = "other";
    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(dev_load(&dev.dev, &r), -ENOTUNIQ);
}

Test(device, load_refuses_every_truncation)
{
    cr_assert_eq(dev_save(&dev.dev, &w), 0);
    dev.mem[0] = 0x11;
    for (size_t len = 0; len < w.size; len++) {
        struct codec_reader r;

        codec_reader_init(&r, w.data, len);
        int err = dev_load(&dev.dev, &r);
        cr_assert(err == -EBADMSG || (len == 0 && err == -ENOENT), "%zu bytes gave %d", len, err);
    }
    cr_assert_eq(dev.mem[0], 0x11);
}
