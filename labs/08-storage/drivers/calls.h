/*
 * The calls that a file's user makes, in place of libc's: written down, and made to fail or to fall
 * short as the script says.
 *
 *   plan N …        what the next reads and writes do: N > 0: move N bytes at most; 0: end of file;
 *                   N < 0: fail with that errno. Then they do as they are asked.
 *   fail_writes N   the next N writes fail with EIO
 *   calls           reports and forgets what was called: ["r"|"w", offset, asked, moved],
 *                   ["s"], ["t", size], ["p", offset, length]
 *   contents        … from now on with what was written
 */
#ifndef CALLS_H
#define CALLS_H

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "script.h"

#define CALLS_TEXT (3 << 20)
#define PLAN_MAX 256

static pthread_mutex_t calls_lock = PTHREAD_MUTEX_INITIALIZER;
static char calls_text[CALLS_TEXT];
static size_t calls_length;
static bool calls_on, calls_contents;
static long plan[PLAN_MAX];
static unsigned plan_count, plan_at, failing_writes;

static inline void calls_add(const char *text)
{
    size_t n = strlen(text);

    if (calls_length + n < CALLS_TEXT) {
        memcpy(calls_text + calls_length, text, n + 1);
        calls_length += n;
    }
}

static inline void calls_note(char kind, uint64_t a, uint64_t b, long moved, const void *data)
{
    char text[100];

    if (!calls_on)
        return;
    (void)snprintf(text, sizeof(text), "%s[\"%c\", %llu, %llu, %ld", calls_length > 0 ? ", " : "",
                   kind, (unsigned long long)a, (unsigned long long)b, moved);
    calls_add(text);
    if (data != NULL && calls_contents && moved > 0) {
        calls_add(", \"");
        for (long i = 0; i < moved; i++) {
            (void)snprintf(text, sizeof(text), "%02x", ((const uint8_t *)data)[i]);
            calls_add(text);
        }
        calls_add("\"");
    }
    calls_add("]");
}

/* One read or write of one piece. */
static inline ssize_t moved(bool write, int fd, void *data, size_t len, off_t offset)
{
    size_t asked = len;
    ssize_t rc = 0;

    pthread_mutex_lock(&calls_lock);
    long now = calls_on && plan_at < plan_count ? plan[plan_at++] : LONG_MAX;
    if (write && failing_writes > 0) {
        failing_writes--;
        now = -EIO;
    }
    if (now > 0 && (size_t)now < len)
        len = (size_t)now;
    if (now < 0) {
        errno = (int)-now;
        rc = -1;
    } else if (now > 0) {
        rc = write ? syscall(SYS_pwrite64, fd, data, len, offset)
                   : syscall(SYS_pread64, fd, data, len, offset);
    }
    int saved = errno;
    calls_note(write ? 'w' : 'r', (uint64_t)offset, asked, rc, write ? data : NULL);
    pthread_mutex_unlock(&calls_lock);
    errno = saved;
    return rc;
}

static inline ssize_t moved_all(bool write, int fd, const struct iovec *iov, int count,
                                off_t offset)
{
    ssize_t sum = 0;

    for (int i = 0; i < count; i++) {
        if (iov[i].iov_len == 0)
            continue;
        ssize_t n = moved(write, fd, iov[i].iov_base, iov[i].iov_len, offset + sum);
        if (n < 0)
            return sum > 0 ? sum : n;
        sum += n;
        if ((size_t)n < iov[i].iov_len)
            break;
    }
    return sum;
}

ssize_t pread(int fd, void *data, size_t len, off_t offset)
{
    return moved(false, fd, data, len, offset);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    return moved(true, fd, (void *)(uintptr_t)data, len, offset);
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    return moved_all(false, fd, iov, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    return moved_all(true, fd, iov, count, offset);
}

static inline int noted(char kind, uint64_t a, uint64_t b, long rc)
{
    int saved = errno;

    pthread_mutex_lock(&calls_lock);
    calls_note(kind, a, b, rc, NULL);
    pthread_mutex_unlock(&calls_lock);
    errno = saved;
    return (int)rc;
}

int fdatasync(int fd)
{
    return noted('s', 0, 0, syscall(SYS_fdatasync, fd));
}

int fsync(int fd)
{
    return noted('s', 0, 0, syscall(SYS_fsync, fd));
}

int ftruncate(int fd, off_t size)
{
    return noted('t', (uint64_t)size, 0, syscall(SYS_ftruncate, fd, size));
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    return noted('p', (uint64_t)offset, (uint64_t)len,
                 syscall(SYS_fallocate, fd, mode, offset, len));
}

static inline void calls_begin(void)
{
    pthread_mutex_lock(&calls_lock);
    calls_on = true;
    calls_length = 0;
    calls_text[0] = '\0';
    pthread_mutex_unlock(&calls_lock);
}

static inline void calls_report(void)
{
    report_name("calls");
    report_raw("[");
    report_raw(calls_text);
    report_raw("]");
    calls_begin();
}

static inline bool calls_command(const char *verb, char *rest)
{
    if (strcmp(verb, "plan") == 0) {
        plan_count = plan_at = 0;
        for (char *word; plan_count < PLAN_MAX && (word = strsep(&rest, " ")) != NULL;)
            if (*word != '\0')
                plan[plan_count++] = strtol(word, NULL, 0);
        calls_begin();
    } else if (strcmp(verb, "fail_writes") == 0) {
        failing_writes = (unsigned)take_number(&rest);
    } else if (strcmp(verb, "calls") == 0) {
        calls_report();
    } else if (strcmp(verb, "contents") == 0) {
        calls_contents = true;
        calls_begin();
    } else {
        return false;
    }
    return true;
}

#endif
