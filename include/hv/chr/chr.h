/*
 * Character back ends: where a serial port's bytes come from and go to.
 *
 * Output never blocks a vCPU for ever and never grows without bound: what the other side does not
 * take is dropped and counted. Input is offered to the device, which says how much it has room for;
 * the rest stays with the operating system, so a guest that does not read cannot make hv grow
 * either.
 *
 * Threads: chr_write() from any thread. Everything else from the thread that runs the loop.
 */
#ifndef HV_CHR_CHR_H
#define HV_CHR_CHR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"

struct chr;

/* The device's side. Called on the loop's thread. */
struct chr_front {
    size_t (*room)(void *ctx);                                 /* bytes the device takes now */
    void (*input)(void *ctx, const uint8_t *data, size_t len); /* len <= the last room() */
    void *ctx;                                                 /* borrowed */
};

struct chr_ops {
    /* Returns the bytes taken, which may be fewer than len, or -errno. */
    ssize_t (*write)(struct chr *chr, const void *data, size_t len);
    /* The front end has room again (or for the first time): look for input. */
    void (*resume)(struct chr *chr);
    void (*destroy)(struct chr *chr);
};

struct chr {
    const struct chr_ops *ops;
    struct chr_front front;   /* all NULL while no device is attached */
    _Atomic uint64_t dropped; /* output bytes that the other side did not take */
};

/* Connects a device; NULL disconnects it. One front end at a time. */
void chr_attach(struct chr *chr, const struct chr_front *front);

/* The device has room again. Any thread: the loop is woken and looks. */
void chr_resume(struct chr *chr);

void chr_write(struct chr *chr, const void *data, size_t len);
void chr_destroy(struct chr *chr); /* takes NULL */

/* --- Back ends. Each returns 0 and the back end, or -errno. --- */

/* Swallows output, has no input. */
int chr_null_create(struct chr **out) HV_MUST_CHECK;

/* Two descriptors (borrowed), for instance 0 and 1. `escape`: called with the character typed after
 * Ctrl-A, on the loop's thread; NULL: Ctrl-A is an ordinary character. Ctrl-A Ctrl-A or Ctrl-A a
 * sends one Ctrl-A. End of input just ends input. */
typedef void chr_escape_fn(void *ctx, char c);
int chr_fds_create(struct loop *loop, int in_fd, int out_fd, chr_escape_fn *escape, void *ctx,
                   struct chr **out) HV_MUST_CHECK;

/* A new pseudo-terminal; `path` gets the slave's name. A reader may come and go. */
int chr_pty_create(struct loop *loop, char *path, size_t path_size, struct chr **out) HV_MUST_CHECK;

/* Output to a file, created or truncated, at most `max_bytes` (0: no limit). No input. */
int chr_file_create(const char *path, uint64_t max_bytes, struct chr **out,
                    struct error *err) HV_MUST_CHECK;

/* For tests: output is kept (the first `keep` bytes), input is given with chr_mem_type(). */
int chr_mem_create(size_t keep, struct chr **out) HV_MUST_CHECK;
const char *chr_mem_output(struct chr *chr, size_t *len);           /* NUL-terminated; borrowed */
size_t chr_mem_type(struct chr *chr, const void *data, size_t len); /* bytes the device took */

#endif
