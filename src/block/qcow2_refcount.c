/*
 * How often each cluster of the file is used, and finding one that is not.
 *
 * The refcount table (in memory as a whole) names refcount blocks (cached), and these hold one
 * number for each cluster. We take clusters whose number is 0 and make it 1; numbers above 1 come
 * from snapshots and compressed clusters, and only go down here.
 *
 * Counts that go up may reach the file at any time: at worst a cluster is counted and not used.
 * Those that go down must not be seen before the last table that named the cluster is gone from the
 * file. So qcow2_drop() only notes the cluster, and qcow2_refcount_settle(), which qcow2_commit()
 * calls when that is so, does the rest.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

#define REF_CACHE_BYTES (1U << 20)

/* --- numbers --- */

uint64_t qcow2_refcount_entries(const struct qcow2_image *img)
{
    return ((uint64_t)img->cluster_size * 8) >> img->h.refcount_order;
}

/* qcow2, "Refcount block entry": numbers smaller than a byte begin at its least significant bit. */
uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, uint64_t index)
{
    uint16_t v16;
    uint32_t v32;
    uint64_t v64;

    switch (order) {
    case 3:
        return block[index];
    case 4:
        memcpy(&v16, block + 2 * index, sizeof(v16));
        return be16toh(v16);
    case 5:
        memcpy(&v32, block + 4 * index, sizeof(v32));
        return be32toh(v32);
    case 6:
        memcpy(&v64, block + 8 * index, sizeof(v64));
        return be64toh(v64);
    default: {
        unsigned bits = 1U << order, shift = (unsigned)(index * bits % 8);
        return (uint64_t)(block[index * bits / 8] >> shift) & ((1U << bits) - 1);
    }
    }
}

void qcow2_refcount_set(uint8_t *block, unsigned order, uint64_t index, uint64_t count)
{
    uint16_t v16 = htobe16((uint16_t)count);
    uint32_t v32 = htobe32((uint32_t)count);
    uint64_t v64 = htobe64(count);

    switch (order) {
    case 3:
        block[index] = (uint8_t)count;
        break;
    case 4:
        memcpy(block + 2 * index, &v16, sizeof(v16));
        break;
    case 5:
        memcpy(block + 4 * index, &v32, sizeof(v32));
        break;
    case 6:
        memcpy(block + 8 * index, &v64, sizeof(v64));
        break;
    default: {
        unsigned bits = 1U << order, shift = (unsigned)(index * bits % 8);
        uint8_t *byte = &block[index * bits / 8];
        uint8_t mask = (uint8_t)(((1U << bits) - 1) << shift);
        *byte = (uint8_t)((*byte & ~mask) | (count << shift & mask));
    }
    }
}

void qcow2_refcount_change(struct qcow2_image *img, struct qcow2_slot *block, uint64_t index,
                           uint64_t count)
{
    uint64_t bit = index << img->h.refcount_order;

    qcow2_refcount_set(block->data, img->h.refcount_order, index, count);
    qcow2_slot_touch(block, (uint32_t)(bit / 8),
                     img->h.refcount_order > 3 ? 1U << (img->h.refcount_order - 3) : 1);
}

/* --- which clusters are tables --- */

static int add_tables(struct qcow2_image *img, uint64_t offset, uint64_t bytes, const char *what,
                      struct error *err)
{
    uint64_t first = offset >> img->h.cluster_bits;
    uint64_t count = qcow2_clusters(bytes, img->h.cluster_bits);
    int rc = 0;

    for (uint64_t i = 0; rc == 0 && i < count; i++)
        rc = qcow2_set_add(&img->tables, first + i);
    if (rc == -EEXIST)
        return error_set(err, -EBADMSG,
                         "%s at 0x%" PRIx64
                         " lies on another table; repair it: qemu-img check -r all",
                         what, offset);
    return rc < 0 ? error_sys(err, rc, "cannot note its tables") : 0;
}

/* An offset that a table names, of a table of one cluster. */
static int check_offset(const struct qcow2_image *img, uint64_t offset, const char *what,
                        struct error *err)
{
    if (offset % img->cluster_size == 0 && offset < QCOW2_END && offset < img->file_end)
        return 0;
    return error_set(err, -EBADMSG,
                     "%s has an impossible offset, 0x%" PRIx64 "; repair it: qemu-img check -r all",
                     what, offset);
}

