/*
 * Making images, saying what they are, and resizing them.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/qcow2_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

#define CLUSTER_SIZE (64U << 10) /* unless told */

/* --- a new image --- */

/* A new image: the header, the refcount table, its blocks, the L1 table, in this order. */
struct layout {
    struct qcow2_header h;
    uint64_t blocks, clusters; /* refcount blocks; all clusters */
};

static uint64_t l1_entries(uint64_t size, uint32_t cluster_bits)
{
    return qcow2_clusters(size, 2 * cluster_bits - 3);
}

/* Refcounts count themselves, too: more of them until they do. */
static void place_tables(struct layout *l)
{
    uint64_t per_block = ((uint64_t)8 << l->h.cluster_bits) >> l->h.refcount_order;
    uint64_t l1 = qcow2_clusters((uint64_t)l->h.l1_size * 8, l->h.cluster_bits);
    uint64_t before;

    l->blocks = l->h.reftable_clusters = 1;
    do {
        before = l->clusters;
        l->clusters = 1 + l->h.reftable_clusters + l->blocks + l1;
        l->blocks = (l->clusters + per_block - 1) / per_block;
        l->h.reftable_clusters = (uint32_t)qcow2_clusters(l->blocks * 8, l->h.cluster_bits);
    } while (l->clusters != before);
    l->h.reftable_offset = (uint64_t)1 << l->h.cluster_bits;
    l->h.l1_offset = (l->clusters - l1) << l->h.cluster_bits;
}

static int plan_options(struct qcow2_header *h, const struct block_qcow2_options *o,
                        struct error *err)
{
    uint32_t cluster = o->cluster_size ? o->cluster_size : CLUSTER_SIZE;
    unsigned bits = o->refcount_bits ? o->refcount_bits : 16;

    h->version = o->version ? o->version : 3;
    if (h->version != 2 && h->version != 3)
        return error_set(err, -EINVAL, "there is no version %u of qcow2", h->version);
    if (!is_power_of_two(cluster) || cluster < 1U << QCOW2_CLUSTER_BITS_MIN ||
        cluster > 1U << QCOW2_CLUSTER_BITS_MAX)
        return error_set(err, -EINVAL, "clusters have 512 bytes to 2M, a power of two");
    if (!is_power_of_two(bits) || bits > 64 || (h->version == 2 && bits != 16))
        return error_set(err, -EINVAL,
                         "reference counts have 1, 2, 4, 8, 16, 32 or 64 bits, "
                         "in version 2 always 16");
    h->cluster_bits = (uint32_t)__builtin_ctz(cluster);
    h->refcount_order = (uint32_t)__builtin_ctz(bits);
    return 0;
}

static int plan_backing(struct qcow2_header *h, const struct block_qcow2_options *o,
                        struct error *err)
{
    /* Header, two extensions and their ends lie before the name. */
    size_t room = ((size_t)1 << h->cluster_bits) - 160;

    if (o->backing == NULL)
        return 0;
    if (o->backing_format == NULL ||
        (strcmp(o->backing_format, "raw") != 0 && strcmp(o->backing_format, "qcow2") != 0))
        return error_set(err, -EINVAL, "say what format the backing file has, raw or qcow2");
    if (o->backing[0] == '\0' || strlen(o->backing) > BLOCK_QCOW2_BACKING_MAX ||
        strlen(o->backing) > room)
        return error_set(err, -EINVAL, "the backing file's name does not fit the image");
    strcpy(h->backing, o->backing);
    strcpy(h->backing_format, o->backing_format);
    return 0;
}

static int plan(struct layout *l, uint64_t size, const struct block_qcow2_options *o,
                struct error *err)
{
    int rc = plan_options(&l->h, o, err);

    if (rc == 0)
        rc = plan_backing(&l->h, o, err);
    if (rc < 0)
        return rc;
    if (size == 0 || size % BLOCK_SECTOR != 0 || size > INT64_MAX)
        return error_set(err, -EINVAL, "a disk's size is a multiple of 512");
    if (l1_entries(size, l->h.cluster_bits) > QCOW2_L1_MAX / 8)
        return error_set(err, -EFBIG, "clusters of %u bytes are too small for such a large disk",
                         1U << l->h.cluster_bits);
    l->h.size = size;
    l->h.l1_size = (uint32_t)l1_entries(size, l->h.cluster_bits);
    place_tables(l);
    return 0;
}

/* One cluster after the other, in the order of the file. The L1 table is zeros: it is not written.
 */
