/*
 * Unpacking compressed kernels, with the libraries that everyone else uses for it.
 *
 * A Linux kernel brings its own decompressor and would run it in the guest; doing it here costs the
 * host tens of milliseconds and saves the guest its slowest ones. The input is untrusted: the
 * output has a maximum, whatever the input's headers promise.
 *
 * The output buffer is that maximum of address space, of which only the pages that are written to
 * become memory: nothing has to be guessed, grown or moved, and all of it goes back to the host
 * when the kernel has been copied into the guest.
 *
 * Left out: bzip2, lzma and lzo. Kernels packed so are rare, and unpack themselves in the guest.
 */
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "boot/boot_priv.h"

/* What an xz decoder may allocate: Linux uses dictionaries of up to 128 MiB. */
#define XZ_MEMORY_MAX (160 * MIB)

static const struct {
    const char *name;
    const char *magic;
    size_t magic_size;
} formats[] = {
    [COMPRESSION_NONE] = {"no", "", 0},
    [COMPRESSION_GZIP] = {"gzip", "\x1f\x8b", 2},         /* RFC 1952 §2.3.1 */
    [COMPRESSION_XZ] = {"xz", "\xfd\x37zXZ\0", 6},        /* .xz 1.1.0 §2.1.1.1 */
    [COMPRESSION_LZ4] = {"lz4", "\x02\x21\x4c\x18", 4},   /* LZ4 frame 1.6.4, legacy frame */
    [COMPRESSION_ZSTD] = {"zstd", "\x28\xb5\x2f\xfd", 4}, /* RFC 8878 §3.1.1 */
    [COMPRESSION_BZIP2] = {"bzip2", "BZh", 3},
    [COMPRESSION_LZMA] = {"lzma", "\x5d\0\0", 3},
    [COMPRESSION_LZO] = {"lzo", "\x89LZO\0", 5},
};

enum compression compression_detect(struct bytes in)
{
    for (unsigned i = COMPRESSION_GZIP; i < ARRAY_LEN(formats); i++)
        if (in.size >= formats[i].magic_size &&
            memcmp(in.data, formats[i].magic, formats[i].magic_size) == 0)
            return (enum compression)i;
    return COMPRESSION_NONE;
}

const char *compression_name(enum compression compression)
{
    return formats[compression].name;
}

bool compression_is_supported(enum compression compression)
{
    return compression >= COMPRESSION_GZIP && compression <= COMPRESSION_ZSTD;
}

/* --- one function per format. -EBADMSG: damaged or cut short; -E2BIG: out->room is too small ---
 */

static int unpack_gzip(struct bytes in, struct unpacked *out)
{
    z_stream z = {
        .next_in = (Bytef *)(uintptr_t)in.data, /* zlib reads it only */
        .avail_in = (uInt)in.size,
        .next_out = out->data,
        .avail_out = (uInt)out->room,
    };

    if (in.size > UINT_MAX || out->room > UINT_MAX)
        return -E2BIG;
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) /* 16: a gzip header, not zlib's */
        return -ENOMEM;
    int rc = inflate(&z, Z_FINISH);
    (void)inflateEnd(&z); /* only complains about streams that were not finished */
    out->size = out->room - z.avail_out;
    if (rc == Z_STREAM_END)
        return 0;
    if (rc == Z_MEM_ERROR)
        return -ENOMEM;
    return z.avail_out == 0 ? -E2BIG : -EBADMSG;
}

static int unpack_xz(struct bytes in, struct unpacked *out)
{
    lzma_stream z = LZMA_STREAM_INIT;
    lzma_ret rc = lzma_stream_decoder(&z, XZ_MEMORY_MAX, 0);

    if (rc != LZMA_OK)
        return -ENOMEM;
    z.next_in = in.data;
    z.avail_in = in.size;
    z.next_out = out->data;
    z.avail_out = out->room;
    while (rc == LZMA_OK) /* without progress it becomes LZMA_BUF_ERROR, so this ends */
        rc = lzma_code(&z, LZMA_FINISH);
    out->size = out->room - z.avail_out;
    bool is_full = z.avail_out == 0;
    lzma_end(&z);
    switch (rc) {
    case LZMA_STREAM_END:
        return 0;
    case LZMA_MEM_ERROR:
    case LZMA_MEMLIMIT_ERROR:
        return -ENOMEM;
    default:
        return is_full ? -E2BIG : -EBADMSG;
    }
}

