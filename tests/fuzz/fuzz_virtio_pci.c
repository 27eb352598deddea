/*
 * The PCI transport: its configuration space, capabilities, BAR and MSI-X table, accessed in any
 * way, while the BAR moves over RAM and over another function's, between those of a driver that
 * comes up, asks and resets.
 */
#include <linux/virtio_pci.h>

#include "fuzz/transport_fuzz.h"
#include "hv/base/num.h"
#include "hv/virtio/pci.h"

#define WINDOW 0xc0000000ULL
#define WINDOW_SIZE 0x100000
#define FUNCTIONS 2 /* in slots 1 and 2 */
#define COMMON 0x0000
#define NOTIFY 0x3000
#define MSIX_TABLE 0x4000
#define BAR_SIZE 0x8000
#define VECTORS (FUZZ_QUEUES + 1)

struct function {
    struct virtio_dev *disk;
    struct device *dev;
    bool level;                      /* of its pin */
    unsigned fires;                  /* messages */
    uint64_t doorbells[FUZZ_QUEUES]; /* where they are, 0: nowhere */
};

struct machine {
    struct bus ports, memory;
    struct pci_bus *pci;
    struct device *host;
    struct function functions[FUNCTIONS];
};

static struct fuzz_rig rig;
static struct machine machine;

/* --- what the functions reach --- */

static int on_route(void *ctx, unsigned v, uint64_t address, uint32_t data)
{
    (void)ctx;
    (void)data;
    fuzz_check(v < VECTORS);
    return address >> 20 == 0xfee ? 0 : -1;
}

static void on_fire(void *ctx, unsigned v)
{
    struct function *f = ctx;

    fuzz_check(v < VECTORS);
    f->fires++;
}

static void on_pin(void *ctx, uint32_t gsi, bool level)
{
    (void)gsi;
    ((struct function *)ctx)->level = level;
}

static void on_doorbell(void *ctx, uint64_t gpa, int kick, bool there)
{
    struct function *f = ctx;
    unsigned queue = 0;

    while (queue < FUZZ_QUEUES && f->disk->queues[queue].kick != kick)
        queue++;
    fuzz_check(queue < FUZZ_QUEUES);
    fuzz_check(f->doorbells[queue] == (there ? 0 : gpa)); /* each comes once, and goes once */
    f->doorbells[queue] = there ? gpa : 0;
}

static void create_function(struct machine *m, struct function *f)
{
    struct virtio_pci_setup setup = {
        .bus = m->pci,
        .msix = {.route = on_route, .fire = on_fire, .ctx = f},
        .doorbell = on_doorbell,
        .doorbell_ctx = f,
    };

    *f = (struct function){.disk = fuzz_rig_disk(&rig)};
    irq_init(&setup.pin, on_pin, f, 11);
    fuzz_check(virtio_pci_create("disk", f->disk, &setup, &f->dev) == 0);
}

static void create(struct machine *m, unsigned functions)
{
    *m = (struct machine){0};
    const struct pci_bus_config cfg = {
        .ports = &m->ports,
        .memory = &m->memory,
        .mem = &rig.mem,
        .window = WINDOW,
        .window_end = WINDOW + WINDOW_SIZE,
    };

    bus_init(&m->ports, 0xffff);
    bus_init(&m->memory, UINT64_MAX);
    fuzz_check(pci_bus_create("pci", &cfg, &m->pci, &m->host) == 0);
    fuzz_check(bus_map(&m->ports, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, m->host, 0) == 0);
    for (unsigned i = 0; i < functions; i++)
        create_function(m, &m->functions[i]);
}

static void destroy(struct machine *m)
{
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        dev_destroy(m->functions[i].dev);
        for (unsigned q = 0; q < FUZZ_QUEUES; q++)
            fuzz_check(m->functions[i].doorbells[q] == 0);
    }
    fuzz_check(m->memory.count == 0);
    dev_destroy(m->host);
    bus_fini(&m->ports);
    bus_fini(&m->memory);
}

/* --- accesses --- */

