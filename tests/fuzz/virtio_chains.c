/*
 * The chains of a driver that mostly keeps to the rules.
 */
#include <stddef.h>
#include <string.h>

#include "fuzz/virtio_harness_priv.h"
#include "hv/base/num.h"

#define PIECES_MAX 32 /* of one chain that the driver builds */

static uint32_t draw_length(struct fuzz_input *in)
{
    static const uint32_t lengths[] = {0,    1,    2,    4,    6,    8,    10,    12,
                                       14,   16,   17,   20,   22,   24,   32,    44,
                                       60,   64,   128,  255,  511,  512,  513,   1024,
                                       1514, 1526, 2048, 4095, 4096, 8192, 16384, 0xffffffff};
    uint8_t what = fuzz_u8(in);

    if (what < 240)
        return lengths[what % (ARRAY_LEN(lengths) - 1)];
    return what < 254 ? (uint32_t)fuzz_u64(in, 2) : lengths[ARRAY_LEN(lengths) - 1];
}

/* Mostly memory of its own; now and then over a seam, an end, a hole, or anywhere. */
static uint64_t draw_address(struct harness *h, uint32_t len)
{
    uint8_t what = fuzz_u8(&h->in);
    uint64_t at = h->next_buffer;

    if (what >= 252)
        return fuzz_u64(&h->in, 8);
    if (what >= 248)
        return fuzz_u64(&h->in, 3);
    if (what >= 244)
        return VFUZZ_HOLE - (what % 4) * (len / 2);
    if (what >= 240)
        return VFUZZ_ROM - (what % 4) * (len / 2);
    if (what >= 224)
        return VFUZZ_SEAM - len / 2;
    if (at + len > VFUZZ_HOLE)
        at = DATA;
    h->next_buffer = at + len;
    return at;
}

/* One wrong field. */
static void flip(struct harness *h, struct vring_desc *d)
{
    switch (fuzz_u8(&h->in) % 9) {
    case 0:
        d->addr = fuzz_u64(&h->in, 8);
        break;
    case 1:
        d->addr ^= UINT64_C(1) << fuzz_u8(&h->in) % 64;
        break;
    case 2:
        d->len = (uint32_t)fuzz_u64(&h->in, 4);
        break;
    case 3:
        d->len = 0;
        break;
    case 4:
        d->flags ^= (uint16_t)(1U << fuzz_u8(&h->in) % 3);
        break;
    case 5:
        d->flags = (uint16_t)fuzz_u64(&h->in, 2);
        break;
    case 6:
        d->next = (uint16_t)fuzz_u64(&h->in, 2);
        break;
    case 7: /* nested, or in the middle */
        d->flags |= VRING_DESC_F_INDIRECT;
        d->len = 16U * (fuzz_u8(&h->in) % 4);
        break;
    default:
        d->next = (uint16_t)(d->next + fuzz_u8(&h->in));
        break;
    }
}

/* The readable bytes, spread over their buffers. */
static void fill_request(struct harness *h, unsigned queue, const struct vring_desc *d,
                         unsigned count)
{
    static uint8_t bytes[VFUZZ_REQUEST_MAX];
    uint32_t size = 0, at = 0;

    for (unsigned i = 0; i < count && !(d[i].flags & VRING_DESC_F_WRITE); i++)
        size += d[i].len < VFUZZ_REQUEST_MAX - size ? d[i].len : VFUZZ_REQUEST_MAX - size;
    memset(bytes, 0, size);
    if (h->target->request)
        h->target->request(h->target->ctx, queue, &h->in, bytes, size);
    else
        for (uint32_t i = 0; i < size && i < 16; i++)
            bytes[i] = fuzz_u8(&h->in);
    for (unsigned i = 0; at < size; i++) {
        uint32_t here = d[i].len < size - at ? d[i].len : size - at;
        const struct range r = {d[i].addr, here};
        h->is_wild = h->is_wild || vfuzz_is_delicate(h, &r);
        vfuzz_put(r.gpa, bytes + at, r.len);
        at += here;
    }
}

/* COUNT descriptors for a chain of OUT readable buffers and then writable ones. */
static void draw_buffers(struct harness *h, struct vring_desc *d, unsigned out, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t len = draw_length(&h->in);
        d[i] = (struct vring_desc){
            .addr = draw_address(h, len),
            .len = len,
            .flags = i < out ? 0 : VRING_DESC_F_WRITE,
        };
    }
}

/* Writes D as a chain, through TABLE if that is not the queue's. Returns the head. */
uint16_t vfuzz_write_chain(struct harness *h, unsigned queue, struct vring_desc *d, unsigned count,
                           bool in_table)
{
    struct side *s = &h->side[queue];
    uint64_t table = TABLES + (uint64_t)(h->next_table++ % TABLE_COUNT) * TABLE_SIZE;
    uint16_t head = s->next_desc;
    const struct vring_desc link = {
        .addr = table, .len = count * 16, .flags = VRING_DESC_F_INDIRECT};

    for (unsigned i = 0; i < count; i++) {
        uint16_t index = in_table ? (uint16_t)i : s->next_desc;
        uint16_t next = in_table ? (uint16_t)(i + 1) : (uint16_t)((index + 1) % s->size);
        bool is_last = i == count - 1;
        d[i].flags = (uint16_t)(d[i].flags | (is_last ? 0 : VRING_DESC_F_NEXT));
        d[i].next = is_last ? 0 : next;
    }
    if (fuzz_u8(&h->in) >= 224)
        flip(h, &d[fuzz_u8(&h->in) % count]);
    for (unsigned i = 0; i < count; i++) {
        vfuzz_put(in_table ? table + i * 16 : vfuzz_vq(h, queue)->at.desc + s->next_desc * 16U,
                  &d[i], 16);
        if (!in_table)
            s->next_desc = (uint16_t)((s->next_desc + 1) % s->size);
    }
    if (!in_table)
        return head;
    vfuzz_put(vfuzz_vq(h, queue)->at.desc + head * 16U, &link, sizeof(link));
    s->next_desc = (uint16_t)((head + 1) % s->size);
    return head;
}

void vfuzz_offer(struct harness *h, unsigned queue, uint16_t head)
{
    struct side *s = &h->side[queue];
    uint64_t avail = vfuzz_vq(h, queue)->at.driver;

    vfuzz_put16(avail + offsetof(struct vring_avail, ring) + (s->avail_idx % s->size) * 2U, head);
    vfuzz_put16(avail + offsetof(struct vring_avail, idx), ++s->avail_idx);
}

void vfuzz_draw_chain(struct harness *h, unsigned queue)
{
    struct vring_desc d[PIECES_MAX];
    uint8_t shape = fuzz_u8(&h->in);
    unsigned out = shape & 3, in = shape >> 2 & 3;
    bool in_table = (shape & 0x30) == 0x30;

    if (shape >= 0xf0) { /* a long one */
        out = fuzz_u8(&h->in) % 16;
        in = fuzz_u8(&h->in) % 16;
    }
    if (out + in == 0)
        in = 1;
    if (h->side[queue].size == 0)
        return;
    draw_buffers(h, d, out, out + in);
    fill_request(h, queue, d, out + in);
    vfuzz_offer(h, queue, vfuzz_write_chain(h, queue, d, out + in, in_table));
}
