/*
 * What the drivers of this lab share: arguments like `read:0x1000:4`, and a device that writes down
 * what is asked of it.
 */
#ifndef RECORDER_H
#define RECORDER_H

#include "hv/bus/bus.h"
#include "observe.h"

/* --- arguments --- */

/* The fields of "NAME:A:B:C": numbers, as far as they are there; returns true if it is NAME. */
static inline bool is_command(const char *arg, const char *name, uint64_t *fields, unsigned count)
{
    size_t n = strlen(name);

    if (strncmp(arg, name, n) != 0 || (arg[n] != ':' && arg[n] != '\0'))
        return false;
    for (unsigned i = 0; i < count; i++) {
        const char *colon = strchr(arg, ':');
        fields[i] = colon != NULL ? number(colon + 1) : 0;
        arg = colon != NULL ? colon + 1 : "";
    }
    return true;
}

/* --- a device that writes down what is asked of it --- */

#define RECORDERS 4
#define CALLS_MAX 32

/* The byte of its register at offset o reads as key + o. */
struct recorder {
    struct device dev;
    struct dev_ops ops;
    uint8_t key;
};

static struct recorder recorders[RECORDERS];

static struct {
    unsigned dev;
    bool write;
    uint64_t offset, value;
    unsigned size;
} recorded[CALLS_MAX];
static unsigned recorded_count; /* also those that found no room */

static inline void record(const struct device *dev, bool write, uint64_t offset, unsigned size,
                          uint64_t value)
{
    if (recorded_count < CALLS_MAX) {
        recorded[recorded_count].dev = (unsigned)((const struct recorder *)dev - recorders);
        recorded[recorded_count].write = write;
        recorded[recorded_count].offset = offset;
        recorded[recorded_count].size = size;
        recorded[recorded_count].value = value;
    }
    recorded_count++;
}

static inline uint64_t recorder_read(struct device *dev, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < 8; i++)
        value |= (uint64_t)(uint8_t)(((struct recorder *)dev)->key + offset + i) << (8 * i);
    record(dev, false, offset, size, 0);
    return value;
}

static inline void recorder_write(struct device *dev, uint64_t offset, unsigned size,
                                  uint64_t value)
{
    record(dev, true, offset, size, value);
}

static inline struct device *recorder_init(unsigned index, unsigned max_access, uint8_t key)
{
    struct recorder *r = &recorders[index % RECORDERS];

    r->key = key;
    r->ops =
        (struct dev_ops){.read = recorder_read, .write = recorder_write, .max_access = max_access};
    dev_init(&r->dev, &r->ops, "recorder");
    return &r->dev;
}

/* The index of a device, -1 for none, -2 for a pointer that is no device of ours. */
static inline int recorder_index(const struct device *dev)
{
    for (int i = 0; i < RECORDERS; i++)
        if (dev == &recorders[i].dev)
            return i;
    return dev == NULL ? -1 : -2;
}

/* "calls": [[device, write, offset, size, value], …], and forgets them. */
static inline void report_calls(void)
{
    char text[128];

    report_name("calls");
    report_raw("[");
    for (unsigned i = 0; i < recorded_count && i < CALLS_MAX; i++) {
        (void)snprintf(text, sizeof(text), "%s[%u, %d, %llu, %u, %llu]", i > 0 ? ", " : "",
                       recorded[i].dev, recorded[i].write, (unsigned long long)recorded[i].offset,
                       recorded[i].size, (unsigned long long)recorded[i].value);
        report_raw(text);
    }
    report_raw("]");
    report_int("calls_made", recorded_count);
    recorded_count = 0;
}

#endif
