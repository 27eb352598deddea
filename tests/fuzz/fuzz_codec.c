/*
 * Any bytes as a saved state. The first two choose what a load() would do: which section it wants
 * and what it reads from it. A section that is read to its end must come out of a writer as the
 * very bytes that went in.
 *
 * Random bytes never have the right CRC, so all sections' are mended in half of the inputs.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/codec.h"

#define HEADER 16
#define SECTIONS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t u32_at(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

/* Gives every section that fits its right CRC; lengths stay as hostile as they are. */
static void mend_crcs(uint8_t *data, size_t size)
{
    for (size_t pos = 0; size - pos >= HEADER + 4;) {
        uint64_t covered = HEADER + (uint64_t)u32_at(data + pos + 4) + u32_at(data + pos + 12);
        if (covered > size - pos - 4)
            return;
        uint32_t crc = htole32(crc32_ieee(0, data + pos, covered));
        memcpy(data + pos + covered, &crc, sizeof(crc));
        pos += covered + 4;
    }
}

/* Reads fields as `taste` says until the section's end has been passed. */
static void read_fields(struct codec_reader *r, uint8_t taste)
{
    uint8_t bytes[64];

    for (unsigned i = 0; r->failed == 0 && i < 1000; i++) {
        switch ((taste + i * (taste >> 4)) % 5) {
        case 0:
            (void)codec_get_u8(r);
            break;
        case 1:
            (void)codec_get_u16(r);
            break;
        case 2:
            (void)codec_get_u32(r);
            break;
        case 3:
            (void)codec_get_u64(r);
            break;
        default:
            codec_get_bytes(r, bytes, taste % sizeof(bytes));
            if (taste % sizeof(bytes) == 0)
                (void)codec_get_u8(r);
        }
    }
}

/* Reads the whole section, writes it again, and compares. */
static void round_trip(struct codec_reader *r, const uint8_t *section, const char *name,
                       uint32_t version)
{
    struct codec_writer w;
    size_t len = r->body_end - r->body_pos;
    uint8_t *body = malloc(len + 1);

    if (body == NULL)
        return;
    codec_get_bytes(r, body, len);
    if (codec_leave(r) < 0)
        abort();
    codec_writer_init(&w);
    codec_begin(&w, name, version);
    codec_put_bytes(&w, body, len);
    if (codec_end(&w) < 0 || memcmp(w.data, section, w.size) != 0)
        abort();
    codec_writer_fini(&w);
    free(body);
}

static int read_section(struct codec_reader *r, uint8_t taste)
{
    const uint8_t *section = r->data + r->pos;
    char name[CODEC_NAME_MAX + 1] = "uart";
    uint32_t version;

    /* Whoever loads knows the name; here it is the one that comes, so that most get past it. */
    if (r->size - r->pos > HEADER + CODEC_NAME_MAX && u32_at(section + 4) <= CODEC_NAME_MAX) {
        memcpy(name, section + HEADER, u32_at(section + 4));
        name[u32_at(section + 4)] = '\0';
    }
    int rc = codec_enter(r, name, &version);
    if (rc < 0)
        return rc;
    if (taste % 2 == 0) {
        round_trip(r, section, name, version);
        return 0;
    }
    read_fields(r, taste);
    return codec_leave(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct codec_reader r;

    if (size < 2)
        return 0;
    uint8_t *stream = malloc(size - 2); /* exactly so long, for AddressSanitizer to see */
    if (stream == NULL)
        return 0;
    memcpy(stream, data + 2, size - 2);
    if (data[0] % 2 == 0)
        mend_crcs(stream, size - 2);
    codec_reader_init(&r, stream, size - 2);
    for (unsigned i = 0; i < SECTIONS_MAX; i++)
        if (read_section(&r, data[1]) == -ENOENT)
            break;
    free(stream);
    return 0;
}
