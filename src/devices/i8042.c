/*
 * The i8042 keyboard controller, and a keyboard on which nobody types.
 *
 * The controller sits between the CPU and two serial ports; here only the keyboard port exists. A
 * byte on its way to the CPU waits in a short queue; while that holds anything, OBF is set and, if
 * the configuration byte says so, IRQ 1 is high. Commands are done as soon as they are written, so
 * IBF is never set. References: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and
 * Auxiliary Device Controller" and "Keyboards".
 *
 * The keyboard speaks only when spoken to. It knows the commands that drivers send while they look
 * for it; its scan code sets, LEDs and repeat rate have no effect.
 *
 * How the missing auxiliary port shows: its interface test fails, its disable bit cannot be
 * cleared, and the loop-back commands answer as if from the keyboard. A driver learns that at once
 * and does not wait for a time-out. A20 can be switched, and changes nothing.
 */
#include "hv/devices/i8042.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"

#define DATA_OFFSET 0
#define STATUS_OFFSET 4

/* Status register. */
#define STATUS_OBF 0x01 /* output buffer full */
#define STATUS_SYS 0x04 /* copy of the configuration's bit 2 */
#define STATUS_CMD 0x08 /* the last write was a command */
#define STATUS_NOT_LOCKED 0x10

/* Configuration byte. */
#define CFG_KBD_IRQ 0x01
#define CFG_SYS 0x04
#define CFG_KBD_DISABLED 0x10
#define CFG_AUX_DISABLED 0x20
#define CFG_TRANSLATE 0x40 /* scan codes of set 2 become those of set 1 */
#define CFG_MASK 0x77

/* Output port. */
#define OUTPORT_NOT_RESET 0x01 /* the CPU's reset line, active low */
#define OUTPORT_A20 0x02
#define OUTPORT_OBF 0x10

/* Controller commands. 0x20-0x3f and 0x60-0x7f read and write its RAM, whose byte 0 is the
 * configuration. */
#define CMD_READ_RAM 0x20
#define CMD_WRITE_RAM 0x60
#define CMD_WRITE_CONFIG 0x60
#define CMD_RAM_INDEX 0x1f
#define CMD_AUX_DISABLE 0xa7
#define CMD_AUX_ENABLE 0xa8
#define CMD_AUX_TEST 0xa9
#define CMD_SELF_TEST 0xaa
#define CMD_KBD_TEST 0xab
#define CMD_KBD_DISABLE 0xad
#define CMD_KBD_ENABLE 0xae
#define CMD_READ_INPORT 0xc0
#define CMD_READ_OUTPORT 0xd0
#define CMD_WRITE_OUTPORT 0xd1
#define CMD_KBD_LOOP 0xd2
#define CMD_AUX_LOOP 0xd3
#define CMD_AUX_WRITE 0xd4
#define CMD_A20_OFF 0xdd
#define CMD_A20_ON 0xdf
#define CMD_PULSE 0xf0 /* and up: the low bits that are 0 pulse output lines */

#define SELF_TEST_PASSED 0x55
#define KBD_TEST_PASSED 0x00
#define AUX_CLOCK_STUCK_LOW 0x01
#define INPORT_NOT_LOCKED 0x80

/* Keyboard commands and answers. */
#define KBD_SET_LEDS 0xed
#define KBD_ECHO 0xee
#define KBD_SCAN_SET 0xf0
#define KBD_IDENTIFY 0xf2
#define KBD_TYPEMATIC 0xf3
#define KBD_ENABLE 0xf4
#define KBD_DEFAULTS_STOP 0xf5
#define KBD_DEFAULTS 0xf6
#define KBD_RESEND 0xfe /* as a command and as an answer */
#define KBD_RESET 0xff
#define KBD_ACK 0xfa
#define KBD_PASSED 0xaa

#define DEFAULT_SCAN_SET 2
#define QUEUE_SIZE 16

/* What is saved. */
struct i8042_regs {
    uint8_t config;
    uint8_t outport;     /* without OBF */
    uint8_t command;     /* the controller command that waits for its data byte, or 0 */
    uint8_t kbd_command; /* the keyboard command that waits for its data byte, or 0 */
    uint8_t scan_set;
    uint8_t last;    /* the keyboard's last byte, for RESEND */
    bool wrote_cmd;  /* STATUS_CMD */
    uint8_t out_len; /* bytes in out */
    uint8_t out[QUEUE_SIZE];
};

