/*
 * The control socket of a machine: programs connect, ask, and are told what happens, in lines of
 * JSON. hv-control(7) describes the protocol and its commands.
 *
 * The server belongs to a session and outlives its machines: a machine is given to it when it is
 * created and taken away when it ends. What was changed at one, a pause, a limit, the balloon's
 * size, holds for the next one too, as the user had no reset in mind when they asked for it.
 *
 * Several clients at once. What they send is checked like anything from outside and takes bounded
 * memory. Nobody waits for them: the requests of a client that does not read its answers are not
 * read either, and one that does not read its events is dropped.
 *
 * Threads: all functions from the loop's thread.
 */
#ifndef HV_CONTROL_CONTROL_H
#define HV_CONTROL_CONTROL_H

#include <stdbool.h>

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/machine/machine.h"

#define CONTROL_PROTOCOL 1           /* changes when an old client would misunderstand a new hv */
#define CONTROL_LINE_MAX (64U << 10) /* bytes of a request, its newline included */
#define CONTROL_CLIENTS_MAX 16
#define CONTROL_CALLS_MAX 16 /* of one client, not yet answered */

struct control;

/* A server that nobody can reach yet, with hv's own commands. `loop` and `log` are borrowed.
 * -ENOMEM, -EMFILE. */
int control_create(struct loop *loop, const struct log *log, struct control **out) HV_MUST_CHECK;

/* Listens at a path, once; the socket goes with the server. Errors are listen_unix()'s. */
int control_listen(struct control *c, const char *path, struct error *err) HV_MUST_CHECK;

/* Takes a connected stream socket over, also when it fails. -EBUSY: there are clients enough, which
 * this one is told. -ENOMEM. */
int control_adopt(struct control *c, int fd) HV_MUST_CHECK;

/* Tells what it still can, to those who read. Takes NULL. Does not touch the machine. */
void control_destroy(struct control *c);

/* A machine that was just created (borrowed until it is taken away) and not yet started. */
void control_give(struct control *c, struct machine *m);

/* The machine has ended, and still exists. `reset`: another one follows in its place; else `status`
 * is how hv will exit. */
void control_take(struct control *c, const struct machine_outcome *outcome, bool reset, int status);

#endif
