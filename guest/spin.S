/*
 * A guest that never leaves by itself: the monitor must be able to stop it all the same.
 *
 * run: --boot flat
 * needs: kvm
 * expect: spinning
 * status: killed
 */
        .code16
        .globl  _start
_start:
        mov     $text, %si
        call    print
1:      jmp     1b

text:   .asciz  "spinning\n"

#include "lib/real16.inc"
