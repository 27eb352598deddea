#include "control/rsp_priv.h"

#include <stdlib.h>
#include <string.h>

#define ESCAPE '}'
#define ESCAPE_XOR 0x20
#define INTERRUPT 0x03

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static char hex_digit(unsigned value)
{
    return "0123456789abcdef"[value & 0xf];
}

/* --- in --- */

void rsp_in_init(struct rsp_in *in)
{
    in->state = RSP_BETWEEN;
    in->len = 0;
}

static void begin_packet(struct rsp_in *in)
{
    in->state = RSP_DATA;
    in->sum = 0;
    in->len = 0;
    in->too_long = false;
}

static enum rsp_event feed_between(struct rsp_in *in, uint8_t byte)
{
    switch (byte) {
    case '$':
        begin_packet(in);
        return RSP_NOTHING;
    case '-':
        return RSP_NAK;
    case INTERRUPT:
        return RSP_INTERRUPT;
    default: /* +, or what a broken line left */
        return RSP_NOTHING;
    }
}

/* A packet that is too long is followed to its end, so that the next one is found. */
static void keep(struct rsp_in *in, uint8_t byte)
{
    if (in->len == RSP_PACKET_MAX)
        in->too_long = true;
    else
        in->data[in->len++] = (char)byte;
}

static void feed_data(struct rsp_in *in, uint8_t byte)
{
    if (byte == '$') { /* never inside a packet: the end of the one before got lost */
        begin_packet(in);
        return;
    }
    if (byte == '#') {
        in->state = RSP_SUM_HIGH;
        return;
    }
    in->sum += byte;
    if (in->state == RSP_ESCAPED) {
        in->state = RSP_DATA;
        keep(in, byte ^ ESCAPE_XOR);
    } else if (byte == ESCAPE) {
        in->state = RSP_ESCAPED;
    } else {
        keep(in, byte);
    }
}

static void feed_sum_high(struct rsp_in *in, uint8_t byte)
{
    int digit = hex_value((char)byte);

    in->sum_is_bad = digit < 0;
    in->sum_high = (uint8_t)digit;
    in->state = RSP_SUM_LOW;
}

static enum rsp_event feed_sum_low(struct rsp_in *in, uint8_t byte)
{
    int digit = hex_value((char)byte);

    in->state = RSP_BETWEEN;
    if (in->sum_is_bad || digit < 0 || in->sum != (uint8_t)(in->sum_high << 4 | digit))
        return RSP_BAD;
    if (in->too_long)
        return RSP_TOO_LONG;
    in->data[in->len] = '\0';
    return RSP_PACKET;
}

enum rsp_event rsp_feed(struct rsp_in *in, uint8_t byte)
{
    switch (in->state) {
    case RSP_BETWEEN:
        return feed_between(in, byte);
    case RSP_DATA:
    case RSP_ESCAPED:
        feed_data(in, byte);
        return RSP_NOTHING;
    case RSP_SUM_HIGH:
        feed_sum_high(in, byte);
        return RSP_NOTHING;
    case RSP_SUM_LOW:
        return feed_sum_low(in, byte);
    }
    return RSP_NOTHING;
}

/* --- reading a packet --- */

bool rsp_take_text(struct rsp_view *v, const char *text)
{
    size_t len = strlen(text);

    if (rsp_left(v) < len || memcmp(v->at, text, len) != 0)
        return false;
    v->at += len;
    return true;
}

bool rsp_take_number(struct rsp_view *v, uint64_t *out)
{
    const char *at = v->at;
    uint64_t n = 0;

    for (; at < v->end && hex_value(*at) >= 0; at++) {
        if (at - v->at == 16)
            return false;
        n = n << 4 | (unsigned)hex_value(*at);
    }
    if (at == v->at)
        return false;
    v->at = at;
    *out = n;
    return true;
}

bool rsp_take_thread(struct rsp_view *v, int *out)
{
    struct rsp_view rest = *v;
    uint64_t id;

    if (rsp_take_text(v, "-1")) {
        *out = RSP_ALL_THREADS;
        return true;
    }
    if (!rsp_take_number(&rest, &id) || id > INT32_MAX)
        return false;
    *v = rest;
    *out = (int)id;
    return true;
}

bool rsp_take_bytes(struct rsp_view *v, void *out, size_t len)
{
    uint8_t *to = out;

    if (rsp_left(v) / 2 < len)
        return false;
    for (size_t i = 0; i < 2 * len; i++)
        if (hex_value(v->at[i]) < 0)
            return false;
    for (size_t i = 0; i < len; i++)
        to[i] = (uint8_t)(hex_value(v->at[2 * i]) << 4 | hex_value(v->at[2 * i + 1]));
    v->at += 2 * len;
    return true;
}

/* --- out --- */

void rsp_text_fini(struct rsp_text *text)
{
    free(text->data);
    *text = (struct rsp_text){0};
}

static bool make_room(struct rsp_text *text, size_t len)
{
    size_t room = text->room != 0 ? text->room : 256;

    while (room - text->len < len)
        room *= 2;
    if (room == text->room)
        return true;
    char *data = realloc(text->data, room);
    if (data == NULL)
        return false;
    text->data = data;
    text->room = room;
    return true;
}

void rsp_put(struct rsp_text *text, const void *data, size_t len)
{
    if (len == 0)
        return;
    if (text->cut || !make_room(text, len)) {
        text->cut = true;
        return;
    }
    memcpy(text->data + text->len, data, len);
    text->len += len;
}

void rsp_put_text(struct rsp_text *text, const char *s)
{
    rsp_put(text, s, strlen(s));
}

void rsp_put_number(struct rsp_text *text, uint64_t n)
{
    char digits[16];
    size_t at = sizeof(digits);

    do {
        digits[--at] = hex_digit((unsigned)n);
        n >>= 4;
    } while (n != 0);
    rsp_put(text, digits + at, sizeof(digits) - at);
}

void rsp_put_bytes(struct rsp_text *text, const void *data, size_t len)
{
    const uint8_t *bytes = data;

    for (size_t i = 0; i < len; i++) {
        const char digits[2] = {hex_digit(bytes[i] >> 4), hex_digit(bytes[i])};
        rsp_put(text, digits, sizeof(digits));
    }
}

/* * is escaped too: in a reply it would announce a repetition. */
static bool needs_escape(uint8_t byte)
{
    return byte == '$' || byte == '#' || byte == ESCAPE || byte == '*';
}

void rsp_put_packet(struct rsp_text *text, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    size_t start = text->len + 1;
    uint8_t sum = 0;

    rsp_put_text(text, "$");
    for (size_t i = 0; i < len; i++) {
        const uint8_t escaped[2] = {ESCAPE, bytes[i] ^ ESCAPE_XOR};
        if (needs_escape(bytes[i]))
            rsp_put(text, escaped, sizeof(escaped));
        else
            rsp_put(text, &bytes[i], 1);
    }
    for (size_t i = start; i < text->len; i++)
        sum += (uint8_t)text->data[i];
    rsp_put_text(text, "#");
    rsp_put_bytes(text, &sum, 1);
}
