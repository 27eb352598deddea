/*
 * A serial port, and the end of memory.
 *
 * Shows: how software drives a 16550A without interrupts (divisor latch, line control, the
 * transmitter's bit in the line status), a string to it by one REP OUTSB, and what lies behind RAM's
 * last byte: reads that nobody answers are ones, writes vanish, and an access that starts in RAM
 * and ends outside it comes in two halves. Segment 0xffff reaches 64 KiB - 16 bytes above 1 MiB,
 * just enough to look over the edge of a machine with 1 MiB.
 *
 * run: --boot flat --memory 1M
 * needs: kvm
 * expect: Hello from COM1
 * expect: all of this by one rep outsb
 * expect: @ok latch
 * expect: @ok loop_back
 * expect: @ok behind_ram
 * expect: @ok vanished
 * expect: @ok last_byte
 * expect: @ok across_the_end
 * status: 33
 */
#include "guest_abi.h"

#define COM1 0x3f8
#define DATA (COM1 + 0)
#define DIVISOR_HIGH (COM1 + 1)
#define LINE_CONTROL (COM1 + 3)
#define MODEM_CONTROL (COM1 + 4)
#define LINE_STATUS (COM1 + 5)

#define EIGHT_BITS 0x03
#define DLAB 0x80
#define LOOP 0x10
#define TRANSMITTER_EMPTY 0x20
#define DATA_READY 0x01

/* Says @ok or @fail, depending on the flags. */
        .macro  check name
        mov     $ok_\name, %si
        je      1f
        mov     $fail_\name, %si
1:      call    send
        .endm

        .macro  texts name, wanted
ok_\name:   .asciz "@ok \name\n"
fail_\name: .asciz "@fail \name expected \wanted got other\n"
        .endm

        .macro  outb port, value
        mov     $\port, %dx
        mov     $\value, %al
        out     %al, %dx
        .endm

        .macro  inb port
        mov     $\port, %dx
        in      %dx, %al
        .endm

        .code16
        .globl  _start
_start:
        cld
        /* 38400 baud: 115200 / 3. The line is as fast whatever is written here. */
        outb    LINE_CONTROL, DLAB | EIGHT_BITS
        outb    DATA, 3
        outb    DIVISOR_HIGH, 0
        inb     DATA
        mov     %al, %bl
        outb    LINE_CONTROL, EIGHT_BITS

        mov     $hello, %si
        call    send
        mov     $DATA, %dx
        mov     $string, %si
        mov     $string_end - string, %cx
        rep     outsb
        cmp     $3, %bl
        check   latch

        /* In loop-back the chip talks to itself. */
        outb    MODEM_CONTROL, LOOP
        outb    DATA, 'x'
        inb     LINE_STATUS
        test    $DATA_READY, %al
        inb     DATA
        mov     %al, %bl
        outb    MODEM_CONTROL, 0
        cmp     $'x', %bl
        check   loop_back

        /* ds:0x10 is 1 MiB, the first byte that is not there. */
        mov     $0xffff, %ax
        mov     %ax, %es
        movw    %es:0x10, %ax
        cmp     $0xffff, %ax
        check   behind_ram
        movw    $0x1234, %es:0x10
        movw    %es:0x10, %ax
        cmp     $0xffff, %ax
        check   vanished
        movb    $0x5a, %es:0x0f
        movb    %es:0x0f, %al
        cmp     $0x5a, %al
        check   last_byte
        movw    $0x3412, %es:0x0f
        movw    %es:0x0f, %ax
        cmp     $0xff12, %ax
        check   across_the_end

        mov     $done_text, %si
        call    send
        mov     $GUEST_OK, %al
        out     %al, $GUEST_EXIT_PORT
        hlt

/* Sends the NUL-terminated string at ds:si. Changes ax, dx and si. */
send:
        lodsb
        test    %al, %al
        jz      2f
        mov     %al, %ah
        mov     $LINE_STATUS, %dx
1:      in      %dx, %al
        test    $TRANSMITTER_EMPTY, %al
        jz      1b
        mov     $DATA, %dx
        mov     %ah, %al
        out     %al, %dx
        jmp     send
2:      ret

hello:  .asciz  "Hello from COM1\n"
string: .ascii  "all of this by one rep outsb\n"
string_end:
done_text:
        .asciz  "@done\n"
        texts   latch, 3
        texts   loop_back, 78
        texts   behind_ram, ffff
        texts   vanished, ffff
        texts   last_byte, 5a
        texts   across_the_end, ff12
