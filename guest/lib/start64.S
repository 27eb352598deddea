/*
 * Start-up of a 64-bit guest: a stack of its own, then main(), then the end.
 */
        .text
        .globl  _start
_start:
        lea     stack_end(%rip), %rsp
        call    main
        call    finish

        .bss
        .balign 16
        .skip   16384
stack_end:

        .section .note.GNU-stack, "", @progbits
