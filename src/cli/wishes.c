/*
 * What the user and the system want of a running machine: keys after Ctrl-A, signals, a reader of
 * our output that has gone. All of it arrives on the loop's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h> // lab 09
#include <sys/epoll.h>
#include <sys/ioctl.h> // lab 09
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/session.h"
#include "cli/term.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/machine/manage.h" // lab 10

static void quit(struct session *s)
{
    const struct machine_outcome outcome = {.end = MACHINE_QUIT};

    if (s->machine != NULL)
        machine_end(s->machine, &outcome);
}

/* A debugger that is connected has the say. */
static bool may_go_on(const struct session *s)
{
    return s->machine != NULL && (s->gdb == NULL || !gdb_server_is_busy(s->gdb));
}

static void end_pause(struct session *s)
{
    machine_release(s->machine, HOLD_USER); // lab 10
    machine_resume(s->machine);
}

static void go_on(struct session *s)
{
    if (may_go_on(s) && machine_is_paused(s->machine))
        end_pause(s);
}

static void pause_or_go_on(struct session *s)
{
    if (!may_go_on(s)) {
        log_msg(&s->log, LOG_INFO, "the debugger decides when the machine runs");
    } else if (machine_is_paused(s->machine)) {
        end_pause(s);
    } else {
        machine_pause(s->machine);
        machine_hold(s->machine, HOLD_USER); // lab 10
        log_msg(&s->log, LOG_INFO, "paused; Ctrl-A p goes on");
    }
}

void on_escape(void *ctx, char c)
{
    struct session *s = ctx;

    switch (c) {
    case 'x':
        quit(s);
        break;
    case 'p':
        pause_or_go_on(s);
        break;
    // lab 05 {
    case 'b':
        if (s->machine != NULL)
            machine_power_button(s->machine);
        break;
    // }
    default:
        (void)fprintf(stderr, "\r\nCtrl-A x  leave the machine\r\n"
                              "Ctrl-A p  pause it, or let it go on\r\n");
        (void)fprintf(stderr, "Ctrl-A b  press its power button\r\n"); // lab 05
        (void)fprintf(stderr, "Ctrl-A a  send a Ctrl-A\r\n"
                              "Ctrl-A h  this help\r\n");
    }
}

// lab 09 {
void tell_screen_size(struct session *s)
{
    struct winsize size;

    if (s->machine == NULL || ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
        return;
    for (unsigned i = 0; i < s->opt.console_count; i++)
        if (strcmp(s->opt.consoles[i].spec, "stdio") == 0)
            machine_resize_console(s->machine, i, size.ws_col, size.ws_row);
}
// }

static void on_signal(void *ctx, uint32_t events)
{
    struct session *s = ctx;
    struct signalfd_siginfo info;

    (void)events;
    if (fd_read_full(s->signal_fd, &info, sizeof(info)) < 0)
        return;
    switch (info.ssi_signo) {
    case SIGTSTP:
        term_restore();
        (void)raise(SIGSTOP);
        term_raw_again();
        break;
    case SIGCONT:
        term_raw_again();
        go_on(s);
        break;
    // lab 09 {
    case SIGWINCH:
        tell_screen_size(s);
        break;
    // }
    default:
        s->signal = (int)info.ssi_signo;
        quit(s);
    }
}

/* Whoever read our output has gone (EPOLLERR on a pipe, EPOLLHUP on a terminal). */
static void on_stdout_gone(void *ctx, uint32_t events)
{
    struct session *s = ctx;

    (void)events;
    s->output_gone = true;
    loop_remove(s->loop, s->stdout_watch);
    quit(s);
}

int watch_signals(struct session *s, struct error *err)
{
    static const int wanted[] = {
        SIGWINCH, // lab 09
        SIGINT,   SIGTERM, SIGHUP, SIGTSTP, SIGCONT,
    };
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        sigaddset(&set, wanted[i]);
    (void)sigprocmask(SIG_BLOCK, &set, NULL); /* valid arguments: cannot fail */
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0)
        return error_sys(err, -errno, "signalfd");
    int rc = loop_add(s->loop, s->signal_fd, EPOLLIN, on_signal, s);
    return rc < 0 ? error_sys(err, rc, "cannot watch for signals") : 0;
}

int watch_stdout(struct session *s, struct error *err)
{
    s->stdout_watch = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (s->stdout_watch < 0)
        return 0; /* there is no stdout: writes will say so */
    int rc = loop_add(s->loop, s->stdout_watch, 0, on_stdout_gone, s);
    /* -EPERM: a regular file, whose reader cannot go away. */
    return rc < 0 && rc != -EPERM ? error_sys(err, rc, "cannot watch standard output") : 0;
}