static int add_l2_tables(struct qcow2_image *img, struct error *err)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < img->h.l1_size; i++) {
        uint64_t offset = img->l1[i] & QCOW2_OFFSET;
        if (offset == 0)
            continue;
        rc = check_offset(img, offset, "an L2 table", err);
        if (rc == 0)
            rc = add_tables(img, offset, img->cluster_size, "an L2 table", err);
    }
    return rc;
}

static int add_refcount_blocks(struct qcow2_image *img, struct error *err)
{
    int rc = 0;

    for (uint64_t i = 0; rc == 0 && i < img->reftable_entries; i++) {
        if (img->reftable[i] == 0)
            continue;
        rc = check_offset(img, img->reftable[i], "a refcount block", err);
        if (rc == 0)
            rc = add_tables(img, img->reftable[i], img->cluster_size, "a refcount block", err);
    }
    return rc;
}

/* qcow2, "Snapshots": the table's entries differ in length, so it is read from its beginning. */
static int add_snapshots(struct qcow2_image *img, struct error *err)
{
    const uint64_t start = img->h.snapshots_offset;
    struct qcow2_snapshot s;
    uint64_t at = start;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < img->h.snapshot_count; i++)
        rc = qcow2_snapshot_next(img, &at, &s, err);
    if (rc == 0 && img->h.snapshot_count > 0)
        rc = add_tables(img, start, at - start, "the snapshot table", err);
    at = start;
    for (uint32_t i = 0; rc == 0 && i < img->h.snapshot_count; i++) {
        rc = qcow2_snapshot_next(img, &at, &s, err);
        if (rc == 0)
            rc =
                add_tables(img, s.l1_offset, (uint64_t)s.l1_size * 8, "a snapshot's L1 table", err);
    }
    return rc;
}

static int clean_block(struct qcow2_image *img, struct qcow2_slot *slot)
{
    return qcow2_slot_write(img, slot);
}

int qcow2_refcount_read_table(struct qcow2_image *img)
{
    uint64_t bytes = (uint64_t)img->h.reftable_clusters << img->h.cluster_bits;
    uint64_t *table = malloc(bytes);
    int rc = table ? qcow2_io_read(img, table, bytes, img->h.reftable_offset) : -ENOMEM;

    if (rc < 0) {
        free(table);
        return rc;
    }
    img->reftable_entries = bytes / 8;
    for (uint64_t i = 0; i < img->reftable_entries; i++)
        table[i] = be64toh(table[i]) & ~(uint64_t)511; /* bits 0 to 8 are reserved */
    img->reftable = table;
    return qcow2_cache_init(&img->ref_cache, img->cluster_size, REF_CACHE_BYTES, clean_block);
}

int qcow2_refcount_load(struct qcow2_image *img, struct error *err)
{
    int rc = qcow2_refcount_read_table(img);

    if (rc == 0 && (img->dropped = calloc(QCOW2_DROPPED_MAX, sizeof(*img->dropped))) == NULL)
        rc = -ENOMEM;
    if (rc < 0)
        return error_sys(err, rc, "cannot read its refcount table");
    rc = add_tables(img, 0, img->cluster_size, "the header", err);
    if (rc == 0)
        rc = add_tables(img, img->h.l1_offset, (uint64_t)img->h.l1_size * 8, "the L1 table", err);
    if (rc == 0)
        rc = add_tables(img, img->h.reftable_offset, img->reftable_entries * 8,
                        "the refcount table", err);
    if (rc == 0)
        rc = add_refcount_blocks(img, err);
    if (rc == 0)
        rc = add_snapshots(img, err);
    if (rc == 0)
        rc = add_l2_tables(img, err);
    return rc;
}

/* --- blocks --- */

/* The block that counts this cluster; NULL: there is none, so it counts 0. */
static int find_block(struct qcow2_image *img, uint64_t cluster, struct qcow2_slot **out)
{
    uint64_t number = cluster / qcow2_refcount_entries(img);

    *out = NULL;
    if (number >= img->reftable_entries || img->reftable[number] == 0)
        return 0;
    return qcow2_cache_get(img, &img->ref_cache, img->reftable[number], out);
}

int qcow2_refcount(struct qcow2_image *img, uint64_t cluster, uint64_t *count)
{
    struct qcow2_slot *block;
    int rc = find_block(img, cluster, &block);

    if (rc < 0)
        return rc;
    *count = block ? qcow2_refcount_get(block->data, img->h.refcount_order,
                                        cluster % qcow2_refcount_entries(img))
                   : 0;
    return 0;
}

int qcow2_reftable_write(struct qcow2_image *img, uint64_t number)
{
    uint64_t entry = htobe64(img->reftable[number]);

    return qcow2_io_write(img, &entry, sizeof(entry), img->h.reftable_offset + 8 * number);
}