static void settle(void)
{
    for (unsigned i = 0; i < FUNCTIONS; i++)
        fuzz_rig_settle(&rig, machine.functions[i].disk);
}

static void out(uint16_t port, const void *data, unsigned size)
{
    settle();
    bus_write(&machine.ports, port, data, size);
}

static void select_config(unsigned slot, unsigned offset)
{
    uint32_t address = 0x80000000U | slot << 11 | (offset & 0xfc);

    out(0xcf8, &address, 4);
}

static uint32_t cfg_get(unsigned slot, unsigned offset, unsigned size)
{
    uint32_t value = 0;

    select_config(slot, offset);
    bus_read(&machine.ports, 0xcfc + (offset & 3), &value, size);
    return value;
}

static void cfg_set(unsigned slot, unsigned offset, unsigned size, uint32_t value)
{
    select_config(slot, offset);
    out((uint16_t)(0xcfc + (offset & 3)), &value, size);
}

/* Where the function's BAR is, or would be. */
static uint64_t bar(unsigned slot)
{
    return (cfg_get(slot, PCI_BASE_ADDRESS_0, 4) & ~0xfU) |
           (uint64_t)cfg_get(slot, PCI_BASE_ADDRESS_1, 4) << 32;
}

static uint32_t get(uint64_t gpa, unsigned size)
{
    uint32_t value = 0;

    bus_read(&machine.memory, gpa, &value, size);
    return value;
}

static void set(uint64_t gpa, unsigned size, uint64_t value)
{
    settle();
    bus_write(&machine.memory, gpa, &value, size);
}

/* --- a driver --- */

static void set64(uint64_t gpa, uint64_t value)
{
    set(gpa, 4, (uint32_t)value);
    set(gpa + 4, 4, value >> 32);
}

