/*
 * The gdb remote serial protocol below its commands: packets out of bytes, and replies into
 * packets.
 *
 * A packet is $data#cs: cs is the sum of the data's bytes as two hexadecimal digits. In the data, }
 * and a byte XORed with 0x20 stand for the bytes that mean something to the framing. The receiver
 * answers + or -, unless both sides have agreed to trust their connection. Between packets the
 * single byte 0x03 asks for an interrupt. (gdb manual, appendix "Remote Protocol")
 *
 * Left out: run-length encoding, which a receiver must understand and a sender need not use; gdb
 * never sends it.
 */
#ifndef CONTROL_RSP_PRIV_H
#define CONTROL_RSP_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

/* The longest packet we take, as qSupported tells gdb; without $, # and the sum. */
#define RSP_PACKET_MAX 0x4000

/* --- in --- */

enum rsp_event {
    RSP_NOTHING,   /* more bytes are needed */
    RSP_PACKET,    /* data[0..len) is one; valid until the next rsp_feed() */
    RSP_BAD,       /* a packet with a wrong sum */
    RSP_TOO_LONG,  /* a packet of more than RSP_PACKET_MAX bytes; it is dropped */
    RSP_INTERRUPT, /* 0x03 */
    RSP_NAK,       /* -: our last packet did not arrive whole */
};

struct rsp_in {
    enum rsp_in_state { RSP_BETWEEN, RSP_DATA, RSP_ESCAPED, RSP_SUM_HIGH, RSP_SUM_LOW } state;
    uint8_t sum;      /* of the bytes as they came */
    uint8_t sum_high; /* first digit of what the sender says */
    bool sum_is_bad;  /* that was no digit */
    bool too_long;
    size_t len;
    char data[RSP_PACKET_MAX + 1]; /* with a NUL behind it */
};

void rsp_in_init(struct rsp_in *in);

/* Takes one byte. What is neither a packet nor one of the single bytes is skipped. */
enum rsp_event rsp_feed(struct rsp_in *in, uint8_t byte);

/* --- reading a packet --- */

/* What is left of a packet. Each rsp_take…() takes from its front, or takes nothing and returns
 * false. */
struct rsp_view {
    const char *at;
    const char *end;
};

bool rsp_take_text(struct rsp_view *v, const char *text);
bool rsp_take_number(struct rsp_view *v, uint64_t *out); /* 1 to 16 hexadecimal digits */
/* A thread: -1 for all, 0 for any, else an id; ids have at most 31 bits. */
#define RSP_ALL_THREADS (-1)
bool rsp_take_thread(struct rsp_view *v, int *out);
bool rsp_take_bytes(struct rsp_view *v, void *out, size_t len); /* two digits for each */
static inline size_t rsp_left(const struct rsp_view *v)
{
    return (size_t)(v->end - v->at);
}

/* --- out --- */

/* Text that grows. When memory runs out it is cut, and stays cut. */
struct rsp_text {
    char *data; /* owned; NULL while empty */
    size_t len;
    size_t room;
    bool cut;
};

void rsp_text_fini(struct rsp_text *text);
void rsp_put(struct rsp_text *text, const void *data, size_t len);
void rsp_put_text(struct rsp_text *text, const char *s);
void rsp_put_number(struct rsp_text *text, uint64_t n);
void rsp_put_bytes(struct rsp_text *text, const void *data, size_t len); /* as digits */

/* Appends `data` as a packet: framed, escaped and summed up. */
void rsp_put_packet(struct rsp_text *text, const void *data, size_t len);

#endif
