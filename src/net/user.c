/*
 * User-mode networking: passt, a program of its own, translates between frames and the sockets of
 * an ordinary user. No privilege is needed, and a guest that breaks the translation has broken a
 * process in a sandbox, not us.
 *
 * We keep one end of a socket pair, the child has the other; whichever goes first, the other one
 * notices.
 */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "net/net_priv.h"

#define ARGUMENTS_MAX 64

struct user {
    struct net net;
    struct net *stream; /* owned */
    pid_t child;
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

static int user_watch(struct net *n, const struct net_watch *watch)
{
    return net_watch(user_of(n)->stream, watch);
}

static void user_listen(struct net *n, bool readable, bool writable)
{
    net_listen(user_of(n)->stream, readable, writable);
}

static void user_destroy(struct net *n)
{
    struct user *u = user_of(n);

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

/* Starts passt with the socket as descriptor 3, no signal blocked, and nothing else of ours: what
 * we open is closed on exec. 0 or -errno. */
static int spawn_passt(int fd, const char *const *forwards, pid_t *child)
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
    (void)posix_spawn_file_actions_init(&actions); /* none of these fails on Linux */
    (void)posix_spawn_file_actions_adddup2(&actions, fd, 3);
    (void)posix_spawnattr_init(&attr);
    (void)posix_spawnattr_setsigmask(&attr, &none);
    (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    int rc = -posix_spawnp(child, "passt", &actions, &attr, (char *const *)argv, environ);
    (void)posix_spawnattr_destroy(&attr);
    (void)posix_spawn_file_actions_destroy(&actions);
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
        rc = spawn_passt(fds[1], forwards, &u->child);
    fd_close(&fds[1]);
    return rc;
}

int net_user_create(const char *const *forwards, struct net **out, struct error *err)
{
    struct user *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return error_sys(err, -ENOMEM, "user networking");
    u->net.ops = &user_ops;
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
