/*
 * qcow2, the disk format of QEMU: a file that holds only the parts of a disk that were written.
 *
 * An image is made of clusters of one size. A two-level table (L1, L2) says where in the file each
 * cluster of the disk is; a second pair (refcount table and blocks) says how often each cluster of
 * the file is used. A cluster that the tables do not name is read from the backing file, if there
 * is one, and otherwise reads as zeros. Internal snapshots are further L1 tables; what they share
 * with the disk is copied before it changes.
 *
 * Left out: making snapshots and compressed clusters (both are read), encryption, external data
 * files, extended L2 entries, bitmaps, repair of damage. Specification: docs/interop/qcow2.txt of
 * QEMU 7.2, below "qcow2".
 */
#ifndef HV_BLOCK_QCOW2_H
#define HV_BLOCK_QCOW2_H

#include "hv/block/block.h"

#define BLOCK_QCOW2_CHAIN_MAX                                                                      \
    16 /* files that are each other's backing files, the image included                            \
        */
#define BLOCK_QCOW2_BACKING_MAX 1023 /* bytes in a backing file's name */

struct block_qcow2_config {
    const char *path;
    bool read_only;
    bool direct;           /* O_DIRECT, for what clusters hold and for the tables */
    bool no_uring;         /* as for raw */
    bool backing;          /* the image may name a backing file, which is opened for reading */
    const struct log *log; /* borrowed; may be NULL */
};

/* Opens an image, and locks it as block_raw_create() does. Errors name the path: -EBUSY;
 * -EBADMSG: not qcow2, or damaged; -ENOTSUP: it needs what is left out; -EPERM: it has a backing
 * file and that was not allowed; -ELOOP: its backing files never end; -EUCLEAN: marked dirty or
 * corrupt, it must be repaired.
 *
 * Reads, and writes to what has a place already, are asynchronous. What changes tables is done on
 * the channel's thread while it submits, under one lock for the image: writes that need a new
 * cluster, zeros, discards, tables that have to be read, compressed clusters, and of a flush all
 * but its end. Any number of channels can be open.
 *
 * An image whose tables turn out to be damaged answers -EIO from then on to all that would change
 * it. */
int block_qcow2_create(const struct block_qcow2_config *cfg, struct block **out,
                       struct error *err) HV_MUST_CHECK;

/* How far from `offset` on the disk is alike: all known to be zeros, or not. For copying. */
int block_qcow2_extent(struct block *b, uint64_t offset, uint64_t *size, bool *zero) HV_MUST_CHECK;

struct block_qcow2_options {
    uint32_t cluster_size;      /* bytes: a power of two, 512 to 2 MiB; 0: 64 KiB */
    unsigned version;           /* 2 or 3; 0: 3 */
    unsigned refcount_bits;     /* 1, 2, 4, … 64; 0: 16, which is all that version 2 has */
    const char *backing;        /* the name to note, as it is; NULL: none */
    const char *backing_format; /* "raw" or "qcow2" */
};

/* Makes an empty image in a new file. -EEXIST: there is one. Nothing is left after a failure. */
int block_qcow2_format(const char *path, uint64_t size, const struct block_qcow2_options *options,
                       struct error *err) HV_MUST_CHECK;

struct block_qcow2_info {
    unsigned version;
    uint64_t size; /* of the disk, bytes */
    uint32_t cluster_size;
    unsigned refcount_bits;
    uint32_t snapshots;
    bool dirty, corrupt, lazy_refcounts, encrypted, external_data, extended_l2, zstd;
    char backing[BLOCK_QCOW2_BACKING_MAX + 1]; /* "": none */
    char backing_format[16];                   /* "": not said */
};

/* What the header says; nothing else is read, nothing locked. -EBADMSG: not qcow2. */
int block_qcow2_info(const char *path, struct block_qcow2_info *out,
                     struct error *err) HV_MUST_CHECK;

struct block_qcow2_report {
    uint64_t corruptions; /* places where the tables contradict each other */
    uint64_t leaks;       /* clusters of the file that are counted but not used */
    uint64_t clusters;    /* of the disk */
    uint64_t allocated;   /* of these: with a place in the file */
    uint64_t compressed;  /* of these */
    uint64_t end;         /* of the last cluster that is used, bytes */
};

/* Compares every reference with its count. `say` (may be NULL) gets a line for each finding, at
 * most BLOCK_QCOW2_FINDINGS_MAX. Changes nothing. */
#define BLOCK_QCOW2_FINDINGS_MAX 100
int block_qcow2_check(const char *path, void (*say)(void *ctx, const char *text), void *ctx,
                      struct block_qcow2_report *out, struct error *err) HV_MUST_CHECK;

/* The same, and gives back the clusters that are lost: what a killed process had taken and not yet
 * named. In an image with damage nothing is changed. *out: what was found. */
int block_qcow2_repair(const char *path, void (*say)(void *ctx, const char *text), void *ctx,
                       struct block_qcow2_report *out, struct error *err) HV_MUST_CHECK;

/* Makes the disk larger or, if `shrink`, smaller. -EINVAL: smaller without `shrink`. No channel is
 * open. Backing files are opened if `backing` is set. */
int block_qcow2_resize(const char *path, uint64_t size, bool shrink, bool backing,
                       struct error *err) HV_MUST_CHECK;

#endif
