/*
 * What changes where the disk's clusters are: new clusters, zeros, discards.
 *
 * A cluster gets a place of its own when it is first written, or when what it has is shared with a
 * snapshot or compressed. Then the whole cluster is written, the part that the guest did not write
 * from where it was until now, and only after that the L2 entry changes, in memory.
 */
#include <errno.h>
#include <string.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

int qcow2_begin_change(struct qcow2_image *img)
{
    const uint64_t none = 0;

    if (img->broken)
        return -EIO;
    if (img->h.autoclear == 0)
        return 0;
    /* qcow2, "autoclear_features": who changes the disk and does not know them clears them first.
     */
    int rc = qcow2_io_write(img, &none, sizeof(none), QCOW2_FIELD_AUTOCLEAR);
    if (rc == 0)
        rc = qcow2_io_sync(img);
    if (rc == 0)
        img->h.autoclear = 0;
    return rc;
}

/* --- new clusters --- */

/* Moves `len` bytes of the request on, into `to`. Without a list of pieces they are zeros. */
static void take_bytes(struct qcow2_cursor *from, uint8_t *to, uint64_t len)
{
    if (from->iov == NULL)
        memset(to, 0, len);
    while (from->iov != NULL && len > 0) {
        size_t here = from->iov->iov_len - from->skip;
        if (here > len)
            here = (size_t)len;
        memcpy(to, (const uint8_t *)from->iov->iov_base + from->skip, here);
        from->skip += here;
        to += here;
        len -= here;
        if (from->skip == from->iov->iov_len)
            *from = (struct qcow2_cursor){from->iov + 1, 0};
    }
}

/* What bytes [from, from + len) of the cluster at `offset` of the disk have been until now. */
static int read_old(struct qcow2 *q, const struct qcow2_mapping *m, uint64_t offset, uint64_t from,
                    uint64_t len, uint8_t *to)
{
    struct qcow2_image *img = q->images[0];
    const uint8_t *cluster;
    int rc;

    switch (m->kind) {
    case QCOW2_KIND_NONE:
        return qcow2_read(q, 1, offset + from, to, len);
    case QCOW2_KIND_DATA:
        return qcow2_io_read(img, to, (size_t)len, m->place + from);
    case QCOW2_KIND_COMPRESSED:
        rc = qcow2_unpack(img, m->entry, &cluster);
        if (rc == 0)
            memcpy(to, cluster + from, (size_t)len);
        return rc;
    default:
        memset(to, 0, (size_t)len);
        return 0;
    }
}

/* True if the cluster reads as zeros until now, without looking into the backing file. */
static bool is_zero(const struct qcow2 *q, const struct qcow2_mapping *m)
{
    return m->kind == QCOW2_KIND_ZERO || (m->kind == QCOW2_KIND_NONE && q->depth == 1);
}

/* Writes the cluster at `offset` to `host`, with the guest's `len` bytes from `at` on. */
static int write_cluster(struct qcow2 *q, const struct qcow2_mapping *m, uint64_t offset,
                         uint64_t at, uint64_t len, struct qcow2_cursor *from, uint64_t host)
{
    struct qcow2_image *img = q->images[0];
    uint64_t end = at + len;
    int rc = read_old(q, m, offset, 0, at, img->scratch);

    if (rc == 0)
        rc = read_old(q, m, offset, end, img->cluster_size - end, img->scratch + end);
    if (rc < 0)
        return rc;
    take_bytes(from, img->scratch + at, len);
    return qcow2_io_write(img, img->scratch, img->cluster_size, host);
}

/* The same where the file is new, and zero. */
static int write_fresh(struct qcow2_image *img, uint64_t at, uint64_t len,
                       struct qcow2_cursor *from, uint64_t host)
{
    int rc = qcow2_io_grow(img, host + img->cluster_size);

    if (rc < 0)
        return rc;
    take_bytes(from, img->scratch, len);
    return qcow2_io_write(img, img->scratch, (size_t)len, host + at);
}

