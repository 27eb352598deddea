#include "cli/term.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios cooked;
static struct termios raw;
static int term_fd = -1;
static volatile sig_atomic_t is_raw;

/* A background process that changes its terminal is stopped by SIGTTOU: then it is not ours to
 * change. */
static void set_mode(const struct termios *mode)
{
    if (tcgetpgrp(term_fd) == getpgrp() || tcgetpgrp(term_fd) < 0)
        (void)tcsetattr(term_fd, TCSANOW, mode); /* the terminal is gone: nothing to restore */
}

void term_restore(void)
{
    if (is_raw) {
        is_raw = 0;
        set_mode(&cooked);
    }
}

void term_raw_again(void)
{
    if (term_fd >= 0 && !is_raw) {
        set_mode(&raw);
        is_raw = 1;
    }
}

const char *term_newline(void)
{
    return is_raw ? "\r\n" : "\n";
}

/* Restores, then dies of the signal as without a handler, so that the shell sees the true cause. */
static void on_fatal(int sig)
{
    term_restore();
    (void)signal(sig, SIG_DFL);
    (void)raise(sig);
}

int term_raw(int fd)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT, SIGSYS};

    if (!isatty(fd))
        return 0;
    if (tcgetattr(fd, &cooked) < 0)
        return -errno;
    raw = cooked;
    cfmakeraw(&raw);
    term_fd = fd;
    (void)atexit(term_restore); /* full table: the other ways out remain */
    for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
        struct sigaction sa = {.sa_handler = on_fatal, .sa_flags = (int)SA_RESETHAND};
        (void)sigaction(fatal[i], &sa, NULL); /* valid numbers: cannot fail */
    }
    term_raw_again();
    return 0;
}