struct i8042 {
    struct device dev;
    struct irq_line irq;
    i8042_reset_fn *reset;
    void *ctx; /* borrowed */
    struct i8042_regs regs;
};

/* --- Bytes to the CPU --- */

static void update_irq(struct i8042 *c)
{
    irq_set(&c->irq, c->regs.out_len > 0 && (c->regs.config & CFG_KBD_IRQ));
}

/* A guest that asks and never reads loses the answers that do not fit. */
static void put_byte(struct i8042 *c, uint8_t byte)
{
    if (c->regs.out_len == QUEUE_SIZE)
        return;
    c->regs.out[c->regs.out_len++] = byte;
    update_irq(c);
}

/* Each byte gets an edge of its own on the interrupt line. An empty buffer reads as 0. */
static uint8_t take_byte(struct i8042 *c)
{
    struct i8042_regs *r = &c->regs;

    if (r->out_len == 0)
        return 0;
    uint8_t byte = r->out[0];
    r->out_len--;
    memmove(r->out, r->out + 1, r->out_len);
    irq_set(&c->irq, false);
    update_irq(c);
    return byte;
}

/* --- The keyboard --- */

/* What the controller makes of a keyboard's byte if it translates. Of the whole table (set 2 to
 * set 1) only the bytes that this keyboard says matter; from 0x84 up it changes nothing. */
static uint8_t translate(uint8_t byte)
{
    switch (byte) {
    case 0x01:
        return 0x43;
    case 0x02:
        return 0x41;
    case 0x03:
        return 0x3f;
    case 0x83:
        return 0x41;
    default:
        return byte;
    }
}

static void kbd_say(struct i8042 *c, uint8_t byte)
{
    c->regs.last = byte;
    put_byte(c, c->regs.config & CFG_TRANSLATE ? translate(byte) : byte);
}

static void kbd_command(struct i8042 *c, uint8_t command)
{
    switch (command) {
    case KBD_SET_LEDS:
    case KBD_SCAN_SET:
    case KBD_TYPEMATIC:
        c->regs.kbd_command = command;
        kbd_say(c, KBD_ACK);
        break;
    case KBD_ECHO:
        kbd_say(c, KBD_ECHO);
        break;
    case KBD_IDENTIFY:
        kbd_say(c, KBD_ACK);
        kbd_say(c, 0xab);
        kbd_say(c, 0x83);
        break;
    case KBD_DEFAULTS_STOP:
    case KBD_DEFAULTS:
        c->regs.scan_set = DEFAULT_SCAN_SET;
        kbd_say(c, KBD_ACK);
        break;
    case KBD_ENABLE:
        kbd_say(c, KBD_ACK);
        break;
    case KBD_RESEND:
        kbd_say(c, c->regs.last);
        break;
    case KBD_RESET:
        c->regs.scan_set = DEFAULT_SCAN_SET;
        kbd_say(c, KBD_ACK);
        kbd_say(c, KBD_PASSED);
        break;
    default:
        kbd_say(c, KBD_RESEND);
        break;
    }
}

/* The byte after SET_LEDS, TYPEMATIC (any is fine) or SCAN_SET (0 asks, 1 to 3 choose). */
static void kbd_parameter(struct i8042 *c, uint8_t command, uint8_t byte)
{
    if (command == KBD_SCAN_SET && byte > 3) {
        kbd_say(c, KBD_RESEND);
        return;
    }
    kbd_say(c, KBD_ACK);
    if (command != KBD_SCAN_SET)
        return;
    if (byte == 0)
        kbd_say(c, c->regs.scan_set);
    else
        c->regs.scan_set = byte;
}

/* A byte for the keyboard. Sending one enables its interface. Parameters are below 0x80 or so, and
 * commands above: a command in a parameter's place starts anew. */
