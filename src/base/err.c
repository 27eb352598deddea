#include "hv/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, int code, const char *fmt, ...)
{
    if (err != NULL) {
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(err->text, sizeof(err->text), fmt,
                        ap); /* longer text is cut, as promised */
        va_end(ap);
    }
    return code;
}

int error_sys(struct error *err, int code, const char *fmt, ...)
{
    if (err != NULL) {
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
        size_t used = strlen(err->text);
        (void)snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(-code));
    }
    return code;
}

int error_prefix(struct error *err, int code, const char *fmt, ...)
{
    if (err != NULL) {
        char prefix[ERROR_TEXT_MAX];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(prefix, sizeof(prefix), fmt, ap);
        va_end(ap);
        size_t used = strnlen(prefix, sizeof(prefix) - sizeof(": "));
        size_t rest = strnlen(err->text, sizeof(err->text) - used - sizeof(": "));
        memmove(err->text + used + 2, err->text, rest);
        memcpy(err->text, prefix, used);
        memcpy(err->text + used, ": ", 2);
        err->text[used + 2 + rest] = '\0';
    }
    return code;
}
