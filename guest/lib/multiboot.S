/*
 * Start-up of a Multiboot kernel (Multiboot 0.6.96, section 3): the header, and the way to
 * main(magic, info). The loader leaves flat segments, paging and interrupts off, and no stack.
 */
#define MAGIC 0x1badb002
#define FLAGS 3 /* page-aligned modules, memory information */

        .section .multiboot, "a"
        .balign 4
        .long   MAGIC, FLAGS, -(MAGIC + FLAGS)

        .text
        .globl  _start
_start:
        mov     $stack_end, %esp
        push    %ebx
        push    %eax
        call    main
        call    finish

        .bss
        .balign 16
        .skip   16384
stack_end:

        .section .note.GNU-stack, "", @progbits
