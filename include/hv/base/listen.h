/*
 * Listening at a path of the file system, as a UNIX stream socket.
 *
 * A path that is taken is somebody's until it is proved to be nobody's: what lies there must be a
 * socket, and connecting to it must be refused. That is how a process that was killed leaves it, so
 * it is removed, before the beginning and at the end alike. Nothing else is ever removed.
 *
 *     int fd = listen_unix(path, err);
 *     … accept4(fd, …) …
 *     unlisten_unix(path, &fd);
 *
 * Left out: two processes that begin at one path in the same instant. Between bind(2) and listen(2)
 * a socket looks like one that was left behind.
 */
#ifndef HV_BASE_LISTEN_H
#define HV_BASE_LISTEN_H

#include "hv/base/err.h"

/* A non-blocking descriptor, closed on exec, of a socket at `path` that only the user (and root)
 * may connect to. Errors name the path and what to do: -ENAMETOOLONG (it is empty, or does not fit
 * an address), -EADDRINUSE (somebody listens there), -EEXIST (there is something else), -EACCES,
 * -ENOENT (of its directory), … */
int listen_unix(const char *path, struct error *err) HV_MUST_CHECK;

/* Closes *fd, sets it to -1, and removes its socket. What lies at `path` by now stays if it is not
 * a socket, or if somebody listens there: also the own one, through a copy of *fd. Nothing if *fd
 * is -1. */
void unlisten_unix(const char *path, int *fd);

#endif
