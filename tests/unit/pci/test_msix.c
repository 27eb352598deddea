#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/pci/msix.h"

#define VECTORS 5
#define TABLE 0x1000
#define PBA 0x1800
#define MASK 1U

static struct pci_dev fn;
static struct msix m;
static struct {
    unsigned routes, fires[MSIX_VECTORS_MAX];
    uint64_t address;
    uint32_t data;
    int rc;
} sink;

static int on_route(void *ctx, unsigned v, uint64_t address, uint32_t data)
{
    (void)ctx;
    (void)v;
    sink.routes++;
    sink.address = address;
    sink.data = data;
    return sink.rc;
}

static void on_fire(void *ctx, unsigned v)
{
    (void)ctx;
    sink.fires[v]++;
}

static const struct pci_ops ops = {0};

static void setup(void)
{
    const struct pci_id id = {.vendor = 0x1af4};
    const struct msix_sink to = {.route = on_route, .fire = on_fire};

    memset(&sink, 0, sizeof(sink));
    pci_init(&fn, &ops, "fn", &id);
    msix_init(&m, &fn, VECTORS, 2, TABLE, PBA, &to);
}

static void teardown(void)
{
    msix_fini(&m);
}

TestSuite(msix, .init = setup, .fini = teardown);

static void set_flags(uint16_t flags)
{
    pci_put16(&fn, m.cap + PCI_MSIX_FLAGS, (uint16_t)(flags | (VECTORS - 1)));
    msix_config_written(&m);
}

static void set_entry(unsigned v, uint64_t address, uint32_t data, uint32_t control)
{
    msix_table_write(&m, v * 16, 4, (uint32_t)address);
    msix_table_write(&m, v * 16 + 4, 4, (uint32_t)(address >> 32));
    msix_table_write(&m, v * 16 + 8, 4, data);
    msix_table_write(&m, v * 16 + 12, 4, control);
}

Test(msix, pci_6_8_2_the_capability_says_where_everything_is)
{
    cr_assert_eq(pci_get16(&fn, m.cap + PCI_MSIX_FLAGS), VECTORS - 1);
    cr_assert_eq(pci_get32(&fn, m.cap + PCI_MSIX_TABLE), TABLE | 2);
    cr_assert_eq(pci_get32(&fn, m.cap + PCI_MSIX_PBA), PBA | 2);
}

Test(msix, every_entry_begins_masked)
{
    for (unsigned v = 0; v < VECTORS; v++)
        cr_assert_eq(msix_table_read(&m, v * 16 + 12, 4), MASK);
}

Test(msix, delivers_the_message_and_routes_it_once)
{
    set_flags(PCI_MSIX_FLAGS_ENABLE);
    cr_assert(msix_is_enabled(&m));
    set_entry(3, 0x1fee01000, 0x4041, 0);
    msix_notify(&m, 3);
    msix_notify(&m, 3);
    cr_assert_eq(sink.fires[3], 2);
    cr_assert_eq(sink.routes, 1);
    cr_assert_eq(sink.address, 0x1fee01000);
    cr_assert_eq(sink.data, 0x4041);
    msix_table_write(&m, 3 * 16 + 8, 4, 0x4042);
    msix_notify(&m, 3);
    cr_assert_eq(sink.routes, 2);
    cr_assert_eq(sink.data, 0x4042);
}

Test(msix, a_masked_vector_waits_and_comes_once)
{
    set_flags(PCI_MSIX_FLAGS_ENABLE);
    set_entry(1, 0xfee00000, 7, MASK);
    msix_notify(&m, 1);
    msix_notify(&m, 1);
    cr_assert_eq(sink.fires[1], 0);
    cr_assert_eq(msix_pba_read(&m, 0, 4), 1U << 1);
    msix_table_write(&m, 16 + 12, 4, 0);
    cr_assert_eq(sink.fires[1], 1);
    cr_assert_eq(msix_pba_read(&m, 0, 4), 0);
}

