/*
 * The event loop of the main thread: file descriptors and one-shot wake-ups.
 *
 * One thread runs the loop and is the only one to add, change and remove watches. Other threads may
 * only call loop_wake().
 */
#ifndef HV_BASE_LOOP_H
#define HV_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"

struct loop;

/* `events` are EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR as epoll_wait() reported them. */
typedef void loop_fn(void *ctx, uint32_t events);

int loop_create(struct loop **out) HV_MUST_CHECK;
void loop_destroy(struct loop *loop); /* takes NULL; leaves the watched descriptors open */

/* Watches `fd` (borrowed: remove it before closing it). -EEXIST: already watched. A file that epoll
 * refuses (a regular file, /dev/null) gives -EPERM: it is always ready, the caller decides. */
int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *ctx) HV_MUST_CHECK;
int loop_change(struct loop *loop, int fd, uint32_t events) HV_MUST_CHECK;
void loop_remove(struct loop *loop, int fd); /* fine if it is not watched; safe inside a callback */

/* Handles what is ready, waiting at most `timeout_ms` (-1: for ever) for the first event.
 * Returns 0, or -errno from epoll_wait() other than -EINTR. */
int loop_run_once(struct loop *loop, int timeout_ms) HV_MUST_CHECK;

/* Handles everything that is ready now, without waiting, and then returns, whatever became ready
 * meanwhile. As loop_run_once(). */
int loop_run_ready(struct loop *loop) HV_MUST_CHECK;

/* Makes a running or the next loop_run_once() return. From any thread, also from a signal handler.
 */
void loop_wake(struct loop *loop);

#endif
