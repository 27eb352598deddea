/*
 * Comparing every reference with its count.
 *
 * First the tables are walked, and each cluster of the file gets a number: how often something
 * refers to it. Then these numbers are compared with the refcount blocks. A cluster that is counted
 * too often is lost room, a leak; one that is not counted often enough will be given to somebody
 * else, and that is damage.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"

#define CLUSTERS_MAX ((uint64_t)1 << 32) /* in the file; each takes four bytes where it is used */

struct census {
    struct qcow2_image *img;
    uint32_t *refs;    /* one for each cluster of the file; a mapping, owned */
    uint64_t clusters; /* of the file */
    uint32_t walked;   /* L1 tables so far */
    uint64_t said;
    void (*say)(void *ctx, const char *text);
    void *ctx;
    struct block_qcow2_report report;
};

/* A line for whoever asked. */
__attribute__((format(printf, 2, 0))) static void say(struct census *c, const char *fmt, va_list ap)
{
    char text[256];

    (void)vsnprintf(text, sizeof(text), fmt, ap);
    if (c->say != NULL && c->said++ < BLOCK_QCOW2_FINDINGS_MAX)
        c->say(c->ctx, text);
}

__attribute__((format(printf, 2, 3))) static void find_fault(struct census *c, const char *fmt, ...)
{
    va_list ap;

    c->report.corruptions++;
    va_start(ap, fmt);
    say(c, fmt, ap);
    va_end(ap);
}

__attribute__((format(printf, 2, 3))) static void find_leak(struct census *c, const char *fmt, ...)
{
    va_list ap;

    c->report.leaks++;
    va_start(ap, fmt);
    say(c, fmt, ap);
    va_end(ap);
}

/* --- references --- */

/* Something refers to these bytes of the file. */
static void refer(struct census *c, const char *what, uint64_t offset, uint64_t len)
{
    uint64_t first = offset >> c->img->h.cluster_bits;
    uint64_t last = (offset + len - 1) >> c->img->h.cluster_bits;

    if (len == 0)
        return;
    if (offset >= QCOW2_END || last >= c->clusters) {
        find_fault(c, "%s at 0x%" PRIx64 " leaves the file", what, offset);
        return;
    }
    for (uint64_t i = first; i <= last; i++)
        c->refs[i] += c->refs[i] < UINT32_MAX;
    if ((last + 1) << c->img->h.cluster_bits > c->report.end)
        c->report.end = (last + 1) << c->img->h.cluster_bits;
}

/* A table or cluster of data that must begin where a cluster does. Returns false if not. */
static bool refer_cluster(struct census *c, const char *what, uint64_t offset)
{
    uint64_t before = c->report.corruptions;

    if (offset % c->img->cluster_size != 0)
        find_fault(c, "%s at 0x%" PRIx64 " is not aligned", what, offset);
    else
        refer(c, what, offset, c->img->cluster_size);
    return c->report.corruptions == before;
}

/* The flag says that the count is one: does it? */
static int check_copied(struct census *c, const char *what, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET, count;
    int rc = qcow2_refcount(c->img, offset >> c->img->h.cluster_bits, &count);

    if (rc == 0 && (count == 1) != ((entry & QCOW2_COPIED) != 0))
        find_fault(c, "%s at 0x%" PRIx64 " is counted %" PRIu64 " times, its entry says otherwise",
                   what, offset, count);
    return rc;
}

static int walk_entry(struct census *c, uint64_t entry, bool active)
{
    uint64_t offset = entry & QCOW2_OFFSET, len;

    if (entry & QCOW2_COMPRESSED) {
        qcow2_entry_packed(c->img, entry, &offset, &len);
        refer(c, "a compressed cluster", offset, len);
        c->report.allocated += active;
        c->report.compressed += active;
        if (entry & QCOW2_COPIED)
            find_fault(c, "a compressed cluster at 0x%" PRIx64 " is marked as not shared", offset);
        return 0;
    }
    if (entry & QCOW2_ZERO && c->img->h.version < 3)
        find_fault(c, "an L2 entry has a flag that version 2 does not know: 0x%" PRIx64, entry);
    if (offset == 0)
        return 0;
    c->report.allocated += active;
    if (refer_cluster(c, "a cluster", offset) && active)
        return check_copied(c, "a cluster", entry);
    return 0;
}

static int walk_l2(struct census *c, uint64_t offset, bool active)
{
    uint64_t *table = malloc(c->img->cluster_size);
    int rc = table ? qcow2_io_read(c->img, table, c->img->cluster_size, offset) : -ENOMEM;

    for (uint32_t i = 0; rc == 0 && i < c->img->l2_entries; i++)
        if (table[i] != 0)
            rc = walk_entry(c, be64toh(table[i]), active);
    free(table);
    return rc;
}

