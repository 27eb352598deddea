/*
 * The first instruction of a guest is visible outside.
 *
 * For measuring how long a monitor takes to get there: a byte (whatever AL holds)
 * at the debug port, then the end.
 *
 * run: --boot flat
 * needs: kvm
 * status: 33
 */
#include "guest_abi.h"

        .code16
        .globl  _start
_start:
        out     %al, $GUEST_DEBUG_PORT
        mov     $GUEST_OK, %al
        out     %al, $GUEST_EXIT_PORT
        hlt
