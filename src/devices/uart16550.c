/*
 * PC16550D UART. Sections are cited by their names in the data sheet's chapter "Registers".
 *
 * Three decisions where the data sheet speaks of time or of the board around the chip:
 *
 *  - The line takes no time, so the transmitter is empty again as soon as a byte is written. THRE
 *    and TEMT are always set, and the transmitter-empty interrupt returns with every byte.
 *  - The receiver's time-out interrupt is due when bytes below the trigger level have waited for
 *    four character times. Here they have waited long enough as soon as they are there.
 *  - On a PC the OUT2 output opens the gate between the chip and the interrupt controller. Software
 *    that forgets OUT2 gets no interrupt here either; loop-back forces OUT2 inactive
 *    ("Modem Control Register", bit 4).
 *
 * Left out: parity, framing and break errors, which an ideal line does not have, and DMA signals.
 */
#include "hv/devices/uart16550.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"

#define FIFO_SIZE 16
#define DIVISOR_115200 1 /* of the 1.8432 MHz crystal; early consoles divide by what they find */

#define IER_MASK 0x0f
#define MCR_MASK 0x1f
#define FCR_STORED (UART_FCR_ENABLE_FIFO | UART_FCR_DMA_SELECT | UART_FCR_TRIGGER_MASK)
#define IIR_FIFO_ENABLED 0xc0
#define MSR_LINES (UART_MSR_DCD | UART_MSR_RI | UART_MSR_DSR | UART_MSR_CTS)

/* What is saved. */
struct uart_regs {
    uint8_t ier;     /* interrupt enable */
    uint8_t fcr;     /* FIFO control, without the self-clearing bits; 0 while the FIFO is off */
    uint8_t lcr;     /* line control */
    uint8_t mcr;     /* modem control */
    uint8_t msr;     /* modem status: lines and deltas */
    uint8_t scr;     /* scratch */
    uint8_t dll;     /* divisor latch, low byte */
    uint8_t dlm;     /* divisor latch, high byte */
    bool overrun;    /* LSR bit 1; the other LSR bits follow from the rest */
    bool thr_empty;  /* the transmitter-empty interrupt is due */
    uint8_t rx_len;  /* bytes in rx */
    uint8_t rx_head; /* of the oldest byte */
    uint8_t rx[FIFO_SIZE];
};

struct uart16550 {
    struct device dev;
    struct irq_line irq;
    struct chr *chr; /* borrowed */
    struct uart_regs regs;
};

static bool is_fifo_enabled(const struct uart_regs *r)
{
    return r->fcr & UART_FCR_ENABLE_FIFO;
}

static bool is_loopback(const struct uart_regs *r)
{
    return r->mcr & UART_MCR_LOOP;
}

/* Brings the interrupt line to what the registers say. Call after every change of them. */
static void update_irq(struct uart16550 *u);

/* --- Receiver --- */

static unsigned rx_capacity(const struct uart_regs *r)
{
    return is_fifo_enabled(r) ? FIFO_SIZE : 1;
}

/* EXERCISE 4.5: the receiver. receive(): a byte comes from the line and goes behind those that wait
 * in rx, a ring: rx_head is the place of the oldest, rx_len how many there are, rx_capacity() how
 * many there may be. When that many wait already, it is an overrun ("Line Status Register", bit 1),
 * and what is lost depends: a FIFO keeps what it has, while the single receiver buffer of the 16450
 * is overwritten. read_rbr(): the guest takes the oldest byte, 0 if there is none. The interrupt
 * line then has to be looked at again, and there is room now, which the back end must hear
 * (chr_resume()). */
// SOLUTION 4.5
/* A byte from the line. */
static void receive(struct uart_regs *r, uint8_t byte)
{
    if (r->rx_len == rx_capacity(r)) {
        r->overrun = true;
        if (is_fifo_enabled(r))
            return;
        r->rx_len = 0;
    }
    r->rx[(r->rx_head + r->rx_len) % FIFO_SIZE] = byte;
    r->rx_len++;
}

