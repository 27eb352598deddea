/*
 * Reset by the keyboard controller: command 0xFE pulses the line that the PC wired to RESET.
 *
 * run: --boot flat --no-reboot
 * needs: kvm
 * expect: resetting by port 0x64
 * status: 10
 */
#include "guest_abi.h"

        .code16
        .globl  _start
_start:
        mov     $text, %si
        call    print
        mov     $0xfe, %al
        out     %al, $0x64
        mov     $still, %si
        call    print
        mov     $GUEST_FAILED, %al
        jmp     exit_with

text:   .asciz  "resetting by port 0x64\n"
still:  .asciz  "@fail reset expected 0 got 1\n"

#include "lib/real16.inc"
