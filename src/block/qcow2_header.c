/*
 * The first cluster: the header, its extensions, and the backing file's name.
 *
 * All numbers are big-endian. Every value is checked here once, those that say where something is
 * against the file's size, too; the other parts rely on it.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"

#define MAGIC 0x514649fbU /* "QFI" 0xfb */
#define LENGTH_V2 72
#define LENGTH_V3 104 /* at least */
#define LENGTH_OURS 112
#define BITMAPS_MAX 65535 /* QEMU's own limit */
#define BITMAP_DIRECTORY_MAX (64U << 20)

/* qcow2, "Header extensions" */
enum {
    EXT_END = 0,
    EXT_BACKING_FORMAT = 0xe2792aca,
    EXT_FEATURE_NAMES = 0x6803f857,
    EXT_BITMAPS = 0x23852875,
};

/* qcow2, "Feature name table": type, bit, and 46 bytes of name */
#define FEATURE_ENTRY 48
#define FEATURE_NAME 46

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

static void put32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}

/* --- extensions --- */

struct extension {
    uint32_t type;
    const uint8_t *data;
    uint32_t len;
};

/* The extension at *at, and *at behind it. 0: there is none any more; 1: there is; -EBADMSG: it
 * leaves the first cluster. */
static int next_extension(const uint8_t *bytes, size_t end, size_t *at, struct extension *out)
{
    if (end - *at < 8)
        return 0;
    out->type = get32(bytes + *at);
    out->len = get32(bytes + *at + 4);
    out->data = bytes + *at + 8;
    if (out->type == EXT_END)
        return 0;
    uint64_t padded = ((uint64_t)out->len + 7) & ~(uint64_t)7;
    if (out->len > end - *at - 8)
        return -EBADMSG;
    *at = padded > end - *at - 8 ? end : *at + 8 + (size_t)padded;
    return 1;
}

/* Extensions lie between the header and the backing file's name. */
static size_t extensions_end(const uint8_t *bytes, size_t len)
{
    uint64_t name = get64(bytes + 8);

    return name != 0 && name < len ? (size_t)name : len;
}

static int decode_bitmaps(struct qcow2_header *h, const struct extension *e)
{
    if (!(h->autoclear & 1))
        return 0; /* not consistent: as if there were none */
    if (e->len < 24)
        return -EBADMSG;
    h->bitmap_count = get32(e->data);
    h->bitmaps_size = get64(e->data + 8);
    h->bitmaps_offset = get64(e->data + 16);
    return h->bitmap_count > BITMAPS_MAX || h->bitmaps_size > BITMAP_DIRECTORY_MAX ? -EBADMSG : 0;
}

static int decode_extensions(const uint8_t *bytes, size_t len, struct qcow2_header *h,
                             struct error *err)
{
    size_t end = extensions_end(bytes, len), at = h->length;
    struct extension e;
    int rc;

    if (at > end)
        return error_set(err, -EBADMSG, "its backing file's name lies in the header");
    while ((rc = next_extension(bytes, end, &at, &e)) > 0) {
        if (e.type == EXT_BACKING_FORMAT && e.len < sizeof(h->backing_format)) {
            memcpy(h->backing_format, e.data, e.len);
            h->backing_format[e.len] = '\0';
        }
        if (e.type == EXT_BITMAPS && decode_bitmaps(h, &e) < 0)
            return error_set(err, -EBADMSG, "its bitmaps make no sense");
    }
    return rc < 0 ? error_set(err, rc, "a header extension leaves the first cluster") : 0;
}

/* --- the header --- */

static int decode_backing(const uint8_t *bytes, size_t len, struct qcow2_header *h,
                          struct error *err)
{
    uint64_t offset = get64(bytes + 8);
    uint32_t size = get32(bytes + 16);

    if (offset == 0)
        return 0;
    if (size == 0 || size > BLOCK_QCOW2_BACKING_MAX || offset < h->length ||
        !range_fits(offset, size, len))
        return error_set(err, -EBADMSG, "its backing file's name leaves the first cluster");
    memcpy(h->backing, bytes + offset, size);
    h->backing[size] = '\0';
    if (strlen(h->backing) != size)
        return error_set(err, -EBADMSG, "its backing file's name has a NUL in it");
    return 0;
}

