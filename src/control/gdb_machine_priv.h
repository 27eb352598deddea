/*
 * A machine as the target of a conversation with gdb.
 */
#ifndef CONTROL_GDB_MACHINE_PRIV_H
#define CONTROL_GDB_MACHINE_PRIV_H

#include "control/gdb_priv.h"

/* Borrows the machine. */
struct gdb_target gdb_machine_target(struct machine *m);

#endif
