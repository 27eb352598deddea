#include "hv/block/qcow2.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "hv/base/num.h"
#include "support/block_rig.h"
#include "support/qcow2_file.h"
#include "support/tmp.h"

#define SIZE (4 * MIB)
#define CLUSTER (64 * KIB)
#define COPIED ((uint64_t)1 << 63)
#define OFFSET (((uint64_t)1 << 56) - 512)

static struct tmp_dir tmp;
static char path[256], base[256], other[256];
static uint8_t *a, *b, *zeros; /* SIZE bytes, page-aligned */

static void setup(void)
{
    tmp_init(&tmp);
    strcpy(path, tmp_path(&tmp, "disk.qcow2"));
    strcpy(base, tmp_path(&tmp, "base"));
    strcpy(other, tmp_path(&tmp, "other.qcow2"));
    a = aligned_alloc(4096, SIZE);
    b = aligned_alloc(4096, SIZE);
    zeros = aligned_alloc(4096, SIZE);
    cr_assert(a && b && zeros);
    for (unsigned i = 0; i < SIZE; i++)
        a[i] = (uint8_t)(i * 7 + i / 512 + 1);
    memset(b, 0xee, SIZE);
    memset(zeros, 0, SIZE);
}

static void teardown(void)
{
    free(a);
    free(b);
    free(zeros);
    tmp_fini(&tmp);
}

TestSuite(qcow2, .init = setup, .fini = teardown, .timeout = 60);

/* --- helpers --- */

static void make(const char *name, uint64_t size, const struct block_qcow2_options *options)
{
    const struct block_qcow2_options none = {0};
    struct error err = {0};

    cr_assert_eq(block_qcow2_format(name, size, options ? options : &none, &err), 0, "%s",
                 err.text);
}

static void make_over(const char *name, const char *backing, const char *format)
{
    make(name, SIZE, &(struct block_qcow2_options){.backing = backing, .backing_format = format});
}

/* A raw file of SIZE bytes, with what is in `a`. */
static void make_base(void)
{
    int fd = open(base, O_RDWR | O_CREAT | O_TRUNC, 0600);

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, a, SIZE), SIZE);
    (void)close(fd);
}

static void start_with(struct block_rig *rig, const struct block_qcow2_config *cfg)
{
    struct block *block = NULL;
    struct error err = {0};

    cr_assert_eq(block_qcow2_create(cfg, &block, &err), 0, "%s", err.text);
    block_rig_init(rig, block);
}

static void start(struct block_rig *rig)
{
    start_with(rig, &(struct block_qcow2_config){.path = path, .backing = true});
}

static void start_read_only(struct block_rig *rig)
{
    start_with(rig, &(struct block_qcow2_config){.path = path, .backing = true, .read_only = true});
}

static void writes(struct block_rig *rig, uint64_t offset, uint64_t size)
{
    cr_assert_eq(block_rig_do(rig, BLOCK_WRITE, offset, a + offset, size), 0);
}

static void flush(struct block_rig *rig)
{
    cr_assert_eq(block_rig_do(rig, BLOCK_FLUSH, 0, NULL, 0), 0);
}

static void reads(struct block_rig *rig, uint64_t offset, const uint8_t *expected, uint64_t size)
{
    memset(b, 0xee, size);
    cr_assert_eq(block_rig_do(rig, BLOCK_READ, offset, b, size), 0);
    for (uint64_t i = 0; i < size; i++)
        cr_assert_eq(b[i], expected[i], "byte %llu is %02x, not %02x",
                     (unsigned long long)(offset + i), b[i], expected[i]);
}

static struct block_qcow2_report report_of(const char *name)
{
    struct block_qcow2_report report = {0};
    struct error err = {0};

    cr_assert_eq(block_qcow2_check(name, NULL, NULL, &report, &err), 0, "%s", err.text);
    return report;
}

static void is_clean(const char *name)
{
    struct block_qcow2_report report = report_of(name);

    cr_assert_eq(report.corruptions, 0);
    cr_assert_eq(report.leaks, 0);
}

static int refuses(const struct block_qcow2_config *cfg, const char *hint)
{
    struct block *block = NULL;
    struct error err = {0};
    unsigned fds = count_open_fds();
    int rc = block_qcow2_create(cfg, &block, &err);

    cr_assert_lt(rc, 0);
    cr_assert_null(block);
    cr_assert_not_null(strstr(err.text, hint), "%s", err.text);
    cr_assert_eq(count_open_fds(), fds);
    return rc;
}

/* --- reading and writing --- */

/* Both kinds of channels, and past the page cache. */
static const struct kind {
    bool no_uring, direct;
    uint32_t cluster_size;
} kinds[] = {{false, false, 65536}, {true, false, 65536}, {false, true, 65536},
             {false, false, 512},   {false, true, 4096},  {true, false, 2 << 20}};

ParameterizedTestParameters(qcow2, what_is_written_is_read)
{
    return cr_make_param_array(const struct kind, (void *)kinds, ARRAY_LEN(kinds));
}

