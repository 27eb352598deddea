/*
 * MSI-X with a sink that writes down what it is told, as a script says.
 *
 *   fresh VECTORS             a function whose table is as after a reset
 *   control VALUE             the capability's message control word, and msix_config_written()
 *   table OFFSET SIZE VALUE   msix_table_write(); read OFFSET SIZE: msix_table_read()
 *   notify VECTOR
 *   refuse RC                 what route() answers from here on
 *
 * Each reports what the sink was told meanwhile: [vector, address, data] for a route, [vector] for
 * a message; and the pending bits.
 */
#include "hv/pci/msix.h"
#include "script.h"

#define TABLE 0x1000
#define PBA 0x2000
#define TOLD_MAX 400

static struct pci_dev fn;
static struct msix msix;
static bool made;
static int refuse;
static char told[TOLD_MAX][80];
static unsigned told_count;

static int on_route(void *ctx, unsigned v, uint64_t address, uint32_t data)
{
    (void)ctx;
    if (told_count < TOLD_MAX)
        (void)snprintf(told[told_count++], sizeof(told[0]), "[%u, %llu, %u]", v,
                       (unsigned long long)address, data);
    return refuse;
}

static void on_fire(void *ctx, unsigned v)
{
    (void)ctx;
    if (told_count < TOLD_MAX)
        (void)snprintf(told[told_count++], sizeof(told[0]), "[%u]", v);
}

static void fresh(unsigned vectors)
{
    static const struct pci_ops ops;
    const struct pci_id id = {.vendor = 1, .device = 2};
    const struct msix_sink sink = {.route = on_route, .fire = on_fire};

    if (made)
        msix_fini(&msix);
    pci_init(&fn, &ops, "fn", &id);
    msix_init(&msix, &fn, vectors, 0, TABLE, PBA, &sink);
    made = true;
    refuse = 0;
}

static void report_told(void)
{
    report_name("told");
    report_raw("[");
    for (unsigned i = 0; i < told_count; i++) {
        report_raw(i > 0 ? ", " : "");
        report_raw(told[i]);
    }
    report_raw("]");
    report_u64("pending", msix_pba_read(&msix, 0, 4) | (uint64_t)msix_pba_read(&msix, 4, 4) << 32);
}

static bool command(const char *verb, char *rest)
{
    uint64_t first = take_number(&rest);

    told_count = 0;
    if (strcmp(verb, "fresh") == 0) {
        fresh((unsigned)first);
    } else if (!made) {
        return false;
    } else if (strcmp(verb, "control") == 0) {
        pci_put16(&fn, msix.cap + PCI_MSIX_FLAGS, (uint16_t)first);
        msix_config_written(&msix);
    } else if (strcmp(verb, "table") == 0) {
        unsigned size = (unsigned)take_number(&rest);
        msix_table_write(&msix, first, size, (uint32_t)take_number(&rest));
    } else if (strcmp(verb, "read") == 0) {
        report_u64("value", msix_table_read(&msix, first, (unsigned)take_number(&rest)));
    } else if (strcmp(verb, "notify") == 0) {
        msix_notify(&msix, (unsigned)first);
    } else if (strcmp(verb, "refuse") == 0) {
        refuse = (int)first;
    } else {
        return false;
    }
    report_told();
    return true;
}

int main(void)
{
    return script_run(command);
}