static void kbd_write(struct i8042 *c, uint8_t byte)
{
    uint8_t command = c->regs.kbd_command;

    c->regs.config &= (uint8_t)~CFG_KBD_DISABLED;
    c->regs.kbd_command = 0;
    if (command && byte < KBD_SET_LEDS)
        kbd_parameter(c, command, byte);
    else
        kbd_command(c, byte);
}

/* --- The controller --- */

static void set_config(struct i8042 *c, uint8_t value)
{
    c->regs.config = (value & CFG_MASK) | CFG_AUX_DISABLED; /* there is no auxiliary port */
    update_irq(c);
}

static void set_outport(struct i8042 *c, uint8_t value)
{
    c->regs.outport = (value & OUTPORT_A20) | OUTPORT_NOT_RESET;
    if (!(value & OUTPORT_NOT_RESET))
        c->reset(c->ctx);
}

static uint8_t outport(const struct i8042 *c)
{
    return c->regs.outport | (c->regs.out_len > 0 ? OUTPORT_OBF : 0);
}

/* 0xf0 to 0xff: of the lines, only the one that resets the CPU is connected. */
static void pulse(struct i8042 *c, uint8_t command)
{
    if (!(command & OUTPORT_NOT_RESET))
        c->reset(c->ctx);
}

/* True for commands whose data byte comes through port 0x60. */
static bool wants_data(uint8_t command)
{
    switch (command) {
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + CMD_RAM_INDEX:
    case CMD_WRITE_OUTPORT:
    case CMD_KBD_LOOP:
    case CMD_AUX_LOOP:
    case CMD_AUX_WRITE:
        return true;
    default:
        return false;
    }
}

/* A command without a data byte. Unknown ones do nothing, as the next chip's would not either. */
static void run_command(struct i8042 *c, uint8_t command)
{
    switch (command) {
    case CMD_READ_RAM ... CMD_READ_RAM + CMD_RAM_INDEX:
        put_byte(c, command == CMD_READ_RAM ? c->regs.config : 0);
        break;
    case CMD_AUX_TEST:
        put_byte(c, AUX_CLOCK_STUCK_LOW);
        break;
    case CMD_SELF_TEST:
        set_config(c, c->regs.config | CFG_SYS);
        put_byte(c, SELF_TEST_PASSED);
        break;
    case CMD_KBD_TEST:
        put_byte(c, KBD_TEST_PASSED);
        break;
    case CMD_KBD_DISABLE:
        set_config(c, c->regs.config | CFG_KBD_DISABLED);
        break;
    case CMD_KBD_ENABLE:
        set_config(c, c->regs.config & (uint8_t)~CFG_KBD_DISABLED);
        break;
    case CMD_READ_INPORT:
        put_byte(c, INPORT_NOT_LOCKED);
        break;
    case CMD_READ_OUTPORT:
        put_byte(c, outport(c));
        break;
    case CMD_A20_OFF:
        set_outport(c, (c->regs.outport & (uint8_t)~OUTPORT_A20));
        break;
    case CMD_A20_ON:
        set_outport(c, c->regs.outport | OUTPORT_A20);
        break;
    case CMD_PULSE ... 0xff:
        pulse(c, command);
        break;
    default: /* CMD_AUX_DISABLE and CMD_AUX_ENABLE among them */
        break;
    }
}

/* The data byte of a command that wants_data(). */
static void finish_command(struct i8042 *c, uint8_t command, uint8_t byte)
{
    switch (command) {
    case CMD_WRITE_CONFIG:
        set_config(c, byte);
        break;
    case CMD_WRITE_OUTPORT:
        set_outport(c, byte);
        break;
    case CMD_KBD_LOOP:
    case CMD_AUX_LOOP:
        put_byte(c, byte);
        break;
    default: /* other RAM; AUX_WRITE: nobody is there */
        break;
    }
}

/* A new command cancels one that still waits for its data. */
static void write_command(struct i8042 *c, uint8_t command)
{
    c->regs.wrote_cmd = true;
    c->regs.command = 0;
    if (wants_data(command))
        c->regs.command = command;
    else
        run_command(c, command);
}

static void write_data(struct i8042 *c, uint8_t byte)
{
    uint8_t command = c->regs.command;

    c->regs.wrote_cmd = false;
    c->regs.command = 0;
    if (command)
        finish_command(c, command, byte);
    else
        kbd_write(c, byte);
}