ParameterizedTest(const struct kind *kind, qcow2, what_is_written_is_read)
{
    const struct block_qcow2_config cfg = {
        .path = path, .no_uring = kind->no_uring, .direct = kind->direct};
    struct block *block = NULL;
    struct block_rig rig;
    struct error err;

    make(path, SIZE, &(struct block_qcow2_options){.cluster_size = kind->cluster_size});
    if (block_qcow2_create(&cfg, &block, &err) == -EINVAL && kind->direct)
        return; /* the file system of /tmp does not know O_DIRECT */
    cr_assert_not_null(block, "%s", err.text);
    block_rig_init(&rig, block);
    cr_assert_eq(atomic_load(&block->size), SIZE);
    reads(&rig, 0, zeros, SIZE);
    writes(&rig, 12288, 262144); /* new clusters, the first and last in part */
    writes(&rig, 8192, 8192);    /* more of one */
    reads(&rig, 8192, a + 8192, 266240);
    reads(&rig, 0, zeros, 8192);
    reads(&rig, 274432, zeros, 65536);
    flush(&rig);
    writes(&rig, 16384, 4096);
    block_rig_fini(&rig);
    is_clean(path);

    start_with(&rig, &cfg);
    reads(&rig, 8192, a + 8192, 266240);
    reads(&rig, 274432, zeros, SIZE - 274432);
    block_rig_fini(&rig);
}

struct many {
    struct block_req req;
    bool done;
    int result;
};

static void on_many(struct block_req *req, int result)
{
    struct many *m = container_of(req, struct many, req);

    m->done = true;
    m->result = result;
}

static int do_pieces(struct block_rig *rig, enum block_op op, uint64_t offset,
                     const struct iovec *iov, unsigned count)
{
    struct many m = {
        .req = {.op = op, .offset = offset, .iov = iov, .iov_count = count, .done = on_many}};

    for (unsigned i = 0; i < count; i++)
        m.req.size += iov[i].iov_len;
    block_submit(rig->channel, &m.req);
    block_commit(rig->channel);
    block_rig_wait(rig, &m.done);
    return m.result;
}

Test(qcow2, requests_may_have_memory_in_many_pieces)
{
    const struct iovec out[] = {{a, 0},          {a, 512},          {a + 512, 0}, {a + 512, 100000},
                                {a + 100512, 0}, {a + 100512, 352}, {a, 0}};
    const struct iovec in[] = {{b, 0}, {b, 1000}, {b + 1000, 0}, {b + 1000, 99864}, {b, 0}};
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    for (unsigned turn = 0; turn < 2; turn++) { /* without a place, and with one */
        memset(b, turn, 100864);
        cr_assert_eq(do_pieces(&rig, BLOCK_READ, 512, in, ARRAY_LEN(in)), 0);
        cr_assert_eq(memcmp(b, turn ? a : zeros, 100864), 0);
        cr_assert_eq(do_pieces(&rig, BLOCK_WRITE, 512, out, ARRAY_LEN(out)), 0);
    }
    reads(&rig, 512, a, 100864);
    block_rig_fini(&rig);
}

Test(qcow2, a_request_may_touch_all_kinds_of_clusters)
{
    struct block_rig rig;

    make_base();
    make_over(path, "base", "raw");
    start(&rig);
    cr_assert_eq(block_rig_do(&rig, BLOCK_ZERO, CLUSTER, NULL, CLUSTER), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 3 * CLUSTER, zeros, CLUSTER), 0);
    memcpy(b, a, SIZE);
    uint8_t *expected = malloc(SIZE);
    memcpy(expected, a, SIZE);
    memset(expected + CLUSTER, 0, CLUSTER);
    memset(expected + 3 * CLUSTER, 0, CLUSTER);
    reads(&rig, 0, expected, SIZE);
    writes(&rig, 512, 5 * CLUSTER);
    memcpy(expected + 512, a + 512, 5 * CLUSTER);
    reads(&rig, 0, expected, SIZE);
    free(expected);
    block_rig_fini(&rig);
    is_clean(path);
}

static unsigned answered;

static void on_answer(struct block_req *req, int result)
{
    (void)req;
    cr_assert_eq(result, 0);
    answered++;
}

Test(qcow2, many_requests_are_under_way_at_once)
{
    enum { COUNT = 512 };
    static struct block_req reqs[COUNT];
    static struct iovec iov[COUNT];
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    for (unsigned turn = 0; turn < 2; turn++) {
        answered = 0;
        for (unsigned i = 0; i < COUNT; i++) {
            iov[i] = (struct iovec){(turn ? b : a) + i * 8192, 8192};
            reqs[i] = (struct block_req){.op = turn ? BLOCK_READ : BLOCK_WRITE,
                                         .offset = i * 8192,
                                         .size = 8192,
                                         .iov = &iov[i],
                                         .iov_count = 1,
                                         .done = on_answer};
            block_submit(rig.channel, &reqs[i]);
            cr_assert_eq(answered, 0); /* never inside submit */
        }
        block_commit(rig.channel);
        while (answered < COUNT)
            cr_assert_eq(loop_run_once(rig.loop, -1), 0);
    }
    cr_assert_eq(memcmp(a, b, SIZE), 0);
    cr_assert_gt(rig.batches, 0);
    block_rig_fini(&rig);
}

Test(qcow2, a_disk_may_end_inside_a_cluster)
{
    struct block_rig rig;

    make(path, CLUSTER + 1024, NULL);
    start(&rig);
    writes(&rig, CLUSTER, 1024);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, CLUSTER + 1024, a, 512), -EINVAL);
    reads(&rig, CLUSTER, a + CLUSTER, 1024);
    cr_assert_eq(block_rig_do(&rig, BLOCK_DISCARD, CLUSTER, NULL, 1024), 0);
    reads(&rig, CLUSTER, zeros, 1024);
    block_rig_fini(&rig);
    is_clean(path);
}