static uint8_t read_rbr(struct uart16550 *u)
{
    struct uart_regs *r = &u->regs;

    if (r->rx_len == 0)
        return 0;
    uint8_t byte = r->rx[r->rx_head];
    r->rx_head = (r->rx_head + 1) % FIFO_SIZE;
    r->rx_len--;
    update_irq(u);
    chr_resume(u->chr);
    return byte;
}
// ELSE
// static void receive(struct uart_regs *r, uint8_t byte)
// {
//     (void)todo("4.5");
// }
//
// static uint8_t read_rbr(struct uart16550 *u)
// {
//     (void)todo("4.5");
//     return 0;
// }
// BEFORE
// /* One buffer, in which a later byte replaces an earlier one. */
// static void receive(struct uart_regs *r, uint8_t byte)
// {
//     r->rx[0] = byte;
//     r->rx_len = 1;
// }
//
// static uint8_t read_rbr(struct uart16550 *u)
// {
//     u->regs.rx_len = 0;
//     return u->regs.rx[0];
// }
// END 4.5

static void reset_rx(struct uart16550 *u)
{
    u->regs.rx_len = 0;
    chr_resume(u->chr);
}

static size_t uart_room(void *ctx)
{
    struct uart16550 *u = ctx;

    dev_lock(&u->dev);
    /* In loop-back the receiver is disconnected from the line. Its bytes wait. */
    size_t room = is_loopback(&u->regs) ? 0 : rx_capacity(&u->regs) - u->regs.rx_len;
    dev_unlock(&u->dev);
    return room;
}

static void uart_input(void *ctx, const uint8_t *data, size_t len)
{
    struct uart16550 *u = ctx;

    dev_lock(&u->dev);
    /* The guest may have shrunk the FIFO since it was asked for room: then this overruns. */
    for (size_t i = 0; i < len; i++)
        receive(&u->regs, data[i]);
    update_irq(u);
    dev_unlock(&u->dev);
}

/* --- Transmitter and line status ("Line Status Register") --- */

/* EXERCISE 2.9: transmit(): the byte goes out to u->chr; in loop-back mode it reaches the chip's
 * own receiver instead, and nothing leaves. line_status(): the register that software polls. Here
 * the line takes no time: the transmitter is always empty, and so is its shift register. The
 * receiver has data while rx_len is not 0, and has lost some if `overrun` says so. The bits are
 * UART_LSR_* of <linux/serial_reg.h>. */
// SOLUTION 2.9
/* Loop-back sends to the own receiver, and nothing leaves the chip. */
static void transmit(struct uart16550 *u, uint8_t byte)
{
    if (is_loopback(&u->regs))
        receive(&u->regs, byte);
    else
        chr_write(u->chr, &byte, 1);
}

static uint8_t line_status(const struct uart_regs *r)
{
    uint8_t value = UART_LSR_THRE | UART_LSR_TEMT;

    if (r->rx_len > 0)
        value |= UART_LSR_DR;
    if (r->overrun)
        value |= UART_LSR_OE;
    return value;
}
// ELSE
// static void transmit(struct uart16550 *u, uint8_t byte)
// {
//     (void)todo("2.9");
// }
//
// static uint8_t line_status(const struct uart_regs *r)
// {
//     (void)todo("2.9");
//     return UINT8_MAX;
// }
// END 2.9

/* --- Interrupts ("Interrupt Identification Register", table III) --- */

/* EXERCISE 4.6: which interrupt? The guest reads the answer in IIR: the interrupt of the highest
 * priority among those that are due and enabled (IER), or UART_IIR_NO_INT. Due are, from the
 * highest on: receiver line status, when an overrun has happened (UART_IIR_RLSI); received data,
 * when as many bytes wait as FCR's upper two bits say, 1, 4, 8 or 14, or one where the FIFO is off
 * (UART_IIR_RDI); on the same enable bit the time-out, when some wait, but fewer
 * (UART_IIR_RX_TIMEOUT); transmitter empty, when thr_empty is set (UART_IIR_THRI); modem status,
 * when a delta bit is set (UART_IIR_MSI). Reading IIR acknowledges the transmitter's interrupt, but
 * only if that is the one it shows. With the FIFOs on, IIR_FIFO_ENABLED is set beside the answer.
 */
