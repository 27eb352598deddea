/*
 * A larger refcount table, once the file has grown beyond what the old one could count.
 *
 * The table must be in one piece, so a new one is written elsewhere, and then the header changes.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_priv.h"

/* The new table lies behind everything that the old one could count: first the blocks that count
 * the two of them, then the table. */
struct larger_table {
    uint64_t first;            /* cluster */
    uint64_t blocks, clusters; /* of blocks; of the table */
    uint64_t entries;
    uint64_t *table; /* owned */
};

static int plan_larger(const struct qcow2_image *img, struct larger_table *out)
{
    const uint64_t per_block = qcow2_refcount_entries(img);
    struct larger_table t = {.first = img->reftable_entries * per_block, .blocks = 1};

    for (;;) {
        uint64_t entries = 2 * img->reftable_entries + t.blocks;
        t.clusters = qcow2_clusters(entries * 8, img->h.cluster_bits);
        uint64_t blocks = (t.blocks + t.clusters + per_block - 1) / per_block;
        if (blocks <= t.blocks)
            break;
        t.blocks = blocks;
    }
    t.entries = (t.clusters << img->h.cluster_bits) / 8;
    if (t.entries * 8 > QCOW2_REFTABLE_MAX)
        return -ENOSPC;
    *out = t;
    return 0;
}

static int write_larger(struct qcow2_image *img, struct larger_table *t)
{
    const uint64_t per_block = qcow2_refcount_entries(img);
    uint64_t used = t->blocks + t->clusters;

    for (uint64_t i = 0; i < used; i++)
        if (qcow2_set_has(&img->tables, t->first + i))
            return qcow2_damaged(img, "a table lies where nothing is counted");
    int rc = qcow2_io_grow(img, (t->first + used) << img->h.cluster_bits);

    for (uint64_t i = 0; rc == 0 && i < t->blocks; i++) {
        memset(img->scratch, 0, img->cluster_size);
        for (uint64_t n = 0; n < per_block && i * per_block + n < used; n++)
            qcow2_refcount_set(img->scratch, img->h.refcount_order, n, 1);
        t->table[img->reftable_entries + i] = htobe64((t->first + i) << img->h.cluster_bits);
        rc = qcow2_io_write(img, img->scratch, img->cluster_size,
                            (t->first + i) << img->h.cluster_bits);
    }
    for (uint64_t i = 0; i < img->reftable_entries; i++)
        t->table[i] = htobe64(img->reftable[i]);
    if (rc == 0)
        rc = qcow2_io_write(img, t->table, t->entries * 8,
                            (t->first + t->blocks) << img->h.cluster_bits);
    return rc == 0 ? qcow2_io_sync(img) : rc;
}

/* Both of the header's fields change in one write, which a sector takes or does not. */
static int switch_table(struct qcow2_image *img, const struct larger_table *t)
{
    struct {
        uint64_t offset;
        uint32_t clusters;
    } __attribute__((packed)) field = {
        htobe64((t->first + t->blocks) << img->h.cluster_bits),
        htobe32((uint32_t)t->clusters),
    };
    int rc = qcow2_io_write(img, &field, sizeof(field), QCOW2_FIELD_REFTABLE);

    return rc == 0 ? qcow2_io_sync(img) : rc;
}

/* What was in the file's header until now is dropped like any other cluster. */
static int adopt_larger(struct qcow2_image *img, struct larger_table *t)
{
    uint64_t old = img->h.reftable_offset >> img->h.cluster_bits;
    uint32_t old_clusters = img->h.reftable_clusters;
    int rc = 0;

    for (uint64_t i = 0; i < t->entries; i++)
        t->table[i] = be64toh(t->table[i]);
    free(img->reftable);
    img->reftable = t->table;
    t->table = NULL;
    img->reftable_entries = t->entries;
    img->h.reftable_offset = (t->first + t->blocks) << img->h.cluster_bits;
    img->h.reftable_clusters = (uint32_t)t->clusters;
    for (uint64_t i = 0; rc == 0 && i < t->blocks + t->clusters; i++)
        rc = qcow2_set_add(&img->tables, t->first + i);
    for (uint32_t i = 0; rc == 0 && i < old_clusters; i++) {
        qcow2_set_remove(&img->tables, old + i);
        if (img->dropped_count < QCOW2_DROPPED_MAX) /* else it is lost: a leak, no damage */
            img->dropped[img->dropped_count++] = old + i;
    }
    return rc;
}

int qcow2_reftable_enlarge(struct qcow2_image *img)
{
    struct larger_table t;
    int rc = plan_larger(img, &t);

    if (rc < 0)
        return rc;
    t.table = calloc(t.entries, sizeof(*t.table));
    if (t.table == NULL)
        return -ENOMEM;
    rc = write_larger(img, &t);
    if (rc == 0)
        rc = switch_table(img, &t);
    if (rc == 0)
        rc = adopt_larger(img, &t);
    free(t.table);
    return rc;
}
