/*
 * The order in which tables are brought to the file.
 *
 * Whoever is killed, or loses power, between any two writes must leave an image in which every
 * cluster that a table names is counted, and holds what it should. So what is pointed to goes
 * first, and a sync stands between it and what points there. What can be lost on the way is room:
 * clusters that are counted and not used.
 */
#include <endian.h>
#include <errno.h>

#include "block/qcow2_priv.h"
#include "hv/base/todo.h"

#define L1_CHUNK 512 /* entries in one write */

static int write_l1(struct qcow2_image *img)
{
    uint64_t chunk[L1_CHUNK];

    while (img->l1_from < img->l1_to) {
        uint32_t count = img->l1_to - img->l1_from;
        if (count > L1_CHUNK)
            count = L1_CHUNK;
        for (uint32_t i = 0; i < count; i++)
            chunk[i] = htobe64(img->l1[img->l1_from + i]);
        int rc = qcow2_io_write(img, chunk, (size_t)count * 8,
                                img->h.l1_offset + (uint64_t)img->l1_from * 8);
        if (rc < 0)
            return rc;
        img->l1_from += count;
    }
    img->l1_from = img->l1_to = 0;
    return 0;
}

/* EXERCISE 8.12: brings all tables to the file: refcount blocks (ref_cache), L2 tables (l2_cache),
 * entries of the L1 table (write_l1(); l1_from and l1_to tell whether any changed), and at last the
 * counts of clusters that were dropped (qcow2_refcount_settle(); it changes counts in memory, which
 * are written some time later). In which order, so that at no moment a table in the file names a
 * cluster that is not counted, or that does not hold yet what it should? New clusters' data was
 * written before, to the same file, and not synced. Until a sync (qcow2_io_sync()) the host may
 * write what it was given in any order, or lose it. A sync costs milliseconds: none for which there
 * is no reason. After an error nothing more is written; an image that is `broken` is not touched,
 * -EIO. */
// SOLUTION 8.12
/*
 *     data           written by qcow2_write_new(), before the L2 entry changes in memory
 *     counts         of clusters that were taken
 *       sync
 *     L2 tables      which name data
 *       sync
 *     L1 table       which names L2 tables
 *       sync
 *     counts         of clusters that nobody names any more
 *
 * A sync is left out where nothing follows that relies on it.
 */
int qcow2_commit(struct qcow2_image *img)
{
    int rc = img->broken ? -EIO : qcow2_cache_write(img, &img->ref_cache);

    if (rc == 0 && qcow2_cache_is_dirty(&img->l2_cache)) {
        rc = qcow2_io_sync(img);
        if (rc == 0)
            rc = qcow2_cache_write(img, &img->l2_cache);
    }
    if (rc == 0 && img->l1_from != img->l1_to) {
        rc = qcow2_io_sync(img);
        if (rc == 0)
            rc = write_l1(img);
    }
    if (rc == 0 && img->dropped_count > 0) {
        rc = qcow2_io_sync(img);
        if (rc == 0)
            rc = qcow2_refcount_settle(img);
    }
    return rc;
}
// ELSE
// int qcow2_commit(struct qcow2_image *img)
// {
//     return img->l1_from > img->l1_to ? write_l1(img) : todo("8.12");
// }
// END 8.12

int qcow2_clean_l2(struct qcow2_image *img, struct qcow2_slot *slot)
{
    (void)slot; /* and with it all others: the syncs are what costs */
    return qcow2_commit(img);
}

int qcow2_commit_all(struct qcow2_image *img)
{
    int rc = qcow2_commit(img);

    if (rc == 0)
        rc = qcow2_cache_write(img, &img->ref_cache); /* those that went down */
    return rc == 0 ? qcow2_io_sync(img) : rc;
}
