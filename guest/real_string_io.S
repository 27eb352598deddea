/*
 * String I/O: many transfers by one instruction.
 *
 * Shows: REP OUTS and REP INS in widths of 1, 2 and 4 bytes, and OUTS backwards. KVM may hand a
 * whole string over in one exit; a monitor that advances the port instead of the data, or looks at the
 * first element only, prints something else. The debug port is one byte wide: of a wider access it
 * sees the lowest byte (the others are question marks that nobody prints), and reads above it find an
 * empty bus, all ones.
 *
 * run: --boot flat
 * needs: kvm
 * expect: rep outsb
 * expect: rep-outsw
 * expect: rep-outsl
 * expect: rep outsb, downwards
 * expect: @ok insb
 * expect: @ok insw
 * expect: @ok insl
 * status: 33
 */
#include "guest_abi.h"

/* print.h's @ok and @fail lines, for buffers: compares `count` bytes at `buffer` with `wanted`. */
        .macro  check name, wanted, count
        mov     $buffer, %si
        mov     $\wanted, %di
        mov     $\count, %cx
        repe    cmpsb
        mov     $ok_\name, %si
        je      1f
        mov     $fail_\name, %si
1:      call    print
        .endm

        .macro  texts name
ok_\name:   .asciz "@ok \name\n"
fail_\name: .asciz "@fail \name expected e9 got other\n"
        .endm

        .code16
        .globl  _start
_start:
        cld
        mov     $GUEST_DEBUG_PORT, %dx
        mov     $bytes, %si
        mov     $bytes_end - bytes, %cx
        rep     outsb
        mov     $words, %si
        mov     $(words_end - words) / 2, %cx
        rep     outsw
        mov     $longs, %si
        mov     $(longs_end - longs) / 4, %cx
        rep     outsl

        std
        mov     $backwards_end - 1, %si
        mov     $backwards_end - backwards, %cx
        rep     outsb
        cld

        mov     $buffer, %di
        mov     $4, %cx
        rep     insb
        check   insb, wanted_bytes, 4
        mov     $GUEST_DEBUG_PORT, %dx
        mov     $buffer, %di
        mov     $4, %cx
        rep     insw
        check   insw, wanted_words, 8
        mov     $buffer, %di
        mov     $2, %cx
        rep     insl
        check   insl, wanted_longs, 8
        jmp     done

bytes:  .ascii  "rep outsb\n"
bytes_end:
words:  .irpc   c, "rep-outsw"
        .ascii  "\c?"
        .endr
        .ascii  "\n?"
words_end:
longs:  .irpc   c, "rep-outsl"
        .ascii  "\c???"
        .endr
        .ascii  "\n???"
longs_end:
backwards:
        .ascii  "\nsdrawnwod ,bstuo per"
backwards_end:

wanted_bytes: .byte 0xe9, 0xe9, 0xe9, 0xe9
wanted_words: .word 0xffe9, 0xffe9, 0xffe9, 0xffe9
wanted_longs: .long 0xffffffe9, 0xffffffe9
buffer: .skip   8
        texts   insb
        texts   insw
        texts   insl

#include "lib/real16.inc"