static int decode_v3(const uint8_t *bytes, size_t len, struct qcow2_header *h, struct error *err)
{
    if (len < LENGTH_V3)
        return error_set(err, -EBADMSG, "the file ends in its header");
    h->incompatible = get64(bytes + 72);
    h->compatible = get64(bytes + 80);
    h->autoclear = get64(bytes + 88);
    h->refcount_order = get32(bytes + 96);
    h->length = get32(bytes + 100);
    if (h->length < LENGTH_V3 || h->length % 8 != 0 || h->length > len)
        return error_set(err, -EBADMSG, "a header of %" PRIu32 " bytes makes no sense", h->length);
    if (h->refcount_order > 6)
        return error_set(err, -EBADMSG, "reference counts of 2^%" PRIu32 " bits make no sense",
                         h->refcount_order);
    h->compression = h->length > LENGTH_V3 ? bytes[LENGTH_V3] : 0;
    return 0;
}

int qcow2_header_decode(const uint8_t *bytes, size_t len, struct qcow2_header *out,
                        struct error *err)
{
    struct qcow2_header h = {.refcount_order = 4, .length = LENGTH_V2};

    if (len < LENGTH_V2 || get32(bytes) != MAGIC)
        return error_set(err, -EBADMSG, "not a qcow2 image");
    h.version = get32(bytes + 4);
    if (h.version != 2 && h.version != 3)
        return error_set(err, -ENOTSUP, "version %" PRIu32 " of qcow2 is unknown", h.version);
    h.cluster_bits = get32(bytes + 20);
    if (h.cluster_bits < QCOW2_CLUSTER_BITS_MIN || h.cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return error_set(err, -EBADMSG, "clusters of 2^%" PRIu32 " bytes make no sense",
                         h.cluster_bits);
    if (len > (size_t)1 << h.cluster_bits)
        len = (size_t)1 << h.cluster_bits;
    h.size = align_down(get64(bytes + 24), BLOCK_SECTOR);
    h.crypt_method = get32(bytes + 32);
    h.l1_size = get32(bytes + 36);
    h.l1_offset = get64(bytes + 40);
    h.reftable_offset = get64(bytes + 48);
    h.reftable_clusters = get32(bytes + 56);
    h.snapshot_count = get32(bytes + 60);
    h.snapshots_offset = get64(bytes + 64);
    int rc = h.version == 3 ? decode_v3(bytes, len, &h, err) : 0;
    if (rc == 0)
        rc = decode_backing(bytes, len, &h, err);
    if (rc == 0)
        rc = decode_extensions(bytes, len, &h, err);
    if (rc == 0)
        *out = h;
    return rc;
}

/* --- what we can use --- */

/* The name that the image itself has for an incompatible feature. */
static void feature_name(const struct qcow2_header *h, const uint8_t *bytes, size_t len,
                         unsigned bit, char name[FEATURE_NAME + 1])
{
    size_t end = extensions_end(bytes, len), at = h->length;
    struct extension e;

    (void)snprintf(name, FEATURE_NAME + 1, "number %u", bit);
    while (next_extension(bytes, end, &at, &e) > 0)
        for (uint32_t i = 0; e.type == EXT_FEATURE_NAMES && i + FEATURE_ENTRY <= e.len;
             i += FEATURE_ENTRY)
            if (e.data[i] == 0 && e.data[i + 1] == bit && e.data[i + 2] != 0) {
                memcpy(name, e.data + i + 2, FEATURE_NAME);
                name[FEATURE_NAME] = '\0';
            }
    for (char *p = name; *p != '\0'; p++)
        if (*p < ' ' || *p > '~')
            *p = '?'; /* it goes to somebody's terminal */
}

/* Features that are what this back end leaves out. */
static int check_left_out(const struct qcow2_header *h, const uint8_t *bytes, size_t len,
                          struct error *err)
{
    const uint64_t known = QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT |
                           QCOW2_INCOMPATIBLE_DATA_FILE | QCOW2_INCOMPATIBLE_COMPRESSION |
                           QCOW2_INCOMPATIBLE_EXTENDED_L2;
    static const char convert[] = "make one without it: qemu-img convert -O qcow2";
    char name[FEATURE_NAME + 1];