static uint8_t status(const struct i8042_regs *r)
{
    return STATUS_NOT_LOCKED | (r->out_len > 0 ? STATUS_OBF : 0) |
           (r->config & CFG_SYS ? STATUS_SYS : 0) | (r->wrote_cmd ? STATUS_CMD : 0);
}

static uint64_t i8042_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct i8042 *c = container_of(dev, struct i8042, dev);

    (void)size;
    switch (offset) {
    case DATA_OFFSET:
        return take_byte(c);
    case STATUS_OFFSET:
        return status(&c->regs);
    default:
        return UINT64_MAX;
    }
}

static void i8042_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *c = container_of(dev, struct i8042, dev);

    (void)size;
    if (offset == DATA_OFFSET)
        write_data(c, (uint8_t)value);
    else if (offset == STATUS_OFFSET)
        write_command(c, (uint8_t)value);
}

/* --- Life --- */

static void i8042_save(struct device *dev, struct codec_writer *w)
{
    const struct i8042_regs *r = &container_of(dev, struct i8042, dev)->regs;

    codec_put_u8(w, r->config);
    codec_put_u8(w, r->outport);
    codec_put_u8(w, r->command);
    codec_put_u8(w, r->kbd_command);
    codec_put_u8(w, r->scan_set);
    codec_put_u8(w, r->last);
    codec_put_u8(w, r->wrote_cmd);
    codec_put_u8(w, r->out_len);
    codec_put_bytes(w, r->out, sizeof(r->out));
}

static bool is_valid_kbd_command(uint8_t command)
{
    return command == 0 || command == KBD_SET_LEDS || command == KBD_SCAN_SET ||
           command == KBD_TYPEMATIC;
}

static bool is_valid_state(const struct i8042_regs *r)
{
    return !(r->config & ~CFG_MASK) && (r->config & CFG_AUX_DISABLED) &&
           (r->outport & ~OUTPORT_A20) == OUTPORT_NOT_RESET &&
           (r->command == 0 || wants_data(r->command)) && is_valid_kbd_command(r->kbd_command) &&
           r->scan_set >= 1 && r->scan_set <= 3 && r->out_len <= QUEUE_SIZE;
}

static int i8042_load(struct device *dev, struct codec_reader *reader)
{
    struct i8042 *c = container_of(dev, struct i8042, dev);
    struct i8042_regs r;

    r.config = codec_get_u8(reader);
    r.outport = codec_get_u8(reader);
    r.command = codec_get_u8(reader);
    r.kbd_command = codec_get_u8(reader);
    r.scan_set = codec_get_u8(reader);
    r.last = codec_get_u8(reader);
    r.wrote_cmd = codec_get_u8(reader);
    r.out_len = codec_get_u8(reader);
    codec_get_bytes(reader, r.out, sizeof(r.out));
    int err = codec_leave(reader);
    if (err)
        return err;
    if (!is_valid_state(&r))
        return -EINVAL;
    c->regs = r;
    update_irq(c);
    return 0;
}

static void i8042_destroy(struct device *dev)
{
    struct i8042 *c = container_of(dev, struct i8042, dev);

    dev_fini(&c->dev);
    free(c);
}

static const struct dev_ops i8042_ops = {
    .read = i8042_read,
    .write = i8042_write,
    .save = i8042_save,
    .load = i8042_load,
    .destroy = i8042_destroy,
    .max_access = 1,
    .version = 1,
};

int i8042_create(const char *name, const struct irq_line *irq, i8042_reset_fn *reset, void *ctx,
                 struct device **dev)
{
    struct i8042 *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    dev_init(&c->dev, &i8042_ops, name);
    c->irq = *irq;
    c->reset = reset;
    c->ctx = ctx;
    /* As a BIOS leaves it: self-test passed, translation on. */
    c->regs.config = CFG_KBD_IRQ | CFG_SYS | CFG_AUX_DISABLED | CFG_TRANSLATE;
    c->regs.outport = OUTPORT_NOT_RESET | OUTPORT_A20;
    c->regs.scan_set = DEFAULT_SCAN_SET;
    *dev = &c->dev;
    return 0;
}
