/*
 * User-mode networking: passt, a program of its own, translates between frames and the sockets of
 * an ordinary user. No privilege is needed, and a guest that breaks the translation has broken a
 * process in a sandbox, not us.
 *
 * We keep one end of a socket pair, the child has the other; whichever goes first, the other one
 * notices.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
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

/* In the child: becomes passt, with the socket as its only descriptor beside the standard ones. */
static _Noreturn void become_passt(int fd, pid_t parent, const char *const *forwards)
{
    const char *argv[ARGUMENTS_MAX] = {"passt",     "--foreground", "--quiet",
                                       "--one-off", "--fd",         "3"};
    unsigned count = 6;
    sigset_t none;

    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) /* it died before we asked to be told */
        _exit(1);
    if (fd == 3) /* the copy that dup2() makes survives exec; the original would not */
        (void)fcntl(fd, F_SETFD, 0);
    else if (dup2(fd, 3) < 0)
        _exit(1);
    while (forwards && *forwards && count < ARGUMENTS_MAX - 1)
        argv[count++] = *forwards++;
    execvp("passt", (char *const *)argv);
    _exit(127);
}

static int start(struct user *u, const char *const *forwards)
{
    pid_t parent = getpid();
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    int rc = net_stream_adopt(fds[0], &u->stream);
    if (rc < 0) {
        fd_close(&fds[0]);
        goto done;
    }
    u->child = fork();
    if (u->child == 0)
        become_passt(fds[1], parent, forwards);
    if (u->child < 0)
        rc = -errno;
done:
    fd_close(&fds[1]);
    return rc;
}

static bool is_installed(const char *program)
{
    const char *path = getenv("PATH");
    char full[4096];

    while (path && *path) {
        size_t len = strcspn(path, ":");
        if (len + strlen(program) + 2 < sizeof(full)) {
            (void)snprintf(full, sizeof(full), "%.*s/%s", (int)len, path, program);
            if (access(full, X_OK) == 0)
                return true;
        }
        path += len + (path[len] == ':');
    }
    return false;
}

int net_user_create(const char *const *forwards, struct net **out, struct error *err)
{
    if (!is_installed("passt"))
        return error_set(err, -ENOENT, "user networking needs passt: install the package passt");
    struct user *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return error_sys(err, -ENOMEM, "user networking");
    u->net.ops = &user_ops;
    int rc = start(u, forwards);
    if (rc < 0) {
        user_destroy(&u->net);
        return error_sys(err, rc, "cannot start passt");
    }
    *out = &u->net;
    return 0;
}
