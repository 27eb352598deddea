/*
 * Compressed clusters: read, never written. Each is a deflate or zstd stream that yields exactly
 * one cluster, and ends where that is full. The last one is kept, because guests read less at once.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2_priv.h"

#define WINDOW_BITS (-15) /* raw deflate, with any window */

static bool inflate_cluster(const uint8_t *from, size_t len, uint8_t *to, size_t size)
{
    z_stream z = {.next_in = (uint8_t *)from,
                  .avail_in = (unsigned)len,
                  .next_out = to,
                  .avail_out = (unsigned)size};

    if (inflateInit2(&z, WINDOW_BITS) != Z_OK)
        return false;
    int rc = inflate(&z, Z_FINISH);
    (void)inflateEnd(&z);
    return z.avail_out == 0 && (rc == Z_STREAM_END || rc == Z_BUF_ERROR || rc == Z_OK);
}

static bool unzstd_cluster(const uint8_t *from, size_t len, uint8_t *to, size_t size)
{
    ZSTD_inBuffer in = {.src = from, .size = len};
    ZSTD_outBuffer out = {.dst = to, .size = size};
    ZSTD_DCtx *z = ZSTD_createDCtx();
    size_t before;

    if (z == NULL)
        return false;
    do {
        before = in.pos + out.pos;
        if (ZSTD_isError(ZSTD_decompressStream(z, &out, &in)))
            break;
    } while (out.pos < size && in.pos + out.pos > before);
    ZSTD_freeDCtx(z);
    return out.pos == size;
}

static int make_buffers(struct qcow2_image *img)
{
    if (img->packed == NULL)
        img->packed = malloc(2 * (size_t)img->cluster_size);
    if (img->unpacked == NULL)
        img->unpacked = malloc(img->cluster_size);
    return img->packed && img->unpacked ? 0 : -ENOMEM;
}

int qcow2_unpack(struct qcow2_image *img, uint64_t entry, const uint8_t **out)
{
    uint64_t offset, len;
    int rc = make_buffers(img);

    if (rc < 0)
        return rc;
    if (img->unpacked_entry != entry) {
        img->unpacked_entry = 0;
        qcow2_entry_packed(img, entry, &offset, &len); /* at most two clusters */
        rc = qcow2_io_read(img, img->packed, (size_t)len, offset);
        if (rc < 0)
            return rc;
        bool good = (img->h.compression == 1 ? unzstd_cluster : inflate_cluster)(
            img->packed, (size_t)len, img->unpacked, img->cluster_size);
        if (!good)
            return qcow2_damaged(img, "the compressed cluster at 0x%" PRIx64 " makes no sense",
                                 offset);
        img->unpacked_entry = entry;
    }
    *out = img->unpacked;
    return 0;
}
