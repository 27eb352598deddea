/*
 * Where the gdb server listens.
 */
#ifndef CONTROL_GDB_LISTEN_PRIV_H
#define CONTROL_GDB_LISTEN_PRIV_H

#include "hv/base/err.h"

#define GDB_COMMAND_MAX 256

struct gdb_listener {
    int fd;                        /* owned, non-blocking */
    char *unix_path;               /* owned; the socket to remove; NULL with a port */
    char command[GDB_COMMAND_MAX]; /* "target remote …" */
};

/* As gdb_server_create(). */
int gdb_listen(const char *where, struct gdb_listener *out, struct error *err) HV_MUST_CHECK;
void gdb_unlisten(struct gdb_listener *l);

#endif
