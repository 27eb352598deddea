/*
 * The ACPI power device on a bus of ports of its own, wired as on the board.
 *
 * args: S5_SLP_TYP RESET_VALUE OPS
 *   OPS  a file of 8-byte records: kind (0 read, 1 write), size, port (16 bits), value (32 bits)
 *
 * "events" has a letter for each time that the device asked for power: the number of the access,
 * then o (off) or r (reset). "answers" has what the reads gave.
 */
#include "guarded.h"
#include "hv/acpi/fixed.h"
#include "hv/base/num.h"
#include "hv/bus/bus.h"
#include "hv/devices/acpi_pm.h"
#include "observe.h"

#define EVENTS_MAX 60000

static char events[EVENTS_MAX];
static size_t events_length, access_number;

static void on_power(void *ctx, enum acpi_power what)
{
    (void)ctx;
    if (events_length < EVENTS_MAX - 32)
        events_length += (size_t)snprintf(events + events_length, 32, "%zu%c ", access_number,
                                          what == ACPI_POWER_OFF ? 'o' : 'r');
}

/* Time stands still, so that the timer's bytes can be foreseen. */
static uint64_t no_time(void *ctx)
{
    (void)ctx;
    return 0;
}

static int wire(struct bus *bus, struct device *dev)
{
    static const struct {
        uint64_t port, size, offset;
    } blocks[] = {
        {ACPI_PM1_EVT_PORT, ACPI_PM_EVT_SIZE, ACPI_PM_EVT_OFFSET},
        {ACPI_PM1_CNT_PORT, ACPI_PM_CNT_SIZE, ACPI_PM_CNT_OFFSET},
        {ACPI_PM_TMR_PORT, ACPI_PM_TMR_SIZE, ACPI_PM_TMR_OFFSET},
        {ACPI_RESET_PORT - 1, ACPI_PM_RESET_SIZE, ACPI_PM_RESET_OFFSET},
    };
    int rc = 0;

    bus_init(bus, 0xffff);
    for (unsigned i = 0; rc == 0 && i < ARRAY_LEN(blocks); i++)
        rc = bus_map(bus, blocks[i].port, blocks[i].size, dev, blocks[i].offset);
    return rc;
}

int main(int argc, char **argv)
{
    struct acpi_pm_config cfg = {.power = on_power, .now_ns = no_time};
    struct device *dev;
    struct bus bus;

    if (argc < 4)
        return 1;
    cfg.s5_slp_typ = (uint8_t)number(argv[1]);
    cfg.reset_value = (uint8_t)number(argv[2]);
    struct guarded ops = guarded_read(argv[3]);
    uint8_t *answers = calloc(1, ops.size + 1);
    size_t answered = 0;
    if (answers == NULL || acpi_pm_create("pm", &cfg, &dev) < 0 || wire(&bus, dev) < 0)
        return 1;
    for (size_t at = 0; at + 8 <= ops.size; at += 8, access_number++) {
        const uint8_t *op = ops.data + at;
        uint8_t data[4];
        uint16_t port;

        memcpy(&port, op + 2, sizeof(port));
        memcpy(data, op + 4, sizeof(data));
        if (op[0] == 1)
            bus_write(&bus, port, data, op[1]);
        else
            bus_read(&bus, port, answers + answered, op[1]);
        if (op[0] == 0)
            answered += op[1];
    }
    report_string("events", events);
    report_hex("answers", answers, answered);
    return report_end();
}