/* Makes the block number `number`. It takes the first of the clusters that it counts: they are all
 * free, so a block needs no other block to be counted. */
static int make_block(struct qcow2_image *img, uint64_t number)
{
    uint64_t cluster = number * qcow2_refcount_entries(img);
    uint64_t offset = cluster << img->h.cluster_bits;
    struct qcow2_slot *block;

    if (qcow2_set_has(&img->tables, cluster))
        return qcow2_damaged(img, "the table at 0x%" PRIx64 " is not counted", offset);
    int rc = qcow2_io_grow(img, offset + img->cluster_size);
    if (rc == 0)
        rc = qcow2_cache_new(img, &img->ref_cache, offset, &block);
    if (rc < 0)
        return rc;
    qcow2_refcount_change(img, block, 0, 1);
    rc = qcow2_set_add(&img->tables, cluster);
    if (rc == 0)
        rc = qcow2_slot_write(img, block);
    if (rc == 0)
        rc = qcow2_io_sync(img);
    if (rc == 0) {
        img->reftable[number] = offset;
        rc = qcow2_reftable_write(img, number);
    }
    if (rc < 0) {
        img->reftable[number] = 0;
        qcow2_set_remove(&img->tables, cluster);
        qcow2_cache_drop(&img->ref_cache, offset);
    }
    return rc;
}

/* --- taking clusters --- */

/* Clusters that were freed while somebody was still reading them, or writing what nobody will read.
 */
static bool is_busy(const struct qcow2_image *img, uint64_t cluster)
{
    for (const struct qcow2_piece *p = img->busy; p != NULL; p = p->next)
        if (cluster >= p->first && cluster <= p->last)
            return true;
    return false;
}

/* The block that counts this cluster, made if need be. */
static int own_block(struct qcow2_image *img, uint64_t cluster, struct qcow2_slot **out)
{
    int rc = 0;

    if ((cluster + 1) > QCOW2_END >> img->h.cluster_bits)
        return -ENOSPC;
    if (cluster / qcow2_refcount_entries(img) >= img->reftable_entries)
        rc = qcow2_reftable_enlarge(img);
    uint64_t number = cluster / qcow2_refcount_entries(img);
    if (rc == 0 && img->reftable[number] == 0)
        rc = make_block(img, number);
    return rc == 0 ? find_block(img, cluster, out) : rc;
}

/* The first free cluster from `cluster` on that is counted by the same block; else the first one
 * behind them. */
static uint64_t search_block(struct qcow2_image *img, const struct qcow2_slot *block,
                             uint64_t cluster)
{
    const uint64_t per_block = qcow2_refcount_entries(img);
    uint64_t end = (cluster / per_block + 1) * per_block;

    while (cluster < end &&
           qcow2_refcount_get(block->data, img->h.refcount_order, cluster % per_block) != 0)
        cluster++;
    return cluster;
}

/* EXERCISE 8.10: a free cluster. find_free(): the first one from `free_hint` on, below which
 * nothing is free, and the refcount block that counts it (own_block() makes the block, if there is
 * none; search_block() looks in one). A cluster that is busy is free already, and a request to what
 * it was is still under way: it is passed over, and stays the hint, for it can be taken soon;
 * without any, the hint becomes what was found. qcow2_alloc() takes it: counted once, and the hint
 * goes on if it stood there. *fresh, if anybody asks: it is behind the file's end, so nothing was
 * ever written there; a device has no such places, and no clusters that leave it (-ENOSPC). A free
 * cluster that is a table (img->tables) means that the counts are wrong: qcow2_damaged(). */
// SOLUTION 8.10
static int find_free(struct qcow2_image *img, struct qcow2_slot **block, uint64_t *found)
{
    const uint64_t per_block = qcow2_refcount_entries(img);
    uint64_t cluster = img->free_hint;
    bool skipped = false;

    for (;;) {
        int rc = own_block(img, cluster, block);
        if (rc < 0)
            return rc;
        *found = search_block(img, *block, cluster);
        if (!skipped)
            img->free_hint = *found;
        bool is_behind = *found / per_block != cluster / per_block;
        if (!is_behind && !is_busy(img, *found))
            return 0;
        skipped = skipped || !is_behind;
        cluster = *found + !is_behind;
    }
}

