/*
 * Back ends with input: two descriptors, or a pseudo-terminal. Both need the event loop.
 */
#ifndef HV_CHR_STREAM_H
#define HV_CHR_STREAM_H

#include "hv/base/loop.h"
#include "hv/chr/chr.h"

/* Two descriptors (borrowed, different), for instance 0 and 1; in_fd -1: no input. Their flags are
 * left alone, since other processes may share them. `escape`: called with the character typed after
 * Ctrl-A, on the loop's thread; it must not destroy the back end. NULL: Ctrl-A is an ordinary
 * character. Ctrl-A Ctrl-A or Ctrl-A a sends one Ctrl-A. From a terminal, escapes work even while
 * the guest reads nothing. End of input just ends input. SIGPIPE must be ignored. */
typedef void chr_escape_fn(void *ctx, char c);
int chr_fds_create(struct loop *loop, int in_fd, int out_fd, chr_escape_fn *escape, void *ctx,
                   struct chr **out) HV_MUST_CHECK;

/* A new pseudo-terminal in raw mode; `path` gets the slave's name (-ERANGE: too long). A reader may
 * come and go. While none is there nobody waits for it: what fills the buffer is kept for the next
 * one, and the rest is dropped. */
int chr_pty_create(struct loop *loop, char *path, size_t path_size, struct chr **out) HV_MUST_CHECK;

#endif
