/*
 * A server for gdb: `target remote` reaches a machine's vCPUs, memory and traps.
 *
 * The server belongs to a session and outlives its machines: a machine is given to it when it is
 * created and taken away when it ends. While nobody is connected it costs nothing. A debugger that
 * connects stops the machine; one that detaches, or whose connection breaks, lets it go on as if it
 * had never been there. One debugger at a time: a second one is turned away.
 *
 * What a debugger sees, and how: src/control/gdb.c. It may do everything to the guest, and nothing
 * to hv: what it sends is checked like anything from outside, takes bounded memory, and never makes
 * the loop wait.
 *
 * Threads: all functions from the loop's thread.
 */
#ifndef HV_CONTROL_GDB_H
#define HV_CONTROL_GDB_H

#include <stdbool.h>

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/machine/machine.h"

struct gdb_server;

/* Listens at `where`: PORT or :PORT (on 127.0.0.1 only), HOST:PORT, or unix:PATH, a socket that is
 * removed at the end. Port 0: any free one. -EINVAL: `where` is none of these; -EADDRINUSE;
 * otherwise what the system or listen_unix() says. `loop` and `log` are borrowed. */
int gdb_server_create(const char *where, struct loop *loop, const struct log *log,
                      struct gdb_server **out, struct error *err) HV_MUST_CHECK;
void gdb_server_destroy(struct gdb_server *s); /* takes NULL */

/* For a person: what to type in gdb, as "target remote :1234". Borrowed. */
const char *gdb_server_command(const struct gdb_server *s);

/* Is a debugger connected? Then the machine goes on and stops as it says. */
bool gdb_server_is_busy(const struct gdb_server *s);

/* A machine that was just created (borrowed until it is taken away) and not yet started. With a
 * debugger connected it will start stopped. */
void gdb_server_give(struct gdb_server *s, struct machine *m);

/* The machine has ended. `reset`: another one follows in its place; else `status` is how hv will
 * exit, which the debugger is told. */
void gdb_server_take(struct gdb_server *s, bool reset, int status);

#endif
