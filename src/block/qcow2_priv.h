/*
 * What the parts of the qcow2 back end share.
 *
 *     qcow2.c           the block: channels, and how a request falls into pieces
 *     qcow2_chain.c     opening an image and its backing files
 *     qcow2_header.c    the first cluster
 *     qcow2_map.c       L1 and L2 tables: where a cluster of the disk is
 *     qcow2_write.c     new clusters, zeros, discards
 *     qcow2_refcount.c  how often a cluster of the file is used; finding free ones
 *     qcow2_reftable.c  many clusters in a row: a larger refcount table
 *     qcow2_commit.c    the order in which tables are written
 *     qcow2_cache.c     tables in memory
 *     qcow2_set.c       which clusters of the file are tables
 *     qcow2_snapshot.c  the snapshot table
 *     qcow2_compress.c  compressed clusters
 *     qcow2_io.c        reading and writing the file on the calling thread
 *     qcow2_format.c    making images, resizing them
 *     qcow2_check.c     comparing references with counts, freeing what is lost
 *
 * All but qcow2_io.c's reads need qcow2.lock; who opens, formats or checks an image is alone.
 */
#ifndef BLOCK_QCOW2_PRIV_H
#define BLOCK_QCOW2_PRIV_H

#include <pthread.h>

#include "block/raw_priv.h"
#include "hv/block/qcow2.h"

#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21
#define QCOW2_L1_MAX (32U << 20)             /* bytes; QEMU's own limit */
#define QCOW2_REFTABLE_MAX (8U << 20)        /* bytes; QEMU's own limit */
#define QCOW2_SNAPSHOTS_MAX 65536            /* QEMU's own limit */
#define QCOW2_SNAPSHOT_TABLE_MAX (64U << 20) /* bytes; QEMU's own limit */
#define QCOW2_END ((uint64_t)1 << 56)        /* offsets in tables have 56 bits */

#define QCOW2_DROPPED_MAX 4096 /* clusters that wait for a commit */

/* qcow2, "Cluster mapping": L1 and L2 entries. */
#define QCOW2_COPIED ((uint64_t)1 << 63)     /* the reference count is exactly one */
#define QCOW2_COMPRESSED ((uint64_t)1 << 62) /* L2 only */
#define QCOW2_ZERO ((uint64_t)1 << 0)        /* L2 only, from version 3 */
#define QCOW2_OFFSET (QCOW2_END - 512)       /* bits 9 to 55 */

/* qcow2, "Header": feature bits. */
#define QCOW2_INCOMPATIBLE_DIRTY ((uint64_t)1 << 0)
#define QCOW2_INCOMPATIBLE_CORRUPT ((uint64_t)1 << 1)
#define QCOW2_INCOMPATIBLE_DATA_FILE ((uint64_t)1 << 2)
#define QCOW2_INCOMPATIBLE_COMPRESSION ((uint64_t)1 << 3)
#define QCOW2_INCOMPATIBLE_EXTENDED_L2 ((uint64_t)1 << 4)
#define QCOW2_COMPATIBLE_LAZY_REFCOUNTS ((uint64_t)1 << 0)

/* qcow2, "Header": where fields that change are. */
enum qcow2_field {
    QCOW2_FIELD_SIZE = 24, /* u64, followed by crypt_method u32, l1_size u32, l1_table_offset u64 */
    QCOW2_FIELD_REFTABLE = 48, /* u64, followed by the number of its clusters, u32 */
    QCOW2_FIELD_AUTOCLEAR = 88,
};

/* The first cluster in host byte order. Decoded, it is consistent in itself; where in the file its
 * tables are was compared with the file's size. */
struct qcow2_header {
    uint32_t version;
    uint32_t cluster_bits;
    uint64_t size; /* bytes, rounded down to sectors */
    uint32_t crypt_method;
    uint32_t l1_size; /* entries */
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t snapshot_count;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order;
    uint32_t length;
    uint8_t compression; /* 0: zlib, 1: zstd */
    char backing[BLOCK_QCOW2_BACKING_MAX + 1];
    char backing_format[16];
    uint32_t bitmap_count; /* 0: none, or not consistent */
    uint64_t bitmaps_offset, bitmaps_size;
};

/* --- tables in memory --- */

struct qcow2_image;

struct qcow2_slot {
    uint64_t offset;               /* in the file; 0: empty */
    uint8_t *data;                 /* one cluster */
    uint32_t dirty_from, dirty_to; /* bytes that the file does not have; equal: none */
    struct qcow2_slot *newer, *older;
    struct qcow2_slot *chain; /* the same bucket */
};

