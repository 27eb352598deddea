/*
 * Saved state: a stream of sections, each with a name, a version, a length and a CRC.
 *
 * Every stateful object saves itself as one section of little-endian numbers and byte strings. The
 * reader checks the section's bounds and CRC before the object sees a byte; the object's load()
 * then validates every value, because a state file is as untrusted as a guest.
 *
 * Stream: { u32 magic, u32 name_len, u32 version, u32 body_len, name, body, u32 crc32 }*
 * The CRC (IEEE 802.3, reflected) covers everything of the section before it.
 */
#ifndef HV_BASE_CODEC_H
#define HV_BASE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

#define CODEC_NAME_MAX 31          /* characters in a section's name */
#define CODEC_BODY_MAX (16U << 20) /* bytes in one section's body */

/* Grows in memory; writers remember the first failure (-ENOMEM, -EMSGSIZE) and later calls do
 * nothing, so an object's save() writes its fields and lets the caller look once, at the end. */
struct codec_writer {
    uint8_t *data; /* owned */
    size_t size;
    size_t room;
    size_t section; /* offset of the open section's header, SIZE_MAX when none is open */
    int failed;     /* 0 or the first -errno */
};

void codec_writer_init(struct codec_writer *w);
void codec_writer_fini(struct codec_writer *w);
void codec_begin(struct codec_writer *w, const char *name, uint32_t version);
void codec_put_u8(struct codec_writer *w, uint8_t v);
void codec_put_u16(struct codec_writer *w, uint16_t v);
void codec_put_u32(struct codec_writer *w, uint32_t v);
void codec_put_u64(struct codec_writer *w, uint64_t v);
void codec_put_bytes(struct codec_writer *w, const void *data, size_t len); /* without a length */
int codec_end(struct codec_writer *w) HV_MUST_CHECK;                        /* 0 or w->failed */

/* Reads from memory it borrows. Getters return 0 once a read went past the section's end, and
 * remember it: a load() reads its fields, then asks codec_leave(). */
struct codec_reader {
    const uint8_t *data; /* borrowed, outlives the reader */
    size_t size;
    size_t pos;      /* next section's header */
    size_t body_pos; /* next byte of the open section */
    size_t body_end;
    int failed; /* 0, or -ENODATA after a read past the section's end */
};

void codec_reader_init(struct codec_reader *r, const void *data, size_t size);

/* Opens the next section. -ENOENT: the stream is at its end. -EBADMSG: truncated, bad magic, length
 * or CRC. -ENOTUNIQ: the next section has another name than `name`. *version: as it was written. */
int codec_enter(struct codec_reader *r, const char *name, uint32_t *version) HV_MUST_CHECK;
uint8_t codec_get_u8(struct codec_reader *r);
uint16_t codec_get_u16(struct codec_reader *r);
uint32_t codec_get_u32(struct codec_reader *r);
uint64_t codec_get_u64(struct codec_reader *r);
void codec_get_bytes(struct codec_reader *r, void *out, size_t len); /* zeroes when too short */
/* Closes the section. -ENODATA: it was shorter than what was read; -EBADMSG: bytes are left over.
 */
int codec_leave(struct codec_reader *r) HV_MUST_CHECK;

uint32_t crc32_ieee(uint32_t crc, const void *data, size_t len); /* start with 0 */

#endif
