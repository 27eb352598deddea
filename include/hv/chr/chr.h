/*
 * Character back ends: where a serial port's bytes come from and go to.
 *
 * Output never blocks a vCPU for ever and never grows without bound. What the other side does not
 * take at once waits in a buffer of CHR_OUTPUT_MAX bytes; when that is full, the writer waits while
 * the other side makes progress, but gives up once nothing moved for CHR_STALL_MS. From then on,
 * until something moves again, what does not fit is dropped and counted. Losing a boot log because
 * a pager paused would be worse than a machine that runs as slowly as its console for a moment.
 *
 * A device that can hold its output back never waits and loses nothing: it offers bytes, is told
 * how many were taken, and later that there is room for the rest.
 *
 * Input is offered to the device, which says how much it has room for. A little is read ahead
 * (CHR_AHEAD_MAX bytes); the rest stays with the operating system, so a guest that does not read
 * cannot make hv grow either. A terminal with escapes is read on, because the next key may be one,
 * up to CHR_TYPED_MAX bytes: room for a large paste; beyond that, keys for a deaf guest are
 * dropped.
 *
 * Threads: chr_write(), chr_offer(), chr_resume() and chr_error() from any thread. Everything else
 * from the thread that runs the loop. A device may call the first three with its lock held; the
 * back end never holds a lock of its own when it calls the device.
 */
#ifndef HV_CHR_CHR_H
#define HV_CHR_CHR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"

#define CHR_OUTPUT_MAX (64U << 10)
#define CHR_AHEAD_MAX 1024U
#define CHR_TYPED_MAX (64U << 10) /* from a terminal with escapes */
#define CHR_STALL_MS 1000

struct chr;

/* The device's side. Called on the loop's thread. */
struct chr_front {
    size_t (*room)(void *ctx);                                 /* bytes the device takes now */
    void (*input)(void *ctx, const uint8_t *data, size_t len); /* len <= the last room() */
    void (*writable)(void *ctx); /* chr_offer() took less than it could; now it can. May be NULL */
    void *ctx;                   /* borrowed */
};

struct chr_ops {
    /* Returns the bytes taken, which may be fewer than len, or -errno, which chr_error() reports
     * from then on. */
    ssize_t (*write)(struct chr *chr, const void *data, size_t len);
    /* As write, but takes at once what it can, and waits for nothing. When that is less than len,
     * it calls front.writable later. NULL: write never waits, and drops what it does not take. */
    ssize_t (*offer)(struct chr *chr, const void *data, size_t len);
    /* The front end has room again (or for the first time): look for input. NULL: there is none. */
    void (*resume)(struct chr *chr);
    /* Waits as a write does until buffered output is gone. NULL: nothing is buffered. */
    void (*flush)(struct chr *chr);
    void (*destroy)(struct chr *chr);
};

struct chr {
    const struct chr_ops *ops;
    struct chr_front front;   /* all NULL while no device is attached */
    _Atomic uint64_t dropped; /* output bytes that the other side did not take */
    _Atomic int error;        /* 0, or the first -errno that output met */
};

/* Connects a device; NULL disconnects it. One front end at a time. */
void chr_attach(struct chr *chr, const struct chr_front *front);

/* The device has room again. Any thread: the loop is woken and looks. */
void chr_resume(struct chr *chr);

void chr_write(struct chr *chr, const void *data, size_t len);

/* Returns the bytes taken; the rest is still the caller's, who waits for front.writable. Once
 * output has ended (see chr_error()) everything is taken, and dropped. For a back end that some
 * thread also calls chr_write() on, this may wait as long as that does. */
size_t chr_offer(struct chr *chr, const void *data, size_t len);

/* 0, or the first -errno that output met: -EPIPE, -ENOSPC, -EIO, … Output ends there: what is
 * written later is dropped. */
int chr_error(const struct chr *chr);

/* Gives buffered output its last chance, for at most CHR_STALL_MS without progress. Before the
 * program writes to the same terminal by another way. */
void chr_flush(struct chr *chr);

void chr_destroy(struct chr *chr); /* flushes; takes NULL */

/* --- Back ends. Each returns 0 and the back end, or -errno. Those with input are in stream.h. ---
 */

/* Swallows output, has no input. */
int chr_null_create(struct chr **out) HV_MUST_CHECK;

/* Output to a file, created or truncated, at most `max_bytes` (0: no limit); the rest is dropped.
 * No input. */
int chr_file_create(const char *path, uint64_t max_bytes, struct chr **out,
                    struct error *err) HV_MUST_CHECK;

/* Output to a descriptor (borrowed), each write at once; one that blocks holds up the vCPU. No
 * input. */
int chr_fd_create(int fd, struct chr **out) HV_MUST_CHECK;

/* For tests: output is kept (the first `keep` bytes), input is given with chr_mem_type(). */
int chr_mem_create(size_t keep, struct chr **out) HV_MUST_CHECK;
const char *chr_mem_output(struct chr *chr, size_t *len);           /* NUL-terminated; borrowed */
size_t chr_mem_type(struct chr *chr, const void *data, size_t len); /* bytes the device took */

#endif