/* QEMU's own images end where the last byte is that was written. */
Test(qcow2, a_file_may_end_inside_its_last_cluster)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, CLUSTER);
    block_rig_fini(&rig);
    cr_assert_eq(truncate(path, (off_t)(qfile_end(path) - CLUSTER + 1000)), 0);
    memset(a + 1000, 0, CLUSTER - 1000);
    start_read_only(&rig);
    reads(&rig, 0, a, CLUSTER);
    block_rig_fini(&rig);
    start(&rig);
    reads(&rig, 512, a + 512, CLUSTER - 512);
    writes(&rig, CLUSTER - 512, 512);
    reads(&rig, 0, a, CLUSTER);
    block_rig_fini(&rig);
    is_clean(path);
}

/* --- backing files --- */

Test(qcow2, what_was_not_written_is_in_the_backing_file)
{
    struct block_rig rig;

    make_base();
    make_over(other, "base", "raw");
    make_over(path, "other.qcow2", "qcow2");
    start(&rig);
    reads(&rig, 0, a, SIZE);
    memset(a + 3 * 512, 0x5a, 512);
    writes(&rig, 3 * 512, 512); /* the rest of the cluster is copied */
    reads(&rig, 0, a, SIZE);
    block_rig_fini(&rig);
    is_clean(path);
    start(&rig);
    reads(&rig, 0, a, SIZE);
    block_rig_fini(&rig);
    uint8_t first[1024];
    qfile_read(base, 3 * 512, first, 1024);
    cr_assert_eq(first[0], (uint8_t)(3 * 512 * 7 + 3 + 1)); /* as it was */
}

Test(qcow2, a_smaller_backing_file_is_followed_by_zeros)
{
    struct block_rig rig;

    make_base();
    cr_assert_eq(truncate(base, 100 * 1000), 0); /* no multiple of a sector */
    make_over(path, "base", "raw");
    memset(a + 100 * 1000, 0, SIZE - 100 * 1000);
    start(&rig);
    reads(&rig, 0, a, SIZE);
    writes(&rig, 65536 + 512, 512);
    reads(&rig, 0, a, SIZE);
    block_rig_fini(&rig);

    make(other, CLUSTER + 512, NULL);
    cr_assert_eq(unlink(path), 0);
    make_over(path, other, "qcow2");
    start(&rig);
    reads(&rig, 0, zeros, SIZE);
    block_rig_fini(&rig);
}

Test(qcow2, a_backing_file_is_opened_only_if_that_is_allowed)
{
    make_base();
    make_over(path, "base", "raw");
    cr_assert_eq(refuses(&(struct block_qcow2_config){.path = path}, "base"), -EPERM);
    cr_assert_eq(
        refuses(&(struct block_qcow2_config){.path = path, .read_only = true}, "backing=on"),
        -EPERM);
}

Test(qcow2, a_backing_file_is_what_the_image_says_it_is)
{
    struct block_rig rig;

    /* A raw disk whose guest made it look like an image of something else. */
    make_base();
    make(other, SIZE, NULL);
    qfile_read(other, 0, a, 4096);
    qfile_write(base, 0, a, 4096);
    make_over(path, "base", "raw");
    start(&rig);
    reads(&rig, 0, a, SIZE);
    block_rig_fini(&rig);
    /* Without a word about it nothing is guessed. */
    qfile_put(path, 112, 4, 0x12345678);
    const struct block_qcow2_config cfg = {.path = path, .backing = true};
    cr_assert_eq(refuses(&cfg, "does not say what format"), -ENOTSUP);
    qfile_put(path, 112, 4, 0xe2792aca);
    qfile_write(path, 120, "vmd", 3);
    cr_assert_eq(refuses(&cfg, "vmd"), -ENOTSUP);
}

Test(qcow2, backing_files_that_never_end_are_refused)
{
    const struct block_qcow2_config cfg = {.path = path, .backing = true};
    char name[32], before[32] = "disk.qcow2";

    make_over(path, "disk.qcow2", "qcow2");
    cr_assert_eq(refuses(&cfg, "its own backing file"), -ELOOP);
    cr_assert_eq(unlink(path), 0);
    make_over(path, "other.qcow2", "qcow2");
    make_over(other, "./disk.qcow2", "qcow2");
    cr_assert_eq(refuses(&cfg, "its own backing file"), -ELOOP);
    cr_assert_eq(unlink(path), 0);
    make(path, SIZE, NULL);
    for (unsigned i = 1; i <= BLOCK_QCOW2_CHAIN_MAX; i++) {
        (void)snprintf(name, sizeof(name), "link%u.qcow2", i);
        make_over(tmp_path(&tmp, name), before, "qcow2");
        strcpy(before, name);
    }
    const struct block_qcow2_config last = {.path = tmp_path(&tmp, before), .backing = true};
    cr_assert_eq(refuses(&last, "more than"), -ELOOP);
}

Test(qcow2, a_missing_backing_file_is_named)
{
    const struct block_qcow2_config cfg = {.path = path, .backing = true};

    make_over(path, "missing.raw", "raw");
    cr_assert_eq(refuses(&cfg, "missing.raw"), -ENOENT);
    cr_assert_eq(refuses(&cfg, "backing file of"), -ENOENT);
}

/* --- zeros and discards --- */

