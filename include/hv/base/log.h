/*
 * Where the layers below cli/ leave their messages.
 *
 * A log is an object, not a global: two machines in one process can have two. Everything a guest
 * can provoke goes through log_limited(), so that a guest cannot fill the host's disk. Threads: any
 * thread may log to one log; a message reaches `write` whole.
 */
#ifndef HV_BASE_LOG_H
#define HV_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct log {
    enum log_level level; /* messages above this level are dropped */
    /* Gets one message without its newline. Called by any thread. */
    void (*write)(void *ctx, enum log_level level, const char *text);
    void *ctx; /* borrowed; handed to write */
};

/* "error", "warning", "info", "debug" */
const char *log_level_name(enum log_level level);

/* `log` may be NULL: the message is dropped. */
void log_msg(const struct log *log, enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Allows a burst of messages, then one per second with a count of those it swallowed.
 * Zero-initialise it; one per kind of message. Owned by the object that logs; guarded by its lock.
 */
struct log_limit {
    uint64_t window_ns; /* start of the current second, CLOCK_MONOTONIC */
    uint32_t in_window; /* messages passed in it */
    uint64_t swallowed; /* since the last message that passed */
};

#define LOG_LIMIT_BURST 5

void log_limited(const struct log *log, struct log_limit *limit, enum log_level level,
                 const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