struct qcow2_cache {
    struct qcow2_slot *slots; /* owned, as is what data points to */
    struct qcow2_slot **buckets;
    unsigned count, bucket_count;
    struct qcow2_slot *newest, *oldest;
    /* Brings this slot, and what has to be written before it, to the file. */
    int (*clean)(struct qcow2_image *img, struct qcow2_slot *slot);
};

/* Cluster numbers, hashed. */
struct qcow2_set {
    uint64_t *numbers; /* each plus one; 0: free */
    size_t count, room;
};

/* --- an image --- */

struct qcow2_piece;

/* One file of the chain. A raw backing file is one, too, without all the tables. */
struct qcow2_image {
    char *path;        /* owned */
    struct block *raw; /* owned */
    int fd;            /* raw's */
    uint32_t align;    /* of transfers, bytes; more than a sector with O_DIRECT only */
    const struct log *log;
    bool is_raw;
    bool read_only;
    bool is_device; /* its size is fixed, and what was never written is not zero */
    bool broken;    /* damaged: no more changes */
    bool no_punch;  /* the file system makes no holes */
    dev_t dev;
    ino_t ino;
    uint64_t file_end; /* bytes; the file was that long when we last looked */

    struct qcow2_header h;
    uint32_t cluster_size;
    uint32_t l2_entries;
    uint64_t *l1;                /* h.l1_size entries; owned */
    uint32_t l1_from, l1_to;     /* entries that the file does not have */
    struct qcow2_cache l2_cache; /* empty in a raw file */
    uint8_t *scratch;            /* one cluster, page-aligned; owned */
    uint8_t *packed;             /* two clusters; NULL until a compressed one is read; owned */
    uint8_t *unpacked;           /* one cluster, that of unpacked_entry; owned */
    uint64_t unpacked_entry;     /* 0: none */

    /* The rest is there if the image can be written. */
    uint64_t *reftable; /* owned */
    uint64_t reftable_entries;
    struct qcow2_cache ref_cache;
    struct qcow2_set tables;
    uint64_t free_hint; /* no cluster below is free */
    uint64_t *dropped;  /* clusters that lost a reference since the last commit; owned */
    unsigned dropped_count;
    struct qcow2_piece *busy; /* requests that are under way to clusters of this file */
};

struct qcow2 {
    struct block block;
    pthread_mutex_t lock; /* guards the images */
    unsigned depth;
    struct qcow2_image
        *images[BLOCK_QCOW2_CHAIN_MAX]; /* owned; [0] is the disk, then backing files */
};

/* A request to the file that is under way. */
struct qcow2_piece {
    struct block_req req;
    struct qcow2_ticket *ticket;
    struct qcow2_image *img;
    uint64_t first, last;            /* clusters of the file that it touches */
    struct qcow2_piece *prev, *next; /* in img->busy */
    struct iovec iov[];
};

/* Where part of the disk is. */
enum qcow2_kind {
    QCOW2_KIND_NONE, /* in the backing file, if there is one */
    QCOW2_KIND_ZERO, /* reads as zeros; a place may be set aside for it */
    QCOW2_KIND_DATA,
    QCOW2_KIND_COMPRESSED,
};

/* What an L2 entry says. */
struct qcow2_mapping {
    enum qcow2_kind kind;
    uint64_t entry;
    uint64_t place; /* offset in the file; 0: none */
    bool copied;
};

/* Part of the disk that is all of one kind, and in one piece. */
struct qcow2_extent {
    enum qcow2_kind kind; /* never NONE once the chain has been followed */
    struct qcow2_image *img;
    uint64_t place; /* of its first byte; DATA */
    uint64_t entry; /* COMPRESSED */
    uint64_t skip;  /* bytes of the cluster before it; COMPRESSED */
    uint64_t size;
};

/* A position in a request's memory. */
struct qcow2_cursor {
    const struct iovec *iov;
    size_t skip; /* bytes of *iov that are done with */
};

/* --- qcow2_header.c --- */

/* -EBADMSG, -ENOTSUP, -EUCLEAN; the error lacks the path. `bytes`: the file's first cluster, or
 * what there is of it. */
int qcow2_header_decode(const uint8_t *bytes, size_t len, struct qcow2_header *out,
                        struct error *err) HV_MUST_CHECK;
/* Can it be used at all, and written? */
int qcow2_header_check_features(const struct qcow2_header *h, const uint8_t *bytes, size_t len,
                                bool read_only, struct error *err) HV_MUST_CHECK;
/* Its tables are inside a file of `file_end` bytes, and not too large. */
int qcow2_header_check_tables(const struct qcow2_header *h, uint64_t file_end,
                              struct error *err) HV_MUST_CHECK;
/* Writes header and extensions into the first cluster, zeroed, at `bytes`. */
void qcow2_header_encode(const struct qcow2_header *h, uint8_t *bytes);