static void zero(struct block_rig *rig, uint64_t offset, uint64_t size, bool unmap)
{
    struct many m = {
        .req = {
            .op = BLOCK_ZERO, .offset = offset, .size = size, .may_unmap = unmap, .done = on_many}};

    block_submit(rig->channel, &m.req);
    block_commit(rig->channel);
    block_rig_wait(rig, &m.done);
    cr_assert_eq(m.result, 0);
}

static void zeros_are_zeros(unsigned version, bool with_backing, bool unmap)
{
    struct block_rig rig;

    make_base();
    make(path, SIZE,
         &(struct block_qcow2_options){
             .version = version, .backing = with_backing ? "base" : NULL, .backing_format = "raw"});
    start(&rig);
    writes(&rig, 0, 4 * CLUSTER);
    zero(&rig, 512, 3 * CLUSTER, unmap);
    memset(a + 512, 0, 3 * CLUSTER);
    reads(&rig, 0, a, 4 * CLUSTER);
    zero(&rig, 10 * CLUSTER, SIZE - 10 * CLUSTER, unmap);
    reads(&rig, 10 * CLUSTER, zeros, SIZE - 10 * CLUSTER);
    flush(&rig);
    /* And what is written there afterwards is there, its neighbours still zero. */
    memset(a + CLUSTER + 512, 0x77, 512);
    writes(&rig, CLUSTER + 512, 512);
    reads(&rig, 0, a, 4 * CLUSTER);
    block_rig_fini(&rig);
    is_clean(path);
    cr_assert_eq(unlink(path), 0);
}

Test(qcow2, zeros_are_zeros_whatever_there_was)
{
    for (unsigned i = 0; i < 8; i++)
        zeros_are_zeros(2 + (i & 1), i & 2, i & 4);
}

Test(qcow2, zeros_keep_or_give_up_their_place)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 2 * CLUSTER);
    zero(&rig, 0, CLUSTER, false);
    zero(&rig, CLUSTER, CLUSTER, true);
    block_rig_fini(&rig);
    uint64_t kept = qfile_get(path, qfile_l2_at(path, 0), 8);
    cr_assert_eq(kept & 1, 1);
    cr_assert_neq(kept & OFFSET, 0);
    cr_assert_eq(qfile_get(path, qfile_l2_at(path, CLUSTER), 8), 0);
    is_clean(path);
    /* The place that was kept is used again. */
    start(&rig);
    writes(&rig, 512, 512);
    block_rig_fini(&rig);
    cr_assert_eq(qfile_get(path, qfile_l2_at(path, 0), 8), (kept & ~(uint64_t)1));
    is_clean(path);
}

Test(qcow2, a_discard_frees_room_that_is_used_again)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 8 * CLUSTER);
    flush(&rig);
    uint64_t end = qfile_end(path);
    cr_assert_eq(block_rig_do(&rig, BLOCK_DISCARD, 0, NULL, 8 * CLUSTER), 0);
    reads(&rig, 0, zeros, 8 * CLUSTER);
    flush(&rig);
    writes(&rig, 20 * CLUSTER, 8 * CLUSTER);
    reads(&rig, 20 * CLUSTER, a + 20 * CLUSTER, 8 * CLUSTER);
    block_rig_fini(&rig);
    cr_assert_eq(qfile_end(path), end);
    is_clean(path);
}

Test(qcow2, a_discard_uncovers_nothing)
{
    struct block_rig rig;

    make_base();
    make_over(path, "base", "raw");
    start(&rig);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 0, zeros, 2 * CLUSTER), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_DISCARD, 0, NULL, 3 * CLUSTER), 0);
    reads(&rig, 0, zeros, 2 * CLUSTER);
    reads(&rig, 2 * CLUSTER, a + 2 * CLUSTER, CLUSTER); /* it was never ours */
    block_rig_fini(&rig);
    is_clean(path);
}

Test(qcow2, a_discard_of_less_than_a_cluster_does_nothing)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 2 * CLUSTER);
    cr_assert_eq(block_rig_do(&rig, BLOCK_DISCARD, 512, NULL, 2 * CLUSTER - 1024), 0);
    reads(&rig, 0, a, 2 * CLUSTER);
    block_rig_fini(&rig);
}

/* --- what survives --- */

static void copy_file(const char *from, const char *to)
{
    uint64_t size = qfile_end(from);
    uint8_t *data = malloc(size);
    int fd = open(to, O_RDWR | O_CREAT | O_TRUNC, 0600);

    cr_assert(data != NULL && fd >= 0);
    qfile_read(from, 0, data, size);
    cr_assert_eq(write(fd, data, size), (ssize_t)size);
    (void)close(fd);
    free(data);
}

Test(qcow2, what_was_flushed_is_in_the_file)
{
    struct block_rig rig, copy;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 3 * CLUSTER);
    flush(&rig);
    copy_file(path, other);
    writes(&rig, 512, CLUSTER);
    block_rig_fini(&rig);
    is_clean(other);
    start_with(&copy, &(struct block_qcow2_config){.path = other, .read_only = true});
    reads(&copy, 0, a, 3 * CLUSTER);
    block_rig_fini(&copy);
}

