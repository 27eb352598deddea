/*
 * HLT with interrupts off: a CPU that nothing will wake but an NMI or a reset.
 *
 * Shows: with KVM's interrupt controllers the vCPU sleeps in the kernel and the monitor must still be
 * able to stop it; without them (--irqchip off) HLT is an exit and ends the machine.
 *
 * run: --boot flat --irqchip off
 * needs: kvm
 * expect: halting
 * status: 0
 */
        .code16
        .globl  _start
_start:
        mov     $text, %si
        call    print
        cli
1:      hlt
        jmp     1b

text:   .asciz  "halting\n"

#include "lib/real16.inc"