static int write_tables(struct qcow2_image *img, const struct layout *l)
{
    const uint32_t bits = l->h.cluster_bits;
    const uint64_t per_block = ((uint64_t)8 << bits) >> l->h.refcount_order;
    const uint64_t first_block = 1 + l->h.reftable_clusters;
    int rc = qcow2_io_grow(img, l->clusters << bits);

    for (uint64_t i = 0; rc == 0 && i < l->blocks; i++) {
        uint64_t entry = htobe64((first_block + i) << bits);
        memset(img->scratch, 0, img->cluster_size);
        for (uint64_t n = 0; n < per_block && i * per_block + n < l->clusters; n++)
            qcow2_refcount_set(img->scratch, l->h.refcount_order, n, 1);
        rc = qcow2_io_write(img, img->scratch, img->cluster_size, (first_block + i) << bits);
        if (rc == 0)
            rc = qcow2_io_write(img, &entry, sizeof(entry), l->h.reftable_offset + i * 8);
    }
    if (rc < 0)
        return rc;
    memset(img->scratch, 0, img->cluster_size);
    qcow2_header_encode(&l->h, img->scratch);
    rc = qcow2_io_write(img, img->scratch, img->cluster_size, 0);
    return rc == 0 && fsync(img->fd) < 0 ? -errno : rc;
}

int block_qcow2_format(const char *path, uint64_t size, const struct block_qcow2_options *options,
                       struct error *err)
{
    struct layout l = {0};
    int rc = plan(&l, size, options, err);

    if (rc < 0)
        return error_prefix(err, rc, "%s", path);
    struct qcow2_image img = {.align = BLOCK_SECTOR, .cluster_size = 1U << l.h.cluster_bits};
    img.scratch = malloc(img.cluster_size);
    if (img.scratch == NULL)
        return error_sys(err, -ENOMEM, "%s", path);
    img.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (img.fd < 0) {
        rc = -errno;
        free(img.scratch);
        return error_sys(err, rc, "cannot create %s", path);
    }
    rc = write_tables(&img, &l);
    if (rc < 0) {
        (void)unlink(path);
        rc = error_sys(err, rc, "cannot write %s", path);
    }
    fd_close(&img.fd);
    free(img.scratch);
    return rc;
}

/* --- what an image is --- */

static void tell(const struct qcow2_header *h, struct block_qcow2_info *out)
{
    *out = (struct block_qcow2_info){
        .version = h->version,
        .size = h->size,
        .cluster_size = 1U << h->cluster_bits,
        .refcount_bits = 1U << h->refcount_order,
        .snapshots = h->snapshot_count,
        .dirty = h->incompatible & QCOW2_INCOMPATIBLE_DIRTY,
        .corrupt = h->incompatible & QCOW2_INCOMPATIBLE_CORRUPT,
        .lazy_refcounts = h->compatible & QCOW2_COMPATIBLE_LAZY_REFCOUNTS,
        .encrypted = h->crypt_method != 0,
        .external_data = h->incompatible & QCOW2_INCOMPATIBLE_DATA_FILE,
        .extended_l2 = h->incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2,
        .zstd = h->compression == 1,
    };
    strcpy(out->backing, h->backing);
    strcpy(out->backing_format, h->backing_format);
}