/* An L1 table in memory, and all below it. */
static int walk_l1(struct census *c, const uint64_t *l1, uint32_t entries, bool active)
{
    int rc = 0;

    c->walked++;
    for (uint32_t i = 0; rc == 0 && i < entries; i++) {
        uint64_t offset = l1[i] & QCOW2_OFFSET;
        if (offset == 0 || !refer_cluster(c, "an L2 table", offset))
            continue;
        /* Twice in one L1 table is wrong, and need not be walked for ever. */
        if (c->refs[offset >> c->img->h.cluster_bits] > c->walked) {
            find_fault(c, "the L2 table at 0x%" PRIx64 " is something else, too", offset);
            continue;
        }
        if (active)
            rc = check_copied(c, "an L2 table", l1[i]);
        if (rc == 0)
            rc = walk_l2(c, offset, active);
    }
    return rc;
}

static int walk_snapshot(struct census *c, const struct qcow2_snapshot *s)
{
    size_t bytes = (size_t)s->l1_size * 8;
    uint64_t *l1 = malloc(bytes + 1);
    int rc = l1 ? qcow2_io_read(c->img, l1, bytes, s->l1_offset) : -ENOMEM;

    refer(c, "a snapshot's L1 table", s->l1_offset, bytes);
    for (uint32_t i = 0; rc == 0 && i < s->l1_size; i++)
        l1[i] = be64toh(l1[i]);
    if (rc == 0)
        rc = walk_l1(c, l1, s->l1_size, false);
    free(l1);
    return rc;
}

static int walk_snapshots(struct census *c)
{
    uint64_t start = c->img->h.snapshots_offset, at = start;
    struct qcow2_snapshot s;
    struct error err;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < c->img->h.snapshot_count; i++) {
        rc = qcow2_snapshot_next(c->img, &at, &s, &err);
        if (rc == -EBADMSG) {
            find_fault(c, "%s", err.text);
            return 0;
        }
        if (rc == 0)
            rc = walk_snapshot(c, &s);
    }
    if (c->img->h.snapshot_count > 0)
        refer(c, "the snapshot table", start, at - start);
    return rc;
}

/* --- bitmaps --- */

/* qcow2, "Bitmap directory entry"; all big-endian, followed by extra data and the name. */
struct bitmap {
    uint64_t table_offset;
    uint32_t table_size, flags;
    uint8_t type, granularity;
    uint16_t name_size;
    uint32_t extra_size;
};
_Static_assert(sizeof(struct bitmap) == 24, "qcow2, Bitmap directory entry");

static int walk_bitmap(struct census *c, uint64_t offset, uint64_t entries)
{
    uint64_t entry;
    int rc = 0;

    refer(c, "a bitmap's table", offset, entries * 8);
    for (uint64_t i = 0; rc == 0 && i < entries && offset + i * 8 < c->img->file_end; i++) {
        rc = qcow2_io_read(c->img, &entry, sizeof(entry), offset + i * 8);
        uint64_t cluster = rc == 0 ? be64toh(entry) & QCOW2_OFFSET : 0;
        if (cluster != 0)
            (void)refer_cluster(c, "a bitmap's cluster", cluster);
    }
    return rc;
}

static int walk_bitmaps(struct census *c)
{
    const struct qcow2_header *h = &c->img->h;
    uint64_t at = h->bitmaps_offset, end = at + h->bitmaps_size;
    struct bitmap b;
    int rc = 0;

    if (h->bitmap_count == 0)
        return 0;
    refer(c, "the bitmap directory", at, h->bitmaps_size);
    for (uint32_t i = 0; rc == 0 && i < h->bitmap_count; i++) {
        if (!range_fits(at, sizeof(b), end) || end > c->img->file_end) {
            find_fault(c, "the bitmap directory makes no sense");
            break;
        }
        rc = qcow2_io_read(c->img, &b, sizeof(b), at);
        if (rc == 0)
            rc = walk_bitmap(c, be64toh(b.table_offset), be32toh(b.table_size));
        at +=
            (sizeof(b) + (uint64_t)be32toh(b.extra_size) + be16toh(b.name_size) + 7) & ~(uint64_t)7;
    }
    return rc;
}

/* --- counts --- */

/* Takes the refcount table's own references, and forgets blocks that cannot be. */
static void walk_refcounts(struct census *c)
{
    struct qcow2_image *img = c->img;

    refer(c, "the refcount table", img->h.reftable_offset, img->reftable_entries * 8);
    for (uint64_t i = 0; i < img->reftable_entries; i++)
        if (img->reftable[i] != 0 && !refer_cluster(c, "a refcount block", img->reftable[i]))
            img->reftable[i] = 0;
}

static void compare(struct census *c, uint64_t cluster, uint64_t count)
{
    uint64_t refs = c->refs[cluster], offset = cluster << c->img->h.cluster_bits;

    if (count > refs)
        find_leak(c, "leak: cluster 0x%" PRIx64 " is counted %" PRIu64 " times and used %" PRIu64,
                  offset, count, refs);
    else if (count < refs)
        find_fault(c,
                   "damage: cluster 0x%" PRIx64 " is counted %" PRIu64 " times and used %" PRIu64,
                   offset, count, refs);
}

