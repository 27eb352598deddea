/* Images that somebody spoiled on purpose: refused, or -EIO, and never written over. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/num.h"
#include "hv/block/qcow2.h"
#include "support/block_rig.h"
#include "support/qcow2_file.h"
#include "support/tmp.h"

#define SIZE (4 * MIB)
#define CLUSTER (64 * KIB)
#define COPIED ((uint64_t)1 << 63)
#define COMPRESSED ((uint64_t)1 << 62)
#define OFFSET (((uint64_t)1 << 56) - 512)

static struct tmp_dir tmp;
static char path[256];
static uint8_t *data;
static unsigned logged;

static void count_message(void *ctx, enum log_level level, const char *text)
{
    (void)ctx;
    if (level == LOG_ERROR) {
        cr_assert_not_null(strstr(text, path), "%s", text);
        logged++;
    }
}

static const struct log log_counted = {.level = LOG_INFO, .write = count_message};

static int try_open(bool read_only, struct block **out, struct error *err)
{
    const struct block_qcow2_config cfg = {
        .path = path, .read_only = read_only, .log = &log_counted};

    *out = NULL;
    return block_qcow2_create(&cfg, out, err);
}

static void start(struct block_rig *rig)
{
    struct block *block;
    struct error err = {0};

    cr_assert_eq(try_open(false, &block, &err), 0, "%s", err.text);
    block_rig_init(rig, block);
}

/* An image with two clusters of data. */
static void setup(void)
{
    const struct block_qcow2_options options = {0};
    struct block_rig rig;
    struct error err;

    tmp_init(&tmp);
    strcpy(path, tmp_path(&tmp, "disk.qcow2"));
    data = malloc(SIZE);
    cr_assert_not_null(data);
    memset(data, 0x77, SIZE);
    cr_assert_eq(block_qcow2_format(path, SIZE, &options, &err), 0);
    start(&rig);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 0, data, 2 * CLUSTER), 0);
    block_rig_fini(&rig);
    cr_assert_eq(logged, 0);
}

static void teardown(void)
{
    free(data);
    tmp_fini(&tmp);
}

TestSuite(qcow2_hostile, .init = setup, .fini = teardown, .timeout = 60);

/* --- headers --- */

/* Refused for whatever purpose, with these words, and with nothing left open. */
static void is_refused(int rc, const char *hint)
{
    unsigned fds = count_open_fds();
    struct block *block;

    for (unsigned read_only = 0; read_only < 2; read_only++) {
        struct error err = {0};
        cr_expect_eq(try_open(read_only, &block, &err), rc, "%s: %s", hint, err.text);
        cr_expect_null(block);
        cr_expect_not_null(strstr(err.text, hint), "not \"%s\": %s", hint, err.text);
        cr_expect_not_null(strstr(err.text, path));
    }
    cr_expect_eq(count_open_fds(), fds);
}

