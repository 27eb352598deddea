/*
 * User-mode networking: passt, a program of its own, translates between frames and the sockets of
 * an ordinary user. No privilege is needed, and a guest that breaks the translation has broken a
 * process in a sandbox, not us.
 *
 * We keep one end of a socket pair, the child has the other; whichever goes first, the other one
 * notices.
 *
 * What passt says on its stderr comes through a pipe and goes to our log: most of it is of interest
 * only to those who look for something. Its last words are for everybody, if it ends before us.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "net/net_priv.h"

#define ARGUMENTS_MAX 64
#define LINE_ROOM 200 /* of what passt says; the rest of a longer line is lost */

struct user {
    struct net net;
    struct net *stream; /* owned */
    pid_t child;
    const struct log *log; /* borrowed */
    struct log_limit limit;
    int words;            /* passt's stderr; owned; -1: it has ended */
    struct loop *loop;    /* borrowed; where `words` is watched, or NULL */
    char line[LINE_ROOM]; /* that is coming */
    size_t line_len;
    char last[LINE_ROOM]; /* that came */
};

static struct user *user_of(struct net *n)
{
    return container_of(n, struct user, net);
}

static ssize_t user_send(struct net *n, const struct iovec *iov, unsigned count)
{
    return net_send(user_of(n)->stream, iov, count);
}

static ssize_t user_receive(struct net *n, const struct iovec *iov, unsigned count)
{
    return net_receive(user_of(n)->stream, iov, count);
}

/* --- what passt says --- */

static void take_line(struct user *u)
{
    u->line[u->line_len] = '\0';
    memcpy(u->last, u->line, u->line_len + 1);
    u->line_len = 0;
    log_limited(u->log, &u->limit, LOG_DEBUG, "passt: %s", u->last);
}

/* The log may be a terminal, and passt may quote what a guest or a peer sent. */
static void take_char(struct user *u, char c)
{
    if (c == '\n')
        take_line(u);
    else if (u->line_len < LINE_ROOM - 1)
        u->line[u->line_len++] = c >= ' ' && c <= '~' ? c : '?';
}

static void stop_listening(struct user *u)
{
    if (u->loop != NULL)
        loop_remove(u->loop, u->words);
    u->loop = NULL;
}

static void on_words(void *ctx, uint32_t events)
{
    struct user *u = ctx;
    char bytes[256];
    ssize_t n = read(u->words, bytes, sizeof(bytes));

    (void)events;
    for (ssize_t i = 0; i < n; i++)
        take_char(u, bytes[i]);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    stop_listening(u);
    fd_close(&u->words);
    log_msg(u->log, LOG_WARN, "passt has ended, and with it the guest's user network%s%s",
            u->last[0] != '\0' ? "; its last words: " : "", u->last);
}

static int user_watch(struct net *n, const struct net_watch *watch)
{
    struct user *u = user_of(n);
    int rc = net_watch(u->stream, watch);

    stop_listening(u);
    if (rc < 0 || watch->loop == NULL || u->words < 0)
        return rc;
    rc = loop_add(watch->loop, u->words, EPOLLIN, on_words, u);
    if (rc == 0)
        u->loop = watch->loop;
    else
        (void)!net_watch(u->stream, NULL); /* to stop cannot fail */
    return rc;
}

static void user_listen(struct net *n, bool readable, bool writable)
{
    net_listen(user_of(n)->stream, readable, writable);
}

static void user_destroy(struct net *n)
{
    struct user *u = user_of(n);

    stop_listening(u);
    fd_close(&u->words);
    net_destroy(u->stream); /* passt ends when its socket does */
    if (u->child > 0) {
        (void)kill(u->child, SIGTERM); /* it may have ended already */
        (void)waitpid(u->child, NULL, 0);
    }
    free(u);
}

static const struct net_ops user_ops = {
    .send = user_send,
    .receive = user_receive,
    .watch = user_watch,
    .listen = user_listen,
    .destroy = user_destroy,
};

/* Starts passt with the socket as descriptor 3, `words` as its stderr, no signal blocked, and
 * nothing else of ours: what we open is closed on exec. 0 or -errno. */
static int spawn_passt(int fd, int words, const char *const *forwards, pid_t *child)
{
    const char *argv[ARGUMENTS_MAX] = {"passt",     "--foreground", "--quiet",
                                       "--one-off", "--fd",         "3"};
    unsigned count = 6;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;

    while (forwards && *forwards && count < ARGUMENTS_MAX - 1)
        argv[count++] = *forwards++;
    sigemptyset(&none);
    (void)posix_spawn_file_actions_init(&actions);              /* none of these fails on Linux */
    (void)posix_spawn_file_actions_adddup2(&actions, words, 2); /* first: it may be 3 itself */
    (void)posix_spawn_file_actions_adddup2(&actions, fd, 3);
    (void)posix_spawnattr_init(&attr);
    (void)posix_spawnattr_setsigmask(&attr, &none);
    (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    int rc = -posix_spawnp(child, "passt", &actions, &attr, (char *const *)argv, environ);
    (void)posix_spawnattr_destroy(&attr);
    (void)posix_spawn_file_actions_destroy(&actions);
    return rc;
}

/* Passes the other ends on to passt. */
static int start_with(struct user *u, int fd, const char *const *forwards)
{
    int words[2];

    if (pipe2(words, O_CLOEXEC) < 0)
        return -errno;
    u->words = words[0];
    int rc = fd_set_nonblock(u->words);
    if (rc == 0)
        rc = spawn_passt(fd, words[1], forwards, &u->child);
    fd_close(&words[1]);
    return rc;
}

static int start(struct user *u, const char *const *forwards)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    int rc = net_stream_adopt(fds[0], &u->stream);
    if (rc < 0)
        fd_close(&fds[0]);
    else
        rc = start_with(u, fds[1], forwards);
    fd_close(&fds[1]);
    return rc;
}

int net_user_create(const char *const *forwards, const struct log *log, struct net **out,
                    struct error *err)
{
    struct user *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return error_sys(err, -ENOMEM, "user networking");
    u->net.ops = &user_ops;
    u->log = log;
    u->words = -1;
    int rc = start(u, forwards);
    if (rc < 0) {
        user_destroy(&u->net);
        if (rc == -ENOENT)
            return error_set(err, rc, "user networking needs passt: install the package passt");
        return error_sys(err, rc, "cannot start passt");
    }
    *out = &u->net;
    return 0;
}
