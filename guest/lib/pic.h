/*
 * The pair of 8259A interrupt controllers and the 8254 timer of a PC.
 */
#ifndef GUEST_PIC_H
#define GUEST_PIC_H

#include <stdint.h>

#define PIC_VECTOR(irq) (0x20 + (irq)) /* after pic_init() */

/* Moves the lines to vectors 0x20 to 0x2f, off the exceptions, and masks them all. */
void pic_init(void);
void pic_unmask(unsigned irq);
/* Tells the controllers that the interrupt has been served. */
void pic_done(unsigned irq);

/* Channel 0 interrupts (line 0) `hz` times a second, 19 at the least. */
void pit_start(unsigned hz);

#endif