static inline uint64_t qcow2_clusters(uint64_t bytes, uint32_t cluster_bits)
{
    return (bytes >> cluster_bits) + ((bytes & (((uint64_t)1 << cluster_bits) - 1)) != 0);
}

/* --- qcow2_io.c: 0 or -errno; on a file that ends earlier than it did, -EIO --- */

int qcow2_io_read(const struct qcow2_image *img, void *data, size_t len, uint64_t offset);
int qcow2_io_write(struct qcow2_image *img, const void *data, size_t len, uint64_t offset);
int qcow2_io_sync(struct qcow2_image *img);
/* The file is at least so long afterwards; what is new reads as zeros. */
int qcow2_io_grow(struct qcow2_image *img, uint64_t end);
/* Gives storage back, if that can be. */
void qcow2_io_punch(struct qcow2_image *img, uint64_t offset, uint64_t len);

/* --- qcow2_cache.c --- */

int qcow2_cache_init(struct qcow2_cache *c, uint32_t cluster_size, uint64_t bytes,
                     int (*clean)(struct qcow2_image *img, struct qcow2_slot *slot)) HV_MUST_CHECK;
void qcow2_cache_fini(struct qcow2_cache *c);
/* The table at `offset`; it stays where it is until three others were asked for. */
int qcow2_cache_get(struct qcow2_image *img, struct qcow2_cache *c, uint64_t offset,
                    struct qcow2_slot **out) HV_MUST_CHECK;
/* The same for a table that is to be made: zeros, dirty. */
int qcow2_cache_new(struct qcow2_image *img, struct qcow2_cache *c, uint64_t offset,
                    struct qcow2_slot **out) HV_MUST_CHECK;
void qcow2_cache_drop(struct qcow2_cache *c, uint64_t offset);
void qcow2_slot_touch(struct qcow2_slot *slot, uint32_t from, uint32_t len);
bool qcow2_slot_is_dirty(const struct qcow2_slot *slot);
int qcow2_slot_write(struct qcow2_image *img, struct qcow2_slot *slot) HV_MUST_CHECK;
bool qcow2_cache_is_dirty(const struct qcow2_cache *c);
int qcow2_cache_write(struct qcow2_image *img, struct qcow2_cache *c) HV_MUST_CHECK;

/* --- qcow2_set.c --- */

int qcow2_set_add(struct qcow2_set *s, uint64_t number) HV_MUST_CHECK; /* -EEXIST, -ENOMEM */
bool qcow2_set_has(const struct qcow2_set *s, uint64_t number);
void qcow2_set_remove(struct qcow2_set *s, uint64_t number); /* fine if it is not there */
void qcow2_set_fini(struct qcow2_set *s);

/* --- qcow2_snapshot.c --- */

struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size; /* entries */
};

/* The entry of the snapshot table at *at, and *at behind it. Where its L1 table is was checked.
 * -EBADMSG; the error lacks the path. */
int qcow2_snapshot_next(const struct qcow2_image *img, uint64_t *at, struct qcow2_snapshot *out,
                        struct error *err) HV_MUST_CHECK;

/* --- qcow2_map.c --- */

