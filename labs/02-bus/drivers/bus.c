/*
 * A bus with devices that write down what is asked of them.
 *
 * args: new:LIMIT                      an empty bus
 *       dev:INDEX:MAX_ACCESS:KEY       a device
 *       put:BASE:SIZE:INDEX:OFFSET     a window, put into the table by hand (in order)
 *       map:BASE:SIZE:INDEX:OFFSET     bus_map()
 *       windows                        the table
 *       find:ADDR                      bus_find()
 *       read:ADDR:SIZE                 bus_read(), into 16 bytes of 0x5a
 *       write:ADDR:SIZE:VALUE          bus_write()
 */
#include "recorder.h"

static struct bus bus;

static void put(const uint64_t *f)
{
    bus.windows[bus.count++] = (struct bus_window){
        .base = f[0], .size = f[1], .dev = &recorders[f[2] % RECORDERS].dev, .offset = f[3]};
}

static void map(const uint64_t *f)
{
    struct bus_window before[BUS_WINDOWS_MAX];
    unsigned count = bus.count;

    memcpy(before, bus.windows, sizeof(before));
    int rc = bus_map(&bus, f[0], f[1], &recorders[f[2] % RECORDERS].dev, f[3]);
    report_case();
    report_int("rc", rc);
    report_int("count", bus.count);
    report_int("untouched",
               bus.count == count && memcmp(before, bus.windows, count * sizeof(before[0])) == 0);
}

static void report_windows(void)
{
    char text[128];

    report_case();
    report_name("windows");
    report_raw("[");
    for (unsigned i = 0; i < bus.count && i < BUS_WINDOWS_MAX; i++) {
        const struct bus_window *w = &bus.windows[i];
        (void)snprintf(text, sizeof(text), "%s[%llu, %llu, %d, %llu]", i > 0 ? ", " : "",
                       (unsigned long long)w->base, (unsigned long long)w->size,
                       recorder_index(w->dev), (unsigned long long)w->offset);
        report_raw(text);
    }
    report_raw("]");
}

static void report_access(const uint8_t *data, uint64_t unclaimed)
{
    report_case();
    report_hex("data", data, 16);
    report_u64("unclaimed", bus.unclaimed - unclaimed);
    report_calls();
}

static void read_bus(const uint64_t *f)
{
    uint64_t unclaimed = bus.unclaimed;
    uint8_t data[16];

    memset(data, 0x5a, sizeof(data));
    bus_read(&bus, f[0], data, (unsigned)f[1]);
    report_access(data, unclaimed);
}

static void write_bus(const uint64_t *f)
{
    uint64_t unclaimed = bus.unclaimed;
    uint8_t data[16];

    memset(data, 0x5a, sizeof(data));
    memcpy(data, &f[2], f[1] <= 8 ? f[1] : 8);
    bus_write(&bus, f[0], data, (unsigned)f[1]);
    report_access(data, unclaimed);
}

static void find(const uint64_t *f)
{
    int found = recorder_index(bus_find(&bus, f[0]));

    report_case();
    report_int("found", found);
}

int main(int argc, char **argv)
{
    uint64_t f[4];

    for (int i = 1; i < argc; i++) {
        if (is_command(argv[i], "new", f, 1))
            bus_init(&bus, f[0]);
        else if (is_command(argv[i], "dev", f, 3))
            (void)recorder_init((unsigned)f[0], (unsigned)f[1], (uint8_t)f[2]);
        else if (is_command(argv[i], "put", f, 4))
            put(f);
        else if (is_command(argv[i], "map", f, 4))
            map(f);
        else if (is_command(argv[i], "windows", f, 0))
            report_windows();
        else if (is_command(argv[i], "find", f, 1))
            find(f);
        else if (is_command(argv[i], "read", f, 2))
            read_bus(f);
        else if (is_command(argv[i], "write", f, 3))
            write_bus(f);
        else
            return 2;
    }
    return report_end();
}
