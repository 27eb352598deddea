/*
 * The cost of an exit: a tight loop of port writes.
 *
 * For benchmarks. The number of writes is the 32-bit number at offset 4 of the image, which a
 * benchmark may patch. They go to port 0x80, where PCs show progress codes and hv has nothing; "b"
 * and "e" at the debug port mark begin and end.
 *
 * run: --boot flat
 * needs: kvm
 * expect: be
 * status: 33
 */
#include "guest_abi.h"

        .code16
        .globl  _start
_start:
        jmp     start
        .org    _start + 4
count:  .long   10000

start:  mov     $'b', %al
        out     %al, $GUEST_DEBUG_PORT
        mov     count, %ecx
1:      out     %al, $0x80
        dec     %ecx
        jnz     1b
        mov     $'e', %al
        out     %al, $GUEST_DEBUG_PORT
        mov     $GUEST_OK, %al
        out     %al, $GUEST_EXIT_PORT
        hlt