/* Says once what is wrong, and forbids further changes. Returns -EIO. */
int qcow2_damaged(struct qcow2_image *img, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

uint32_t qcow2_l2_index(const struct qcow2_image *img, uint64_t offset);
uint64_t qcow2_l2_entry(const struct qcow2_slot *l2, uint32_t index);
void qcow2_l2_set(struct qcow2_slot *l2, uint32_t index, uint64_t entry);
/* The L2 table for `offset` of the disk, or NULL where there is none. */
int qcow2_l2_find(struct qcow2_image *img, uint64_t offset, struct qcow2_slot **out) HV_MUST_CHECK;
/* The same, to be changed: made or copied if need be. */
int qcow2_l2_own(struct qcow2_image *img, uint64_t offset, struct qcow2_slot **out) HV_MUST_CHECK;
/* Takes an L2 entry apart and checks it; `change`: what it refers to will change or be dropped. */
int qcow2_entry_decode(struct qcow2_image *img, uint64_t entry, bool change,
                       struct qcow2_mapping *out) HV_MUST_CHECK;
/* Where in the file a compressed cluster is. */
void qcow2_entry_packed(const struct qcow2_image *img, uint64_t entry, uint64_t *offset,
                        uint64_t *len);
/* What is at `offset` of the disk, at most `max` bytes, from images[layer] on. */
int qcow2_find(struct qcow2 *q, unsigned layer, uint64_t offset, uint64_t max,
               struct qcow2_extent *out) HV_MUST_CHECK;
/* How far from `offset` on, at most `max` bytes, writes can go to where the disk's data is.
 * *size is 0 if they cannot. */
int qcow2_find_writable(struct qcow2_image *img, uint64_t offset, uint64_t max, uint64_t *host,
                        uint64_t *size) HV_MUST_CHECK;
/* What images[layer] and those behind it have, read at once. */
int qcow2_read(struct qcow2 *q, unsigned layer, uint64_t offset, uint8_t *data,
               uint64_t len) HV_MUST_CHECK;

/* --- qcow2_compress.c --- */

/* The cluster's bytes, valid until the next call. */
int qcow2_unpack(struct qcow2_image *img, uint64_t entry, const uint8_t **out) HV_MUST_CHECK;

/* --- qcow2_write.c --- */

/* Before any change; -EIO if the image is damaged. */
int qcow2_begin_change(struct qcow2_image *img) HV_MUST_CHECK;
/* Writes [offset, offset + len), inside one cluster that has no place of its own yet. */
int qcow2_write_new(struct qcow2 *q, uint64_t offset, uint64_t len,
                    struct qcow2_cursor *from) HV_MUST_CHECK;
int qcow2_write_zeros(struct qcow2 *q, uint64_t offset, uint64_t len, bool unmap) HV_MUST_CHECK;
int qcow2_discard(struct qcow2 *q, uint64_t offset, uint64_t len) HV_MUST_CHECK;

/* --- qcow2_refcount.c --- */

/* The table alone, nothing checked. */
int qcow2_refcount_read_table(struct qcow2_image *img) HV_MUST_CHECK;
/* Reads the refcount table, and notes where all tables are. The error lacks the path. */
int qcow2_refcount_load(struct qcow2_image *img, struct error *err) HV_MUST_CHECK;
uint64_t qcow2_refcount_entries(const struct qcow2_image *img); /* in a refcount block */
uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, uint64_t index);
void qcow2_refcount_set(uint8_t *block, unsigned order, uint64_t index, uint64_t count);
/* The same in a cached block. */
void qcow2_refcount_change(struct qcow2_image *img, struct qcow2_slot *block, uint64_t index,
                           uint64_t count);
int qcow2_refcount(struct qcow2_image *img, uint64_t cluster, uint64_t *count) HV_MUST_CHECK;
/* Takes a free cluster; *fresh (may be NULL): it is new in the file, and zero. -ENOSPC, -EIO. */
int qcow2_alloc(struct qcow2_image *img, uint64_t *host, bool *fresh) HV_MUST_CHECK;
/* Gives one back that no table has named yet. */
void qcow2_unalloc(struct qcow2_image *img, uint64_t host);
/* A reference to this cluster is gone from the tables in memory. It counts until these have
 * reached the file. */
int qcow2_drop(struct qcow2_image *img, uint64_t cluster) HV_MUST_CHECK;
int qcow2_drop_entry(struct qcow2_image *img, const struct qcow2_mapping *m) HV_MUST_CHECK;
/* Takes the dropped ones' counts down. */
int qcow2_refcount_settle(struct qcow2_image *img) HV_MUST_CHECK;

/* --- qcow2_reftable.c --- */

/* Makes the refcount table about twice as large. -ENOSPC: it is as large as it may be. */
int qcow2_reftable_enlarge(struct qcow2_image *img) HV_MUST_CHECK;
/* Takes `count` free clusters in a row, behind the end of the file. -ENOSPC, -EIO. */
int qcow2_alloc_row(struct qcow2_image *img, uint64_t count, uint64_t *host) HV_MUST_CHECK;
/* Writes one entry of the refcount table, whose block is in the file by now. */
int qcow2_reftable_write(struct qcow2_image *img, uint64_t number) HV_MUST_CHECK;

/* --- qcow2_commit.c --- */

/* Brings all tables to the file, in an order in which it is never wrong; -errno, and it can be
 * tried again. A sync must follow for the last of them to survive the host's death. */
int qcow2_commit(struct qcow2_image *img) HV_MUST_CHECK;
int qcow2_clean_l2(struct qcow2_image *img, struct qcow2_slot *slot);
/* All of it, for good. */
int qcow2_commit_all(struct qcow2_image *img) HV_MUST_CHECK;

/* --- qcow2_chain.c --- */

/* Opens one file, without its backing file. */
int qcow2_image_open(const struct block_qcow2_config *cfg, const char *path, bool is_raw,
                     bool read_only, struct qcow2_image **out, struct error *err) HV_MUST_CHECK;
void qcow2_image_close(struct qcow2_image *img); /* takes NULL */
int qcow2_chain_open(struct qcow2 *q, const struct block_qcow2_config *cfg,
                     struct error *err) HV_MUST_CHECK;
/* Unlocks and frees; what is dirty is lost. */
void qcow2_chain_close(struct qcow2 *q);

#endif
