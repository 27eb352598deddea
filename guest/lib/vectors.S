/*
 * The entry points of all 256 vectors.
 *
 * The processor pushes SS, RSP, RFLAGS, CS, RIP, and for some exceptions an error code (SDM 3A
 * section 6.13). The others push a 0 in its place, so that every frame looks like struct frame.
 */
        .text
        .globl  vector_stubs
        .balign 16
vector_stubs:
        .set    vector, 0
        .rept   256
        .balign 16
        /* #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX */
        .if     (1 << (vector & 31)) & 0x60227d00 == 0 || vector > 31
        push    $0
        .endif
        push    $vector
        jmp     common
        .set    vector, vector + 1
        .endr

common:
        push    %rax
        push    %rbx
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %rbp
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld
        mov     %rsp, %rdi
        /* The stack is aligned to 16 bytes here: the processor aligns it before it pushes, and 22
         * words have been pushed. */
        call    handle_vector
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rbp
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbx
        pop     %rax
        add     $16, %rsp       /* vector and error code */
        iretq

        .section .note.GNU-stack, "", @progbits
