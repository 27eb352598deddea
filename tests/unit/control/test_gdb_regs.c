/*
 * Registers as gdb sees them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "control/gdb_regs_priv.h"
#include "hv/x86/modes.h"

static struct debug_regs real_regs(void)
{
    struct debug_regs regs;

    memset(&regs, 0, sizeof(regs));
    x86_real_mode(&regs.sregs, 0x7c0);
    regs.regs.rip = 0x12;
    return regs;
}

static const struct gdb_layout *named(const char *name)
{
    const struct gdb_layout *l = gdb_layout_named(name);

    cr_assert_not_null(l, "%s", name);
    return l;
}

/* The digits of register n; borrowed until the next call. */
static const char *digits(const struct gdb_layout *l, unsigned n, const struct debug_regs *regs)
{
    static char text[64];
    struct rsp_text out = {0};

    gdb_put_reg(l, n, regs, &out);
    cr_assert_lt(out.len, sizeof(text));
    memcpy(text, out.data, out.len);
    text[out.len] = '\0';
    rsp_text_fini(&out);
    return text;
}

static int take(const struct gdb_layout *l, unsigned n, const char *text, struct debug_regs *regs)
{
    struct rsp_view v = {.at = text, .end = text + strlen(text)};

    return gdb_take_reg(l, n, &v, regs);
}

static char *description(const struct gdb_layout *l)
{
    struct rsp_text xml = {0};

    gdb_describe(l, &xml);
    rsp_put(&xml, "", 1);
    cr_assert_not(xml.cut);
    return xml.data;
}

/* The number that gdb counts for the register with this name. */
static unsigned number_of(const struct gdb_layout *l, const char *name)
{
    char *xml = description(l);
    char tag[64];
    unsigned n = 0;

    (void)snprintf(tag, sizeof(tag), "<reg name=\"%s\"", name);
    const char *end = strstr(xml, tag);
    cr_assert_not_null(end, "%s", name);
    for (const char *at = xml; (at = strstr(at, "<reg ")) != NULL && at < end; at++)
        n++;
    free(xml);
    return n;
}

Test(gdb_regs, the_mode_decides_the_description)
{
    struct debug_regs regs = real_regs();

    cr_assert_str_eq(gdb_layout_for(&regs.sregs)->architecture, "i8086");
    regs.sregs.cr0 |= 1;
    cr_assert_str_eq(gdb_layout_for(&regs.sregs)->architecture, "i386");
    regs.sregs.efer = 1 << 10;
    cr_assert_str_eq(gdb_layout_for(&regs.sregs)->architecture, "i386:x86-64",
                     "compatibility mode, too");
}

Test(gdb_regs, only_three_names)
{
    cr_assert_str_eq(named("x86-64")->architecture, "i386:x86-64");
    cr_assert_str_eq(named("i386")->architecture, "i386");
    cr_assert_str_eq(named("i8086")->architecture, "i8086");
    cr_assert_null(gdb_layout_named("arm"));
    cr_assert_null(gdb_layout_named(""));
}

/* gdb knows the first registers by their place: features i386.core and i386.sse. */
Test(gdb_regs, the_order_is_gdbs)
{
    cr_assert_eq(number_of(named("x86-64"), "rip"), 16);
    cr_assert_eq(number_of(named("x86-64"), "st0"), 24);
    cr_assert_eq(number_of(named("x86-64"), "xmm0"), 40);
    cr_assert_eq(number_of(named("x86-64"), "mxcsr"), 56);
    cr_assert_eq(number_of(named("x86-64"), "fs_base"), 57);
    cr_assert_eq(number_of(named("i386"), "eip"), 8);
    cr_assert_eq(number_of(named("i386"), "xmm0"), 32);
    cr_assert_eq(number_of(named("i386"), "mxcsr"), 40);
}

Test(gdb_regs, general_registers_are_little_endian)
{
    struct debug_regs regs = real_regs();

    regs.regs.rax = 0x1122334455667788;
    cr_assert_str_eq(digits(named("x86-64"), 0, &regs), "8877665544332211");
    cr_assert_str_eq(digits(named("i386"), 0, &regs), "88776655");
    cr_assert_eq(take(named("x86-64"), 1, "efbeadde00000000", &regs), 0);
    cr_assert_eq(regs.regs.rbx, 0xdeadbeef);
}