int block_qcow2_info(const char *path, struct block_qcow2_info *out, struct error *err)
{
    const size_t most = (size_t)1 << QCOW2_CLUSTER_BITS_MAX;
    uint8_t *first = malloc(most);
    struct qcow2_header h;
    size_t len = 0;
    ssize_t n = 1;

    if (first == NULL)
        return error_sys(err, -ENOMEM, "%s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO does not keep us */
    int rc = fd < 0 ? -errno : 0;
    while (rc == 0 && n > 0 && len < most) {
        n = pread(fd, first + len, most - len, (off_t)len);
        len += n > 0 ? (size_t)n : 0;
        if (n < 0 && errno != EINTR)
            rc = -errno;
        n = n < 0 ? 1 : n;
    }
    if (rc < 0)
        rc = error_sys(err, rc, "cannot read %s", path);
    else if ((rc = qcow2_header_decode(first, len, &h, err)) < 0)
        rc = error_prefix(err, rc, "%s", path);
    else
        tell(&h, out);
    fd_close(&fd);
    free(first);
    return rc;
}

/* --- resizing --- */

/* The header's fields about the disk, as they are in memory, but with this size. */
static int write_fields(struct qcow2_image *img, uint64_t size)
{
    struct {
        uint64_t size;
        uint32_t crypt_method, l1_size;
        uint64_t l1_offset;
    } fields = {htobe64(size), 0, htobe32(img->h.l1_size), htobe64(img->h.l1_offset)};
    _Static_assert(sizeof(fields) == 24, "qcow2, Header");
    int rc = qcow2_io_sync(img); /* what they refer to */

    if (rc == 0)
        rc = qcow2_io_write(img, &fields, sizeof(fields), QCOW2_FIELD_SIZE);
    return rc == 0 ? qcow2_io_sync(img) : rc;
}

/* Writes `entries` entries, those that there are and zeros, at `offset`, and makes them the
 * image's.
 */
static int adopt_l1(struct qcow2_image *img, uint32_t entries, uint64_t offset)
{
    uint64_t bytes = qcow2_clusters((uint64_t)entries * 8, img->h.cluster_bits)
                     << img->h.cluster_bits;
    uint64_t *table = calloc(1, bytes), *more = calloc(entries, sizeof(*more));
    int rc = table && more ? 0 : -ENOMEM;

    for (uint32_t i = 0; rc == 0 && i < img->h.l1_size; i++) {
        more[i] = img->l1[i];
        table[i] = htobe64(img->l1[i]);
    }
    if (rc == 0)
        rc = qcow2_io_write(img, table, bytes, offset);
    if (rc == 0) {
        free(img->l1);
        img->l1 = more;
        more = NULL;
        img->h.l1_size = entries;
        img->h.l1_offset = offset;
    }
    free(table);
    free(more);
    return rc;
}

static int grow_l1(struct qcow2_image *img, uint64_t size)
{
    uint64_t old = img->h.l1_offset >> img->h.cluster_bits, offset;
    uint64_t old_clusters = qcow2_clusters((uint64_t)img->h.l1_size * 8, img->h.cluster_bits);
    uint32_t entries = (uint32_t)l1_entries(size, img->h.cluster_bits);
    uint64_t clusters = qcow2_clusters((uint64_t)entries * 8, img->h.cluster_bits);

    if (entries <= img->h.l1_size)
        return 0;
    int rc = qcow2_alloc_row(img, clusters, &offset);
    if (rc == 0)
        rc = qcow2_commit_all(img); /* they are counted before the header names them */
    if (rc == 0)
        rc = adopt_l1(img, entries, offset);
    if (rc == 0)
        rc = write_fields(img, img->h.size);
    for (uint64_t i = 0; rc == 0 && i < clusters; i++)
        rc = qcow2_set_add(&img->tables, (offset >> img->h.cluster_bits) + i);
    for (uint64_t i = 0; rc == 0 && i < old_clusters; i++) {
        qcow2_set_remove(&img->tables, old + i);
        rc = qcow2_drop(img, old + i);
    }
    return rc;
}

/* What is new reads as zeros, also where the backing file has something or an earlier, larger disk
 * had. */
static int grow(struct qcow2 *q, uint64_t size)
{
    struct qcow2_image *img = q->images[0];
    uint64_t old = img->h.size;
    uint64_t end = qcow2_clusters(old, img->h.cluster_bits) << img->h.cluster_bits;
    int rc = grow_l1(img, size);

    if (rc < 0)
        return rc;
    if (q->depth > 1 || end > size)
        end = size;
    img->h.size = size;
    rc = qcow2_write_zeros(q, old, end - old, true);
    if (rc == 0)
        rc = qcow2_commit_all(img);
    return rc == 0 ? write_fields(img, size) : rc;
}

static int cut(struct qcow2 *q, uint64_t size)
{
    struct qcow2_image *img = q->images[0];
    uint64_t end = qcow2_clusters(size, img->h.cluster_bits) << img->h.cluster_bits;
    int rc = write_fields(img, size);

    if (rc == 0 && end < img->h.size)
        rc = qcow2_discard(q, end, img->h.size - end);
    return rc;
}

static int resize(struct qcow2 *q, const char *path, uint64_t size, bool shrink, struct error *err)
{
    struct qcow2_image *img = q->images[0];
    int rc;

    if (size == 0 || size % BLOCK_SECTOR != 0 || size > INT64_MAX)
        return error_set(err, -EINVAL, "%s: a disk's size is a multiple of 512", path);
    if (l1_entries(size, img->h.cluster_bits) > QCOW2_L1_MAX / 8)
        return error_set(err, -EFBIG, "%s: its clusters are too small for such a large disk", path);
    if (size < img->h.size && !shrink)
        return error_set(err, -EINVAL,
                         "%s is larger than that; making it smaller destroys what is beyond", path);
    if (img->h.snapshot_count > 0 && img->h.version < 3)
        return error_set(err, -ENOTSUP,
                         "%s has snapshots, which in version 2 cannot have sizes of their own",
                         path);
    rc = qcow2_begin_change(img);
    if (rc == 0)
        rc = size < img->h.size ? cut(q, size) : grow(q, size);
    if (rc == 0)
        rc = qcow2_commit_all(img);
    return rc < 0 ? error_sys(err, rc, "cannot resize %s", path) : 0;
}

int block_qcow2_resize(const char *path, uint64_t size, bool shrink, bool backing,
                       struct error *err)
{
    const struct block_qcow2_config cfg = {.path = path, .backing = backing};
    struct block *b;
    int rc = block_qcow2_create(&cfg, &b, err);

    if (rc < 0)
        return rc;
    rc = resize(container_of(b, struct qcow2, block), path, size, shrink, err);
    block_destroy(b);
    return rc;
}
