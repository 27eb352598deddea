/*
 * Reset by the register that the FADT names: 0x06 to port 0xCF9.
 *
 * run: --boot flat --no-reboot
 * needs: kvm
 * expect: resetting by port 0xcf9
 * status: 10
 */
#include "guest_abi.h"
#include "hv/acpi/fixed.h"

        .code16
        .globl  _start
_start:
        mov     $text, %si
        call    print
        mov     $ACPI_RESET_PORT, %dx
        mov     $ACPI_RESET_VALUE, %al
        out     %al, %dx
        mov     $still, %si
        call    print
        mov     $GUEST_FAILED, %al
        jmp     exit_with

text:   .asciz  "resetting by port 0xcf9\n"
still:  .asciz  "@fail reset expected 0 got 1\n"

#include "lib/real16.inc"
