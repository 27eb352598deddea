/*
 * Raw images in real mode.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/boot_case.h"

static struct boot_case c;
static struct image image;

static void setup(void)
{
    boot_case_init(&c);
    image_put_pattern(&image, 0, 600, 3);
    c.req.flat_load = c.req.flat_entry = 0x7c00;
}

static void teardown(void)
{
    image_fini(&image);
    boot_case_fini(&c);
}

TestSuite(flat, .init = setup, .fini = teardown);

Test(flat, bytes_go_where_they_are_told_and_nowhere_else)
{
    boot_case_load(&c, BOOT_FLAT, &image);
    cr_assert_arr_eq(boot_case_at(&c, 0x7c00, 600), image.data, 600);
    boot_case_expect_fill(&c, 0, 0x7c00, CASE_POISON);
    boot_case_expect_fill(&c, 0x7c00 + 600, 0x1000, CASE_POISON);
}

Test(flat, starts_in_real_mode_in_segment_0)
{
    const struct boot_entry want = {.protocol = BOOT_FLAT, .mode = X86_REAL, .rip = 0x7c00};

    boot_case_load(&c, BOOT_FLAT, &image);
    cr_assert_eq(memcmp(&c.entry, &want, sizeof(want)), 0);
}

Test(flat, entry_above_64_kib_gets_its_own_segment)
{
    c.req.flat_load = 0x28000;
    c.req.flat_entry = 0x28123;
    boot_case_load(&c, BOOT_FLAT, &image);
    cr_assert_eq(c.entry.cs, 0x2000);
    cr_assert_eq(c.entry.rip, 0x8123);
}

Test(flat, scratch_belongs_to_the_program)
{
    c.req.flat_load = c.req.flat_entry = CASE_SCRATCH;
    boot_case_load(&c, BOOT_FLAT, &image);
    cr_assert_arr_eq(boot_case_at(&c, CASE_SCRATCH, 600), image.data, 600);
    boot_case_expect_fill(&c, CASE_SCRATCH + 600, 0x1000, CASE_POISON);
}

Test(flat, packed_bytes_are_not_unpacked)
{
    struct image packed = {0};

    image_pack(&packed, COMPRESSION_GZIP, image.data, image.size);
    boot_case_load(&c, BOOT_FLAT, &packed);
    cr_assert_arr_eq(boot_case_at(&c, 0x7c00, packed.size), packed.data, packed.size);
    image_fini(&packed);
}

Test(flat, fills_ram_to_its_last_byte)
{
    image_put_pattern(&image, 0, CASE_RAM - 0x7c00, 3);
    boot_case_load(&c, BOOT_FLAT, &image);
    cr_assert_eq(*boot_case_at(&c, CASE_RAM - 1, 1), image.data[image.size - 1]);
    image_resize(&image, image.size + 1);
    boot_case_refuse(&c, BOOT_FLAT, &image, -E2BIG, "do not fit the guest's RAM");
}

Test(flat, load_address_beyond_ram)
{
    c.req.flat_load = UINT64_MAX - 100;
    c.req.flat_entry = 0;
    boot_case_refuse(&c, BOOT_FLAT, &image, -EINVAL, "not in the image");
}

Test(flat, entry_above_1_mib)
{
    c.req.flat_load = c.req.flat_entry = 0x100000;
    boot_case_refuse(&c, BOOT_FLAT, &image, -EINVAL, "not below 1 MiB");
}

Test(flat, entry_outside_the_image)
{
    c.req.flat_entry = 0x7bff;
    boot_case_refuse(&c, BOOT_FLAT, &image, -EINVAL, "not in the image");
    c.req.flat_entry = 0x7c00 + 600;
    boot_case_refuse(&c, BOOT_FLAT, &image, -EINVAL, "not in the image");
}

Test(flat, empty_image)
{
    image_resize(&image, 0);
    boot_case_refuse(&c, BOOT_FLAT, &image, -EINVAL, "not in the image");
}

Test(flat, an_initrd_is_not_silently_ignored)
{
    c.req.initrd = image.data;
    c.req.initrd_size = 10;
    boot_case_refuse(&c, BOOT_FLAT, &image, -ENOTSUP, "flat protocol cannot pass an initrd");
}

Test(flat, a_lost_command_line_is_logged)
{
    c.req.cmdline = "quiet";
    boot_case_load(&c, BOOT_FLAT, &image);
    cr_assert_not_null(strstr(c.logged, "cannot pass a command line"));
}
