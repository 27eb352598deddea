/*
 * What the drivers of this lab share: guest memory in which every change shows.
 */
#ifndef RAM_H
#define RAM_H

#include "hv/mem/mem.h"
#include "observe.h"

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
        if (words[i] == 0 || words[i] == POISON * UINT64_C(0x0101010101010101))
            continue;
        report_raw(separator);
        report_raw_number(gpa + 8 * i);
        report_raw(", ");
        report_raw_number(words[i]);
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