/* All clusters of one refcount block. */
static int compare_block(struct census *c, uint64_t number)
{
    struct qcow2_image *img = c->img;
    const uint64_t per_block = qcow2_refcount_entries(img), first = number * per_block;
    struct qcow2_slot *block = NULL;
    int rc = 0;

    if (number < img->reftable_entries && img->reftable[number] != 0)
        rc = qcow2_cache_get(img, &img->ref_cache, img->reftable[number], &block);
    for (uint64_t i = 0; rc == 0 && i < per_block && first + i < c->clusters; i++)
        compare(c, first + i,
                block ? qcow2_refcount_get(block->data, img->h.refcount_order, i) : 0);
    return rc;
}

/* What is counted behind the end of the file takes no room. */
static int for_each_block(struct census *c, int (*visit)(struct census *c, uint64_t number))
{
    const uint64_t per_block = qcow2_refcount_entries(c->img);
    uint64_t blocks = (c->clusters + per_block - 1) / per_block;
    int rc = 0;

    for (uint64_t i = 0; rc == 0 && i < blocks; i++)
        rc = visit(c, i);
    return rc;
}

/* --- repair --- */

/* Takes down to what they should be the counts of one refcount block that are too large. */
static int free_leaks_in(struct census *c, uint64_t number)
{
    struct qcow2_image *img = c->img;
    const uint64_t per_block = qcow2_refcount_entries(img), first = number * per_block;
    struct qcow2_slot *block;

    if (number >= img->reftable_entries || img->reftable[number] == 0)
        return 0;
    int rc = qcow2_cache_get(img, &img->ref_cache, img->reftable[number], &block);
    for (uint64_t i = 0; rc == 0 && i < per_block && first + i < c->clusters; i++) {
        uint64_t refs = c->refs[first + i];
        if (qcow2_refcount_get(block->data, img->h.refcount_order, i) <= refs)
            continue;
        qcow2_refcount_change(img, block, i, refs);
        if (refs == 0)
            qcow2_io_punch(img, (first + i) << img->h.cluster_bits, img->cluster_size);
    }
    return rc;
}

static int free_leaks(struct census *c)
{
    int rc = for_each_block(c, free_leaks_in);

    if (rc == 0)
        rc = qcow2_cache_write(c->img, &c->img->ref_cache);
    return rc == 0 ? qcow2_io_sync(c->img) : rc;
}

/* --- all of it --- */

static int count_all(struct census *c)
{
    struct qcow2_image *img = c->img;
    int rc;

    refer(c, "the header", 0, img->cluster_size);
    walk_refcounts(c);
    refer(c, "the L1 table", img->h.l1_offset, (uint64_t)img->h.l1_size * 8);
    rc = walk_l1(c, img->l1, img->h.l1_size, true);
    if (rc == 0)
        rc = walk_snapshots(c);
    if (rc == 0)
        rc = walk_bitmaps(c);
    return rc == 0 ? for_each_block(c, compare_block) : rc;
}

static int check_image(struct census *c)
{
    struct qcow2_image *img = c->img;
    int rc = img->read_only ? qcow2_refcount_read_table(img) : 0; /* a writer has it already */

    if (rc < 0)
        return rc;
    c->clusters = qcow2_clusters(img->file_end, img->h.cluster_bits);
    if (c->clusters > CLUSTERS_MAX)
        return -EFBIG;
    size_t bytes = (size_t)c->clusters * sizeof(*c->refs);
    c->refs = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (c->refs == MAP_FAILED)
        return -ENOMEM;
    c->report.clusters = qcow2_clusters(img->h.size, img->h.cluster_bits);
    rc = count_all(c);
    if (rc == 0 && !img->read_only && c->report.corruptions == 0 && c->report.leaks > 0)
        rc = free_leaks(c);
    (void)munmap(c->refs, bytes); /* fails only for a bug of ours */
    return rc;
}

static int open_and_check(const char *path, bool repair,
                          void (*report)(void *ctx, const char *text), void *ctx,
                          struct block_qcow2_report *out, struct error *err)
{
    const struct block_qcow2_config cfg = {.path = path, .read_only = !repair, .no_uring = true};
    struct census c = {.say = report, .ctx = ctx};
    int rc = qcow2_image_open(&cfg, path, false, !repair, &c.img, err);

    if (rc < 0)
        return rc;
    rc = check_image(&c);
    if (rc < 0)
        rc = error_sys(err, rc, "cannot check %s", path);
    else
        *out = c.report;
    qcow2_image_close(c.img);
    return rc;
}

int block_qcow2_check(const char *path, void (*report)(void *ctx, const char *text), void *ctx,
                      struct block_qcow2_report *out, struct error *err)
{
    return open_and_check(path, false, report, ctx, out, err);
}

int block_qcow2_repair(const char *path, void (*report)(void *ctx, const char *text), void *ctx,
                       struct block_qcow2_report *out, struct error *err)
{
    return open_and_check(path, true, report, ctx, out, err);
}
