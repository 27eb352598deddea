/*
 * What the drivers of this lab share: arguments in, one line of JSON out.
 *
 * A driver calls one function of the learner's and reports what it saw; it judges nothing. The
 * verdict is made in checks.py, from values that the driver was given and from values that it saw.
 */
#ifndef OBSERVE_H
#define OBSERVE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/mem/mem.h"

#define REPORT_FD 3

static inline uint64_t number(const char *text)
{
    return strtoull(text, NULL, 0);
}

/* The report is collected and written at the end in one piece. Drivers that are given several cases
 * begin each with report_case(). */
static char report_text[1 << 20];
static size_t report_length;
static int report_cases;
static bool report_inside; /* an object is open and has a member */

static inline void report_raw(const char *text)
{
    size_t n = strlen(text);

    if (report_length + n < sizeof(report_text)) {
        memcpy(report_text + report_length, text, n);
        report_length += n;
    }
}

static inline void report_number_raw(uint64_t value)
{
    char text[32];

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    report_raw(text);
}

static inline void report_name(const char *name)
{
    report_raw(report_inside ? ", \"" : "{\"");
    report_inside = true;
    report_raw(name);
    report_raw("\": ");
}

static inline void report_case(void)
{
    report_raw(report_cases++ == 0 ? "{\"cases\": [" : "}, ");
    report_inside = false;
}

static inline void report_int(const char *name, long long value)
{
    char text[32];

    report_name(name);
    (void)snprintf(text, sizeof(text), "%lld", value);
    report_raw(text);
}

static inline void report_u64(const char *name, uint64_t value)
{
    char text[32];

    report_name(name);
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    report_raw(text);
}

/* `text` is the driver's own or hv's: quotes and control characters become blanks. */
static inline void report_string(const char *name, const char *text)
{
    char clean[600];
    size_t n = 0;

    for (; text[n] != '\0' && n < sizeof(clean) - 1; n++)
        clean[n] = text[n] < ' ' || text[n] == '"' || text[n] == '\\' ? ' ' : text[n];
    clean[n] = '\0';
    report_name(name);
    report_raw("\"");
    report_raw(clean);
    report_raw("\"");
}

static inline void report_hex(const char *name, const void *data, size_t size)
{
    const uint8_t *p = data;
    char pair[3];

    report_name(name);
    report_raw("\"");
    for (size_t i = 0; i < size; i++) {
        (void)snprintf(pair, sizeof(pair), "%02x", p[i]);
        report_raw(pair);
    }
    report_raw("\"");
}

static inline int report_end(void)
{
    report_raw(report_cases > 0 ? "}]}\n" : "}\n");
    return write(REPORT_FD, report_text, report_length) == (ssize_t)report_length ? 0 : 1;
}

/* --- guest memory --- */

#define POISON 0xa5

/* RAM of `size` bytes at `gpa`, full of POISON. */
static inline void add_ram(struct mem *mem, uint64_t gpa, uint64_t size)
{
    struct error err = {0};

    if (mem_add(mem, gpa, size, MEM_RAM, MEM_ANONYMOUS, &err) < 0) {
        (void)fprintf(stderr, "mem_add(): %s\n", err.text);
        exit(2);
    }
    memset(mem_ptr(mem, gpa, size, true), POISON, size);
}

/* The words of [gpa, gpa + size) that are neither 0 nor POISON, as a list of [address, word]. */
static inline void report_words(const char *name, const struct mem *mem, uint64_t gpa,
                                uint64_t size)
{
    const uint64_t *words = mem_ptr(mem, gpa, size, false);
    const char *separator = "[";

    report_name(name);
    report_raw("[");
    for (uint64_t i = 0; words != NULL && i < size / 8; i++) {
        if (words[i] == 0 || words[i] == POISON * 0x0101010101010101)
            continue;
        report_raw(separator);
        report_number_raw(gpa + 8 * i);
        report_raw(", ");
        report_number_raw(words[i]);
        report_raw("]");
        separator = ", [";
    }
    report_raw("]");
}

/* How many bytes of [gpa, gpa + size) are not POISON any more. */
static inline uint64_t count_changed(const struct mem *mem, uint64_t gpa, uint64_t size)
{
    const uint8_t *bytes = mem_ptr(mem, gpa, size, false);
    uint64_t changed = 0;

    for (uint64_t i = 0; i < size; i++)
        changed += bytes[i] != POISON;
    return changed;
}

#endif