/* At any time: as if we were killed now. */
Test(qcow2, the_file_is_never_worse_than_leaky)
{
    struct block_rig rig;
    uint64_t random = 12345, leaks = 0;

    make(path, SIZE, &(struct block_qcow2_options){.cluster_size = 512});
    start(&rig);
    for (unsigned i = 0; i < 300; i++) {
        random = random * 6364136223846793005U + 1442695040888963407U;
        uint64_t offset = (random >> 33) % (SIZE / 512 - 300) * 512,
                 size = (random >> 50) % 300 * 512;
        if (i % 4 == 0)
            cr_assert_eq(block_rig_do(&rig, BLOCK_DISCARD, offset, NULL, size), 0);
        else
            writes(&rig, offset, size);
        if (i % 16 == 0)
            flush(&rig);
        copy_file(path, other);
        struct block_qcow2_report report = report_of(other);
        cr_assert_eq(report.corruptions, 0, "after %u requests", i + 1);
        leaks += report.leaks;
    }
    cr_assert_gt(leaks, 0); /* else the test saw nothing of it */
    block_rig_fini(&rig);
    is_clean(path);
}

Test(qcow2, a_full_disk_is_an_error_and_nothing_more)
{
    struct rlimit old, tight;
    struct block_rig rig;

    make(path, SIZE, &(struct block_qcow2_options){.cluster_size = 4096});
    start(&rig);
    writes(&rig, 0, CLUSTER);
    flush(&rig);
    (void)signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight = (struct rlimit){qfile_end(path) + 8192, old.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &tight), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, MIB, a, CLUSTER), -ENOSPC);
    reads(&rig, 0, a, CLUSTER);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    writes(&rig, MIB, CLUSTER);
    reads(&rig, MIB, a + MIB, CLUSTER);
    block_rig_fini(&rig);
    is_clean(path);
}

Test(qcow2, a_file_that_shrinks_gives_errors)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 4 * CLUSTER);
    flush(&rig);
    cr_assert_eq(truncate(path, (off_t)(qfile_end(path) - 2 * CLUSTER)), 0);
    reads(&rig, 0, a, CLUSTER);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 0, b, 4 * CLUSTER), -EIO);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 3 * CLUSTER, b, 512), -EIO);
    cr_assert_eq(truncate(path, 512), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 0, b, 512), -EIO);
    block_rig_fini(&rig);
}

/* --- who may --- */

Test(qcow2, a_second_writer_is_refused)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    cr_assert_eq(refuses(&(struct block_qcow2_config){.path = path}, "in use"), -EBUSY);
    cr_assert_eq(refuses(&(struct block_qcow2_config){.path = path, .read_only = true}, path),
                 -EBUSY);
    block_rig_fini(&rig);
}

Test(qcow2, readers_share_and_change_nothing)
{
    struct block_rig one, two;
    struct stat before, after;

    make(path, SIZE, NULL);
    cr_assert_eq(stat(path, &before), 0);
    start_read_only(&one);
    start_read_only(&two);
    cr_assert_eq(block_rig_do(&one, BLOCK_WRITE, 0, a, 512), -EROFS);
    cr_assert_eq(block_rig_do(&one, BLOCK_DISCARD, 0, NULL, CLUSTER), -EROFS);
    reads(&two, 0, zeros, 512);
    flush(&two);
    block_rig_fini(&one);
    block_rig_fini(&two);
    cr_assert_eq(stat(path, &after), 0);
    cr_assert_eq(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
}

/* --- formats --- */

Test(qcow2, counts_of_every_width_are_kept)
{
    for (unsigned bits = 1; bits <= 64; bits *= 2) {
        struct block_rig rig;

        make(path, SIZE, &(struct block_qcow2_options){.cluster_size = 512, .refcount_bits = bits});
        start(&rig);
        writes(&rig, 0, MIB);
        cr_assert_eq(block_rig_do(&rig, BLOCK_DISCARD, 1024, NULL, 4096), 0);
        block_rig_fini(&rig);
        is_clean(path);
        start(&rig);
        reads(&rig, 8192, a + 8192, MIB - 8192);
        writes(&rig, 0, 8192);
        block_rig_fini(&rig);
        is_clean(path);
        cr_assert_eq(unlink(path), 0);
    }
}

Test(qcow2, the_refcount_table_grows)
{
    struct block_rig rig;

    /* A table of one cluster counts 64 × 64 clusters of 512 bytes: half of the disk. */
    make(path, 512 * KIB, &(struct block_qcow2_options){.cluster_size = 512, .refcount_bits = 64});
    cr_assert_eq(qfile_get(path, QFILE_REFTABLE_CLUSTERS, 4), 1);
    struct error err;
    cr_assert_eq(block_qcow2_resize(path, SIZE, false, false, &err), 0, "%s", err.text);
    start(&rig);
    for (uint64_t at = 0; at < SIZE; at += 128 * KIB)
        writes(&rig, at, 128 * KIB);
    reads(&rig, 0, a, SIZE);
    block_rig_fini(&rig);
    cr_assert_gt(qfile_get(path, QFILE_REFTABLE_CLUSTERS, 4), 1);
    is_clean(path);
    start(&rig);
    reads(&rig, 0, a, SIZE);
    block_rig_fini(&rig);
}

/* qcow2, "autoclear_features": who writes and does not know them clears them first. */
Test(qcow2, unknown_autoclear_features_are_cleared_by_the_first_write)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    qfile_put(path, QFILE_AUTOCLEAR, 8, 0x8000000000000004);
    start(&rig);
    reads(&rig, 0, zeros, 512);
    flush(&rig);
    cr_assert_eq(qfile_get(path, QFILE_AUTOCLEAR, 8), 0x8000000000000004);
    writes(&rig, 0, 512);
    cr_assert_eq(qfile_get(path, QFILE_AUTOCLEAR, 8), 0);
    block_rig_fini(&rig);
}

