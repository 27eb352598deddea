#include "hv/base/codec.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECTION_MAGIC 0x31535648U /* "HVS1" */
#define HEADER_SIZE 16            /* magic, name_len, version, body_len */
#define CRC_SIZE 4
#define NO_SECTION SIZE_MAX

/* IEEE 802.3 §3.2.9, four bits at a time: entry n is what n becomes when it has been shifted out,
 * with the polynomial's bits reversed. */
uint32_t crc32_ieee(uint32_t crc, const void *data, size_t len)
{
    static const uint32_t shifted[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    const uint8_t *p = data;

    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ shifted[crc & 15];
        crc = crc >> 4 ^ shifted[crc & 15];
    }
    return ~crc;
}

static void store_u32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof(v));
}

static uint32_t fetch_u32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

/* --- writer --- */

void codec_writer_init(struct codec_writer *w)
{
    *w = (struct codec_writer){.section = NO_SECTION};
}

void codec_writer_fini(struct codec_writer *w)
{
    free(w->data);
    codec_writer_init(w);
}

/* Room for `len` more bytes, or NULL with w->failed set. */
static uint8_t *reserve(struct codec_writer *w, size_t len)
{
    if (w->failed < 0)
        return NULL;
    if (len > w->room - w->size) {
        size_t room = w->room * 2 + len + 256;
        uint8_t *data = realloc(w->data, room);
        if (data == NULL) {
            w->failed = -ENOMEM;
            return NULL;
        }
        w->data = data;
        w->room = room;
    }
    uint8_t *p = w->data + w->size;
    w->size += len;
    return p;
}

void codec_begin(struct codec_writer *w, const char *name, uint32_t version)
{
    size_t name_len = strlen(name);

    if (w->section != NO_SECTION || name_len == 0 || name_len > CODEC_NAME_MAX) {
        w->failed = w->failed < 0 ? w->failed : -EINVAL;
        return;
    }
    size_t start = w->size;
    uint8_t *p = reserve(w, HEADER_SIZE + name_len);
    if (p == NULL)
        return;
    store_u32(p, SECTION_MAGIC);
    store_u32(p + 4, (uint32_t)name_len);
    store_u32(p + 8, version);
    store_u32(p + 12, 0); /* codec_end() knows */
    memcpy(p + HEADER_SIZE, name, name_len);
    w->section = start;
}

void codec_put_bytes(struct codec_writer *w, const void *data, size_t len)
{
    if (w->section == NO_SECTION && w->failed == 0)
        w->failed = -EINVAL;
    uint8_t *p = reserve(w, len);
    if (p != NULL && len > 0)
        memcpy(p, data, len);
}

void codec_put_u8(struct codec_writer *w, uint8_t v)
{
    codec_put_bytes(w, &v, sizeof(v));
}

void codec_put_u16(struct codec_writer *w, uint16_t v)
{
    v = htole16(v);
    codec_put_bytes(w, &v, sizeof(v));
}

void codec_put_u32(struct codec_writer *w, uint32_t v)
{
    v = htole32(v);
    codec_put_bytes(w, &v, sizeof(v));
}

void codec_put_u64(struct codec_writer *w, uint64_t v)
{
    v = htole64(v);
    codec_put_bytes(w, &v, sizeof(v));
}

int codec_end(struct codec_writer *w)
{
    if (w->section == NO_SECTION && w->failed == 0)
        w->failed = -EINVAL;
    if (w->failed < 0)
        return w->failed;
    size_t name_len = fetch_u32(w->data + w->section + 4);
    size_t body_len = w->size - w->section - HEADER_SIZE - name_len;
    if (body_len > CODEC_BODY_MAX) {
        w->failed = -EMSGSIZE;
        return w->failed;
    }
    store_u32(w->data + w->section + 12, (uint32_t)body_len);
    uint32_t crc = crc32_ieee(0, w->data + w->section, w->size - w->section);
    uint8_t *p = reserve(w, CRC_SIZE);
    if (p == NULL)
        return w->failed;
    store_u32(p, crc);
    w->section = NO_SECTION;
    return 0;
}

/* --- reader --- */

void codec_reader_init(struct codec_reader *r, const void *data, size_t size)
{
    *r = (struct codec_reader){.data = data, .size = size};
}

int codec_enter(struct codec_reader *r, const char *name, uint32_t *version)
{
    size_t left = r->size - r->pos;

    if (left == 0)
        return -ENOENT;
    if (left < HEADER_SIZE + CRC_SIZE)
        return -EBADMSG;
    const uint8_t *p = r->data + r->pos;
    size_t name_len = fetch_u32(p + 4);
    size_t body_len = fetch_u32(p + 12);
    if (fetch_u32(p) != SECTION_MAGIC || name_len == 0 || name_len > CODEC_NAME_MAX ||
        body_len > CODEC_BODY_MAX)
        return -EBADMSG;
    size_t covered = HEADER_SIZE + name_len + body_len;
    if (covered + CRC_SIZE > left || crc32_ieee(0, p, covered) != fetch_u32(p + covered))
        return -EBADMSG;
    if (strlen(name) != name_len || memcmp(name, p + HEADER_SIZE, name_len) != 0)
        return -ENOTUNIQ;
    *version = fetch_u32(p + 8);
    r->body_pos = r->pos + HEADER_SIZE + name_len;
    r->body_end = r->body_pos + body_len;
    r->pos += covered + CRC_SIZE;
    r->failed = 0;
    return 0;
}

void codec_get_bytes(struct codec_reader *r, void *out, size_t len)
{
    if (r->failed < 0 || len > r->body_end - r->body_pos) {
        r->failed = -ENODATA;
        memset(out, 0, len);
        return;
    }
    memcpy(out, r->data + r->body_pos, len);
    r->body_pos += len;
}

uint8_t codec_get_u8(struct codec_reader *r)
{
    uint8_t v;

    codec_get_bytes(r, &v, sizeof(v));
    return v;
}

uint16_t codec_get_u16(struct codec_reader *r)
{
    uint16_t v;

    codec_get_bytes(r, &v, sizeof(v));
    return le16toh(v);
}

uint32_t codec_get_u32(struct codec_reader *r)
{
    uint32_t v;

    codec_get_bytes(r, &v, sizeof(v));
    return le32toh(v);
}

uint64_t codec_get_u64(struct codec_reader *r)
{
    uint64_t v;

    codec_get_bytes(r, &v, sizeof(v));
    return le64toh(v);
}

int codec_leave(struct codec_reader *r)
{
    if (r->failed < 0)
        return r->failed;
    bool all = r->body_pos == r->body_end;
    r->body_end = r->body_pos;
    return all ? 0 : -EBADMSG;
}