Test(msix, so_does_a_masked_function)
{
    set_flags(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    set_entry(0, 0xfee00000, 7, 0);
    msix_notify(&m, 0);
    cr_assert_eq(sink.fires[0], 0);
    set_flags(PCI_MSIX_FLAGS_ENABLE);
    cr_assert_eq(sink.fires[0], 1);
}

Test(msix, while_it_is_off_nothing_is_delivered_or_remembered)
{
    set_entry(0, 0xfee00000, 7, 0);
    msix_notify(&m, 0);
    set_flags(PCI_MSIX_FLAGS_ENABLE);
    cr_assert_eq(sink.fires[0], 0);
}

Test(msix, vectors_beyond_the_table_do_nothing)
{
    set_flags(PCI_MSIX_FLAGS_ENABLE);
    msix_notify(&m, VECTORS);
    msix_notify(&m, 0xffff);
    msix_notify(&m, UINT32_MAX);
    cr_assert_eq(sink.routes, 0);
    for (unsigned v = VECTORS; v < VECTORS + 20; v++) {
        set_entry(v, UINT64_MAX, UINT32_MAX, 0);
        cr_assert_eq(msix_table_read(&m, v * 16, 4), 0);
    }
    msix_table_write(&m, UINT64_MAX - 3, 4, 1);
    cr_assert_eq(msix_pba_read(&m, UINT64_MAX - 3, 4), 0);
}

Test(msix, only_aligned_words_count)
{
    msix_table_write(&m, 0, 1, 0xff);
    msix_table_write(&m, 0, 2, 0xffff);
    msix_table_write(&m, 2, 4, UINT32_MAX);
    cr_assert_eq(msix_table_read(&m, 0, 4), 0);
    cr_assert_eq(msix_table_read(&m, 13, 4), 0);
    cr_assert_eq(msix_table_read(&m, 12, 1), 0);
}

Test(msix, reserved_bits_of_the_control_word_stay_clear)
{
    msix_table_write(&m, 12, 4, UINT32_MAX);
    cr_assert_eq(msix_table_read(&m, 12, 4), MASK);
}

Test(msix, a_message_that_cannot_be_routed_is_lost_alone)
{
    set_flags(PCI_MSIX_FLAGS_ENABLE);
    sink.rc = -EINVAL;
    set_entry(0, 1, 2, 0);
    msix_notify(&m, 0);
    cr_assert_eq(sink.fires[0], 0);
    sink.rc = 0;
    msix_notify(&m, 0);
    cr_assert_eq(sink.fires[0], 1);
}

Test(msix, state_survives)
{
    struct msix_state state;
    struct codec_writer w;
    struct codec_reader r;
    uint32_t version;

    set_flags(PCI_MSIX_FLAGS_ENABLE);
    set_entry(1, 0xfee00000, 7, MASK);
    set_entry(2, 0xfee01000, 8, 0);
    msix_notify(&m, 1);
    codec_writer_init(&w);
    codec_begin(&w, "msix", 1);
    msix_save(&m, &w);
    cr_assert_eq(codec_end(&w), 0);
    msix_reset(&m);
    cr_assert_eq(msix_pba_read(&m, 0, 4), 0);

    codec_reader_init(&r, w.data, w.size);
    cr_assert_eq(codec_enter(&r, "msix", &version), 0);
    cr_assert_eq(msix_load(&m, &r, &state), 0);
    cr_assert_eq(codec_leave(&r), 0);
    codec_writer_fini(&w);
    msix_restore(&m, &state);
    cr_assert_eq(msix_pba_read(&m, 0, 4), 1U << 1);
    msix_notify(&m, 2);
    cr_assert_eq(sink.data, 8);
    cr_assert_eq(sink.fires[2], 1);
    msix_table_write(&m, 16 + 12, 4, 0);
    cr_assert_eq(sink.fires[1], 1);
}