/* qcow2, "Snapshots": a write to what is shared goes to a copy. */
Test(qcow2, snapshots_do_not_change)
{
    struct block_rig rig;
    uint8_t before[4096], after[4096];

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 4 * CLUSTER);
    block_rig_fini(&rig);
    uint64_t l1 = qfile_snapshot(path);
    is_clean(path);
    uint64_t l2 = qfile_get(path, l1, 8) & OFFSET;
    uint64_t cluster = qfile_get(path, l2, 8) & OFFSET;
    qfile_read(path, l2, before, sizeof(before));

    start(&rig);
    memset(a + 512, 0x11, 1024);
    writes(&rig, 512, 1024);
    zero(&rig, CLUSTER, CLUSTER, false);
    cr_assert_eq(block_rig_do(&rig, BLOCK_DISCARD, 2 * CLUSTER, NULL, CLUSTER), 0);
    memset(a + CLUSTER, 0, 2 * CLUSTER);
    reads(&rig, 0, a, 4 * CLUSTER);
    block_rig_fini(&rig);
    is_clean(path);
    cr_assert_eq(qfile_get(path, l1, 8) & OFFSET, l2);
    qfile_read(path, l2, after, sizeof(after));
    cr_assert_eq(memcmp(before, after, sizeof(after)), 0);
    qfile_read(path, cluster, after, sizeof(after));
    cr_assert_eq(after[512], (uint8_t)(512 * 7 + 1 + 1)); /* not 0x11 */
    cr_assert_neq(qfile_get(path, qfile_l1_at(path, 0), 8) & OFFSET, l2);
}

/* Puts the cluster at `offset` of the disk into the file as `len` bytes of a compressed one. */
static void put_compressed(uint64_t offset, const void *data, size_t len)
{
    unsigned x = 62 - (16 - 8);
    uint64_t at = qfile_append(path, data, len, 1), sectors = (len + 511) / 512;

    cr_assert_leq(len, CLUSTER);
    qfile_put(path, qfile_l2_at(path, offset), 8, (uint64_t)1 << 62 | (sectors - 1) << x | at);
}

static void compressed_clusters_are_read_and_replaced(void)
{
    struct block_rig rig;

    is_clean(path);
    start(&rig);
    reads(&rig, 3 * CLUSTER, a + 3 * CLUSTER, CLUSTER);
    reads(&rig, 3 * CLUSTER + 1024, a + 3 * CLUSTER + 1024, 512);
    writes(&rig, 0, 512);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 3 * CLUSTER + 512, zeros, 512), 0);
    memset(a + 3 * CLUSTER + 512, 0, 512);
    reads(&rig, 3 * CLUSTER, a + 3 * CLUSTER, CLUSTER);
    block_rig_fini(&rig);
    is_clean(path);
    cr_assert_eq(report_of(path).compressed, 0);
}

Test(qcow2, compressed_clusters_are_read_and_replaced)
{
    z_stream z = {0};
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 512); /* makes the L2 table */
    block_rig_fini(&rig);
    cr_assert_eq(deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = a + 3 * CLUSTER;
    z.avail_in = CLUSTER;
    z.next_out = b;
    z.avail_out = SIZE;
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t len = SIZE - z.avail_out;
    (void)deflateEnd(&z);
    put_compressed(3 * CLUSTER, b, len);
    compressed_clusters_are_read_and_replaced();
}

Test(qcow2, clusters_compressed_with_zstd_are_read_and_replaced)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 512);
    block_rig_fini(&rig);
    size_t len = ZSTD_compress(b, SIZE, a + 3 * CLUSTER, CLUSTER, 3);
    cr_assert(!ZSTD_isError(len));
    put_compressed(3 * CLUSTER, b, len);
    qfile_put(path, QFILE_INCOMPATIBLE, 8, 8);
    qfile_put(path, QFILE_COMPRESSION, 1, 1);
    compressed_clusters_are_read_and_replaced();
}

Test(qcow2, what_cannot_be_made_is_refused_and_leaves_nothing)
{
    static const struct {
        uint64_t size;
        struct block_qcow2_options options;
        int rc;
        const char *hint;
    } cases[] = {
        {0, {0}, -EINVAL, "multiple of 512"},
        {1000, {0}, -EINVAL, "multiple of 512"},
        {(uint64_t)1 << 63, {0}, -EINVAL, "multiple of 512"},
        {1ULL << 40, {.cluster_size = 512}, -EFBIG, "too small"},
        {SIZE, {.cluster_size = 256}, -EINVAL, "clusters"},
        {SIZE, {.cluster_size = 4 << 20}, -EINVAL, "clusters"},
        {SIZE, {.cluster_size = 5000}, -EINVAL, "clusters"},
        {SIZE, {.refcount_bits = 3}, -EINVAL, "reference counts"},
        {SIZE, {.refcount_bits = 128}, -EINVAL, "reference counts"},
        {SIZE, {.version = 2, .refcount_bits = 8}, -EINVAL, "reference counts"},
        {SIZE, {.version = 4}, -EINVAL, "version"},
        {SIZE, {.backing = "x"}, -EINVAL, "format"},
        {SIZE, {.backing = "x", .backing_format = "vmdk"}, -EINVAL, "format"},
        {SIZE, {.backing = "", .backing_format = "raw"}, -EINVAL, "name"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct error err;
        cr_expect_eq(block_qcow2_format(path, cases[i].size, &cases[i].options, &err), cases[i].rc,
                     "case %zu", i);
        cr_expect_not_null(strstr(err.text, cases[i].hint), "%s", err.text);
        cr_expect_eq(access(path, F_OK), -1);
    }
    char name[600];
    struct error err;
    memset(name, 'x', sizeof(name));
    name[599] = '\0';
    const struct block_qcow2_options o = {
        .cluster_size = 512, .backing = name, .backing_format = "raw"};
    cr_assert_eq(block_qcow2_format(path, SIZE, &o, &err), -EINVAL);
    make(path, SIZE, NULL);
    cr_assert_eq(block_qcow2_format(path, SIZE, &(struct block_qcow2_options){0}, &err), -EEXIST);
}

Test(qcow2, a_new_image_that_does_not_fit_leaves_nothing)
{
    struct rlimit old, tight;
    struct error err;

    (void)signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight = (struct rlimit){100000, old.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &tight), 0);
    int rc = block_qcow2_format(path, SIZE, &(struct block_qcow2_options){0}, &err);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    cr_assert_eq(rc, -ENOSPC);
    cr_assert_eq(access(path, F_OK), -1);
}

