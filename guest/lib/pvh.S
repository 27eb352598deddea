/*
 * Start-up by Xen's x86/HVM direct boot ABI ("PVH"): a note in the executable names the 32-bit entry
 * point, and EBX is the address of hvm_start_info. Then main(info).
 */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

        .section .note.Xen, "a", @note
        .balign 4
        .long   4               /* size of the name */
        .long   4               /* size of the value */
        .long   XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   _start

        .text
        .globl  _start
_start:
        mov     $stack_end, %esp
        push    %ebx
        call    main
        call    finish

        .bss
        .balign 16
        .skip   16384
stack_end:

        .section .note.GNU-stack, "", @progbits
