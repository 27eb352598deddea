#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/num.h"
#include "support/block_rig.h"
#include "support/tmp.h"

#define SIZE (256 * KIB)

/* Every test runs over both kinds of channels, and past the page cache. */
static const struct kind {
    const char *name;
    bool no_uring, direct;
} kinds[] = {{"io_uring", false, false}, {"threads", true, false}, {"direct", false, true}};

#define EACH_KIND(test)                                                                            \
    ParameterizedTestParameters(raw, test)                                                         \
    {                                                                                              \
        return cr_make_param_array(const struct kind, (void *)kinds, ARRAY_LEN(kinds));            \
    }                                                                                              \
    ParameterizedTest(const struct kind *kind, raw, test)

static struct tmp_dir tmp;
static const char *path;
static uint8_t *a, *b; /* page-aligned */

static void setup(void)
{
    tmp_init(&tmp);
    path = tmp_path(&tmp, "disk.raw");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(ftruncate(fd, SIZE), 0);
    close(fd);
    a = aligned_alloc(4096, SIZE);
    b = aligned_alloc(4096, SIZE);
    cr_assert(a && b);
    for (unsigned i = 0; i < SIZE; i++)
        a[i] = (uint8_t)(i * 7 + i / 512);
    memset(b, 0, SIZE);
}

static void teardown(void)
{
    free(a);
    free(b);
    tmp_fini(&tmp);
}

TestSuite(raw, .init = setup, .fini = teardown, .timeout = 60);

static int open_raw(const struct kind *kind, bool read_only, struct block **out, struct error *err)
{
    const struct block_raw_config cfg = {
        .path = path, .read_only = read_only, .direct = kind->direct, .no_uring = kind->no_uring};
    return block_raw_create(&cfg, out, err);
}

static bool start(struct block_rig *rig, const struct kind *kind)
{
    struct block *block = NULL;
    struct error err;

    if (open_raw(kind, false, &block, &err) == -EINVAL && kind->direct)
        return false; /* the file system of /tmp does not know O_DIRECT */
    cr_assert_not_null(block, "%s", err.text);
    block_rig_init(rig, block);
    return true;
}

EACH_KIND(what_is_written_is_read_and_is_in_the_file)
{
    struct block_rig rig;

    if (!start(&rig, kind))
        return;
    cr_assert_eq(atomic_load(&rig.block->size), SIZE);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 8192, a, 65536), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_FLUSH, 0, NULL, 0), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 8192, b, 65536), 0);
    cr_assert_eq(memcmp(a, b, 65536), 0);
    block_rig_fini(&rig);

    int fd = open(path, O_RDONLY);
    memset(b, 0, SIZE);
    cr_assert_eq(pread(fd, b, 65536, 8192), 65536);
    close(fd);
    cr_assert_eq(memcmp(a, b, 65536), 0);
}

static unsigned answered;

static void on_answer(struct block_req *req, int result)
{
    cr_assert_eq(result, 0);
    req->size = 0;
    answered++;
}

EACH_KIND(many_requests_are_under_way_at_once)
{
    enum { COUNT = 640 }; /* more than io_uring's queue takes */
    static struct block_req reqs[COUNT];
    static struct iovec iov[COUNT];
    struct block_rig rig;

    if (!start(&rig, kind))
        return;
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 0, a, SIZE), 0);
    answered = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        uint64_t at = i % 64 * 4096;
        iov[i] = (struct iovec){b + at, 4096};
        reqs[i] = (struct block_req){.op = BLOCK_READ,
                                     .offset = at,
                                     .size = 4096,
                                     .iov = &iov[i],
                                     .iov_count = 1,
                                     .done = on_answer};
        block_submit(rig.channel, &reqs[i]);
    }
    block_commit(rig.channel);
    while (answered < COUNT)
        cr_assert_eq(loop_run_once(rig.loop, -1), 0);
    cr_assert_eq(memcmp(a, b, SIZE), 0);
    cr_assert_lt(rig.batches, COUNT + 2);
    block_rig_fini(&rig);
}