Test(qcow2_hostile, headers_that_make_no_sense_are_refused)
{
    static const struct {
        uint64_t offset;
        unsigned bytes;
        uint64_t value;
        int rc;
        const char *hint;
    } cases[] = {
        {0, 4, 0x514649fa, -EBADMSG, "not a qcow2 image"},
        {QFILE_VERSION, 4, 1, -ENOTSUP, "version 1"},
        {QFILE_VERSION, 4, 4, -ENOTSUP, "version 4"},
        {QFILE_CLUSTER_BITS, 4, 0, -EBADMSG, "clusters of 2^0"},
        {QFILE_CLUSTER_BITS, 4, 8, -EBADMSG, "clusters of 2^8"},
        {QFILE_CLUSTER_BITS, 4, 22, -EBADMSG, "clusters of 2^22"},
        {QFILE_CLUSTER_BITS, 4, 64, -EBADMSG, "clusters of 2^64"},
        {QFILE_CLUSTER_BITS, 4, 0xffffffff, -EBADMSG, "clusters of 2^4294967295"},
        {QFILE_LENGTH, 4, 0, -EBADMSG, "header of 0"},
        {QFILE_LENGTH, 4, 72, -EBADMSG, "header of 72"},
        {QFILE_LENGTH, 4, 105, -EBADMSG, "header of 105"},
        {QFILE_LENGTH, 4, CLUSTER + 8, -EBADMSG, "header of 65544"},
        {QFILE_LENGTH, 4, 0xfffffff8, -EBADMSG, "header of 4294967288"},
        {QFILE_REFCOUNT_ORDER, 4, 7, -EBADMSG, "2^7 bits"},
        {QFILE_REFCOUNT_ORDER, 4, 0xffffffff, -EBADMSG, "2^4294967295 bits"},
        {QFILE_SIZE, 8, UINT64_MAX, -EBADMSG, "too small for its size"},
        {QFILE_SIZE, 8, (uint64_t)1 << 40, -EBADMSG, "too small for its size"},
        {QFILE_L1_SIZE, 4, 0, -EBADMSG, "too small for its size"},
        {QFILE_L1_SIZE, 4, 0xffffffff, -EBADMSG, "L1 table is too large"},
        {QFILE_L1_SIZE, 4, (32 << 20) / 8, -EBADMSG, "L1 table leaves the file"},
        {QFILE_L1_OFFSET, 8, 0, -EBADMSG, "L1 table has an impossible offset"},
        {QFILE_L1_OFFSET, 8, 1, -EBADMSG, "L1 table has an impossible offset"},
        {QFILE_L1_OFFSET, 8, (uint64_t)1 << 40, -EBADMSG, "L1 table leaves the file"},
        {QFILE_L1_OFFSET, 8, (uint64_t)1 << 63, -EBADMSG, "L1 table has an impossible offset"},
        {QFILE_L1_OFFSET, 8, -(uint64_t)CLUSTER, -EBADMSG, "L1 table has an impossible offset"},
        {QFILE_REFTABLE_CLUSTERS, 4, 0, -EBADMSG, "no refcount table"},
        {QFILE_REFTABLE_CLUSTERS, 4, 0xffffffff, -EBADMSG, "refcount table is too large"},
        {QFILE_REFTABLE_CLUSTERS, 4, 128, -EBADMSG, "refcount table leaves the file"},
        {QFILE_REFTABLE_OFFSET, 8, 0, -EBADMSG, "refcount table has an impossible offset"},
        {QFILE_REFTABLE_OFFSET, 8, 512, -EBADMSG, "refcount table has an impossible offset"},
        {QFILE_REFTABLE_OFFSET, 8, (uint64_t)1 << 40, -EBADMSG, "refcount table leaves the file"},
        {QFILE_SNAPSHOTS, 4, 65537, -EBADMSG, "too many snapshots"},
        {QFILE_SNAPSHOTS, 4, 1, -EBADMSG, "snapshot table has an impossible offset"},
        {QFILE_BACKING_OFFSET, 8, 8, -EBADMSG, "backing file's name"},
        {QFILE_BACKING_OFFSET, 8, UINT64_MAX, -EBADMSG, "backing file's name"},
        {QFILE_BACKING_OFFSET, 8, CLUSTER - 1, -EBADMSG, "backing file's name"},
        {QFILE_CRYPT, 4, 1, -ENOTSUP, "encrypted"},
        {QFILE_CRYPT, 4, 2, -ENOTSUP, "encrypted"},
        {QFILE_INCOMPATIBLE, 8, 2, -EUCLEAN, "qemu-img check -r all"},
        {QFILE_INCOMPATIBLE, 8, 4, -ENOTSUP, "external file"},
        {QFILE_INCOMPATIBLE, 8, 8, -EBADMSG, "contradicts itself about compression"},
        {QFILE_INCOMPATIBLE, 8, 16, -ENOTSUP, "extended L2"},
        {QFILE_INCOMPATIBLE, 8, 32, -ENOTSUP, "number 5"},
        {QFILE_INCOMPATIBLE, 8, (uint64_t)1 << 63, -ENOTSUP, "number 63"},
        {QFILE_COMPRESSION, 1, 1, -EBADMSG, "contradicts itself about compression"},
        {116, 4, 0xffffffff, -EBADMSG, "header extension leaves"},
    };

    qfile_put(path, 112, 4, 0x11111111); /* an extension that nobody knows, of length 0 */
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t before = qfile_get(path, cases[i].offset, cases[i].bytes);
        qfile_put(path, cases[i].offset, cases[i].bytes, cases[i].value);
        qfile_put(path, QFILE_BACKING_SIZE, 4, 4);
        is_refused(cases[i].rc, cases[i].hint);
        qfile_put(path, cases[i].offset, cases[i].bytes, before);
    }
    struct block_rig rig;
    start(&rig); /* nothing else was wrong */
    block_rig_fini(&rig);
}

