#include "support/qcow2_file.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COPIED ((uint64_t)1 << 63)
#define OFFSET (((uint64_t)1 << 56) - 512)

static int open_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    cr_assert_geq(fd, 0, "%s", path);
    return fd;
}

void qfile_read(const char *path, uint64_t offset, void *data, size_t len)
{
    int fd = open_file(path);

    cr_assert_eq(pread(fd, data, len, (off_t)offset), (ssize_t)len);
    (void)close(fd);
}

void qfile_write(const char *path, uint64_t offset, const void *data, size_t len)
{
    int fd = open_file(path);

    cr_assert_eq(pwrite(fd, data, len, (off_t)offset), (ssize_t)len);
    (void)close(fd);
}

uint64_t qfile_get(const char *path, uint64_t offset, unsigned bytes)
{
    uint8_t data[8];
    uint64_t value = 0;

    qfile_read(path, offset, data, bytes);
    for (unsigned i = 0; i < bytes; i++)
        value = value << 8 | data[i];
    return value;
}

void qfile_put(const char *path, uint64_t offset, unsigned bytes, uint64_t value)
{
    uint8_t data[8];

    for (unsigned i = 0; i < bytes; i++)
        data[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    qfile_write(path, offset, data, bytes);
}

uint64_t qfile_end(const char *path)
{
    int fd = open_file(path);
    off_t end = lseek(fd, 0, SEEK_END);

    (void)close(fd);
    return (uint64_t)end;
}

static uint64_t cluster_size(const char *path)
{
    return (uint64_t)1 << qfile_get(path, QFILE_CLUSTER_BITS, 4);
}

uint64_t qfile_l1_at(const char *path, uint64_t disk_offset)
{
    uint64_t size = cluster_size(path);

    return qfile_get(path, QFILE_L1_OFFSET, 8) + disk_offset / (size * size / 8) * 8;
}

uint64_t qfile_l2_at(const char *path, uint64_t disk_offset)
{
    uint64_t size = cluster_size(path);
    uint64_t table = qfile_get(path, qfile_l1_at(path, disk_offset), 8) & OFFSET;

    return table == 0 ? 0 : table + disk_offset / size % (size / 8) * 8;
}

uint64_t qfile_refcount_at(const char *path, uint64_t file_offset)
{
    uint64_t size = cluster_size(path), cluster = file_offset / size;
    uint64_t table = qfile_get(path, QFILE_REFTABLE_OFFSET, 8);
    uint64_t block = qfile_get(path, table + cluster / (size / 2) * 8, 8);

    cr_assert_neq(block, 0);
    return block + cluster % (size / 2) * 2;
}

uint64_t qfile_append(const char *path, const void *data, size_t len, uint64_t count)
{
    uint64_t size = cluster_size(path);
    uint64_t at = (qfile_end(path) + size - 1) / size * size, end = at + len;

    qfile_write(path, at, data, len);
    cr_assert_eq(truncate(path, (off_t)((end + size - 1) / size * size)), 0);
    for (uint64_t offset = at; offset < end; offset += size)
        qfile_put(path, qfile_refcount_at(path, offset), 2, count);
    return at;
}

/* Counts what the entry at `at` names twice, and says there that it is shared. */
static uint64_t share(const char *path, uint64_t at)
{
    uint64_t entry = qfile_get(path, at, 8), offset = entry & OFFSET;

    if (offset == 0)
        return 0;
    uint64_t count = qfile_refcount_at(path, offset);
    qfile_put(path, count, 2, qfile_get(path, count, 2) + 1);
    qfile_put(path, at, 8, entry & ~COPIED);
    return offset;
}

uint64_t qfile_snapshot(const char *path)
{
    uint64_t l1 = qfile_get(path, QFILE_L1_OFFSET, 8), entries = qfile_get(path, QFILE_L1_SIZE, 4);
    uint8_t *copy = malloc(entries * 8), entry[64] = {0};

    cr_assert_not_null(copy);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t l2 = share(path, l1 + i * 8);
        for (uint64_t n = 0; l2 != 0 && n < cluster_size(path) / 8; n++)
            (void)share(path, l2 + n * 8);
    }
    qfile_read(path, l1, copy, entries * 8);
    uint64_t at = qfile_append(path, copy, entries * 8, 1);
    free(copy);
    /* qcow2, "Snapshot table entry": 16 bytes of extra data, "1" and "s", padded. */
    uint64_t table = qfile_append(path, entry, sizeof(entry), 1);
    qfile_put(path, table, 8, at);
    qfile_put(path, table + 8, 4, entries);
    qfile_put(path, table + 12, 2, 1);
    qfile_put(path, table + 14, 2, 1);
    qfile_put(path, table + 36, 4, 16);
    qfile_put(path, table + 48, 8, qfile_get(path, QFILE_SIZE, 8));
    qfile_write(path, table + 56, "1s", 2);
    qfile_put(path, QFILE_SNAPSHOTS, 4, 1);
    qfile_put(path, QFILE_SNAPSHOTS_OFFSET, 8, table);
    return at;
}