EACH_KIND(memory_at_odd_addresses_is_fine)
{
    struct block_rig rig;

    if (!start(&rig, kind))
        return;
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 0, a + 3, 4096), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 0, b + 5, 4096), 0);
    cr_assert_eq(memcmp(a + 3, b + 5, 4096), 0);
    cr_assert_eq(b[4], 0);
    cr_assert_eq(b[4101], 0);
    block_rig_fini(&rig);
}

EACH_KIND(ranges_are_zeroed_and_discarded)
{
    struct block_rig rig;

    if (!start(&rig, kind))
        return;
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 0, a, SIZE), 0);
    int rc = block_rig_do(&rig, BLOCK_ZERO, 4096, NULL, 8192);
    cr_assert(rc == 0 || rc == -ENOTSUP); /* it is the file system that does it */
    if (rc == 0) {
        cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 0, b, 16384), 0);
        cr_assert_eq(memcmp(a, b, 4096), 0);
        memset(a + 4096, 0, 8192);
        cr_assert_eq(memcmp(a, b, 16384), 0);
    }
    rc = block_rig_do(&rig, BLOCK_DISCARD, 65536, NULL, 65536);
    cr_assert(rc == 0 || rc == -ENOTSUP);
    block_rig_fini(&rig);
}

EACH_KIND(a_file_that_shrinks_gives_errors)
{
    struct block_rig rig;

    if (!start(&rig, kind))
        return;
    cr_assert_eq(truncate(path, 8192), 0);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 65536, b, 4096), -EIO);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 4096, b, 8192), -EIO); /* half of it is there */
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 0, b, 8192), 0);
    block_rig_fini(&rig);
}

EACH_KIND(nothing_goes_beyond_the_block)
{
    struct block_rig rig;

    if (!start(&rig, kind))
        return;
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, SIZE, a, 512), -EINVAL);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, SIZE - 512, a, 1024), -EINVAL);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, UINT64_MAX - 511, a, 512), -EINVAL);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 1, a, 512), -EINVAL);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 0, a, 511), -EINVAL);
    block_rig_fini(&rig);
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_size, SIZE);
}

EACH_KIND(a_second_writer_is_refused)
{
    struct block *second = NULL;
    struct block_rig rig;
    struct error err;

    if (!start(&rig, kind))
        return;
    cr_assert_eq(open_raw(kind, false, &second, &err), -EBUSY);
    cr_assert_not_null(strstr(err.text, path));
    cr_assert_eq(open_raw(kind, true, &second, &err), -EBUSY);
    cr_assert_null(second);
    block_rig_fini(&rig);
    cr_assert_eq(open_raw(kind, false, &second, &err), 0);
    block_destroy(second);
}

Test(raw, readers_share_and_cannot_write)
{
    struct block *one = NULL, *two = NULL;
    struct block_rig rig;
    struct error err;

    cr_assert_eq(open_raw(&kinds[0], true, &one, &err), 0);
    cr_assert_eq(open_raw(&kinds[0], true, &two, &err), 0);
    block_destroy(two);
    two = NULL;
    cr_assert_eq(open_raw(&kinds[0], false, &two, &err), -EBUSY);
    block_rig_init(&rig, one);
    cr_assert_eq(block_rig_do(&rig, BLOCK_WRITE, 0, a, 512), -EROFS);
    cr_assert_eq(block_rig_do(&rig, BLOCK_READ, 0, b, 512), 0);
    block_rig_fini(&rig);
}

static void refuses(const char *what, int rc, const char *hint)
{
    const struct block_raw_config cfg = {.path = what};
    struct block *block = NULL;
    struct error err;

    cr_assert_eq(block_raw_create(&cfg, &block, &err), rc);
    cr_assert_null(block);
    cr_assert_not_null(strstr(err.text, hint), "%s", err.text);
}

Test(raw, what_is_no_disk_is_refused_by_name)
{
    cr_assert_eq(truncate(path, 1000), 0);
    refuses(path, -EINVAL, "multiple of 512");
    cr_assert_eq(truncate(path, 0), 0);
    refuses(path, -EINVAL, "multiple of 512");
    refuses("/nonexistent/disk", -ENOENT, "/nonexistent/disk");
    refuses("/dev/zero", -EINVAL, "/dev/zero");
}
