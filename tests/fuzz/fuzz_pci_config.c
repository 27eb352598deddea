/*
 * PCI configuration space without virtio: functions with BARs of every kind and MSI-X, written
 * through the ports in any way, and judged against another reading of what was written.
 */
#include "fuzz/dev_fuzz.h"
#include "hv/base/num.h"
#include "hv/mem/mem.h"
#include "hv/pci/msix.h"

#define WINDOW 0xc0000000ULL
#define RAM 0x100000ULL
#define FUNCTIONS 3
#define SPACE 0x1000 /* bytes that a function's registers have */

struct function {
    struct device dev;
    struct pci_dev fn;
    struct msix msix;
    uint8_t first[PCI_CONFIG_SIZE]; /* the configuration space as it was made */
    unsigned there;                 /* BARs that bar_moved told of */
};

struct machine {
    struct bus ports, memory;
    struct mem mem;
    struct pci_bus *pci;
    struct device *host;
    struct device reset;
    unsigned resets;
    struct function functions[FUNCTIONS];
};

static struct machine machine;

/* --- functions --- */

static uint64_t any_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    fuzz_check(offset + size <= SPACE);
    return offset;
}

static void any_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    (void)dev;
    (void)value;
    fuzz_check(offset + size <= SPACE);
}

static const struct dev_ops any_ops = {.read = any_read, .write = any_write, .max_access = 8};

static void on_written(struct pci_dev *p, unsigned offset, unsigned size)
{
    fuzz_check(offset + size <= PCI_CONFIG_SIZE);
    msix_config_written(&container_of(p, struct function, fn)->msix);
}

static void on_moved(struct pci_dev *p, unsigned index, bool there)
{
    struct function *f = container_of(p, struct function, fn);

    fuzz_check(p->bars[index].mapped != 0 && (f->there >> index & 1) != there);
    f->there ^= 1U << index;
}

static const struct pci_ops fn_ops = {.config_written = on_written, .bar_moved = on_moved};

static int on_route(void *ctx, unsigned v, uint64_t address, uint32_t data)
{
    (void)ctx;
    (void)data;
    fuzz_check(v < MSIX_VECTORS_MAX);
    return address & 1 ? -1 : 0;
}

static void on_fire(void *ctx, unsigned v)
{
    const struct msix *m = &((struct function *)ctx)->msix;

    fuzz_check(v < m->vectors && m->enabled && !m->masked && !(m->entries[v].control & 1));
}

static void create_function(struct machine *m, struct function *f, unsigned kind)
{
    static const struct pci_bar bars[FUNCTIONS][PCI_BARS] = {
        {{.size = 0x1000, .is_64 = true}, {0}, {.size = 0x20, .is_io = true}, {.size = 0x10}},
        {{.size = 0x1000}, {.size = 0x800, .is_64 = true}},
        {{0}, {.size = 0x100, .is_io = true}, {0}, {0}, {.size = 0x1000, .is_64 = true}},
    };
    const struct pci_id id = {0x1234, (uint16_t)kind, 0x1234, 1, 0xff0000, 1};
    const struct msix_sink sink = {on_route, on_fire, f};

    dev_init(&f->dev, &any_ops, "any");
    pci_init(&f->fn, &fn_ops, "any", &id);
    f->there = 0;
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar bar = bars[kind][i];
        bar.window = &f->dev;
        if (bar.size > 0)
            pci_set_bar(&f->fn, i, &bar);
    }
    msix_init(&f->msix, &f->fn, kind == 2 ? MSIX_VECTORS_MAX : 1 + kind, 0, 0, 0x800, &sink);
    if (kind == 1) /* to the last byte */
        fuzz_check(pci_add_capability(&f->fn, PCI_CAP_ID_VNDR, 256 - f->fn.cap_end) != 0);
    fuzz_check(pci_add(m->pci, &f->fn) == 0);
    memcpy(f->first, f->fn.config, sizeof(f->first));
}

/* --- the machine --- */

static uint64_t reset_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    fuzz_check(offset == 7 && size == 1);
    return 0x5a;
}

static void reset_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    (void)value;
    fuzz_check(offset == 7 && size == 1);
    container_of(dev, struct machine, reset)->resets++;
}

static const struct dev_ops reset_ops = {.read = reset_read, .write = reset_write, .max_access = 1};