Test(qcow2_hostile, short_files_are_refused)
{
    for (off_t size = 71; size > 0; size -= 5) {
        cr_assert_eq(truncate(path, size), 0);
        is_refused(-EBADMSG, "not a qcow2 image");
    }
    cr_assert_eq(truncate(path, 0), 0);
    is_refused(-EBADMSG, "not a qcow2 image");
}

Test(qcow2_hostile, a_file_that_ends_in_its_header_is_refused)
{
    cr_assert_eq(truncate(path, 104), 0);
    is_refused(-EBADMSG, "header of 112");
    cr_assert_eq(truncate(path, 100), 0);
    is_refused(-EBADMSG, "ends in its header");
}

/* qcow2, "Feature name table" */
Test(qcow2_hostile, an_unknown_feature_is_refused_by_its_name)
{
    static const char name[] = "time\x1b travel";

    qfile_put(path, QFILE_INCOMPATIBLE, 8, (uint64_t)1 << 40);
    qfile_put(path, 112, 4, 0x6803f857);
    qfile_put(path, 116, 4, 48);
    qfile_put(path, 120, 2, 40);
    qfile_write(path, 122, name, sizeof(name));
    is_refused(-ENOTSUP, "\"time? travel\""); /* it goes to a terminal */
}

/* qcow2, "incompatible_features": reference counts may be wrong. */
Test(qcow2_hostile, a_dirty_image_is_only_read)
{
    struct block *block;
    struct error err;

    qfile_put(path, QFILE_INCOMPATIBLE, 8, 1);
    cr_assert_eq(try_open(false, &block, &err), -EUCLEAN);
    cr_assert_not_null(strstr(err.text, "qemu-img check -r all"));
    cr_assert_eq(try_open(true, &block, &err), 0);
    block_destroy(block);
}

/* --- tables that name each other --- */

/* Nothing of it may be written; reading does no harm. */
static void is_refused_for_writing(const char *hint)
{
    struct block *block;
    struct error err = {0};

    cr_expect_eq(try_open(false, &block, &err), -EBADMSG, "%s", hint);
    cr_expect_not_null(strstr(err.text, hint), "not \"%s\": %s", hint, err.text);
    cr_expect_eq(try_open(true, &block, &err), 0, "%s", err.text);
    block_destroy(block);
}

Test(qcow2_hostile, tables_that_lie_on_each_other_are_not_written)
{
    uint64_t l1 = qfile_get(path, QFILE_L1_OFFSET, 8), entry = qfile_get(path, l1, 8);
    uint64_t table = qfile_get(path, QFILE_REFTABLE_OFFSET, 8), block = qfile_get(path, table, 8);

    qfile_put(path, l1, 8, l1 | COPIED);
    is_refused_for_writing("L2 table");
    qfile_put(path, l1, 8, table | COPIED);
    is_refused_for_writing("L2 table");
    qfile_put(path, l1, 8, block | COPIED);
    is_refused_for_writing("L2 table");
    qfile_put(path, l1, 8, entry);
    qfile_put(path, table + 8, 8, block);
    is_refused_for_writing("refcount block");
    qfile_put(path, table + 8, 8, table);
    is_refused_for_writing("refcount block");
    qfile_put(path, table + 8, 8, 512);
    is_refused_for_writing("refcount block");
    qfile_put(path, table + 8, 8, (uint64_t)1 << 50);
    is_refused_for_writing("refcount block");
    qfile_put(path, table + 8, 8, 0);
    qfile_put(path, QFILE_L1_SIZE, 4, 2);
    qfile_put(path, l1 + 8, 8, entry);
    is_refused_for_writing("L2 table");
    qfile_put(path, l1 + 8, 8, 512);
    is_refused_for_writing("L2 table");
    qfile_put(path, l1 + 8, 8, (uint64_t)1 << 50);
    is_refused_for_writing("L2 table");
    qfile_put(path, QFILE_L1_SIZE, 4, 1);
    qfile_put(path, QFILE_L1_OFFSET, 8, table);
    is_refused_for_writing("refcount table");
}

