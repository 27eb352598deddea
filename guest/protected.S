/*
 * From real mode to protected mode, by the program itself.
 *
 * Shows: a descriptor table, CR0.PE, and the far jump that loads CS with its first descriptor. Proof
 * of arrival: an address above 1 MiB, which no real-mode segment reaches.
 *
 * run: --boot flat
 * needs: kvm
 * expect: Hello from protected mode
 * expect: @ok above_1m
 * status: 33
 */
#include "guest_abi.h"

#define CODE 0x08
#define DATA 0x10
#define ABOVE_1M 0x100000

        .code16
        .globl  _start
_start:
        cli
        lgdt    gdt_pointer
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmp    $CODE, $start32

        .code32
start32:
        mov     $DATA, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %esp
        mov     $hello, %esi
        call    print32

        /* With address line 20 gated, this would be a write to address 0. */
        movl    $0x11111111, 0
        movl    $0x22222222, ABOVE_1M
        mov     $fail, %esi
        cmpl    $0x11111111, 0
        jne     1f
        cmpl    $0x22222222, ABOVE_1M
        jne     1f
        mov     $ok, %esi
1:      call    print32
        mov     $done_text, %esi
        call    print32
        mov     $GUEST_OK, %al
        out     %al, $GUEST_EXIT_PORT
        hlt

print32:
        lodsb
        test    %al, %al
        jz      1f
        out     %al, $GUEST_DEBUG_PORT
        jmp     print32
1:      ret

hello:  .asciz  "Hello from protected mode\n"
ok:     .asciz  "@ok above_1m\n"
fail:   .asciz  "@fail above_1m expected 22222222 got other\n"

done_text:
        .asciz  "@done\n"

/* Flat segments, SDM 3A section 3.4.5: base 0, limit 4 GiB, accessed. */
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff
        .quad   0x00cf93000000ffff
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt
