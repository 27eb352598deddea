/*
 * A machine's answers, for a person.
 *
 * They come from outside: what is missing, or is no number, is shown as nothing.
 */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "cli/ctl.h"
#include "hv/base/num.h"

static const char *text(const json_t *object, const char *name)
{
    const char *s = json_string_value(json_object_get(object, name));

    return s != NULL ? s : "?";
}

static uint64_t number(const json_t *object, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(object, name));
}

/* Rounded, with at most four digits: "512M", "1.5G". */
static const char *size_text(uint64_t bytes, char *buf, size_t room)
{
    static const char units[] = "BKMGT";
    unsigned unit = 0;
    double n = (double)bytes;

    if (bytes == 0)
        return "0";
    while (n >= 1024 && unit + 2 < sizeof(units)) {
        n /= 1024;
        unit++;
    }
    (void)snprintf(buf, room, n < 10 && unit > 0 && n != (double)(unsigned)n ? "%.1f%c" : "%.0f%c",
                   n, units[unit]);
    return buf;
}

#define SIZE_ROOM 32

static void show_age(uint64_t ms, FILE *out)
{
    uint64_t s = ms / 1000;

    if (s >= 3600)
        (void)fprintf(out, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s / 60 % 60);
    else if (s >= 60)
        (void)fprintf(out, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
    else
        (void)fprintf(out, "%" PRIu64 ".%" PRIu64 " s", s, ms / 100 % 10);
}

/* The strings of a list: "a, b". */
static void show_list(const json_t *list, FILE *out)
{
    size_t i;
    json_t *one;

    json_array_foreach(list, i, one)(void)
        fprintf(out, "%s%s", i > 0 ? ", " : "", json_string_value(one));
}

/* --- status --- */

static void show_status(const json_t *v, FILE *out)
{
    const json_t *reasons = json_object_get(v, "reasons");
    char size[SIZE_ROOM];
    size_t i;
    json_t *d;

    (void)fprintf(out, "%s", text(v, "state"));
    if (json_array_size(reasons) > 0) {
        (void)fprintf(out, " (");
        show_list(reasons, out);
        (void)fprintf(out, ")");
    }
    (void)fprintf(out, ", started ");
    show_age(number(v, "age-ms"), out);
    (void)fprintf(out, " ago\n%" PRIu64 " CPU%s, %s of memory\n", number(v, "cpus"),
                  number(v, "cpus") == 1 ? "" : "s",
                  size_text(number(v, "memory"), size, SIZE_ROOM));
    json_array_foreach(json_object_get(v, "devices"), i, d)(void)
        fprintf(out, "%-9s%s%s\n", text(d, "name"), text(d, "kind"),
                json_is_true(json_object_get(d, "driven")) ? "" : ", without a driver");
}

/* --- stats --- */

static void show_cpu(size_t index, const json_t *cpu, FILE *out)
{
    const json_t *reasons = json_object_get(cpu, "reasons");
    const char *name;
    json_t *n;

    (void)fprintf(out, "CPU %zu: %" PRIu64 " exits, %.1f s of processor time\n", index,
                  number(cpu, "exits"), (double)number(cpu, "cpu-ms") / 1000);
    if (json_object_size(reasons) == 0)
        return;
    (void)fprintf(out, "  ");
    json_object_foreach((json_t *)reasons, name, n)(void)
        fprintf(out, " %s %" JSON_INTEGER_FORMAT, name, json_integer_value(n));
    (void)fprintf(out, "\n");
}

static bool ends_with(const char *s, const char *end)
{
    size_t len = strlen(s), tail = strlen(end);

    return len >= tail && strcmp(s + len - tail, end) == 0;
}

/* What is counted in bytes is shown as a size; what is 0 is not worth a word. */
static void show_counters(const json_t *counters, bool all_bytes, FILE *out)
{
    char size[SIZE_ROOM];
    const char *name;
    json_t *n;
    const char *between = "   ";

    json_object_foreach((json_t *)counters, name, n)
    {
        uint64_t value = (uint64_t)json_integer_value(n);
        if (value == 0)
            continue;
        if (all_bytes || ends_with(name, "bytes") || ends_with(name, "bps-limit"))
            (void)fprintf(out, "%s%s %s", between, name, size_text(value, size, SIZE_ROOM));
        else
            (void)fprintf(out, "%s%s %" PRIu64, between, name, value);
        between = ", ";
    }
    if (*between == ',')
        (void)fprintf(out, "\n");
}

static void show_device(const json_t *d, FILE *out)
{
    uint64_t kicks = 0, chains = 0, interrupts = 0;
    size_t i;
    json_t *q;

    json_array_foreach(json_object_get(d, "queues"), i, q)
    {
        kicks += number(q, "kicks");
        chains += number(q, "chains");
        interrupts += number(q, "interrupts");
    }
    (void)fprintf(out, "%s: %" PRIu64 " requests, %" PRIu64 " kicks, %" PRIu64 " interrupts\n",
                  text(d, "name"), chains, kicks, interrupts);
    show_counters(json_object_get(d, "counters"), strcmp(text(d, "kind"), "balloon") == 0, out);
}

static void show_stats(const json_t *v, FILE *out)
{
    const json_t *memory = json_object_get(v, "memory");
    char resident[SIZE_ROOM], size[SIZE_ROOM];
    size_t i;
    json_t *one;

    (void)fprintf(out, "running for ");
    show_age(number(v, "age-ms"), out);
    (void)fprintf(out, ", %s of %s of memory in use\n",
                  size_text(number(memory, "resident"), resident, SIZE_ROOM),
                  size_text(number(memory, "size"), size, SIZE_ROOM));
    json_array_foreach(json_object_get(v, "cpus"), i, one) show_cpu(i, one, out);
    json_array_foreach(json_object_get(v, "devices"), i, one) show_device(one, out);
    json_array_foreach(json_object_get(v, "io-threads"), i, one)(void)
        fprintf(out, "%s%s %.1f s", i == 0 ? "I/O threads: " : ", ", text(one, "name"),
                (double)number(one, "cpu-ms") / 1000);
    if (json_array_size(json_object_get(v, "io-threads")) > 0)
        (void)fprintf(out, "\n");
}

/* --- other answers --- */

static void show_balloon(const json_t *v, FILE *out)
{
    const json_t *guest = json_object_get(v, "guest");
    char actual[SIZE_ROOM], target[SIZE_ROOM];

    (void)fprintf(out, "the guest has given up %s of %s that were asked for\n",
                  size_text(number(v, "actual"), actual, SIZE_ROOM),
                  size_text(number(v, "target"), target, SIZE_ROOM));
    if (guest != NULL)
        (void)fprintf(out, "it says: %s free, %s available, of %s\n",
                      size_text(number(guest, "free-memory"), actual, SIZE_ROOM),
                      size_text(number(guest, "available-memory"), target, SIZE_ROOM),
                      size_text(number(guest, "total-memory"), (char[SIZE_ROOM]){0}, SIZE_ROOM));
}

static void show_commands(const json_t *list, FILE *out)
{
    size_t i, j;
    json_t *command, *arg;

    json_array_foreach(list, i, command)
    {
        (void)fprintf(out, "%s", text(command, "name"));
        json_array_foreach(json_object_get(command, "arguments"), j, arg)
        {
            bool required = json_is_true(json_object_get(arg, "required"));
            (void)fprintf(out, required ? " %s=%s" : " [%s=%s]", text(arg, "name"),
                          text(arg, "type"));
        }
        (void)fprintf(out, "\n    %s.\n", text(command, "help"));
    }
}

/* Any other: a line for each value; nothing to say is said so. */
static void show_plain(const json_t *v, FILE *out)
{
    const char *name;
    json_t *one;

    json_object_foreach((json_t *)v, name, one)
    {
        if (json_is_array(one) && json_array_size(one) == 0)
            continue;
        (void)fprintf(out, "%s: ", name);
        if (json_is_string(one))
            (void)fprintf(out, "%s", json_string_value(one));
        else if (json_is_array(one) && json_is_string(json_array_get(one, 0)))
            show_list(one, out);
        else
            (void)json_dumpf(one, out, JSON_ENCODE_ANY | JSON_COMPACT);
        (void)fprintf(out, "\n");
    }
}

void ctl_show(const char *command, const json_t *value, FILE *out)
{
    static const struct {
        const char *command;
        void (*show)(const json_t *value, FILE *out);
    } shows[] = {
        {"status", show_status},
        {"stats", show_stats},
        {"balloon", show_balloon},
        {"commands", show_commands},
    };

    for (size_t i = 0; i < ARRAY_LEN(shows); i++) {
        if (strcmp(shows[i].command, command) == 0) {
            shows[i].show(value, out);
            return;
        }
    }
    show_plain(value, out);
}

void ctl_show_event(const json_t *event, FILE *out)
{
    const json_t *stamp = json_object_get(event, "timestamp");
    time_t at = (time_t)number(stamp, "seconds");
    char clock[16] = "";
    struct tm local;

    if (localtime_r(&at, &local) != NULL)
        (void)strftime(clock, sizeof(clock), "%H:%M:%S", &local);
    (void)fprintf(out, "%s.%03" PRIu64 " %s", clock, number(stamp, "microseconds") / 1000,
                  text(event, "event"));
    if (json_object_size(json_object_get(event, "data")) > 0) {
        (void)fprintf(out, " ");
        (void)json_dumpf(json_object_get(event, "data"), out, JSON_COMPACT);
    }
    (void)fprintf(out, "\n");
}