int qcow2_alloc(struct qcow2_image *img, uint64_t *host, bool *fresh)
{
    struct qcow2_slot *block;
    uint64_t cluster;

    int rc = find_free(img, &block, &cluster);
    if (rc < 0)
        return rc;
    uint64_t offset = cluster << img->h.cluster_bits;
    if (qcow2_set_has(&img->tables, cluster))
        return qcow2_damaged(img, "the table at 0x%" PRIx64 " is not counted", offset);
    bool is_new = offset >= img->file_end && !img->is_device;
    if (img->is_device && offset + img->cluster_size > img->file_end)
        return -ENOSPC;
    qcow2_refcount_change(img, block, cluster % qcow2_refcount_entries(img), 1);
    if (img->free_hint == cluster)
        img->free_hint = cluster + 1;
    if (fresh != NULL)
        *fresh = is_new;
    *host = offset;
    return 0;
}
// ELSE
// int qcow2_alloc(struct qcow2_image *img, uint64_t *host, bool *fresh)
// {
//     struct qcow2_slot *block;
//     int rc = own_block(img, img->free_hint, &block);
//
//     if (rc == 0 && search_block(img, block, img->free_hint) > 0)
//         rc = todo("8.10");
//     return rc < 0 ? rc : -EIO;
// }
// END 8.10

void qcow2_unalloc(struct qcow2_image *img, uint64_t host)
{
    uint64_t cluster = host >> img->h.cluster_bits;
    struct qcow2_slot *block;

    if (find_block(img, cluster, &block) < 0 || block == NULL)
        return; /* it stays counted, and lost; no damage */
    qcow2_refcount_change(img, block, cluster % qcow2_refcount_entries(img), 0);
    if (cluster < img->free_hint)
        img->free_hint = cluster;
}

/* --- giving clusters back --- */

int qcow2_drop(struct qcow2_image *img, uint64_t cluster)
{
    if (img->dropped_count <
        QCOW2_DROPPED_MAX) /* else commits fail, and it stays counted: a leak */
        img->dropped[img->dropped_count++] = cluster;
    return img->dropped_count < QCOW2_DROPPED_MAX ? 0 : qcow2_commit(img);
}

int qcow2_drop_entry(struct qcow2_image *img, const struct qcow2_mapping *m)
{
    uint64_t offset, len;
    int rc = 0;

    if (m->kind == QCOW2_KIND_COMPRESSED) {
        qcow2_entry_packed(img, m->entry, &offset, &len);
        uint64_t last = (offset + len - 1) >> img->h.cluster_bits;
        for (uint64_t c = offset >> img->h.cluster_bits; rc == 0 && c <= last; c++)
            rc = qcow2_drop(img, c);
    } else if (m->place != 0) {
        rc = qcow2_drop(img, m->place >> img->h.cluster_bits);
    }
    return rc;
}

/* Neighbours that became free are punched together. */
struct punch {
    uint64_t first, count; /* clusters */
};

static void punch_done(struct qcow2_image *img, struct punch *p)
{
    if (p->count > 0)
        qcow2_io_punch(img, p->first << img->h.cluster_bits, p->count << img->h.cluster_bits);
    p->count = 0;
}

static void punch_add(struct qcow2_image *img, struct punch *p, uint64_t cluster)
{
    if (is_busy(img, cluster))
        return;
    if (p->count > 0 && cluster != p->first + p->count)
        punch_done(img, p);
    if (p->count == 0)
        p->first = cluster;
    p->count++;
}

/* One reference less. */
static int settle_one(struct qcow2_image *img, uint64_t cluster, struct punch *punch)
{
    const uint64_t index = cluster % qcow2_refcount_entries(img);
    struct qcow2_slot *block;
    int rc = find_block(img, cluster, &block);

    if (rc < 0)
        return rc;
    uint64_t count = block ? qcow2_refcount_get(block->data, img->h.refcount_order, index) : 0;
    if (count == 0)
        return qcow2_damaged(img, "cluster 0x%" PRIx64 " was used and not counted",
                             cluster << img->h.cluster_bits);
    qcow2_refcount_change(img, block, index, count - 1);
    if (count > 1)
        return 0;
    if (cluster < img->free_hint)
        img->free_hint = cluster;
    punch_add(img, punch, cluster);
    return 0;
}

int qcow2_refcount_settle(struct qcow2_image *img)
{
    struct punch punch = {0};
    unsigned done = 0;
    int rc = 0;

    while (rc == 0 && done < img->dropped_count) {
        rc = settle_one(img, img->dropped[done], &punch);
        done += rc == 0;
    }
    punch_done(img, &punch);
    img->dropped_count -= done;
    memmove(img->dropped, img->dropped + done, img->dropped_count * sizeof(*img->dropped));
    return rc;
}