int qcow2_write_new(struct qcow2 *q, uint64_t offset, uint64_t len, struct qcow2_cursor *from)
{
    /* EXERCISE 8.11: the guest writes `len` bytes at `offset` of the disk, inside one cluster,
     * which has no place that may be written. It gets one: a free cluster, or what its entry has
     * already set aside for it (a place that is ours alone, under zeros). The whole of it is
     * written: the guest's bytes (`from`), and around them what the disk had there until now, which
     * may be in a backing file (write_cluster()); where the cluster is fresh and that is zeros, the
     * guest's bytes are enough (write_fresh(), is_zero()). Only when its content is in the file
     * does the L2 entry name it, as ours alone, and is what it had before dropped
     * (qcow2_drop_entry()), unless it is the same place. The table to change is qcow2_l2_own()'s.
     * If the write fails, a cluster that was taken for it is given back, and all is as it was. */
    // SOLUTION 8.11
    struct qcow2_image *img = q->images[0];
    const uint64_t at = offset % img->cluster_size;
    struct qcow2_mapping m;
    struct qcow2_slot *l2;
    bool fresh = false;
    uint64_t host;

    int rc = qcow2_l2_own(img, offset, &l2);
    if (rc == 0)
        rc = qcow2_entry_decode(img, qcow2_l2_entry(l2, qcow2_l2_index(img, offset)), true, &m);
    if (rc < 0)
        return rc;
    bool reuse = m.place != 0 && m.copied; /* set aside for a cluster of zeros */
    host = m.place;
    if (!reuse)
        rc = qcow2_alloc(img, &host, &fresh);
    if (rc < 0)
        return rc;
    if (fresh && is_zero(q, &m))
        rc = write_fresh(img, at, len, from, host);
    else
        rc = write_cluster(q, &m, offset - at, at, len, from, host);
    if (rc < 0) {
        if (!reuse)
            qcow2_unalloc(img, host);
        return rc;
    }
    qcow2_l2_set(l2, qcow2_l2_index(img, offset), host | QCOW2_COPIED);
    return reuse ? 0 : qcow2_drop_entry(img, &m);
    // ELSE
    // const struct qcow2_mapping none = {.kind = QCOW2_KIND_NONE};
    //
    // if (todo("8.11") < 0)
    //     return -EIO;
    // return is_zero(q, &none) ? write_fresh(q->images[0], 0, len, from, 0)
    //                          : write_cluster(q, &none, offset, 0, len, from, 0);
    // END 8.11
}

/* --- zeros --- */

/* Bytes of one cluster, or of all of one that has no zero flag, as any data. */
static int zero_bytes(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    struct qcow2_image *img = q->images[0];
    struct qcow2_cursor zeros = {NULL, 0};
    struct qcow2_extent e;
    uint64_t host, size;

    int rc = qcow2_find(q, 0, offset, len, &e);
    if (rc < 0 || (e.kind == QCOW2_KIND_ZERO && e.size == len))
        return rc;
    rc = qcow2_find_writable(img, offset, len, &host, &size);
    if (rc < 0)
        return rc;
    if (size == 0)
        return qcow2_write_new(q, offset, len, &zeros);
    memset(img->scratch, 0, (size_t)len);
    return qcow2_io_write(img, img->scratch, (size_t)len, host);
}

/* Replaces what the cluster at `offset` has by `entry`, which is no compressed one. */
static int replace_entry(struct qcow2_image *img, uint64_t offset, uint64_t entry)
{
    struct qcow2_mapping m;
    struct qcow2_slot *l2;

    int rc = qcow2_l2_own(img, offset, &l2);
    if (rc == 0)
        rc = qcow2_entry_decode(img, qcow2_l2_entry(l2, qcow2_l2_index(img, offset)), true, &m);
    if (rc < 0)
        return rc;
    qcow2_l2_set(l2, qcow2_l2_index(img, offset), entry);
    return m.place != 0 && m.place == (entry & QCOW2_OFFSET) ? 0 : qcow2_drop_entry(img, &m);
}