Test(gdb_regs, too_few_digits_change_nothing)
{
    struct debug_regs regs = real_regs(), before = regs;

    cr_assert_eq(take(named("x86-64"), 0, "efbeadde", &regs), -EINVAL);
    cr_assert_eq(take(named("x86-64"), 0, "efbeaddexxxxxxxx", &regs), -EINVAL);
    cr_assert_eq(memcmp(&regs, &before, sizeof(regs)), 0);
}

Test(gdb_regs, a_selector_moves_its_segment_in_real_mode)
{
    const struct gdb_layout *l = named("i8086");
    struct debug_regs regs = real_regs();

    cr_assert_eq(take(l, number_of(l, "ds"), "00f00000", &regs), 0);
    cr_assert_eq(regs.sregs.ds.selector, 0xf000);
    cr_assert_eq(regs.sregs.ds.base, 0xf0000);
}

Test(gdb_regs, elsewhere_a_selector_stays)
{
    const struct gdb_layout *l = named("i386");
    struct debug_regs regs = real_regs();

    regs.sregs.cr0 |= 1;
    struct debug_regs before = regs;
    cr_assert_eq(take(l, number_of(l, "ds"), "08000000", &regs), -EPERM);
    cr_assert_eq(take(l, number_of(l, "cs"), "c0070000", &regs), 0, "as it is already");
    cr_assert_eq(memcmp(&regs, &before, sizeof(regs)), 0);
}

Test(gdb_regs, system_registers_can_be_read_and_set)
{
    const struct gdb_layout *l = named("x86-64");
    struct debug_regs regs = real_regs();

    regs.sregs.cr3 = 0x123000;
    regs.sregs.fs.base = 0x7f00;
    cr_assert_str_eq(digits(l, number_of(l, "cr3"), &regs), "0030120000000000");
    cr_assert_str_eq(digits(l, number_of(l, "fs_base"), &regs), "007f000000000000");
    cr_assert_eq(take(l, number_of(l, "efer"), "000d000000000000", &regs), 0);
    cr_assert_eq(regs.sregs.efer, 0xd00);
}

/* SDM 1 §10.5.1.1: one bit for each register in FXSAVE; §8.1.7: two in the tag word. */
Test(gdb_regs, sdm1_10_5_1_1_tags_are_spelled_out)
{
    const struct gdb_layout *l = named("x86-64");
    struct debug_regs regs = real_regs();
    const uint8_t one[10] = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f};

    cr_assert_str_eq(digits(l, number_of(l, "ftag"), &regs), "ffff0000", "all are empty");
    regs.fpu.fsw = 6 << 11; /* ST0 is register 6 */
    regs.fpu.ftwx = 0xc0;   /* 6 and 7 are in use */
    memcpy(regs.fpu.fpr[0], one, sizeof(one));
    cr_assert_str_eq(digits(l, number_of(l, "ftag"), &regs), "ff4f0000", "6 is valid, 7 is zero");
    cr_assert_eq(take(l, number_of(l, "ftag"), "fffc0000", &regs), 0);
    cr_assert_eq(regs.fpu.ftwx, 0x10 | 0x00, "register 4");
}

Test(gdb_regs, every_register_comes_back_as_it_was)
{
    const char *const names[] = {"i8086", "i386", "x86-64"};

    for (unsigned i = 0; i < 3; i++) {
        const struct gdb_layout *l = named(names[i]);
        struct debug_regs regs = real_regs();
        for (unsigned n = 0; n < l->count; n++) {
            char before[64];
            (void)snprintf(before, sizeof(before), "%s", digits(l, n, &regs));
            cr_assert_eq(take(l, n, before, &regs), 0);
            cr_assert_str_eq(digits(l, n, &regs), before, "%s register %u", names[i], n);
        }
    }
}

Test(gdb_regs, the_linear_pc_counts_the_segment_except_in_long_mode)
{
    struct debug_regs regs = real_regs();

    cr_assert_eq(gdb_linear_pc(&regs), 0x7c12);
    regs.sregs.cr0 |= 1;
    regs.sregs.efer = 1 << 10;
    regs.sregs.cs.l = 1;
    regs.regs.rip = 0xffffffff80000000;
    cr_assert_eq(gdb_linear_pc(&regs), 0xffffffff80000000);
}
