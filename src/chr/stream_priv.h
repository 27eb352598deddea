/*
 * A back end on a pair of descriptors: the common part of chr_fds and chr_pty.
 *
 * Threads: `out` has its own lock and `starved` is atomic; every other field belongs to the loop's
 * thread. Other threads reach that thread through wake_fd.
 */
#ifndef HV_CHR_STREAM_PRIV_H
#define HV_CHR_STREAM_PRIV_H

#include "chr/outq_priv.h"
#include "hv/chr/stream.h"

struct stream {
    struct chr chr;
    struct loop *loop; /* borrowed */
    int wake_fd;       /* owned eventfd: output waits, or the device has room */

    struct outq out;
    bool out_watched;

    int in_fd;       /* borrowed; -1: no input (any more) */
    bool in_polled;  /* epoll watches it; else it is always readable, like a regular file */
    bool in_watched; /* now */
    bool in_always;  /* read on while the device has no room: an escape may come */

    chr_escape_fn *escape; /* may be NULL */
    void *escape_ctx;      /* borrowed */
    bool escaped;          /* Ctrl-A was typed: the next character is a command */

    size_t ahead_first;           /* of the bytes in ahead */
    size_t ahead_len;             /* how many there are */
    uint8_t ahead[CHR_TYPED_MAX]; /* read but not yet given to the device */
    /* The device had no room for input. Set before the loop's thread looks at the room once more,
     * taken by chr_resume() after room was made: one of the two sees the other. */
    _Atomic bool starved;
};

/* `s` is zeroed memory. Descriptors are borrowed. On failure nothing needs to be undone. */
int stream_init(struct stream *s, const struct chr_ops *ops, struct loop *loop, int in_fd,
                int out_fd, int stall_ms) HV_MUST_CHECK;
void stream_fini(struct stream *s);

void stream_set_escape(struct stream *s, chr_escape_fn *escape, void *ctx);

/* The ops of a struct chr that is the first member of a stream. */
ssize_t stream_write(struct chr *chr, const void *data, size_t len);
ssize_t stream_offer(struct chr *chr, const void *data, size_t len);
void stream_resume(struct chr *chr);
void stream_flush(struct chr *chr);

#endif
