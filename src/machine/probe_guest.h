/*
 * What probe.c and its guest, probe_guest.S, agree on. Macros only: the assembler reads it too.
 */
#ifndef HV_PROBE_GUEST_H
#define HV_PROBE_GUEST_H

#define PROBE_VECTOR 0x40      /* of the interrupt the guest sends itself */
#define PROBE_SOFT_VECTOR 0x41 /* of its INT instruction */
#define PROBE_PORT 0xf4        /* where it reports its steps, in this order */

#define STEP_NONE 0
#define STEP_STARTED 1
#define STEP_INTERRUPT 2
#define STEP_SOFTWARE 3
#define STEP_EXCEPTION 4
#define STEP_ATOMIC 5
#define STEP_LAST STEP_ATOMIC
#define STEP_MISSED 0xff /* it waited for its interrupt in vain */

#endif
