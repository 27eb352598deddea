/*
 * The snapshot table. All we want of a snapshot is where its L1 table is: not to write over it.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"

#define EXTRA_MAX 1024 /* bytes of data that nobody knows yet; QEMU's own limit */

/* qcow2, "Snapshot table entry"; all big-endian, followed by extra data, ID and name. */
struct entry {
    uint64_t l1_offset;
    uint32_t l1_size;
    uint16_t id_size, name_size;
    uint32_t seconds, nanoseconds;
    uint64_t run_time;
    uint32_t state_size, extra_size;
};
_Static_assert(sizeof(struct entry) == 40, "qcow2, Snapshot table entry");

int qcow2_snapshot_next(const struct qcow2_image *img, uint64_t *at, struct qcow2_snapshot *out,
                        struct error *err)
{
    struct entry e;

    if (!range_fits(*at, sizeof(e), img->file_end) ||
        *at - img->h.snapshots_offset > QCOW2_SNAPSHOT_TABLE_MAX)
        return error_set(err, -EBADMSG, "its snapshot table leaves the file");
    int rc = qcow2_io_read(img, &e, sizeof(e), *at);
    if (rc < 0)
        return error_sys(err, rc, "cannot read its snapshot table");
    const struct qcow2_snapshot s = {be64toh(e.l1_offset), be32toh(e.l1_size)};
    uint64_t bytes = (uint64_t)s.l1_size * 8, extra = be32toh(e.extra_size);
    if (extra > EXTRA_MAX)
        return error_set(err, -EBADMSG, "its snapshot table makes no sense");
    if (bytes > QCOW2_L1_MAX || s.l1_offset % img->cluster_size != 0 || s.l1_offset == 0 ||
        s.l1_offset >= QCOW2_END || !range_fits(s.l1_offset, bytes, img->file_end))
        return error_set(err, -EBADMSG, "a snapshot's L1 table, at 0x%" PRIx64 ", leaves the file",
                         s.l1_offset);
    *at += (sizeof(e) + extra + be16toh(e.id_size) + be16toh(e.name_size) + 7) & ~(uint64_t)7;
    *out = s;
    return 0;
}
