/*
 * Many clusters in a row: a larger refcount table, once the file has grown beyond what the old one
 * could count, and a larger L1 table.
 *
 * They lie behind everything that is counted, at the first cluster of a refcount block, and before
 * them the blocks that count them all, themselves included:
 *
 *     | block | block | … | the row                        |
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_priv.h"

/* Blocks, and the row that they count. */
struct row {
    uint64_t first;         /* cluster */
    uint64_t blocks, count; /* clusters */
};

/* A row of `count` behind as many blocks as they need together. */
static struct row plan_row(const struct qcow2_image *img, uint64_t first, uint64_t count)
{
    const uint64_t per_block = qcow2_refcount_entries(img);
    struct row r = {.first = first, .count = count};
    uint64_t before;

    do {
        before = r.blocks;
        r.blocks = (r.blocks + count + per_block - 1) / per_block;
    } while (r.blocks != before);
    return r;
}

static uint64_t row_offset(const struct qcow2_image *img, const struct row *r)
{
    return (r->first + r->blocks) << img->h.cluster_bits;
}

/* Writes the blocks. Nothing names them yet. */
static int write_blocks(struct qcow2_image *img, const struct row *r)
{
    const uint64_t per_block = qcow2_refcount_entries(img), used = r->blocks + r->count;

    for (uint64_t i = 0; i < used; i++)
        if (qcow2_set_has(&img->tables, r->first + i))
            return qcow2_damaged(img, "a table lies where nothing is counted");
    int rc = qcow2_io_grow(img, (r->first + used) << img->h.cluster_bits);
    for (uint64_t i = 0; rc == 0 && i < r->blocks; i++) {
        memset(img->scratch, 0, img->cluster_size);
        for (uint64_t n = 0; n < per_block && i * per_block + n < used; n++)
            qcow2_refcount_set(img->scratch, img->h.refcount_order, n, 1);
        rc = qcow2_io_write(img, img->scratch, img->cluster_size,
                            (r->first + i) << img->h.cluster_bits);
    }
    return rc;
}

/* --- a larger refcount table --- */

/* The row is the table itself. It has twice the entries, at least. */
static int plan_table(const struct qcow2_image *img, struct row *out)
{
    uint64_t first = img->reftable_entries * qcow2_refcount_entries(img);
    struct row r = {.blocks = 1};
    uint64_t before;

    do {
        before = r.blocks;
        uint64_t bytes = (2 * img->reftable_entries + r.blocks) * 8;
        r = plan_row(img, first, qcow2_clusters(bytes, img->h.cluster_bits));
    } while (r.blocks > before);
    *out = r;
    return r.count << img->h.cluster_bits > QCOW2_REFTABLE_MAX ? -ENOSPC : 0;
}

static int write_table(struct qcow2_image *img, const struct row *r, uint64_t *table)
{
    for (uint64_t i = 0; i < img->reftable_entries; i++)
        table[i] = htobe64(img->reftable[i]);
    for (uint64_t i = 0; i < r->blocks; i++)
        table[img->reftable_entries + i] = htobe64((r->first + i) << img->h.cluster_bits);
    int rc = write_blocks(img, r);
    if (rc == 0)
        rc = qcow2_io_write(img, table, (size_t)(r->count << img->h.cluster_bits),
                            row_offset(img, r));
    return rc == 0 ? qcow2_io_sync(img) : rc;
}

/* Both of the header's fields change in one write, which a sector takes or does not. */
static int switch_table(struct qcow2_image *img, const struct row *r)
{
    struct {
        uint64_t offset;
        uint32_t clusters;
    } __attribute__((packed)) field = {htobe64(row_offset(img, r)), htobe32((uint32_t)r->count)};
    int rc = qcow2_io_write(img, &field, sizeof(field), QCOW2_FIELD_REFTABLE);

    return rc == 0 ? qcow2_io_sync(img) : rc;
}

/* What was in the file's header until now is dropped like any other cluster. Takes `table`. */
static int adopt_table(struct qcow2_image *img, const struct row *r, uint64_t *table)
{
    uint64_t old = img->h.reftable_offset >> img->h.cluster_bits;
    uint32_t old_clusters = img->h.reftable_clusters;
    int rc = 0;

    free(img->reftable);
    img->reftable = table;
    img->reftable_entries = (r->count << img->h.cluster_bits) / 8;
    for (uint64_t i = 0; i < img->reftable_entries; i++)
        table[i] = be64toh(table[i]);
    img->h.reftable_offset = row_offset(img, r);
    img->h.reftable_clusters = (uint32_t)r->count;
    for (uint64_t i = 0; rc == 0 && i < r->blocks + r->count; i++)
        rc = qcow2_set_add(&img->tables, r->first + i);
    for (uint32_t i = 0; rc == 0 && i < old_clusters; i++) {
        qcow2_set_remove(&img->tables, old + i);
        if (img->dropped_count < QCOW2_DROPPED_MAX) /* else it is lost: a leak, no damage */
            img->dropped[img->dropped_count++] = old + i;
    }
    return rc;
}

int qcow2_reftable_enlarge(struct qcow2_image *img)
{
    struct row r;
    int rc = plan_table(img, &r);

    if (rc < 0)
        return rc;
    uint64_t *table = calloc(r.count, img->cluster_size);
    if (table == NULL)
        return -ENOMEM;
    rc = write_table(img, &r, table);
    if (rc == 0)
        rc = switch_table(img, &r);
    if (rc == 0)
        return adopt_table(img, &r, table);
    free(table);
    return rc;
}

/* --- any row --- */

/* True if the table has entries for these blocks, and none is used. */
static bool is_free(const struct qcow2_image *img, uint64_t number, uint64_t blocks)
{
    for (uint64_t i = number; i < number + blocks; i++)
        if (img->reftable[i] != 0)
            return false;
    return true;
}

/* Finds a place for the row, and room in the refcount table for its blocks. */
static int place_row(struct qcow2_image *img, uint64_t count, struct row *out)
{
    const uint64_t per_block = qcow2_refcount_entries(img);

    for (uint64_t number = 0;; number++) {
        uint64_t end = qcow2_clusters(img->file_end, img->h.cluster_bits);
        if (number * per_block < end)
            number = (end + per_block - 1) / per_block;
        *out = plan_row(img, number * per_block, count);
        if ((out->first + out->blocks + count) > QCOW2_END >> img->h.cluster_bits)
            return -ENOSPC;
        while (number + out->blocks > img->reftable_entries) {
            int rc = qcow2_reftable_enlarge(img); /* which moves the file's end */
            if (rc < 0)
                return rc;
        }
        if (number * per_block >= qcow2_clusters(img->file_end, img->h.cluster_bits) &&
            is_free(img, number, out->blocks))
            return 0;
    }
}

int qcow2_alloc_row(struct qcow2_image *img, uint64_t count, uint64_t *host)
{
    struct row r;
    int rc = place_row(img, count, &r);

    if (rc == 0)
        rc = write_blocks(img, &r);
    if (rc == 0)
        rc = qcow2_io_sync(img);
    for (uint64_t i = 0; rc == 0 && i < r.blocks; i++) {
        uint64_t number = r.first / qcow2_refcount_entries(img) + i;
        img->reftable[number] = (r.first + i) << img->h.cluster_bits;
        rc = qcow2_reftable_write(img, number);
        if (rc == 0)
            rc = qcow2_set_add(&img->tables, r.first + i);
    }
    if (rc == 0)
        *host = row_offset(img, &r);
    return rc;
}
