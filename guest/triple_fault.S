/*
 * A triple fault: an exception without a handler, in real mode.
 *
 * With an IDT limit of 0 no vector can be fetched: the exception becomes a double fault, that a
 * triple fault, and the processor shuts down. A PC's chip set turns that into a reset; hv says what
 * happened instead.
 *
 * run: --boot flat
 * needs: full
 * expect: about to triple-fault
 * status: 12
 */
        .code16
        .globl  _start
_start:
        mov     $text, %si
        call    print
        lidt    empty_idt
        int3

text:   .asciz  "about to triple-fault\n"
empty_idt:
        .word   0
        .long   0

#include "lib/real16.inc"
