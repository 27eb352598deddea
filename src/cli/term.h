/*
 * The user's terminal in raw mode, and back on every way out.
 *
 * Raw mode gives the guest every key, Ctrl-C included. It has to end however hv ends: on return, on
 * exit(), on a fatal signal, on being stopped with a job-control signal from elsewhere. Only
 * SIGKILL leaves a raw terminal behind.
 */
#ifndef HV_CLI_TERM_H
#define HV_CLI_TERM_H

#include "hv/base/err.h"

/* Makes the terminal at `fd` raw; 0 and no change when it is not a terminal. Process-wide, one
 * terminal. */
int term_raw(int fd) HV_MUST_CHECK;

/* Back to how it was. May be called at any time, any number of times, also from a signal handler.
 */
void term_restore(void);

/* Raw again after a stop (SIGCONT), if it was raw before. */
void term_raw_again(void);

/* What ends a line on it now: raw, a line feed alone does not return. */
const char *term_newline(void);

#endif
