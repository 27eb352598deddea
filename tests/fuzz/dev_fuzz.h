/*
 * Fuzzing a device's register file: the input is a program of accesses.
 *
 * Each step starts with a byte that chooses: read, write, a round trip of the state through a twin,
 * a hostile state, or an event from the device's other side. Beyond not crashing, a device must
 * save a state that its twin accepts and saves again without a difference.
 */
#ifndef FUZZ_DEV_FUZZ_H
#define FUZZ_DEV_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/bus/device.h"

struct fuzz_input {
    const uint8_t *data;
    size_t left;
};

static inline uint8_t fuzz_u8(struct fuzz_input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->data++;
}

static inline uint64_t fuzz_u64(struct fuzz_input *in, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)fuzz_u8(in) << (8 * i);
    return value;
}

_Noreturn static inline void fuzz_fail(const char *file, int line, const char *condition)
{
    (void)fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

#define fuzz_check(condition) ((condition) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #condition))

/* The device and its twin must save the same, once the twin has loaded it. */
static inline void fuzz_round_trip(struct device *dev, struct device *twin)
{
    struct codec_writer first, second;
    struct codec_reader r;

    codec_writer_init(&first);
    codec_writer_init(&second);
    fuzz_check(dev_save(dev, &first) == 0);
    codec_reader_init(&r, first.data, first.size);
    fuzz_check(dev_load(twin, &r) == 0);
    fuzz_check(dev_save(twin, &second) == 0);
    fuzz_check(first.size == second.size);
    fuzz_check(memcmp(first.data, second.data, first.size) == 0);
    codec_writer_fini(&first);
    codec_writer_fini(&second);
}

/* A state made of input: refused, or a state like any other. */
static inline void fuzz_hostile_state(struct device *dev, struct fuzz_input *in)
{
    struct codec_writer w;
    struct codec_reader r;
    unsigned len = fuzz_u8(in);

    codec_writer_init(&w);
    codec_begin(&w, dev->name, dev->ops->version);
    for (unsigned i = 0; i < len; i++)
        codec_put_u8(&w, fuzz_u8(in));
    fuzz_check(codec_end(&w) == 0);
    codec_reader_init(&r, w.data, w.size);
    (void)!dev_load(dev, &r); /* whether it was accepted is its own business */
    codec_writer_fini(&w);
}

/* Runs the program. `space`: bytes of register space. `event`: may be NULL. */
static inline void fuzz_device(struct fuzz_input *in, struct device *dev, struct device *twin,
                               unsigned space, void (*event)(struct device *dev, uint8_t what))
{
    while (in->left > 0) {
        uint8_t what = fuzz_u8(in);
        unsigned size = 1U << ((what >> 4) & 3);
        uint64_t offset = fuzz_u8(in) % space;

        while (size > dev->ops->max_access || offset + size > space)
            size /= 2;
        switch (what & 0x0f) {
        case 0:
            fuzz_round_trip(dev, twin);
            break;
        case 1:
            fuzz_hostile_state(dev, in);
            break;
        case 2:
        case 3:
            if (event)
                event(dev, fuzz_u8(in));
            break;
        case 4:
        case 5:
        case 6:
        case 7:
            (void)dev_read(dev, offset, size);
            break;
        default:
            dev_write(dev, offset, size, fuzz_u64(in, size));
            break;
        }
    }
    fuzz_round_trip(dev, twin);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
