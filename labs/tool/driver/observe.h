/*
 * What the drivers of all labs share: arguments in, one line of JSON out.
 *
 * A driver calls one function of the learner's and reports what it saw; it judges nothing. The
 * verdict is made in checks.py, from values that the driver was given and from values that it saw.
 */
#ifndef OBSERVE_H
#define OBSERVE_H

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REPORT_FD 3

static inline uint64_t number(const char *text)
{
    return strtoull(text, NULL, 0);
}

/* What is left of a line of words: the next one. */
static inline uint64_t take_number(char **line)
{
    char *word = strsep(line, " ");

    return word == NULL ? 0 : number(word);
}

/* How many file descriptors this process has open (and the one that counts them). */
static inline int open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    while (dir != NULL && readdir(dir) != NULL)
        count++;
    if (dir != NULL)
        (void)closedir(dir);
    return count;
}

static inline bool all_bytes_are(const void *data, uint8_t byte, size_t size)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < size; i++)
        if (p[i] != byte)
            return false;
    return true;
}

/* The report is collected and written at the end in one piece. Drivers that are given several cases
 * begin each with report_case(). */
static char report_text[4 << 20];
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

static inline void report_raw_number(uint64_t value)
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
    report_name(name);
    report_raw_number(value);
}

/* `text` is the driver's own or hv's: quotes and control characters become blanks. */
static inline void report_string(const char *name, const char *text)
{
    static char clean[1 << 16];
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

/* "0a1b…" into bytes; returns how many. */
static inline size_t from_hex(const char *text, uint8_t *out, size_t room)
{
    size_t n = 0;
    unsigned byte;

    for (; n < room && sscanf(text + 2 * n, "%2x", &byte) == 1; n++)
        out[n] = (uint8_t)byte;
    return n;
}

#endif
