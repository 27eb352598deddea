/*
 * An exit status chosen by the guest.
 *
 * The monitor's exit status is (v << 1) | 1, of which the host keeps 8 bits: 0x2a gives 85.
 *
 * run: --boot flat
 * needs: kvm
 * status: 85
 */
#include "guest_abi.h"

        .code16
        .globl  _start
_start:
        mov     $0x2a, %al
        out     %al, $GUEST_EXIT_PORT
        hlt
