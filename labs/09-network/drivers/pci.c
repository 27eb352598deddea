/*
 * A bus of PCI and functions on it, as a script says.
 *
 *   fresh                        an empty bus: its bridge is in slot 0
 *   fn VENDOR DEVICE             a function, not on the bus yet; they are numbered from 0
 *   bar FN INDEX SIZE IO IS64    one of its windows: every access to it is noted
 *   allow FN OFFSET SIZE MASK    writable bits
 *   add FN                       puts it into the lowest free slot
 *   virtio QUEUES                a virtio device of ours, on the bus
 *   in PORT SIZE, out PORT SIZE VALUE          accesses to ports …
 *   rd ADDRESS SIZE, wr ADDRESS SIZE VALUE     … and to device memory
 *   count                        windows that are on the two buses
 *
 * Each reports what functions were told meanwhile, and which windows were accessed:
 *   ["written", fn, offset, size]  ["moved", fn, bar, there, address]  ["bell", queue, there,
 * address]
 *   ["window", fn, bar, offset, size, is write, value]  ["kick", queue]
 */
#include <poll.h>

#include "hv/base/num.h"
#include "hv/pci/pci.h"
#include "hv/virtio/pci.h"
#include "script.h"

#define WINDOW 0xc0000000ULL
#define WINDOW_END 0xc2000000ULL
#define RAM_BYTES 0x100000
#define RAM_HIGH 0x100000000ULL
#define RAM_AMONG 0xc1000000ULL /* RAM in the midst of the bus's window */
#define FUNCTIONS_MAX 8
#define EVENTS_MAX 400
#define PROBE_ID 4 /* an entropy device's */

struct window {
    struct device dev;
    unsigned fn, bar;
};

struct function {
    struct pci_dev p;
    struct window windows[PCI_BARS];
};

static struct bus ports, memory;
static struct pci_bus *bus;
static struct device *host, *carried;
static struct function functions[FUNCTIONS_MAX];
static unsigned function_count;
static struct virtio_dev probe;
static struct virtio_ops probe_ops;
static struct loop *loop;
static char events[EVENTS_MAX][100];
static unsigned event_count;

#define NOTE(...)                                                                                  \
    do {                                                                                           \
        if (event_count < EVENTS_MAX)                                                              \
            (void)snprintf(events[event_count++], sizeof(events[0]), __VA_ARGS__);                 \
    } while (0)

/* --- functions of ours --- */

static unsigned number_of(const struct pci_dev *p)
{
    return (unsigned)(container_of(p, struct function, p) - functions);
}

static void on_written(struct pci_dev *p, unsigned offset, unsigned size)
{
    NOTE("[\"written\", %u, %u, %u]", number_of(p), offset, size);
}

static void on_moved(struct pci_dev *p, unsigned index, bool there)
{
    NOTE("[\"moved\", %u, %u, %d, %llu]", number_of(p), index, there,
         (unsigned long long)p->bars[index].mapped);
}

static uint64_t window_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct window *w = container_of(dev, struct window, dev);

    NOTE("[\"window\", %u, %u, %llu, %u, 0, 0]", w->fn, w->bar, (unsigned long long)offset, size);
    return 0x1100 + w->fn * 16 + w->bar;
}

static void window_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    const struct window *w = container_of(dev, struct window, dev);

    NOTE("[\"window\", %u, %u, %llu, %u, 1, %llu]", w->fn, w->bar, (unsigned long long)offset, size,
         (unsigned long long)value);
}

static const struct dev_ops window_ops = {
    .read = window_read, .write = window_write, .max_access = 4, .version = 1};

static void do_fn(char *rest)
{
    static const struct pci_ops ops = {.config_written = on_written, .bar_moved = on_moved};
    struct pci_id id = {.vendor = (uint16_t)take_number(&rest)};

    id.device = (uint16_t)take_number(&rest);
    id.class_code = 0x020000;
    if (function_count == FUNCTIONS_MAX)
        abort();
    pci_init(&functions[function_count++].p, &ops, "fn", &id);
}

static void do_bar(char *rest)
{
    unsigned fn = (unsigned)take_number(&rest), index = (unsigned)take_number(&rest);
    struct window *w = &functions[fn].windows[index];
    struct pci_bar bar = {.size = take_number(&rest), .window = &w->dev};

    bar.is_io = take_number(&rest);
    bar.is_64 = take_number(&rest);
    w->fn = fn;
    w->bar = index;
    dev_init(&w->dev, &window_ops, "window");
    pci_set_bar(&functions[fn].p, index, &bar);
}

static void do_add(unsigned fn)
{
    report_int("rc", pci_add(bus, &functions[fn].p));
    report_int("slot", functions[fn].p.slot);
}

/* --- a virtio device --- */

static void nothing(struct virtio_dev *v, struct virtio_queue *q)
{
    (void)v;
    (void)q;
}

static void quiet(struct virtio_dev *v)
{
    (void)v;
}

static void probe_destroy(struct virtio_dev *v)
{
    virtio_fini(v);
}

static void on_bell(void *ctx, uint64_t gpa, int kick, bool there)
{
    unsigned queue = 0;

    (void)ctx;
    while (queue < probe.queue_count && probe.queues[queue].kick != kick)
        queue++;
    NOTE("[\"bell\", %u, %d, %llu]", queue, there, (unsigned long long)gpa);
}