// SOLUTION 4.6
/* Bytes in the receive FIFO that make the data-available interrupt due. */
static unsigned rx_trigger(const struct uart_regs *r)
{
    static const uint8_t levels[] = {1, 4, 8, 14};

    return is_fifo_enabled(r) ? levels[r->fcr >> 6] : 1;
}

/* The interrupt of the highest priority that is due and enabled, as in IIR. */
static uint8_t pending_interrupt(const struct uart_regs *r)
{
    if ((r->ier & UART_IER_RLSI) && r->overrun)
        return UART_IIR_RLSI;
    if ((r->ier & UART_IER_RDI) && r->rx_len > 0)
        return r->rx_len >= rx_trigger(r) ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT;
    if ((r->ier & UART_IER_THRI) && r->thr_empty)
        return UART_IIR_THRI;
    if ((r->ier & UART_IER_MSI) && (r->msr & UART_MSR_ANY_DELTA))
        return UART_IIR_MSI;
    return UART_IIR_NO_INT;
}

/* Reading IIR acknowledges the transmitter-empty interrupt, if that is what it shows. */
static uint8_t read_iir(struct uart16550 *u)
{
    uint8_t id = pending_interrupt(&u->regs);

    if (id == UART_IIR_THRI)
        u->regs.thr_empty = false;
    update_irq(u);
    return is_fifo_enabled(&u->regs) ? id | IIR_FIFO_ENABLED : id;
}
// ELSE
// static uint8_t pending_interrupt(const struct uart_regs *r)
// {
//     (void)todo("4.6");
//     return UART_IIR_NO_INT;
// }
//
// static uint8_t read_iir(struct uart16550 *u)
// {
//     return pending_interrupt(&u->regs);
// }
// BEFORE
// /* Nothing interrupts yet. */
// static uint8_t read_iir(struct uart16550 *u)
// {
//     return is_fifo_enabled(&u->regs) ? UART_IIR_NO_INT | IIR_FIFO_ENABLED : UART_IIR_NO_INT;
// }
// END 4.6

/* --- The interrupt pin --- */

/* EXERCISE 4.7: the chip's interrupt pin, and what moves it. update_irq(): the line is high exactly
 * while some interrupt is pending and the gate is open. The gate is OUT2 (MCR), which loop-back
 * forces inactive. write_ier(): IER has four bits. The transmitter is always empty, so its
 * interrupt is due at the moment at which it is enabled, but not again when it was enabled before.
 * write_thr(): the write itself takes the transmitter's interrupt away, the byte is sent with
 * transmit(), and that it has left makes the interrupt due again. The controller at the other end
 * listens to edges: it has to see both changes. */
// SOLUTION 4.7
static void update_irq(struct uart16550 *u)
{
    bool gate_open = (u->regs.mcr & UART_MCR_OUT2) && !is_loopback(&u->regs);

    irq_set(&u->irq, gate_open && pending_interrupt(&u->regs) != UART_IIR_NO_INT);
}

/* The transmitter is always empty, so enabling its interrupt makes it due. Linux tests this. */
static void write_ier(struct uart16550 *u, uint8_t value)
{
    value &= IER_MASK;
    if ((value & UART_IER_THRI) && !(u->regs.ier & UART_IER_THRI))
        u->regs.thr_empty = true;
    u->regs.ier = value;
    update_irq(u);
}

/* The write clears the transmitter-empty interrupt; that the byte has left raises it again. Both
 * edges reach the interrupt controller: a handler may send without ever reading IIR. */
static void write_thr(struct uart16550 *u, uint8_t byte)
{
    u->regs.thr_empty = false;
    update_irq(u);
    transmit(u, byte);
    u->regs.thr_empty = true;
    update_irq(u);
}
// ELSE
// static void update_irq(struct uart16550 *u)
// {
//     (void)u;
// }
//
// static void write_ier(struct uart16550 *u, uint8_t value)
// {
//     (void)todo("4.7");
//     u->regs.ier = value;
// }
//
// static void write_thr(struct uart16550 *u, uint8_t byte)
// {
//     transmit(u, byte);
// }
// BEFORE
// static void update_irq(struct uart16550 *u)
// {
//     (void)u; /* nothing interrupts yet */
// }
//
// static void write_ier(struct uart16550 *u, uint8_t value)
// {
//     u->regs.ier = value & IER_MASK;
// }
//
// static void write_thr(struct uart16550 *u, uint8_t byte)
// {
//     transmit(u, byte);
// }
// END 4.7