Test(qcow2_hostile, snapshots_that_make_no_sense_are_not_written)
{
    uint64_t l1 = qfile_snapshot(path), table = qfile_get(path, QFILE_SNAPSHOTS_OFFSET, 8);

    qfile_put(path, table, 8, qfile_get(path, QFILE_L1_OFFSET, 8));
    is_refused_for_writing("lies on another table");
    qfile_put(path, table, 8, 512);
    is_refused_for_writing("snapshot's L1 table");
    qfile_put(path, table, 8, (uint64_t)1 << 50);
    is_refused_for_writing("snapshot's L1 table");
    qfile_put(path, table, 8, l1);
    qfile_put(path, table + 8, 4, 0xffffffff);
    is_refused_for_writing("snapshot's L1 table");
    qfile_put(path, table + 8, 4, 1);
    qfile_put(path, table + 36, 4, 0xffffffff);
    is_refused_for_writing("snapshot table makes no sense");
    qfile_put(path, table + 36, 4, 16);
    qfile_put(path, QFILE_SNAPSHOTS, 4, 3);
    is_refused_for_writing("snapshot");
}

/* --- entries --- */

static uint8_t *whole_file(size_t *size)
{
    *size = qfile_end(path);
    uint8_t *bytes = malloc(*size);

    cr_assert_not_null(bytes);
    qfile_read(path, 0, bytes, *size);
    return bytes;
}

/* The request meets damage: -EIO, one line in the log, no more changes, and the file is as it was.
 */
static void meets_damage(enum block_op op, uint64_t offset, uint64_t size)
{
    struct block_rig rig;
    size_t before_size, after_size;
    uint8_t *before = whole_file(&before_size);
    bool moves = op == BLOCK_READ || op == BLOCK_WRITE;

    logged = 0;
    start(&rig);
    cr_expect_eq(block_rig_do(&rig, op, offset, moves ? data : NULL, size), -EIO);
    cr_expect_eq(block_rig_do(&rig, op, offset, moves ? data : NULL, size), -EIO);
    cr_expect_eq(block_rig_do(&rig, BLOCK_WRITE, 20 * CLUSTER, data, 512), -EIO);
    cr_expect_eq(block_rig_do(&rig, BLOCK_ZERO, 0, NULL, CLUSTER), -EIO);
    cr_expect_eq(block_rig_do(&rig, BLOCK_DISCARD, 0, NULL, CLUSTER), -EIO);
    cr_expect_eq(block_rig_do(&rig, BLOCK_FLUSH, 0, NULL, 0), -EIO);
    cr_expect_eq(block_rig_do(&rig, BLOCK_READ, 30 * CLUSTER, data, 512), 0);
    block_rig_fini(&rig);
    cr_expect_geq(logged, 1);
    cr_expect_leq(logged, 2); /* the damage, and that something was not written at the end */
    uint8_t *after = whole_file(&after_size);
    cr_expect_eq(after_size, before_size);
    cr_expect_eq(memcmp(before, after, before_size), 0);
    free(before);
    free(after);
    memset(data, 0x77, SIZE);
}

Test(qcow2_hostile, impossible_l2_entries_end_all_changes)
{
    uint64_t l2 = qfile_l2_at(path, 0), good = qfile_get(path, l2, 8);
    const uint64_t entries[] = {
        ((good & OFFSET) + 512) | COPIED, /* not aligned */
        (uint64_t)1 << 50 | COPIED,       /* outside the file */
        OFFSET | COPIED,
        COMPRESSED | ((uint64_t)1 << 50), /* outside the file */
        COMPRESSED | 100,                 /* in the header */
        COMPRESSED | (good & OFFSET),     /* no stream of anything */
        COMPRESSED | (((uint64_t)1 << 62) - 1),
    };

    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        qfile_put(path, l2, 8, entries[i]);
        meets_damage(BLOCK_READ, 512, 512);
        meets_damage(BLOCK_WRITE, 512, 512);
    }
    qfile_put(path, l2, 8, good);
    qfile_put(path, QFILE_VERSION, 4, 2);
    qfile_put(path, l2 + 8, 8, 1); /* version 2 has no zero flag */
    meets_damage(BLOCK_READ, CLUSTER, 512);
}

Test(qcow2_hostile, data_is_never_written_over_tables)
{
    uint64_t l2 = qfile_l2_at(path, 0), l1 = qfile_get(path, QFILE_L1_OFFSET, 8);
    uint64_t table = qfile_get(path, QFILE_REFTABLE_OFFSET, 8);
    const uint64_t tables[] = {l1, table, qfile_get(path, table, 8), l2 & ~(CLUSTER - 1)};

    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        for (unsigned flags = 0; flags < 3; flags++) { /* in place, copied from, set aside */
            qfile_put(path, l2, 8, tables[i] | (flags == 1 ? 0 : COPIED) | (flags == 2));
            meets_damage(BLOCK_WRITE, 512, 512);
            meets_damage(BLOCK_WRITE, 0, CLUSTER);
            meets_damage(BLOCK_ZERO, 0, CLUSTER);
            if (flags < 2) /* it is zero already */
                meets_damage(BLOCK_ZERO, 512, 512);
            meets_damage(BLOCK_DISCARD, 0, CLUSTER);
        }
        qfile_put(path, l2, 8, COMPRESSED | tables[i]);
        meets_damage(BLOCK_WRITE, 0, CLUSTER);
    }
}