Test(qcow2, images_of_many_sizes_begin_clean)
{
    static const uint64_t sizes[] = {512, MIB, 100 * MIB, 100 * GIB};

    for (uint32_t cluster = 512; cluster <= 2 << 20; cluster *= 4)
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            make(path, sizes[i], &(struct block_qcow2_options){.cluster_size = cluster});
            is_clean(path);
            cr_assert_eq(unlink(path), 0);
        }
}

Test(qcow2, info_says_what_the_header_says)
{
    struct block_qcow2_info info;
    struct error err;

    make(path, SIZE,
         &(struct block_qcow2_options){.cluster_size = 4096,
                                       .refcount_bits = 8,
                                       .backing = "/some/where",
                                       .backing_format = "raw"});
    qfile_put(path, QFILE_INCOMPATIBLE, 8, 1);
    memset(&info, 0xee, sizeof(info));
    cr_assert_eq(block_qcow2_info(path, &info, &err), 0);
    cr_assert_eq(info.version, 3);
    cr_assert_eq(info.size, SIZE);
    cr_assert_eq(info.cluster_size, 4096);
    cr_assert_eq(info.refcount_bits, 8);
    cr_assert_eq(info.snapshots, 0);
    cr_assert(info.dirty && !info.corrupt && !info.encrypted && !info.zstd);
    cr_assert_str_eq(info.backing, "/some/where");
    cr_assert_str_eq(info.backing_format, "raw");
    make_base();
    cr_assert_eq(block_qcow2_info(base, &info, &err), -EBADMSG);
    cr_assert_not_null(strstr(err.text, "not a qcow2 image"));
    cr_assert_eq(block_qcow2_info("/nonexistent", &info, &err), -ENOENT);
}

/* --- resizing --- */

Test(qcow2, a_disk_grows_and_shrinks)
{
    struct block_rig rig;
    struct error err;

    make(path, MIB, &(struct block_qcow2_options){.cluster_size = 512});
    start(&rig);
    writes(&rig, 0, MIB);
    block_rig_fini(&rig);
    cr_assert_eq(block_qcow2_resize(path, SIZE, false, false, &err), 0, "%s", err.text);
    is_clean(path);
    start(&rig);
    cr_assert_eq(atomic_load(&rig.block->size), SIZE);
    reads(&rig, 0, a, MIB);
    reads(&rig, MIB, zeros, SIZE - MIB);
    writes(&rig, SIZE - 512, 512);
    block_rig_fini(&rig);
    is_clean(path);
    cr_assert_eq(block_qcow2_resize(path, 1024, false, false, &err), -EINVAL);
    cr_assert_eq(qfile_get(path, QFILE_SIZE, 8), SIZE);
    cr_assert_eq(block_qcow2_resize(path, 1024, true, false, &err), 0, "%s", err.text);
    is_clean(path);
    cr_assert_eq(report_of(path).allocated, 2);
    cr_assert_eq(block_qcow2_resize(path, MIB, false, false, &err), 0);
    start(&rig);
    reads(&rig, 0, a, 1024);
    reads(&rig, 1024, zeros, MIB - 1024);
    block_rig_fini(&rig);
    cr_assert_eq(block_qcow2_resize(path, 0, true, false, &err), -EINVAL);
    cr_assert_eq(block_qcow2_resize(path, 777, true, false, &err), -EINVAL);
    cr_assert_eq(block_qcow2_resize(path, 1ULL << 40, false, false, &err), -EFBIG);
}

/* Of more clusters in a row than one refcount block counts. */
Test(qcow2, a_disk_grows_to_a_large_l1_table)
{
    struct block_rig rig;
    struct error err;

    make(path, MIB, &(struct block_qcow2_options){.cluster_size = 512, .refcount_bits = 64});
    start(&rig);
    writes(&rig, 0, MIB);
    block_rig_fini(&rig);
    cr_assert_eq(block_qcow2_resize(path, 16 * GIB, false, false, &err), 0, "%s", err.text);
    is_clean(path);
    start(&rig);
    reads(&rig, 0, a, MIB);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 16 * GIB - MIB, a, MIB), 0);
    reads(&rig, 16 * GIB - MIB, a, MIB);
    block_rig_fini(&rig);
    is_clean(path);
}