/* What the whole cluster at `offset` has now. */
static int look_up(struct qcow2_image *img, uint64_t offset, struct qcow2_mapping *out)
{
    struct qcow2_slot *l2;
    int rc = qcow2_l2_find(img, offset, &l2);

    *out = (struct qcow2_mapping){.kind = QCOW2_KIND_NONE};
    if (rc < 0 || l2 == NULL)
        return rc;
    return qcow2_entry_decode(img, qcow2_l2_entry(l2, qcow2_l2_index(img, offset)), true, out);
}

static int zero_cluster(struct qcow2 *q, uint64_t offset, bool unmap)
{
    struct qcow2_image *img = q->images[0];
    struct qcow2_mapping m;
    int rc = look_up(img, offset, &m);

    if (rc < 0 || (is_zero(q, &m) && (m.place == 0 || !unmap)))
        return rc;
    if (img->h.version >= 3 && !unmap && m.copied)
        return replace_entry(img, offset, m.place | QCOW2_COPIED | QCOW2_ZERO);
    if (q->depth == 1)
        return replace_entry(img, offset, 0);
    if (img->h.version >= 3)
        return replace_entry(img, offset, QCOW2_ZERO);
    return zero_bytes(q, offset, img->cluster_size);
}

/* Bytes from `offset` on that are in the same cluster; *whole: they are all of it that the disk
 * has. */
static uint64_t part_of_cluster(const struct qcow2_image *img, uint64_t offset, uint64_t len,
                                bool *whole)
{
    uint64_t at = offset % img->cluster_size, left = img->cluster_size - at;
    uint64_t part = len < left ? len : left;

    *whole = at == 0 && (part == left || offset + part == img->h.size);
    return part;
}

/* Bytes from `offset` on, up to `len`, for which there is no L2 table at all. */
static uint64_t unmapped(struct qcow2_image *img, uint64_t offset, uint64_t len)
{
    const uint64_t table = (uint64_t)img->l2_entries << img->h.cluster_bits;
    uint64_t left = table - offset % table;

    if ((img->l1[offset / table] & QCOW2_OFFSET) != 0)
        return 0;
    return len < left ? len : left;
}

int qcow2_write_zeros(struct qcow2 *q, uint64_t offset, uint64_t len, bool unmap)
{
    struct qcow2_image *img = q->images[0];
    int rc = 0;

    while (rc == 0 && len > 0) {
        bool whole;
        uint64_t part = q->depth == 1 ? unmapped(img, offset, len) : 0;
        if (part == 0) {
            part = part_of_cluster(img, offset, len, &whole);
            rc = whole ? zero_cluster(q, offset, unmap) : zero_bytes(q, offset, part);
        }
        offset += part;
        len -= part;
    }
    return rc;
}

/* --- discards --- */

/* Gives the cluster's place up. It reads as zeros then, and never as what the backing file has: a
 * guest that overwrote a secret and discarded it will not see the old one. */
static int discard_cluster(struct qcow2 *q, uint64_t offset)
{
    struct qcow2_image *img = q->images[0];
    struct qcow2_mapping m;
    int rc = look_up(img, offset, &m);

    if (rc < 0 || m.kind == QCOW2_KIND_NONE || (m.kind == QCOW2_KIND_ZERO && m.place == 0))
        return rc;
    if (q->depth == 1)
        return replace_entry(img, offset, 0);
    return img->h.version >= 3 ? replace_entry(img, offset, QCOW2_ZERO) : 0;
}

int qcow2_discard(struct qcow2 *q, uint64_t offset, uint64_t len)
{
    struct qcow2_image *img = q->images[0];
    int rc = 0;

    while (rc == 0 && len > 0) {
        bool whole;
        uint64_t part = unmapped(img, offset, len);
        if (part == 0) {
            part = part_of_cluster(img, offset, len, &whole);
            rc = whole ? discard_cluster(q, offset) : 0;
        }
        offset += part;
        len -= part;
    }
    return rc;
}