static int on_route(void *ctx, unsigned v, uint64_t address, uint32_t data)
{
    (void)ctx;
    NOTE("[\"route\", %u, %llu, %u]", v, (unsigned long long)address, data);
    return 0;
}

static void on_fire(void *ctx, unsigned v)
{
    (void)ctx;
    NOTE("[\"fire\", %u]", v);
}

static void on_pin(void *ctx, uint32_t gsi, bool level)
{
    (void)ctx;
    NOTE("[\"pin\", %u, %d]", gsi, level);
}

static void do_virtio(unsigned queues)
{
    struct virtio_queue_config cfg[VIRTIO_QUEUES_MAX];
    struct virtio_pci_setup setup = {
        .bus = bus, .msix = {.route = on_route, .fire = on_fire}, .doorbell = on_bell};

    if (loop_create(&loop) < 0)
        abort();
    for (unsigned i = 0; i < queues; i++)
        cfg[i] = (struct virtio_queue_config){.size = 16, .loop = loop};
    probe_ops = (struct virtio_ops){.id = PROBE_ID,
                                    .version = 1,
                                    .start = quiet,
                                    .reset = quiet,
                                    .serve = nothing,
                                    .destroy = probe_destroy};
    irq_init(&setup.pin, on_pin, NULL, 16);
    int rc = virtio_init(&probe, &probe_ops, "probe", &mem, 0, cfg, queues);
    if (rc == 0)
        rc = virtio_pci_create("probe", &probe, &setup, &carried);
    report_int("rc", rc);
}

static void note_kicks(void)
{
    for (unsigned i = 0; carried != NULL && i < probe.queue_count; i++) {
        struct pollfd p = {.fd = probe.queues[i].kick, .events = POLLIN};
        uint64_t count;
        if (poll(&p, 1, 0) == 1 && read(p.fd, &count, sizeof(count)) == sizeof(count))
            NOTE("[\"kick\", %u]", i);
    }
}

/* --- the bus --- */

static void fresh(void)
{
    for (unsigned i = 0; i < function_count; i++)
        pci_remove(&functions[i].p);
    dev_destroy(carried);
    carried = NULL;
    loop_destroy(loop);
    loop = NULL;
    if (host != NULL) {
        dev_destroy(host);
        bus_fini(&ports);
        bus_fini(&memory);
    } else if (mem_add(&mem, 0, RAM_BYTES, MEM_RAM, MEM_ANONYMOUS, NULL) < 0 ||
               mem_add(&mem, RAM_HIGH, RAM_BYTES, MEM_RAM, MEM_ANONYMOUS, NULL) < 0 ||
               mem_add(&mem, RAM_AMONG, RAM_BYTES, MEM_ROM, MEM_ANONYMOUS, NULL) < 0) {
        abort();
    }
    function_count = 0;
    memset(functions, 0, sizeof(functions));
    bus_init(&ports, 0xffff);
    bus_init(&memory, UINT64_MAX);
    const struct pci_bus_config cfg = {.ports = &ports,
                                       .memory = &memory,
                                       .mem = &mem,
                                       .window = WINDOW,
                                       .window_end = WINDOW_END};
    int rc = pci_bus_create("pci", &cfg, &bus, &host);
    if (rc == 0)
        rc = bus_map(&ports, PCI_CONFIG_PORT, PCI_CONFIG_PORTS, host, 0);
    report_int("rc", rc);
}

static void transfer(struct bus *on, char *rest, bool is_write)
{
    uint64_t address = take_number(&rest), value = 0;
    unsigned size = (unsigned)take_number(&rest);

    if (is_write) {
        value = take_number(&rest);
        bus_write(on, address, &value, size);
    } else {
        bus_read(on, address, &value, size);
        report_u64("value", value);
    }
}

static bool command(const char *verb, char *rest)
{
    event_count = 0;
    if (strcmp(verb, "fresh") == 0) {
        fresh();
    } else if (strcmp(verb, "fn") == 0) {
        do_fn(rest);
    } else if (strcmp(verb, "bar") == 0) {
        do_bar(rest);
    } else if (strcmp(verb, "allow") == 0) {
        unsigned fn = (unsigned)take_number(&rest), offset = (unsigned)take_number(&rest);
        unsigned size = (unsigned)take_number(&rest);
        pci_allow(&functions[fn].p, offset, size, (uint32_t)take_number(&rest));
    } else if (strcmp(verb, "add") == 0) {
        do_add((unsigned)take_number(&rest));
    } else if (strcmp(verb, "virtio") == 0) {
        do_virtio((unsigned)take_number(&rest));
    } else if (strcmp(verb, "in") == 0 || strcmp(verb, "out") == 0) {
        transfer(&ports, rest, verb[0] == 'o');
    } else if (strcmp(verb, "rd") == 0 || strcmp(verb, "wr") == 0) {
        transfer(&memory, rest, verb[0] == 'w');
    } else if (strcmp(verb, "count") == 0) {
        report_int("ports", ports.count);
        report_int("memory", memory.count);
    } else {
        return false;
    }
    note_kicks();
    report_name("events");
    report_raw("[");
    for (unsigned i = 0; i < event_count; i++) {
        report_raw(i > 0 ? ", " : "");
        report_raw(events[i]);
    }
    report_raw("]");
    return true;
}

int main(void)
{
    return script_run(command);
}
