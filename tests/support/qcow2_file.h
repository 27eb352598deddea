/*
 * qcow2 files, as tests see them: bytes at offsets, which they change one by one.
 *
 * What is here works on images of block_qcow2_format() with version 3, and knows nothing of the
 * code that it tests. Offsets and fields: docs/interop/qcow2.txt of QEMU 7.2.
 */
#ifndef SUPPORT_QCOW2_FILE_H
#define SUPPORT_QCOW2_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Fields of the header. */
enum {
    QFILE_VERSION = 4,
    QFILE_BACKING_OFFSET = 8,
    QFILE_BACKING_SIZE = 16,
    QFILE_CLUSTER_BITS = 20,
    QFILE_SIZE = 24,
    QFILE_CRYPT = 32,
    QFILE_L1_SIZE = 36,
    QFILE_L1_OFFSET = 40,
    QFILE_REFTABLE_OFFSET = 48,
    QFILE_REFTABLE_CLUSTERS = 56,
    QFILE_SNAPSHOTS = 60,
    QFILE_SNAPSHOTS_OFFSET = 64,
    QFILE_INCOMPATIBLE = 72,
    QFILE_AUTOCLEAR = 88,
    QFILE_REFCOUNT_ORDER = 96,
    QFILE_LENGTH = 100,
    QFILE_COMPRESSION = 104,
};

/* A big-endian number of `bytes` bytes at `offset`. */
uint64_t qfile_get(const char *path, uint64_t offset, unsigned bytes);
void qfile_put(const char *path, uint64_t offset, unsigned bytes, uint64_t value);

void qfile_read(const char *path, uint64_t offset, void *data, size_t len);
void qfile_write(const char *path, uint64_t offset, const void *data, size_t len);
uint64_t qfile_end(const char *path); /* the file's size */

/* Where the L1 entry, the L2 entry (0: there is no table) or the refcount (of 16 bits) is. */
uint64_t qfile_l1_at(const char *path, uint64_t disk_offset);
uint64_t qfile_l2_at(const char *path, uint64_t disk_offset);
uint64_t qfile_refcount_at(const char *path, uint64_t file_offset);

/* Appends `len` bytes in clusters of their own, each counted `count` times; returns where. */
uint64_t qfile_append(const char *path, const void *data, size_t len, uint64_t count);

/* Makes an internal snapshot, as QEMU does, and returns where its L1 table is. */
uint64_t qfile_snapshot(const char *path);

#endif
