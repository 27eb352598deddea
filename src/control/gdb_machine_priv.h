/*
 * A machine as the target of a conversation with gdb.
 */
#ifndef CONTROL_GDB_MACHINE_PRIV_H
#define CONTROL_GDB_MACHINE_PRIV_H

#include "control/gdb_priv.h"

/* Borrows the machine. `means`: as machine_debug_means() says, which takes too long to be asked
 * when gdb waits for its first answer. */
struct gdb_target gdb_machine_target(struct machine *m, const struct debug_means *means);

#endif