/* --- FIFO control ("FIFO Control Register") --- */

/* The other bits count only together with the enable bit; changing that clears the FIFOs. */
static void write_fcr(struct uart16550 *u, uint8_t value)
{
    bool enable = value & UART_FCR_ENABLE_FIFO;

    if (enable != is_fifo_enabled(&u->regs) || (enable && (value & UART_FCR_CLEAR_RCVR)))
        reset_rx(u);
    u->regs.fcr = enable ? value & FCR_STORED : 0;
    update_irq(u);
}

/* Reading it clears the errors. */
static uint8_t read_lsr(struct uart16550 *u)
{
    uint8_t value = line_status(&u->regs);

    u->regs.overrun = false;
    update_irq(u);
    return value;
}

/* --- Modem control and status --- */

/* The four modem inputs: those of a peer that is always ready, or in loop-back our own outputs. */
static uint8_t modem_lines(uint8_t mcr)
{
    if (!(mcr & UART_MCR_LOOP))
        return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
    return (mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) | (mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
           (mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) | (mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0);
}

/* The delta bits that a change of the lines sets. RI reports only its end. */
static uint8_t modem_deltas(uint8_t before, uint8_t after)
{
    uint8_t changed = before ^ after;

    return (changed & UART_MSR_CTS ? UART_MSR_DCTS : 0) |
           (changed & UART_MSR_DSR ? UART_MSR_DDSR : 0) |
           (changed & before & UART_MSR_RI ? UART_MSR_TERI : 0) |
           (changed & UART_MSR_DCD ? UART_MSR_DDCD : 0);
}

static void write_mcr(struct uart16550 *u, uint8_t value)
{
    uint8_t before = u->regs.msr & MSR_LINES;

    u->regs.mcr = value & MCR_MASK;
    uint8_t after = modem_lines(u->regs.mcr);
    u->regs.msr = (u->regs.msr & UART_MSR_ANY_DELTA) | after | modem_deltas(before, after);
    update_irq(u);
    chr_resume(u->chr); /* loop-back may have ended */
}

/* Reading it clears the deltas. */
static uint8_t read_msr(struct uart16550 *u)
{
    uint8_t value = u->regs.msr;

    u->regs.msr &= MSR_LINES;
    update_irq(u);
    return value;
}

/* --- The register file --- */

/* The byte of the divisor latch that an access at `offset` means; NULL: it means another register.
 */
static uint8_t *divisor_byte(struct uart_regs *r, uint64_t offset)
{
    /* EXERCISE 2.8: twelve registers at eight addresses. While DLAB, the top bit of LCR, is set,
     * the two lowest addresses are the divisor latch, low byte (dll) and high byte (dlm), for
     * reading and writing alike ("Line Control Register", "Programmable Baud Generator"). */
    // SOLUTION 2.8
    if (!(r->lcr & UART_LCR_DLAB))
        return NULL;
    switch (offset) {
    case UART_DLL:
        return &r->dll;
    case UART_DLM:
        return &r->dlm;
    default:
        return NULL;
    }
    // ELSE
    // (void)todo("2.8");
    // return NULL;
    // END 2.8
}

static uint64_t uart_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);
    const uint8_t *divisor = divisor_byte(&u->regs, offset);

    (void)size;
    if (divisor)
        return *divisor;
    switch (offset) {
    case UART_RX:
        return read_rbr(u);
    case UART_IER:
        return u->regs.ier;
    case UART_IIR:
        return read_iir(u);
    case UART_LCR:
        return u->regs.lcr;
    case UART_MCR:
        return u->regs.mcr;
    case UART_LSR:
        return read_lsr(u);
    case UART_MSR:
        return read_msr(u);
    case UART_SCR:
        return u->regs.scr;
    default:
        return UINT64_MAX;
    }
}

