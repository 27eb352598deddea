/* keep_kvm.S: keeps two idle virtual machines for as long as it lives, one with and one without an APIC,
 * each with one vCPU that never runs.
 *
 * While they exist, a machine that somebody else starts or ends is never the first or the last of its kind,
 * so KVM has no static keys to flip: the text of the running kernel stays as it is. amd.py says why that
 * matters. No library, because this runs before there is one. System calls: rax is the number, rdi, rsi and
 * rdx the arguments, and a negative rax afterwards is an error.
 */
        .set    SYS_OPEN, 2
        .set    SYS_IOCTL, 16
        .set    SYS_PAUSE, 34
        .set    SYS_EXIT, 60
        .set    O_RDWR, 2
        .set    KVM_CREATE_VM, 0xae01
        .set    KVM_CREATE_VCPU, 0xae41
        .set    KVM_CREATE_IRQCHIP, 0xae60

        /* ioctl(FD, REQUEST, 0), or the end of the program */
        .macro  request fd, number
        mov     \fd, %edi
        mov     $\number, %esi
        call    ioctl
        .endm

        .globl  _start
        .text
_start: mov     $SYS_OPEN, %eax
        lea     device(%rip), %rdi
        mov     $O_RDWR, %esi
        syscall
        test    %eax, %eax
        js      fail
        mov     %eax, %ebx

        request %ebx, KVM_CREATE_VM
        mov     %eax, %ebp
        request %ebp, KVM_CREATE_IRQCHIP
        request %ebp, KVM_CREATE_VCPU

        request %ebx, KVM_CREATE_VM
        request %eax, KVM_CREATE_VCPU

1:      mov     $SYS_PAUSE, %eax
        syscall
        jmp     1b

ioctl:  xor     %edx, %edx
        mov     $SYS_IOCTL, %eax
        syscall
        test    %eax, %eax
        js      fail
        ret

fail:   mov     $1, %edi
        mov     $SYS_EXIT, %eax
        syscall

        .section .rodata
device: .asciz  "/dev/kvm"
        .section .note.GNU-stack, "", @progbits
