#include "hv/base/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "hv/base/fd.h"

#define LOG_TEXT_MAX 1024

const char *log_level_name(enum log_level level)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};

    return level <= LOG_DEBUG ? names[level] : "?";
}

static void log_va(const struct log *log, enum log_level level, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));

static void log_va(const struct log *log, enum log_level level, const char *fmt, va_list ap)
{
    char text[LOG_TEXT_MAX];

    (void)vsnprintf(text, sizeof(text), fmt, ap); /* longer messages are cut */
    log->write(log->ctx, level, text);
}

static bool wanted(const struct log *log, enum log_level level)
{
    return log != NULL && log->write != NULL && level <= log->level;
}

void log_msg(const struct log *log, enum log_level level, const char *fmt, ...)
{
    if (!wanted(log, level))
        return;
    va_list ap;
    va_start(ap, fmt);
    log_va(log, level, fmt, ap);
    va_end(ap);
}

/* True if a message may pass now. A new second starts a new allowance: the whole burst when the
 * last second was quiet, one message when it was not. */
static bool limit_pass(struct log_limit *limit, uint64_t now)
{
    const uint64_t second = 1000000000;

    if (limit->window_ns == 0 || now - limit->window_ns >= second) {
        limit->window_ns = now;
        limit->in_window = limit->swallowed > 0 ? LOG_LIMIT_BURST - 1 : 0;
    }
    if (limit->in_window < LOG_LIMIT_BURST) {
        limit->in_window++;
        return true;
    }
    limit->swallowed++;
    return false;
}

void log_limited(const struct log *log, struct log_limit *limit, enum log_level level,
                 const char *fmt, ...)
{
    if (!wanted(log, level) || !limit_pass(limit, now_ns()))
        return;
    if (limit->swallowed > 0) {
        log_msg(log, level, "(%llu similar messages were left out)",
                (unsigned long long)limit->swallowed);
        limit->swallowed = 0;
    }
    va_list ap;
    va_start(ap, fmt);
    log_va(log, level, fmt, ap);
    va_end(ap);
}
