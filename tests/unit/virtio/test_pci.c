#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/virtio/pci.h"
#include "support/dev_state.h"
#include "support/echo_dev.h"
#include "support/fake_irq.h"

#define ACK VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRV VIRTIO_CONFIG_S_DRIVER
#define FOK VIRTIO_CONFIG_S_FEATURES_OK
#define DOK VIRTIO_CONFIG_S_DRIVER_OK
#define BAD VIRTIO_CONFIG_S_NEEDS_RESET
#define DATA 0x80000
#define WINDOW 0xc0000000ULL
#define SLOT 1

static struct virtio_rig rig;
static struct echo *echo;
static struct bus ports, memory;
static struct pci_bus *pci;
static struct device *host, *dev;
static struct fake_irq irq;
static struct {
    unsigned fires[8], doorbells;
    uint64_t lowest;
} seen;

static int on_route(void *ctx, unsigned v, uint64_t address, uint32_t data)
{
    (void)ctx;
    (void)v;
    return address >= 0xfee00000 && data ? 0 : -EINVAL;
}

static void on_fire(void *ctx, unsigned v)
{
    (void)ctx;
    seen.fires[v]++;
}

static void on_doorbell(void *ctx, uint64_t gpa, int kick, bool there)
{
    (void)ctx;
    cr_assert_geq(kick, 0);
    seen.doorbells += there ? 1 : -1U;
    if (there && (seen.lowest == 0 || gpa < seen.lowest))
        seen.lowest = gpa;
}

static void setup(void)
{
    virtio_rig_init(&rig);
    memset(&seen, 0, sizeof(seen));
    bus_init(&ports, 0xffff);
    bus_init(&memory, UINT64_MAX);
    struct pci_bus_config bus_cfg = {.ports = &ports,
                                     .memory = &memory,
                                     .mem = &rig.mem,
                                     .window = WINDOW,
                                     .window_end = WINDOW + 0x100000};
    cr_assert_eq(pci_bus_create("pci", &bus_cfg, &pci, &host), 0);
    cr_assert_eq(bus_map(&ports, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, host, 0), 0);
    echo = echo_create(&rig);
    struct virtio_pci_setup cfg = {
        .bus = pci,
        .pin = fake_irq_line(&irq, 11),
        .msix = {.route = on_route, .fire = on_fire},
        .doorbell = on_doorbell,
    };
    cr_assert_eq(virtio_pci_create("echo", &echo->v, &cfg, &dev), 0);
}

static void teardown(void)
{
    dev_destroy(dev);
    dev_destroy(host);
    rig.v = NULL; /* was the transport's */
    virtio_rig_fini(&rig);
    bus_fini(&ports);
    bus_fini(&memory);
}

TestSuite(virtio_pci, .init = setup, .fini = teardown);

/* --- the configuration space --- */

static uint32_t cfg_get(unsigned offset, unsigned size)
{
    uint32_t address = 0x80000000U | SLOT << 11 | (offset & 0xfc), value = 0;

    bus_write(&ports, 0xcf8, &address, 4);
    bus_read(&ports, 0xcfc + (offset & 3), &value, size);
    return value;
}

static void cfg_set(unsigned offset, unsigned size, uint32_t value)
{
    uint32_t address = 0x80000000U | SLOT << 11 | (offset & 0xfc);

    bus_write(&ports, 0xcf8, &address, 4);
    bus_write(&ports, 0xcfc + (offset & 3), &value, size);
}

/* The capability of this id, and for the vendor's of this structure; 0: none. */
static unsigned find_cap(uint8_t id, uint8_t type)
{
    unsigned cap = cfg_get(PCI_CAPABILITY_LIST, 1);

    for (unsigned left = 48; cap != 0 && left > 0; left--, cap = cfg_get(cap + 1, 1))
        if (cfg_get(cap, 1) == id &&
            (id != PCI_CAP_ID_VNDR || cfg_get(cap + VIRTIO_PCI_CAP_CFG_TYPE, 1) == type))
            return cap;
    return 0;
}

static uint64_t structure(uint8_t type)
{
    unsigned cap = find_cap(PCI_CAP_ID_VNDR, type);

    cr_assert_neq(cap, 0);
    cr_assert_eq(cfg_get(cap + VIRTIO_PCI_CAP_BAR, 1), VIRTIO_PCI_BAR);
    return WINDOW + cfg_get(cap + VIRTIO_PCI_CAP_OFFSET, 4);
}

/* --- the BAR, as a driver reaches it --- */

static uint32_t get(uint64_t address, unsigned size)
{
    uint32_t value = 0;

    bus_read(&memory, address, &value, size);
    return value;
}

