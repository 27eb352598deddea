/*
 * The guest that probe.c runs in long mode: it switches its local APIC on (SDM 3A §10.9, spurious vector
 * register), sends itself an interrupt (§10.6.1, ICR with the "self" shorthand) and waits for it in a loop that
 * ends; then come INT, UD2 and CMPXCHG16B. It reports each step that worked.
 *
 * Position-independent; the APIC's page is identity-mapped. It never runs past its last report.
 */
#include "machine/probe_guest.h"

#define APIC 0xfee00000
#define APIC_EOI 0xb0
#define APIC_SVR 0xf0
#define APIC_ICR 0x300
#define ICR_SELF 0x40000
#define SVR_ENABLE 0x100

.macro report step
	movb	$\step, %al
	outb	%al, $PROBE_PORT
.endm

	.section .rodata
	.code64
	.globl	probe_guest, probe_guest_end
	.globl	probe_on_interrupt, probe_on_software, probe_on_exception

probe_guest:
	report	STEP_STARTED
	movl	$APIC, %ebx
	movl	$(SVR_ENABLE | 0xff), APIC_SVR(%rbx)
	xorl	%edi, %edi			/* interrupts seen */
	sti
	movl	$(ICR_SELF | PROBE_VECTOR), APIC_ICR(%rbx)
	movl	$100000, %ecx
1:	testl	%edi, %edi
	jnz	2f
	pause
	decl	%ecx
	jnz	1b
	report	STEP_MISSED
2:	int	$PROBE_SOFT_VECTOR
	ud2
	lock cmpxchg16b -64(%rsp)
	report	STEP_ATOMIC

probe_on_interrupt:
	report	STEP_INTERRUPT
	incl	%edi
	movl	$0, APIC_EOI(%rbx)
	iretq

probe_on_software:
	report	STEP_SOFTWARE
	iretq

probe_on_exception:
	report	STEP_EXCEPTION
	addq	$2, (%rsp)			/* past the ud2 */
	iretq
probe_guest_end:

	.section .note.GNU-stack, "", @progbits
