/*
 * One `hv run`: what its files share. run.c is the way from options to an exit status, back_ends.c
 * opens what the guest's ports are connected to, wishes.c hears what user and system want.
 */
#ifndef HV_CLI_SESSION_H
#define HV_CLI_SESSION_H

#include <stdbool.h>

#include "cli/run_options.h"
#include "hv/base/log.h"
#include "hv/chr/chr.h"
#include "hv/control/control.h" // lab 10
#include "hv/control/gdb.h"     // lab 04
#include "hv/machine/machine.h"
#include "hv/net/net.h" // lab 09

/* Everything that lives from the first start to the last: machines come and go with each reboot. */
struct session {
    struct run_options opt;
    struct log log;
    struct chr *serial[MACHINE_SERIAL_PORTS]; // lab 02
    struct chr *debug;
    struct machine *machine; /* NULL between two */
    // lab 04 {
    struct loop *loop;
    struct gdb_server *gdb; /* NULL without --gdb */
    int signal_fd;
    int stdout_watch; /* a duplicate of 1 whose end of life the loop notices */
    int signal;       /* the signal that ended us, or 0 */
    bool output_gone; /* stdout was closed by its reader */
    bool restarted;   /* the next start is not the first */
    // }
    struct control *control; /* NULL without --control */ // lab 10
    struct trace trace;                                   // lab 05
    struct block *disks[MACHINE_DISKS_MAX];               // lab 08
    // lab 09 {
    struct chr *consoles[MACHINE_CONSOLES_MAX];
    struct net *nics[MACHINE_NICS_MAX][NET_QUEUES_MAX]; /* of each its queues; NULL: no more */
    // }
};

/* back_ends.c */
int open_back_ends(struct session *s, struct error *err) HV_MUST_CHECK;
void close_back_ends(struct session *s);
/* What the guest said comes before what hv has to say about it. And if it was lost, that must not
 * pass for success: returns the first error that output met. */
int flush_back_ends(struct session *s) HV_MUST_CHECK;

// lab 04 {
/* wishes.c */
int watch_signals(struct session *s, struct error *err) HV_MUST_CHECK;
int watch_stdout(struct session *s, struct error *err) HV_MUST_CHECK;
/* The escapes of a terminal, typed after Ctrl-A; `ctx` is the session. */
void on_escape(void *ctx, char c);
/* A console that is on our terminal learns how large that is. */
void tell_screen_size(struct session *s); // lab 09
// }

// lab 08 {
/* disks.c: what was opened is closed by close_disks(), also after a failure. */
int open_disks(struct session *s, struct error *err) HV_MUST_CHECK;
void close_disks(struct session *s);
// }

// lab 09 {
/* nics.c: the same for networks; interfaces without an address get one. */
int open_nics(struct session *s, struct error *err) HV_MUST_CHECK;
void close_nics(struct session *s);
// }

// lab 05 {
/* check_host.c: is this host's KVM good enough for what is to be started? Returns an exit status.
 */
int check_kvm(const struct session *s, struct error *err) HV_MUST_CHECK;
// }

#endif