static void set(uint64_t address, unsigned size, uint32_t value)
{
    bus_write(&memory, address, &value, size);
}

static uint64_t common;

static void enable_memory(void)
{
    cfg_set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    common = structure(VIRTIO_PCI_CAP_COMMON_CFG);
}

static uint8_t set_status(uint8_t status)
{
    set(common + VIRTIO_PCI_COMMON_STATUS, 1, status);
    return (uint8_t)get(common + VIRTIO_PCI_COMMON_STATUS, 1);
}

static void negotiate(void)
{
    enable_memory();
    set_status(ACK);
    set_status(ACK | DRV);
    set(common + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    set(common + VIRTIO_PCI_COMMON_GF, 4, 1); /* VERSION_1 */
    cr_assert_eq(set_status(ACK | DRV | FOK), ACK | DRV | FOK);
}

static void set_address(unsigned low, uint64_t gpa)
{
    set(common + low, 4, (uint32_t)gpa);
    set(common + low + 4, 4, (uint32_t)(gpa >> 32));
}

static void place(uint16_t index, uint16_t size, uint16_t vector)
{
    struct ring *ring = &rig.rings[index];

    ring_init(ring, &rig.mem, VIRTIO_RIG_RINGS + index * VIRTIO_RIG_STRIDE, size);
    set(common + VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
    set(common + VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
    set(common + VIRTIO_PCI_COMMON_Q_MSIX, 2, vector);
    set_address(VIRTIO_PCI_COMMON_Q_DESCLO, ring->at.desc);
    set_address(VIRTIO_PCI_COMMON_Q_AVAILLO, ring->at.driver);
    set_address(VIRTIO_PCI_COMMON_Q_USEDLO, ring->at.device);
    set(common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

static void start(uint16_t vector)
{
    negotiate();
    place(0, 16, vector);
    place(1, 8, vector);
    cr_assert_eq(set_status(ACK | DRV | FOK | DOK), ACK | DRV | FOK | DOK);
    virtio_rig_work(&rig);
}

static void ask_echo(void)
{
    struct ring_buf buf = {DATA, 9, true};
    struct vring_used_elem used;

    ring_send(&rig.rings[0], &buf, 1);
    set(structure(VIRTIO_PCI_CAP_NOTIFY_CFG), 2, 0);
    virtio_rig_work(&rig);
    cr_assert(ring_take_used(&rig.rings[0], &used));
}

static void enable_msix(unsigned vector)
{
    unsigned cap = find_cap(PCI_CAP_ID_MSIX, 0);
    uint64_t entry = WINDOW + (cfg_get(cap + PCI_MSIX_TABLE, 4) & ~7U) + vector * 16;

    cfg_set(cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    set(entry, 4, 0xfee00000);
    set(entry + 8, 4, 0x41);
    set(entry + 12, 4, 0);
}

/* --- who it is --- */

Test(virtio_pci, virtio_4_1_2_says_who_it_is)
{
    cr_assert_eq(cfg_get(PCI_VENDOR_ID, 2), 0x1af4);
    cr_assert_eq(cfg_get(PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_CONSOLE);
    cr_assert_geq(cfg_get(PCI_REVISION_ID, 1), 1);
    cr_assert_eq(cfg_get(PCI_INTERRUPT_PIN, 1), 1);
}

Test(virtio_pci, virtio_4_1_4_every_structure_has_a_capability)
{
    static const uint8_t types[] = {VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_NOTIFY_CFG,
                                    VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_PCI_CAP_DEVICE_CFG,
                                    VIRTIO_PCI_CAP_PCI_CFG};

    for (unsigned i = 0; i < ARRAY_LEN(types); i++)
        cr_assert_neq(find_cap(PCI_CAP_ID_VNDR, types[i]), 0);
    unsigned notify = find_cap(PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_NOTIFY_CFG);
    cr_assert_eq(cfg_get(notify + VIRTIO_PCI_NOTIFY_CAP_MULT, 4), VIRTIO_PCI_NOTIFY_SIZE);
    cr_assert_eq(cfg_get(notify + VIRTIO_PCI_CAP_LENGTH, 4), 2 * VIRTIO_PCI_NOTIFY_SIZE);
}

Test(virtio_pci, common_registers_describe_the_device)
{
    enable_memory();
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_NUMQ, 2), 2);
    set(common + VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_DF, 4), 1);
    set(common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_Q_SIZE, 2), 8);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_Q_NOFF, 2), 1);
    set(common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 2);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
}

/* --- requests and interrupts --- */

Test(virtio_pci, virtio_4_1_4_5_without_msix_the_pin_is_high_until_isr_is_read)
{
    start(VIRTIO_MSI_NO_VECTOR);
    ask_echo();
    cr_assert(irq.level);
    cr_assert_eq(get(structure(VIRTIO_PCI_CAP_ISR_CFG), 1), 1);
    cr_assert_not(irq.level);
    cr_assert_eq(get(structure(VIRTIO_PCI_CAP_ISR_CFG), 1), 0);
    virtio_config_changed(&echo->v);
    cr_assert_eq(get(structure(VIRTIO_PCI_CAP_ISR_CFG), 1), VIRTIO_PCI_ISR_CONFIG);
}

Test(virtio_pci, the_command_register_masks_the_pin)
{
    start(VIRTIO_MSI_NO_VECTOR);
    cfg_set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
    ask_echo();
    cr_assert_not(irq.level);
    cfg_set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    cr_assert(irq.level);
}

Test(virtio_pci, with_msix_each_cause_has_its_vector)
{
    enable_memory();
    enable_msix(2);
    start(2);
    ask_echo();
    cr_assert_eq(seen.fires[2], 1);
    cr_assert_eq(irq.raises, 0);

    enable_msix(1);
    set(common + VIRTIO_PCI_COMMON_MSIX, 2, 1);
    virtio_config_changed(&echo->v);
    cr_assert_eq(seen.fires[1], 1);
}

Test(virtio_pci, virtio_4_1_5_1_2_a_vector_that_there_is_not_reads_back_as_none)
{
    enable_memory();
    enable_msix(0);
    start(3); /* there are three: 0 to 2 */
    set(common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    set(common + VIRTIO_PCI_COMMON_MSIX, 2, 0xfff0);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    ask_echo();
    for (unsigned v = 0; v < ARRAY_LEN(seen.fires); v++)
        cr_assert_eq(seen.fires[v], 0);
}

Test(virtio_pci, a_reset_forgets_vectors_and_causes)
{
    start(VIRTIO_MSI_NO_VECTOR);
    ask_echo();
    set(common + VIRTIO_PCI_COMMON_MSIX, 2, 1);
    cr_assert_eq(set_status(0), 0);
    cr_assert_not(irq.level);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    start(VIRTIO_MSI_NO_VECTOR); /* and it can begin again */
}

Test(virtio_pci, virtio_4_1_4_3_2_an_enabled_queue_stays_where_it_is)
{
    start(VIRTIO_MSI_NO_VECTOR);
    set(common + VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    set(common + VIRTIO_PCI_COMMON_Q_SIZE, 2, 4);
    set_address(VIRTIO_PCI_COMMON_Q_DESCLO, 0x1000);
    set(common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
    set(common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    cr_assert_eq(virtio_queue(&echo->v, 0)->vq.at.size, 16);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_Q_DESCLO, 4), rig.rings[0].at.desc);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_STATUS, 1), ACK | DRV | FOK | DOK);
}

/* --- doorbells --- */

Test(virtio_pci, doorbells_follow_the_bar)
{
    cr_assert_eq(seen.doorbells, 0);
    enable_memory();
    cr_assert_eq(seen.doorbells, 2);
    cr_assert_eq(seen.lowest, structure(VIRTIO_PCI_CAP_NOTIFY_CFG));
    seen.lowest = 0;
    cfg_set(PCI_BASE_ADDRESS_0, 4, 0xd0000000);
    cr_assert_eq(seen.doorbells, 2);
    cr_assert_eq(seen.lowest, structure(VIRTIO_PCI_CAP_NOTIFY_CFG) - WINDOW + 0xd0000000);
    cfg_set(PCI_COMMAND, 2, 0);
    cr_assert_eq(seen.doorbells, 0);
}

Test(virtio_pci, a_doorbell_that_there_is_not_rings_nobody)
{
    start(VIRTIO_MSI_NO_VECTOR);
    for (unsigned at = 8; at < 0x1000; at += 2)
        set(structure(VIRTIO_PCI_CAP_NOTIFY_CFG) + at, 2, 0);
    cr_assert_eq(get(structure(VIRTIO_PCI_CAP_NOTIFY_CFG), 4), 0);
}

/* --- the window in the configuration space --- */

Test(virtio_pci, virtio_4_1_4_9_the_bar_can_be_reached_without_mapping_it)
{
    unsigned cap = find_cap(PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_PCI_CFG);

    cfg_set(cap + VIRTIO_PCI_CAP_BAR, 1, VIRTIO_PCI_BAR);
    cfg_set(cap + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_STATUS);
    cfg_set(cap + VIRTIO_PCI_CAP_LENGTH, 4, 1);
    cfg_set(cap + 16, 1, ACK);
    cr_assert_eq(virtio_status(&echo->v), ACK);
    cr_assert_eq(cfg_get(cap + 16, 1), ACK);
}

Test(virtio_pci, the_window_refuses_what_lies_outside_the_bar)
{
    static const uint32_t bad[][3] = {{0, 0x8000, 4},     {0, 0x7ffe, 4}, {0, UINT32_MAX, 1},
                                      {0, 0xfffffffc, 4}, {0, 0, 3},      {0, 0, 8},
                                      {0, 0, UINT32_MAX}, {0, 0, 0},      {1, 0, 4},
                                      {0xff, 0, 4},       {0, 2, 4}};
    unsigned cap = find_cap(PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_PCI_CFG);

    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        cfg_set(cap + VIRTIO_PCI_CAP_BAR, 1, bad[i][0]);
        cfg_set(cap + VIRTIO_PCI_CAP_OFFSET, 4, bad[i][1]);
        cfg_set(cap + VIRTIO_PCI_CAP_LENGTH, 4, bad[i][2]);
        cfg_set(cap + 16, 4, UINT32_MAX);
        (void)cfg_get(cap + 16, 4);
    }
    cr_assert_eq(virtio_status(&echo->v), 0);
}