Test(qcow2, what_a_larger_disk_gains_is_zero)
{
    struct block_rig rig;
    struct error err;

    /* Not what the backing file has there, nor what is left in the last cluster. */
    make_base();
    make(path, CLUSTER + 512,
         &(struct block_qcow2_options){.backing = "base", .backing_format = "raw"});
    start(&rig);
    writes(&rig, CLUSTER, 512);
    block_rig_fini(&rig);
    uint64_t cluster = qfile_get(path, qfile_l2_at(path, CLUSTER), 8) & OFFSET;
    qfile_write(path, cluster + 512, a, 1024);
    cr_assert_eq(block_qcow2_resize(path, SIZE, false, false, &err), -EPERM);
    cr_assert_eq(block_qcow2_resize(path, SIZE, false, true, &err), 0, "%s", err.text);
    start(&rig);
    reads(&rig, 0, a, CLUSTER + 512);
    reads(&rig, CLUSTER + 512, zeros, SIZE - CLUSTER - 512);
    block_rig_fini(&rig);
    is_clean(path);
}

/* --- checking, and looking --- */

/* An image whose first two clusters were written. */
static void make_written(void)
{
    struct block_rig rig;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 0, 2 * CLUSTER);
    block_rig_fini(&rig);
}

static char said[4096];

static void note(void *ctx, const char *text)
{
    (void)ctx;
    strncat(said, text, sizeof(said) - strlen(said) - 1);
}

Test(qcow2, a_check_finds_leaks_and_damage)
{
    struct block_qcow2_report report;
    struct error err;

    make_written();
    uint64_t l2 = qfile_l2_at(path, 0), first = qfile_get(path, l2, 8) & OFFSET;
    qfile_put(path, qfile_refcount_at(path, first), 2, 2); /* and its entry says once */
    (void)qfile_append(path, a, 512, 1);
    cr_assert_eq(block_qcow2_check(path, note, NULL, &report, &err), 0);
    cr_assert_eq(report.leaks, 2);
    cr_assert_eq(report.corruptions, 1);
    cr_assert_eq(report.allocated, 2);
    cr_assert_eq(report.clusters, SIZE / CLUSTER);
    cr_assert_not_null(strstr(said, "leak"));
    qfile_put(path, qfile_refcount_at(path, first), 2, 0);
    report = report_of(path);
    cr_assert_eq(report.leaks, 1);
    cr_assert_geq(report.corruptions, 2); /* the count, and the flag */
    qfile_put(path, l2 + 8, 8, (uint64_t)1 << 50 | COPIED);
    cr_assert_geq(report_of(path).corruptions, 3);
}

Test(qcow2, a_repair_gives_back_what_is_lost)
{
    struct block_qcow2_report report;
    struct error err;

    make_written();
    uint64_t lost = qfile_append(path, a, CLUSTER, 3), end = report_of(path).end;
    cr_assert_eq(report_of(path).leaks, 1);
    cr_assert_eq(block_qcow2_repair(path, note, NULL, &report, &err), 0, "%s", err.text);
    cr_assert_eq(report.leaks, 1, "what was found");
    cr_assert_eq(report_of(path).leaks, 0);
    cr_assert_eq(report_of(path).corruptions, 0);
    cr_assert_eq(report_of(path).end, end);
    cr_assert_eq(qfile_get(path, qfile_refcount_at(path, lost), 2), 0);
}

Test(qcow2, a_repair_leaves_damage_as_it_is)
{
    struct block_qcow2_report report;
    struct error err;

    make_written();
    uint64_t first = qfile_get(path, qfile_l2_at(path, 0), 8) & OFFSET;
    uint64_t lost = qfile_append(path, a, CLUSTER, 1);
    qfile_put(path, qfile_refcount_at(path, first), 2, 0);
    cr_assert_eq(block_qcow2_repair(path, note, NULL, &report, &err), 0, "%s", err.text);
    cr_assert_geq(report.corruptions, 1);
    cr_assert_eq(qfile_get(path, qfile_refcount_at(path, lost), 2), 1);
    cr_assert_eq(qfile_get(path, qfile_refcount_at(path, first), 2), 0);
}

Test(qcow2, extents_tell_zeros_from_the_rest)
{
    struct block_rig rig;
    uint64_t size = 1, at = 0;
    bool is_zero = false;

    make(path, SIZE, NULL);
    start(&rig);
    writes(&rig, 4 * CLUSTER, 2 * CLUSTER);
    zero(&rig, 5 * CLUSTER, CLUSTER, false);
    cr_assert_eq(block_qcow2_extent(rig.block, 0, &size, &is_zero), 0);
    cr_assert(is_zero && size == 4 * CLUSTER);
    cr_assert_eq(block_qcow2_extent(rig.block, 4 * CLUSTER + 512, &size, &is_zero), 0);
    cr_assert(!is_zero && size == CLUSTER - 512);
    for (at = 5 * CLUSTER; at < SIZE; at += size) {
        cr_assert_eq(block_qcow2_extent(rig.block, at, &size, &is_zero), 0);
        cr_assert(is_zero && size > 0);
    }
    cr_assert_eq(at, SIZE);
    cr_assert_eq(block_qcow2_extent(rig.block, SIZE, &size, &is_zero), -EINVAL);
    block_rig_fini(&rig);
}