static void create(struct machine *m)
{
    *m = (struct machine){0};
    const struct pci_bus_config cfg = {
        .ports = &m->ports,
        .memory = &m->memory,
        .mem = &m->mem,
        .window = WINDOW,
        .window_end = WINDOW + 0x100000,
        .reset = &m->reset,
        .reset_offset = 7,
    };

    bus_init(&m->ports, 0xffff);
    bus_init(&m->memory, UINT64_C(0xffffffffffff));
    mem_init(&m->mem);
    fuzz_check(mem_add(&m->mem, 0, RAM / 2, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    fuzz_check(mem_add(&m->mem, RAM / 2, RAM / 2, MEM_ROM, MEM_ANONYMOUS, NULL) == 0);
    dev_init(&m->reset, &reset_ops, "reset");
    fuzz_check(pci_bus_create("pci", &cfg, &m->pci, &m->host) == 0);
    fuzz_check(bus_map(&m->ports, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, m->host, 0) == 0);
    for (unsigned i = 0; i < FUNCTIONS; i++)
        create_function(m, &m->functions[i], i);
}

static void destroy(struct machine *m)
{
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        struct function *f = &m->functions[i];
        pci_remove(&f->fn);
        fuzz_check(f->there == 0);
        msix_fini(&f->msix);
        dev_fini(&f->dev);
    }
    fuzz_check(m->memory.count == 0 && m->ports.count == 1);
    dev_destroy(m->host);
    dev_fini(&m->reset);
    mem_fini(&m->mem);
    bus_fini(&m->ports);
    bus_fini(&m->memory);
}

/* --- what always holds --- */

static uint64_t address_of(const struct pci_dev *p, unsigned index)
{
    const struct pci_bar *b = &p->bars[index];
    uint64_t address = pci_get32(p, PCI_BASE_ADDRESS_0 + 4 * index);

    if (b->is_64)
        address |= (uint64_t)pci_get32(p, PCI_BASE_ADDRESS_0 + 4 * index + 4) << 32;
    return address & ~(uint64_t)(b->is_io ? 3 : 15);
}

/* A BAR that is there is where the guest said, allowed, over nothing else, and the only one. */
static void check_bar(const struct machine *m, const struct function *f, unsigned index)
{
    const struct pci_bar *b = &f->fn.bars[index];
    const struct bus *bus = b->is_io ? &m->ports : &m->memory;
    uint16_t command = pci_get16(&f->fn, PCI_COMMAND);
    unsigned found = 0;

    fuzz_check((f->there >> index & 1) == (b->mapped != 0));
    if (b->mapped == 0)
        return;
    fuzz_check(b->mapped == address_of(&f->fn, index) && b->mapped % b->size == 0);
    fuzz_check(command & (b->is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY));
    fuzz_check(b->is_io || b->mapped >= RAM);
    for (unsigned i = 0; i < bus->count; i++)
        found += bus->windows[i].base == b->mapped && bus->windows[i].size == b->size &&
                 bus->windows[i].dev == &f->dev;
    fuzz_check(found == 1);
}

static void check_all(const struct machine *m)
{
    unsigned mapped = 0;

    for (unsigned i = 0; i < FUNCTIONS; i++) {
        const struct function *f = &m->functions[i];
        for (unsigned b = 0; b < PCI_BARS; b++) {
            check_bar(m, f, b);
            mapped += f->fn.bars[b].mapped != 0;
        }
        for (unsigned at = 0; at < PCI_CONFIG_SIZE; at++)
            fuzz_check(!((f->fn.config[at] ^ f->first[at]) & ~f->fn.writable[at]));
        fuzz_check(!(f->msix.vectors < 64 && f->msix.pending >> f->msix.vectors));
    }
    fuzz_check(m->memory.count + m->ports.count == mapped + 1);
}

/* --- anything --- */

static void access_port(struct fuzz_input *in, uint8_t what)
{
    uint64_t value = 0, port = 0xcf5 + fuzz_u8(in) % 14;
    unsigned size = 1U << (what >> 4 & 3);

    if (what & 0x80) {
        bus_read(&machine.ports, port, &value, size);
        return;
    }
    value = fuzz_u64(in, size);
    bus_write(&machine.ports, port, &value, size);
}

/* A register of one of the functions, or of a slot without one. */
static void access_config(struct fuzz_input *in, uint8_t what)
{
    uint8_t offset = fuzz_u8(in);
    uint32_t address = 0x80000000U | (uint32_t)(what >> 4 & 3) << 11 | (offset & 0xfc), value;
    unsigned size = 1U << offset % 3;

    bus_write(&machine.ports, 0xcf8, &address, 4);
    if (what & 0x80) {
        bus_read(&machine.ports, 0xcfc + (offset & 3), &value, size);
        return;
    }
    value = (uint32_t)fuzz_u64(in, size);
    bus_write(&machine.ports, 0xcfc + (offset & 3), &value, size);
}

/* A place for a BAR where it may meet others, the ports of the bridge, RAM, or the bus's end. */
static void move_bar(struct fuzz_input *in, uint8_t what)
{
    static const uint64_t places[] = {
        0,   0xcf0,  0xcf8,           0xfff0,     0xff00,     0x1000,         RAM - 0x800,
        RAM, WINDOW, WINDOW + 0x1000, 0xfffff000, 0xffffffff, 0xfffffffff000, UINT64_MAX};
    const uint64_t to = places[fuzz_u8(in) % ARRAY_LEN(places)];
    unsigned index = fuzz_u8(in) % PCI_BARS;
    uint32_t address =
        0x80000000U | (1U + (what >> 4) % FUNCTIONS) << 11 | (PCI_BASE_ADDRESS_0 + 4 * index);

    for (unsigned half = 0; half < 2; half++) {
        const uint32_t value = (uint32_t)(to >> 32 * half);
        bus_write(&machine.ports, 0xcf8, &address, 4);
        bus_write(&machine.ports, 0xcfc, &value, 4);
        address += 4;
        if (index == PCI_BARS - 1 || what & 0x80)
            return;
    }
}

static void use_msix(struct fuzz_input *in, uint8_t what)
{
    struct msix *m = &machine.functions[(what >> 4) % FUNCTIONS].msix;
    uint64_t offset = fuzz_u64(in, 2) % (MSIX_VECTORS_MAX * MSIX_ENTRY_SIZE + 32);
    unsigned size = 1U << fuzz_u8(in) % 4;

    switch (fuzz_u8(in) % 5) {
    case 0:
        msix_table_write(m, offset & ~3U, 4, (uint32_t)fuzz_u64(in, 4));
        fuzz_check(offset / MSIX_ENTRY_SIZE < m->vectors ||
                   msix_table_read(m, offset & ~3U, 4) == 0);
        break;
    case 1:
        msix_table_write(m, offset, size, (uint32_t)fuzz_u64(in, 4));
        break;
    case 2:
        (void)msix_table_read(m, offset, size);
        (void)msix_pba_read(m, offset, size);
        break;
    case 3:
        msix_notify(m, (unsigned)offset);
        break;
    default:
        msix_notify(m, (unsigned)offset % m->vectors);
        break;
    }
}

/* A function's state as its owner would move it: judged first, taken as a whole. */
static void move_state(struct fuzz_input *in, uint8_t what)
{
    struct function *f = &machine.functions[(what >> 4) % FUNCTIONS];
    uint8_t config[PCI_CONFIG_SIZE];
    struct msix_state msix;
    struct codec_writer w;
    struct codec_reader r;
    uint32_t version;

    codec_writer_init(&w);
    codec_begin(&w, "fn", 1);
    pci_save(&f->fn, &w);
    msix_save(&f->msix, &w);
    fuzz_check(codec_end(&w) == 0);
    codec_reader_init(&r, w.data, w.size);
    fuzz_check(codec_enter(&r, "fn", &version) == 0);
    fuzz_check(pci_load(&f->fn, &r, config) == 0 && msix_load(&f->msix, &r, &msix) == 0);
    codec_writer_fini(&w);
    if (what & 0x80)
        config[fuzz_u8(in)] = fuzz_u8(in);
    codec_writer_init(&w);
    codec_begin(&w, "fn", 1);
    codec_put_bytes(&w, config, sizeof(config));
    fuzz_check(codec_end(&w) == 0);
    codec_reader_init(&r, w.data, w.size);
    fuzz_check(codec_enter(&r, "fn", &version) == 0);
    if (pci_load(&f->fn, &r, config) == 0) {
        pci_restore(&f->fn, config);
        msix_restore(&f->msix, &msix);
    } else {
        fuzz_check(what & 0x80);
    }
    codec_writer_fini(&w);
}

static void step(struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in);

    switch (what & 7) {
    case 0:
        access_port(in, what);
        break;
    case 1:
        move_state(in, what);
        break;
    case 2:
    case 3:
        move_bar(in, what);
        break;
    case 4:
        use_msix(in, what);
        break;
    default:
        access_config(in, what);
        break;
    }
    check_all(&machine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint32_t address = 0x80000000U, id = 0;

    create(&machine);
    for (unsigned i = 0; in.left > 0 && i < 256; i++)
        step(&in);
    bus_write(&machine.ports, 0xcf8, &address, 4);
    bus_read(&machine.ports, 0xcfc, &id, 4);
    fuzz_check(id == 0x12378086);
    destroy(&machine);
    return 0;
}