/* --- wrong accesses --- */

Test(virtio_pci, virtio_4_1_3_1_fields_take_their_own_width)
{
    enable_memory();
    set(common + VIRTIO_PCI_COMMON_STATUS, 2, ACK);
    set(common + VIRTIO_PCI_COMMON_STATUS, 4, ACK);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_STATUS, 1), 0);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_NUMQ, 1), 0);
    cr_assert_eq(get(common + VIRTIO_PCI_COMMON_NUMQ, 4), 0);
}

Test(virtio_pci, every_place_of_the_bar_takes_everything)
{
    enable_memory();
    for (uint64_t at = 0; at < 0x8000; at++)
        for (unsigned size = 1; size <= 4; size *= 2) {
            set(WINDOW + at, size, UINT32_MAX);
            (void)get(WINDOW + at, size);
        }
    set_status(0);
    start(VIRTIO_MSI_NO_VECTOR);
}

Test(virtio_pci, every_place_of_the_configuration_space_takes_everything)
{
    for (unsigned at = 0; at < 256; at++)
        for (unsigned size = 1; size <= 4; size *= 2) {
            cfg_set(at, size, UINT32_MAX);
            (void)cfg_get(at, size);
        }
    cfg_set(PCI_COMMAND, 2, 0);
    cfg_set(find_cap(PCI_CAP_ID_MSIX, 0) + PCI_MSIX_FLAGS, 2, 0);
    cfg_set(PCI_BASE_ADDRESS_0, 4, (uint32_t)WINDOW);
    cfg_set(PCI_BASE_ADDRESS_1, 4, 0);
    start(VIRTIO_MSI_NO_VECTOR);
}

