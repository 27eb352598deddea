/*
 * Power off by the ACPI registers: the sleep type of S5 and SLP_EN to PM1 control.
 *
 * A kernel learns port and type from the tables (FADT and \_S5); here they are known.
 *
 * run: --boot flat
 * needs: kvm
 * expect: powering off
 * status: 0
 */
#include "guest_abi.h"
#include "hv/acpi/fixed.h"

#define SLP_EN (1 << 13) /* ACPI 6.5, section 4.8.3.2.1 */

        .code16
        .globl  _start
_start:
        mov     $text, %si
        call    print
        mov     $ACPI_PM1_CNT_PORT, %dx
        mov     $(ACPI_S5_SLP_TYP << 10) | SLP_EN, %ax
        out     %ax, %dx
        mov     $still, %si
        call    print
        mov     $GUEST_FAILED, %al
        jmp     exit_with

text:   .asciz  "powering off\n"
still:  .asciz  "@fail poweroff expected 0 got 1\n"

#include "lib/real16.inc"