static void uart_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);
    uint8_t *divisor = divisor_byte(&u->regs, offset);
    uint8_t byte = (uint8_t)value;

    (void)size;
    if (divisor) {
        *divisor = byte;
        return;
    }
    switch (offset) {
    case UART_TX:
        write_thr(u, byte);
        break;
    case UART_IER:
        write_ier(u, byte);
        break;
    case UART_FCR:
        write_fcr(u, byte);
        break;
    case UART_LCR:
        u->regs.lcr = byte;
        break;
    case UART_MCR:
        write_mcr(u, byte);
        break;
    case UART_SCR:
        u->regs.scr = byte;
        break;
    default: /* LSR and MSR: writing them is for factory tests only */
        break;
    }
}

/* --- Life --- */

static void uart_save(struct device *dev, struct codec_writer *w)
{
    const struct uart_regs *r = &container_of(dev, struct uart16550, dev)->regs;

    codec_put_u8(w, r->ier);
    codec_put_u8(w, r->fcr);
    codec_put_u8(w, r->lcr);
    codec_put_u8(w, r->mcr);
    codec_put_u8(w, r->msr);
    codec_put_u8(w, r->scr);
    codec_put_u8(w, r->dll);
    codec_put_u8(w, r->dlm);
    codec_put_u8(w, r->overrun);
    codec_put_u8(w, r->thr_empty);
    codec_put_u8(w, r->rx_len);
    codec_put_u8(w, r->rx_head);
    codec_put_bytes(w, r->rx, sizeof(r->rx));
}

static bool is_valid_state(const struct uart_regs *r)
{
    return !(r->ier & ~IER_MASK) && !(r->mcr & ~MCR_MASK) && !(r->fcr & ~FCR_STORED) &&
           (r->fcr == 0 || is_fifo_enabled(r)) && (r->msr & MSR_LINES) == modem_lines(r->mcr) &&
           r->rx_len <= rx_capacity(r) && r->rx_head < FIFO_SIZE;
}

static int uart_load(struct device *dev, struct codec_reader *reader)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);
    struct uart_regs r;

    r.ier = codec_get_u8(reader);
    r.fcr = codec_get_u8(reader);
    r.lcr = codec_get_u8(reader);
    r.mcr = codec_get_u8(reader);
    r.msr = codec_get_u8(reader);
    r.scr = codec_get_u8(reader);
    r.dll = codec_get_u8(reader);
    r.dlm = codec_get_u8(reader);
    r.overrun = codec_get_u8(reader);
    r.thr_empty = codec_get_u8(reader);
    r.rx_len = codec_get_u8(reader);
    r.rx_head = codec_get_u8(reader);
    codec_get_bytes(reader, r.rx, sizeof(r.rx));
    int err = codec_leave(reader);
    if (err)
        return err;
    if (!is_valid_state(&r))
        return -EINVAL;
    u->regs = r;
    update_irq(u);
    chr_resume(u->chr);
    return 0;
}

static void uart_destroy(struct device *dev)
{
    struct uart16550 *u = container_of(dev, struct uart16550, dev);

    chr_attach(u->chr, NULL);
    dev_fini(&u->dev);
    free(u);
}

static const struct dev_ops uart_ops = {
    .read = uart_read,
    .write = uart_write,
    .save = uart_save,
    .load = uart_load,
    .destroy = uart_destroy,
    .max_access = 1,
    .version = 1,
};

int uart16550_create(const char *name, const struct irq_line *irq, struct chr *chr,
                     struct device **dev)
{
    struct uart16550 *u = calloc(1, sizeof(*u));

    if (!u)
        return -ENOMEM;
    dev_init(&u->dev, &uart_ops, name);
    u->irq = *irq;
    u->chr = chr;
    u->regs.dll = DIVISOR_115200;
    u->regs.msr = modem_lines(0);
    u->regs.thr_empty = true;
    chr_attach(chr, &(struct chr_front){.room = uart_room, .input = uart_input, .ctx = u});
    *dev = &u->dev;
    return 0;
}