Test(qcow2_hostile, wrong_counts_end_all_changes)
{
    uint64_t l2 = qfile_l2_at(path, 0), first = qfile_get(path, l2, 8) & OFFSET;
    uint64_t l1 = qfile_get(path, QFILE_L1_OFFSET, 8);

    /* Marked as ours alone, and counted twice: a snapshot would be written over. */
    qfile_put(path, qfile_refcount_at(path, first), 2, 2);
    meets_damage(BLOCK_WRITE, 512, 512);
    qfile_put(path, qfile_refcount_at(path, first), 2, 0);
    meets_damage(BLOCK_WRITE, 512, 512);
    meets_damage(BLOCK_DISCARD, 0, CLUSTER);
    qfile_put(path, qfile_refcount_at(path, first), 2, 1);
    qfile_put(path, qfile_refcount_at(path, l2), 2, 2);
    meets_damage(BLOCK_WRITE, 5 * CLUSTER, 512);
    qfile_put(path, qfile_refcount_at(path, l2), 2, 1);
    /* Tables that count as free are not given away. */
    qfile_put(path, qfile_refcount_at(path, l1), 2, 0);
    meets_damage(BLOCK_WRITE, 5 * CLUSTER, 512);
    qfile_put(path, qfile_refcount_at(path, l1), 2, 1);
    qfile_put(path, qfile_refcount_at(path, 0), 2, 0);
    meets_damage(BLOCK_WRITE, 5 * CLUSTER, 512);
}

/* A header that promises more than its file holds costs no memory, and no time. */
Test(qcow2_hostile, a_bomb_is_read_as_nothing)
{
    struct block_qcow2_report report;
    struct block_rig rig;
    struct error err;

    /* 32 MiB of L1 table in a sparse file, for 256 TiB. */
    cr_assert_eq(truncate(path, (off_t)(GIB * 1024)), 0);
    qfile_put(path, QFILE_L1_OFFSET, 8, GIB);
    qfile_put(path, QFILE_L1_SIZE, 4, (32 << 20) / 8);
    qfile_put(path, QFILE_SIZE, 8, (uint64_t)1 << 51);
    start(&rig);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, ((uint64_t)1 << 51) - 512, data, 512), 0);
    cr_assert_eq(data[0], 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_DISCARD, 0, NULL, (uint64_t)1 << 51), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_ZERO, 0, NULL, (uint64_t)1 << 51), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, ((uint64_t)1 << 51) - 512, data, 512), 0);
    block_rig_fini(&rig);
    cr_assert_eq(block_qcow2_check(path, NULL, NULL, &report, &err), 0);
    cr_assert_gt(report.corruptions, 0); /* nobody has counted that table */
}

/* The check walks what is spoiled, too, and ends. */
Test(qcow2_hostile, a_check_survives_all_of_it)
{
    uint64_t l1 = qfile_get(path, QFILE_L1_OFFSET, 8), l2 = qfile_l2_at(path, 0);
    uint64_t table = qfile_get(path, QFILE_REFTABLE_OFFSET, 8);
    const struct {
        uint64_t at, value;
    } cases[] = {
        {l1, l1 | COPIED},
        {l1, 512},
        {l1, OFFSET | COPIED},
        {l2, l2 & ~(CLUSTER - 1)},
        {l2, 512},
        {l2, OFFSET},
        {l2, COMPRESSED | OFFSET},
        {l2, UINT64_MAX},
        {table, table},
        {table, OFFSET},
        {table, 512},
        {table + 8, qfile_get(path, table, 8)},
        {table + 8, (uint64_t)1 << 60},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t before = qfile_get(path, cases[i].at, 8);
        struct block_qcow2_report report = {0};
        struct error err = {0};
        qfile_put(path, cases[i].at, 8, cases[i].value);
        cr_expect_eq(block_qcow2_check(path, NULL, NULL, &report, &err), 0, "%s", err.text);
        cr_expect_gt(report.corruptions, 0, "case %zu", i);
        qfile_put(path, cases[i].at, 8, before);
    }
}
