/*
 * Tables in memory: L2 tables in one cache, refcount blocks in another, each of a fixed number of
 * clusters. The one that was used longest ago goes first.
 *
 * Changed tables stay here until qcow2_commit() or want of room brings them to the file. What has
 * to be written before a table may be is its owner's knowledge: the function `clean`.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"

#define SLOTS_MIN 4 /* callers hold on to a few at a time */

/* --- buckets and order --- */

static struct qcow2_slot **bucket_of(struct qcow2_cache *c, uint64_t offset)
{
    return &c->buckets[(offset >> QCOW2_CLUSTER_BITS_MIN) * 0x9e3779b97f4a7c15U >> 32 &
                       (c->bucket_count - 1)];
}

static struct qcow2_slot *find(struct qcow2_cache *c, uint64_t offset)
{
    struct qcow2_slot *slot = *bucket_of(c, offset);

    while (slot != NULL && slot->offset != offset)
        slot = slot->chain;
    return slot;
}

static void unlink_slot(struct qcow2_cache *c, struct qcow2_slot *slot)
{
    *(slot->newer ? &slot->newer->older : &c->newest) = slot->older;
    *(slot->older ? &slot->older->newer : &c->oldest) = slot->newer;
    slot->newer = slot->older = NULL;
}

static void make_newest(struct qcow2_cache *c, struct qcow2_slot *slot)
{
    unlink_slot(c, slot);
    slot->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = slot;
    c->newest = slot;
}

static void make_oldest(struct qcow2_cache *c, struct qcow2_slot *slot)
{
    unlink_slot(c, slot);
    slot->newer = c->oldest;
    *(c->oldest ? &c->oldest->older : &c->newest) = slot;
    c->oldest = slot;
}

/* Gives the slot to another table, or with 0 to none. */
static void rename_slot(struct qcow2_cache *c, struct qcow2_slot *slot, uint64_t offset)
{
    struct qcow2_slot **link;

    if (slot->offset != 0) {
        for (link = bucket_of(c, slot->offset); *link != slot; link = &(*link)->chain)
            ;
        *link = slot->chain;
    }
    slot->offset = offset;
    slot->dirty_from = slot->dirty_to = 0;
    if (offset != 0) {
        link = bucket_of(c, offset);
        slot->chain = *link;
        *link = slot;
    }
}

/* --- life --- */

int qcow2_cache_init(struct qcow2_cache *c, uint32_t cluster_size, uint64_t bytes,
                     int (*clean)(struct qcow2_image *img, struct qcow2_slot *slot))
{
    uint64_t count = bytes / cluster_size;

    *c = (struct qcow2_cache){.clean = clean};
    c->count = count < SLOTS_MIN ? SLOTS_MIN : (unsigned)count;
    for (c->bucket_count = 1; c->bucket_count < c->count; c->bucket_count *= 2)
        ;
    c->slots = calloc(c->count, sizeof(*c->slots));
    c->buckets = calloc(c->bucket_count, sizeof(struct qcow2_slot *));
    if (c->slots == NULL || c->buckets == NULL) {
        qcow2_cache_fini(c);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < c->count; i++) {
        struct qcow2_slot *slot = &c->slots[i];
        slot->older = c->newest;
        *(c->newest ? &c->newest->newer : &c->oldest) = slot;
        c->newest = slot;
    }
    return 0;
}

void qcow2_cache_fini(struct qcow2_cache *c)
{
    for (unsigned i = 0; c->slots != NULL && i < c->count; i++)
        free(c->slots[i].data);
    free(c->slots);
    free(c->buckets);
    *c = (struct qcow2_cache){0};
}

/* --- tables --- */

void qcow2_slot_touch(struct qcow2_slot *slot, uint32_t from, uint32_t len)
{
    bool clean = slot->dirty_from == slot->dirty_to;

    if (clean || from < slot->dirty_from)
        slot->dirty_from = from;
    if (clean || from + len > slot->dirty_to)
        slot->dirty_to = from + len;
}

bool qcow2_slot_is_dirty(const struct qcow2_slot *slot)
{
    return slot->dirty_from != slot->dirty_to;
}

int qcow2_slot_write(struct qcow2_image *img, struct qcow2_slot *slot)
{
    if (!qcow2_slot_is_dirty(slot))
        return 0;
    /* Whole sectors: the storage has no smaller ones. */
    uint32_t from = slot->dirty_from & ~(img->align - 1);
    uint32_t to = (slot->dirty_to + img->align - 1) & ~(img->align - 1);
    int rc = qcow2_io_write(img, slot->data + from, to - from, slot->offset + from);
    if (rc == 0)
        slot->dirty_from = slot->dirty_to = 0;
    return rc;
}

bool qcow2_cache_is_dirty(const struct qcow2_cache *c)
{
    for (unsigned i = 0; i < c->count; i++)
        if (qcow2_slot_is_dirty(&c->slots[i]))
            return true;
    return false;
}

int qcow2_cache_write(struct qcow2_image *img, struct qcow2_cache *c)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < c->count; i++)
        rc = qcow2_slot_write(img, &c->slots[i]);
    return rc;
}

/* A clean slot for the table at `offset`, with anything in it. */
static int take_slot(struct qcow2_image *img, struct qcow2_cache *c, uint64_t offset,
                     struct qcow2_slot **out)
{
    struct qcow2_slot *slot = c->oldest;
    int rc = qcow2_slot_is_dirty(slot) ? c->clean(img, slot) : 0;

    if (rc < 0)
        return rc;
    if (slot->data == NULL &&
        (slot->data = aligned_alloc(4096, img->cluster_size < 4096 ? 4096 : img->cluster_size)) ==
            NULL)
        return -ENOMEM;
    rename_slot(c, slot, offset);
    make_newest(c, slot);
    *out = slot;
    return 0;
}

int qcow2_cache_get(struct qcow2_image *img, struct qcow2_cache *c, uint64_t offset,
                    struct qcow2_slot **out)
{
    struct qcow2_slot *slot = find(c, offset);
    int rc;

    if (slot != NULL) {
        make_newest(c, slot);
        *out = slot;
        return 0;
    }
    rc = take_slot(img, c, offset, &slot);
    if (rc < 0)
        return rc;
    rc = qcow2_io_read(img, slot->data, img->cluster_size, offset);
    if (rc < 0) {
        rename_slot(c, slot, 0);
        make_oldest(c, slot);
        return rc;
    }
    *out = slot;
    return 0;
}

int qcow2_cache_new(struct qcow2_image *img, struct qcow2_cache *c, uint64_t offset,
                    struct qcow2_slot **out)
{
    struct qcow2_slot *slot;

    qcow2_cache_drop(c, offset); /* what was there belonged to a table that is gone */
    int rc = take_slot(img, c, offset, &slot);
    if (rc < 0)
        return rc;
    memset(slot->data, 0, img->cluster_size);
    qcow2_slot_touch(slot, 0, img->cluster_size);
    *out = slot;
    return 0;
}

void qcow2_cache_drop(struct qcow2_cache *c, uint64_t offset)
{
    struct qcow2_slot *slot = find(c, offset);

    if (slot == NULL)
        return;
    rename_slot(c, slot, 0);
    make_oldest(c, slot);
}
