/*
 * What probe.c and its guest, probe_guest.S, agree on. The assembler reads it too.
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

#ifndef __ASSEMBLER__
#include <stdint.h>

/* The guest's code, and where in it the handlers begin. */
extern const uint8_t probe_guest[], probe_on_interrupt[], probe_on_software[], probe_on_exception[],
    probe_guest_end[];
#endif

#endif
