/*
 * Hello from real mode: the smallest program that says anything.
 *
 * Shows: the first instruction of a guest, port output, and an end by a port. CS, DS, ES and SS are
 * 0, so labels are addresses as they stand.
 *
 * run: --boot flat
 * needs: kvm
 * expect: Hello from real mode
 * status: 33
 */
        .code16
        .globl  _start
_start:
        mov     $hello, %si
        call    print
        jmp     done

hello:  .asciz  "Hello from real mode\n"

#include "lib/real16.inc"