    if (h->crypt_method != 0)
        return error_set(err, -ENOTSUP, "it is encrypted, which hv cannot read; %s", convert);
    if (h->incompatible & QCOW2_INCOMPATIBLE_DATA_FILE)
        return error_set(err, -ENOTSUP, "its data is in an external file, which hv cannot use; %s",
                         convert);
    if (h->incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2)
        return error_set(err, -ENOTSUP, "it has extended L2 entries, which hv does not know; %s",
                         convert);
    if (h->incompatible & ~known) {
        unsigned bit = (unsigned)__builtin_ctzll(h->incompatible & ~known);
        feature_name(h, bytes, len, bit, name);
        return error_set(err, -ENOTSUP, "it needs the feature \"%s\", which hv does not know",
                         name);
    }
    return 0;
}

int qcow2_header_check_features(const struct qcow2_header *h, const uint8_t *bytes, size_t len,
                                bool read_only, struct error *err)
{
    bool other = h->incompatible & QCOW2_INCOMPATIBLE_COMPRESSION;
    int rc = check_left_out(h, bytes, len, err);

    if (rc < 0)
        return rc;
    if (other != (h->compression != 0))
        return error_set(err, -EBADMSG, "its header contradicts itself about compression");
    if (h->compression > 1)
        return error_set(err, -ENOTSUP, "its compression, number %u, is unknown", h->compression);
    if (h->incompatible & QCOW2_INCOMPATIBLE_CORRUPT)
        return error_set(err, -EUCLEAN,
                         "it is marked as corrupt; repair it: qemu-img check -r all");
    if ((h->incompatible & QCOW2_INCOMPATIBLE_DIRTY) && !read_only)
        return error_set(err, -EUCLEAN,
                         "it was not closed by who wrote it last, and its reference counts may be "
                         "wrong; repair it: qemu-img check -r all");
    return 0;
}

/* --- where its tables are --- */

static int check_table(const struct qcow2_header *h, const char *what, uint64_t offset,
                       uint64_t bytes, uint64_t most, uint64_t file_end, struct error *err)
{
    if (bytes > most)
        return error_set(err, -EBADMSG, "%s is too large", what);
    if (bytes == 0)
        return 0;
    if (offset == 0 || offset % ((uint64_t)1 << h->cluster_bits) != 0 || offset >= QCOW2_END)
        return error_set(err, -EBADMSG, "%s has an impossible offset, 0x%" PRIx64, what, offset);
    if (!range_fits(offset, bytes, file_end))
        return error_set(err, -EBADMSG, "%s leaves the file", what);
    return 0;
}

int qcow2_header_check_tables(const struct qcow2_header *h, uint64_t file_end, struct error *err)
{
    uint64_t table = (uint64_t)1 << (2 * h->cluster_bits - 3); /* what one L2 table covers */
    uint64_t needed = h->size / table + (h->size % table != 0);

    if (h->size > INT64_MAX || needed > h->l1_size)
        return error_set(err, -EBADMSG, "its L1 table is too small for its size");
    int rc = check_table(h, "its L1 table", h->l1_offset, (uint64_t)h->l1_size * 8, QCOW2_L1_MAX,
                         file_end, err);
    if (rc == 0 && h->reftable_clusters == 0)
        rc = error_set(err, -EBADMSG, "it has no refcount table");
    if (rc == 0)
        rc = check_table(h, "its refcount table", h->reftable_offset,
                         (uint64_t)h->reftable_clusters << h->cluster_bits, QCOW2_REFTABLE_MAX,
                         file_end, err);
    if (rc == 0 && h->snapshot_count > QCOW2_SNAPSHOTS_MAX)
        rc = error_set(err, -EBADMSG, "it has too many snapshots");
    if (rc == 0) /* an entry has at least 40 bytes */
        rc = check_table(h, "its snapshot table", h->snapshots_offset,
                         (uint64_t)h->snapshot_count * 40, QCOW2_SNAPSHOT_TABLE_MAX, file_end, err);
    return rc;
}

/* --- a new one --- */

static uint8_t *put_extension(uint8_t *p, uint32_t type, const void *data, size_t len)
{
    put32(p, type);
    put32(p + 4, (uint32_t)len);
    memcpy(p + 8, data, len);
    return p + 8 + ((len + 7) & ~(size_t)7);
}

void qcow2_header_encode(const struct qcow2_header *h, uint8_t *bytes)
{
    uint32_t length = h->version == 3 ? LENGTH_OURS : LENGTH_V2;
    uint8_t *p = bytes + length;

    put32(bytes, MAGIC);
    put32(bytes + 4, h->version);
    put32(bytes + 20, h->cluster_bits);
    put64(bytes + 24, h->size);
    put32(bytes + 36, h->l1_size);
    put64(bytes + 40, h->l1_offset);
    put64(bytes + 48, h->reftable_offset);
    put32(bytes + 56, h->reftable_clusters);
    if (h->version == 3) {
        put32(bytes + 96, h->refcount_order);
        put32(bytes + 100, length);
    }
    if (h->backing[0] == '\0')
        return;
    p = put_extension(p, EXT_BACKING_FORMAT, h->backing_format, strlen(h->backing_format)) + 8;
    put64(bytes + 8, (uint64_t)(p - bytes));
    put32(bytes + 16, (uint32_t)strlen(h->backing));
    memcpy(p, h->backing, strlen(h->backing));
}
