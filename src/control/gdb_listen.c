/*
 * A port only this host can reach, unless its user says otherwise; or a socket in the file system
 * that only its user can open: whoever connects owns the guest.
 */
#include "control/gdb_listen_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "hv/base/fd.h"
#include "hv/base/listen.h"
#include "hv/base/num.h"

#define SOCKET_FLAGS (SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
#define BACKLOG 4

/* --- a socket in the file system --- */

static int listen_path(const char *path, struct gdb_listener *l, struct error *err)
{
    if (*path == '\0')
        return error_set(err, -EINVAL, "give unix: and a file name");
    l->unix_path = strdup(path);
    if (l->unix_path == NULL)
        return error_set(err, -ENOMEM, "no memory");
    int fd = listen_unix(path, err);
    if (fd < 0)
        return fd;
    l->fd = fd;
    (void)snprintf(l->command, sizeof(l->command), "target remote %s", path);
    return 0;
}

/* --- a port --- */

/* "HOST:PORT", ":PORT", "PORT", "[::1]:PORT". `host` has room for all of `where`. */
static int split(const char *where, char *host, uint16_t *port, struct error *err)
{
    const char *colon = strrchr(where, ':');
    const char *digits = colon != NULL ? colon + 1 : where;
    size_t len = colon != NULL ? (size_t)(colon - where) : 0;
    uint64_t n;

    if (parse_u64(digits, UINT16_MAX, &n) < 0)
        return error_set(err, -EINVAL, "give PORT, HOST:PORT or unix:PATH");
    if (len >= 2 && where[0] == '[' && where[len - 1] == ']') {
        where++;
        len -= 2;
    }
    memcpy(host, where, len);
    host[len] = '\0';
    *port = (uint16_t)n;
    return 0;
}

static int listen_at(const struct addrinfo *at, struct gdb_listener *l)
{
    const int on = 1;

    l->fd = socket(at->ai_family, SOCKET_FLAGS, 0);
    if (l->fd < 0)
        return -errno;
    /* The connections of an hv that has just ended keep its port for minutes. */
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(l->fd, at->ai_addr, at->ai_addrlen) < 0 || listen(l->fd, BACKLOG) < 0)
        return -errno;
    return 0;
}

/* The port that the system chose, if it was asked to. */
static unsigned bound_port(int fd)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof(addr);

    (void)getsockname(fd, (struct sockaddr *)&addr, &len);
    if (addr.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&addr)->sin6_port);
    return ntohs(((struct sockaddr_in *)&addr)->sin_port);
}

static int listen_port(const char *host, uint16_t port, struct gdb_listener *l, struct error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found;
    char digits[8];

    (void)snprintf(digits, sizeof(digits), "%u", port);
    int failure = getaddrinfo(*host != '\0' ? host : "127.0.0.1", digits, &hints, &found);
    if (failure != 0)
        return error_set(err, -EINVAL, "%s: %s", host, gai_strerror(failure));
    int rc = listen_at(found, l);
    freeaddrinfo(found);
    if (rc == -EADDRINUSE)
        return error_set(err, rc, "port %u is in use: give another one, or 0 for any that is free",
                         port);
    if (rc < 0)
        return error_sys(err, rc, "cannot listen at port %u", port);
    (void)snprintf(l->command, sizeof(l->command),
                   strchr(host, ':') ? "target remote [%s]:%u" : "target remote %s:%u", host,
                   bound_port(l->fd));
    return 0;
}

/* --- both --- */

int gdb_listen(const char *where, struct gdb_listener *out, struct error *err)
{
    struct gdb_listener l = {.fd = -1};
    char host[256];
    uint16_t port = 0;
    int rc;

    if (strncmp(where, "unix:", 5) == 0) {
        rc = listen_path(where + 5, &l, err);
    } else {
        rc = strlen(where) < sizeof(host) ? split(where, host, &port, err)
                                          : error_set(err, -EINVAL, "too long for a host's name");
        if (rc == 0)
            rc = listen_port(host, port, &l, err);
    }
    if (rc < 0) {
        gdb_unlisten(&l);
        return rc;
    }
    *out = l;
    return 0;
}

void gdb_unlisten(struct gdb_listener *l)
{
    if (l->unix_path != NULL)
        unlisten_unix(l->unix_path, &l->fd);
    free(l->unix_path);
    l->unix_path = NULL;
    fd_close(&l->fd);
}