static void place(uint64_t common, unsigned queue)
{
    set(common + VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
    set(common + VIRTIO_PCI_COMMON_Q_SIZE, 2, FUZZ_QUEUE_SIZE);
    set(common + VIRTIO_PCI_COMMON_Q_MSIX, 2, queue + 1);
    set64(common + VIRTIO_PCI_COMMON_Q_DESCLO, fuzz_rig_area(queue, FUZZ_DESC));
    set64(common + VIRTIO_PCI_COMMON_Q_AVAILLO, fuzz_rig_area(queue, FUZZ_AVAIL));
    set64(common + VIRTIO_PCI_COMMON_Q_USEDLO, fuzz_rig_area(queue, FUZZ_USED));
    set(common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

static void set_msix(unsigned slot, uint64_t base, bool on)
{
    unsigned cap = cfg_get(slot, PCI_CAPABILITY_LIST, 1);

    while (cap != 0 && cfg_get(slot, cap, 1) != PCI_CAP_ID_MSIX)
        cap = cfg_get(slot, cap + 1, 1);
    fuzz_check(cap != 0);
    for (unsigned v = 0; v < VECTORS; v++) {
        set64(base + MSIX_TABLE + v * MSIX_ENTRY_SIZE, 0xfee00000);
        set(base + MSIX_TABLE + v * MSIX_ENTRY_SIZE + 8, 4, 0x41 + v);
        set(base + MSIX_TABLE + v * MSIX_ENTRY_SIZE + 12, 4, 0);
    }
    cfg_set(slot, cap + PCI_MSIX_FLAGS, 2, on ? PCI_MSIX_FLAGS_ENABLE : 0);
}

/* In a place where nothing else is, whatever happened before. */
static void come_up(unsigned slot, bool msix)
{
    uint64_t base = WINDOW + WINDOW_SIZE - 2 * (uint64_t)BAR_SIZE;

    for (unsigned s = 1; s <= FUNCTIONS; s++)
        cfg_set(s, PCI_COMMAND, 2, 0);
    cfg_set(slot, PCI_BASE_ADDRESS_0, 4, (uint32_t)base);
    cfg_set(slot, PCI_BASE_ADDRESS_1, 4, 0);
    cfg_set(slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    fuzz_check(bar(slot) == base);
    for (unsigned s = 0; s < FUNCTIONS; s++)
        virtio_set_status(machine.functions[s].disk, 0);
    fuzz_rig_clear_rings(&rig);
    set(base + VIRTIO_PCI_COMMON_STATUS, 1, 0);
    set(base + VIRTIO_PCI_COMMON_STATUS, 1, 1);
    set(base + VIRTIO_PCI_COMMON_STATUS, 1, 3);
    for (unsigned half = 0; half < 2; half++) {
        set(base + VIRTIO_PCI_COMMON_GFSELECT, 4, half);
        set(base + VIRTIO_PCI_COMMON_GF, 4, half); /* VERSION_1 alone */
    }
    set(base + VIRTIO_PCI_COMMON_STATUS, 1, 0xb);
    set_msix(slot, base, msix);
    for (unsigned queue = 0; queue < FUZZ_QUEUES; queue++)
        place(base, queue);
    set(base + VIRTIO_PCI_COMMON_STATUS, 1, 0xf);
    fuzz_check(get(base + VIRTIO_PCI_COMMON_STATUS, 1) == 0xf);
}

static void ask(unsigned slot)
{
    fuzz_rig_ask(&rig);
    set(bar(slot) + NOTIFY, 2, 0);
}

/* --- anything --- */

static void access_port(struct fuzz_input *in, uint8_t what)
{
    uint16_t port = (uint16_t)(0xcf6 + fuzz_u8(in) % 12);
    uint64_t value;
    unsigned size = 1U << (what >> 4) % 3;

    if (what & 0x80) {
        bus_read(&machine.ports, port, &value, size);
        return;
    }
    value = fuzz_u64(in, size);
    out(port, &value, size);
}

static void access_config(struct fuzz_input *in, unsigned slot, uint8_t what)
{
    unsigned offset = fuzz_u8(in), size = 1U << (what >> 4) % 3;

    if (what & 0x80)
        (void)cfg_get(slot, offset, size);
    else
        cfg_set(slot, offset, size, (uint32_t)fuzz_u64(in, size));
}

/* Near the BAR's start, its end, or in it. */
static void access_bar(struct fuzz_input *in, unsigned slot, uint8_t what)
{
    uint64_t offset = fuzz_u64(in, 2), value;
    unsigned size = 1U << (what >> 4 & 3);
    uint64_t gpa = bar(slot) + offset % (BAR_SIZE + 16) - 8;

    if (what & 0x40) /* mostly a register */
        gpa = bar(slot) + (offset % 8 * 0x1000) + (offset >> 3) % 0x48;
    if (what & 0x80) {
        bus_read(&machine.memory, gpa, &value, size);
        return;
    }
    set(gpa, size, fuzz_u64(in, size));
}

/* Onto RAM, its end, the other one, the end of the window or of all addresses. */
static void move_bar(struct fuzz_input *in, unsigned slot)
{
    const uint64_t places[] = {0,
                               0x8000,
                               FUZZ_RAM - BAR_SIZE,
                               FUZZ_RAM,
                               bar(3 - slot),
                               bar(3 - slot) + BAR_SIZE,
                               WINDOW,
                               WINDOW + WINDOW_SIZE,
                               0xffff8000,
                               0xfee00000,
                               UINT64_MAX - 0x7fff,
                               UINT64_C(1) << 40};
    uint64_t to = places[fuzz_u8(in) % ARRAY_LEN(places)];

    cfg_set(slot, PCI_BASE_ADDRESS_0, 4, (uint32_t)to);
    cfg_set(slot, PCI_BASE_ADDRESS_1, 4, (uint32_t)(to >> 32));
}

/* §4.1.4.9: the window in the configuration space. */
static void use_window(struct fuzz_input *in, unsigned slot, uint8_t what)
{
    unsigned cap = cfg_get(slot, PCI_CAPABILITY_LIST, 1);

    while (cap != 0 && !(cfg_get(slot, cap, 1) == PCI_CAP_ID_VNDR &&
                         cfg_get(slot, cap + VIRTIO_PCI_CAP_CFG_TYPE, 1) == VIRTIO_PCI_CAP_PCI_CFG))
        cap = cfg_get(slot, cap + 1, 1);
    fuzz_check(cap != 0);
    cfg_set(slot, cap + VIRTIO_PCI_CAP_BAR, 1, what >> 4 == 15 ? fuzz_u8(in) : 0);
    cfg_set(slot, cap + VIRTIO_PCI_CAP_OFFSET, 4, (uint32_t)fuzz_u64(in, what & 0x40 ? 4 : 2));
    cfg_set(slot, cap + VIRTIO_PCI_CAP_LENGTH, 4, fuzz_u8(in) % 6);
    if (what & 0x80)
        (void)cfg_get(slot, cap + 16, 4);
    else
        cfg_set(slot, cap + 16, 4, (uint32_t)fuzz_u64(in, 4));
}

static void move_state(struct fuzz_input *in, unsigned slot, bool is_hostile)
{
    struct machine twin;

    settle();
    create(&twin, FUNCTIONS);
    fuzz_round_trip(machine.host, twin.host);
    if (is_hostile)
        fuzz_spoiled_state(machine.functions[slot - 1].dev, twin.functions[slot - 1].dev, in);
    else
        fuzz_round_trip(machine.functions[slot - 1].dev, twin.functions[slot - 1].dev);
    destroy(&twin);
}

/* --- what always holds --- */

static void check_function(unsigned slot)
{
    const struct function *f = &machine.functions[slot - 1];
    const struct bus_window *w = NULL;

    for (unsigned i = 0; i < machine.memory.count; i++)
        if (machine.memory.windows[i].dev == f->dev) {
            fuzz_check(w == NULL);
            w = &machine.memory.windows[i];
        }
    for (unsigned q = 0; q < FUZZ_QUEUES; q++)
        fuzz_check(f->doorbells[q] == (w ? w->base + NOTIFY + q * VIRTIO_PCI_NOTIFY_SIZE : 0));
    if (w == NULL)
        return;
    fuzz_check(w->base == bar(slot) && w->size == BAR_SIZE && w->base >= FUZZ_RAM);
    fuzz_check(cfg_get(slot, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY);
}

static void check_all(void)
{
    uint32_t address = 0;

    bus_read(&machine.ports, 0xcf8, &address, 4);
    for (unsigned slot = 1; slot <= FUNCTIONS; slot++)
        check_function(slot);
    out(0xcf8, &address, 4);
}

static void step(struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in);
    unsigned slot = 1 + (what >> 3 & 1);

    switch (what & 7) {
    case 0:
        what = fuzz_u8(in);
        if (what % 8 == 0)
            move_state(in, slot, what & 0x80);
        else if (what % 8 < 4)
            come_up(slot, what & 0x80);
        else if (what % 8 < 6)
            ask(slot);
        else
            fuzz_rig_turn(&rig, 4);
        break;
    case 1:
        access_port(in, what);
        break;
    case 2:
    case 3:
        access_config(in, slot, what);
        break;
    case 4:
        move_bar(in, slot);
        break;
    case 5:
        use_window(in, slot, what);
        break;
    default:
        access_bar(in, slot, what);
        break;
    }
    check_all();
}

static void check_alive(unsigned slot, bool msix)
{
    struct function *f = &machine.functions[slot - 1];

    come_up(slot, msix);
    f->fires = 0;
    ask(slot);
    fuzz_rig_turn(&rig, 8);
    fuzz_check(fuzz_rig_answers(&rig) == 1);
    fuzz_check(f->fires == msix && f->level == !msix);
    if (!msix)
        fuzz_check(get(bar(slot) + 0x1000, 1) == 1 && !f->level);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    fuzz_rig_init(&rig);
    create(&machine, FUNCTIONS);
    for (unsigned i = 0; in.left > 0 && i < 256; i++)
        step(&in);
    check_alive(1, size % 2);
    destroy(&machine);
    fuzz_rig_fini(&rig);
    return 0;
}
