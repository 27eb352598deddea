/*
 * From a start-up IPI to long mode; see trampoline.h.
 *
 * The code is linked elsewhere than it runs: every address in it is computed from TRAMPOLINE. All
 * processors use one copy at the same time, so it writes nothing but the counter, atomically.
 */
#include "lib/trampoline.h"

#define AT(label) (TRAMPOLINE + (label) - trampoline)
#define PARAM(n) (TRAMPOLINE + TRAMPOLINE_PARAMS + 8 * (n))

#define CODE32 0x08
#define CODE64 0x10 /* these two as in the monitor's table, so that gates and IRET agree */
#define DATA 0x18

        .section .rodata
        .globl  trampoline, trampoline_end
        .code16
        .balign 16
trampoline:
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        lgdtl   AT(gdt_pointer)
        mov     %cr0, %eax
        or      $1, %al                 /* PE */
        mov     %eax, %cr0
        ljmpl   $CODE32, $AT(start32)

        .code32
start32:
        mov     $DATA, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     %cr4, %eax
        or      $0x20, %eax             /* PAE */
        mov     %eax, %cr4
        mov     PARAM(0), %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx       /* EFER */
        rdmsr
        or      $0x900, %eax            /* LME, NXE */
        wrmsr
        mov     %cr0, %eax
        or      $0x80010000, %eax       /* PG, WP */
        mov     %eax, %cr0
        ljmp    $CODE64, $AT(start64)

        .code64
start64:
        mov     $1, %eax
        lock xadd %rax, PARAM(3)
        inc     %rax
        imul    PARAM(2), %rax
        add     PARAM(1), %rax
        mov     %rax, %rsp
        call    *PARAM(4)
1:      hlt
        jmp     1b

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      /* 32-bit code */
        .quad   0x00af9b000000ffff      /* 64-bit code */
        .quad   0x00cf93000000ffff      /* data */
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   AT(gdt)
trampoline_end:

        .section .note.GNU-stack, "", @progbits