static int unpack_zstd(struct bytes in, struct unpacked *out)
{
    size_t frame = ZSTD_findFrameCompressedSize(in.data, in.size);
    size_t n;

    if (ZSTD_isError(frame))
        return -EBADMSG;
    n = ZSTD_decompress(out->data, out->room, in.data, frame);
    if (!ZSTD_isError(n)) {
        out->size = n;
        return 0;
    }
    switch (ZSTD_getErrorCode(n)) {
    case ZSTD_error_dstSize_tooSmall:
        return -E2BIG;
    case ZSTD_error_memory_allocation:
        return -ENOMEM;
    default:
        return -EBADMSG;
    }
}

/* A legacy frame is its magic number and blocks of { le32 packed size, packed bytes }, each of
 * which unpacks to 8 MiB, the last to less. It has no end mark. */
static int unpack_lz4(struct bytes in, struct unpacked *out)
{
    const size_t block_max = 8 * MIB;
    size_t pos = 4;

    while (pos < in.size) {
        size_t room = out->room - out->size;
        uint32_t packed;
        int n;

        if (!range_fits(pos, sizeof(packed), in.size))
            return -EBADMSG;
        memcpy(&packed, in.data + pos, sizeof(packed));
        packed = le32toh(packed);
        pos += sizeof(packed);
        if (packed > (uint32_t)LZ4_COMPRESSBOUND(8 * MIB) || !range_fits(pos, packed, in.size))
            return -EBADMSG;
        n = LZ4_decompress_safe((const char *)in.data + pos, (char *)out->data + out->size,
                                (int)packed, (int)(room < block_max ? room : block_max));
        if (n < 0)
            return room < block_max ? -E2BIG : -EBADMSG;
        out->size += (size_t)n;
        pos += packed;
    }
    return 0;
}

/* --- */

static int reserve(struct unpacked *u, size_t room)
{
    void *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    if (p == MAP_FAILED)
        return -errno;
    /* Fewer page faults on the way; without huge pages the call fails, harmlessly. */
    (void)madvise(p, room, MADV_HUGEPAGE);
    *u = (struct unpacked){.data = p, .room = room};
    return 0;
}

void unpacked_fini(struct unpacked *u)
{
    if (u->data != NULL)
        (void)munmap(u->data, u->room);
    *u = (struct unpacked){0};
}

struct bytes unpacked_bytes(const struct unpacked *u)
{
    return (struct bytes){u->data, u->size};
}

static int unpack_as(enum compression compression, struct bytes in, struct unpacked *out)
{
    switch (compression) {
    case COMPRESSION_GZIP:
        return unpack_gzip(in, out);
    case COMPRESSION_XZ:
        return unpack_xz(in, out);
    case COMPRESSION_LZ4:
        return unpack_lz4(in, out);
    case COMPRESSION_ZSTD:
        return unpack_zstd(in, out);
    default:
        return -ENOTSUP;
    }
}

static int explain(int rc, enum compression compression, size_t max, struct error *err)
{
    const char *name = compression_name(compression);
    char text[SIZE_TEXT_MAX];

    switch (rc) {
    case -EBADMSG:
        return error_set(err, -ENOEXEC, "the %s data is damaged or cut short", name);
    case -E2BIG:
        return error_set(err, -E2BIG, "the %s data unpacks to more than %s", name,
                         format_size(max, text));
    case -ENOTSUP:
        return error_set(err, -ENOTSUP, "hv cannot unpack %s data", name);
    default:
        return error_sys(err, rc, "cannot unpack the %s data", name);
    }
}

int unpack(struct bytes in, size_t max, struct unpacked *out, struct error *err)
{
    enum compression compression = compression_detect(in);
    struct unpacked u = {0};
    int rc;

    if (!compression_is_supported(compression))
        return explain(-ENOTSUP, compression, max, err);
    rc = reserve(&u, max);
    if (rc == 0)
        rc = unpack_as(compression, in, &u);
    if (rc < 0) {
        unpacked_fini(&u);
        return explain(rc, compression, max, err);
    }
    *out = u;
    return 0;
}