Test(virtio_pci, a_bar_that_moves_while_the_device_runs)
{
    struct ring_buf buf = {DATA, 9, true};
    struct vring_used_elem used;

    start(VIRTIO_MSI_NO_VECTOR);
    uint64_t notify = structure(VIRTIO_PCI_CAP_NOTIFY_CFG) - WINDOW;
    cfg_set(PCI_BASE_ADDRESS_0, 4, 0xd0000000);
    ring_send(&rig.rings[0], &buf, 1);
    set(0xd0000000 + notify, 2, 0);
    virtio_rig_work(&rig);
    cr_assert(ring_take_used(&rig.rings[0], &used));
}

/* --- life --- */

Test(virtio_pci, a_full_bus_leaves_the_device_to_its_owner)
{
    static struct pci_dev others[PCI_SLOTS];
    static const struct pci_ops none = {0};
    const struct pci_id id = {.vendor = 1};
    unsigned count = 0;
    struct device *second = NULL;

    for (; count < PCI_SLOTS; count++) {
        pci_init(&others[count], &none, "other", &id);
        if (pci_add(pci, &others[count]) < 0)
            break;
    }
    struct echo *e = echo_create(&rig);
    struct virtio_pci_setup cfg = {.bus = pci};
    cr_assert_eq(virtio_pci_create("echo", &e->v, &cfg, &second), -ENOSPC);
    cr_assert_null(second);
    virtio_destroy(&e->v);
    while (count > 0)
        pci_remove(&others[--count]);
}

Test(virtio_pci, state_survives_and_damage_is_refused)
{
    enable_memory();
    enable_msix(2);
    start(2);
    dev_state_attack(dev);
    unsigned before = seen.fires[2]; /* some states had pending interrupts */
    ask_echo();
    cr_assert_eq(seen.fires[2], before + 1);
}
