/*
 * Fuzzes qcow2: an image that was good until some bytes of it changed, then requests of all kinds,
 * a check, and a resize. Whatever is in the file, every request is answered, and nothing is touched
 * outside of the file. As long as nothing was changed, the disk is like an array, and the image is
 * clean at the end.
 *
 * Input: { options; count of changes; { where, how wide, at, value }*; { request }* }
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz/dev_fuzz.h"
#include "hv/base/num.h"
#include "hv/block/qcow2.h"

#define SECTORS 1024 /* of the disk */
#define REQUEST_MAX 160
#define KINDS 6
#define IMAGE_MAX (4 * MIB) /* bytes of a template */
#define BASE_FD 100
#define BASE_PATH "/proc/self/fd/100"

static const struct block_qcow2_options kinds[KINDS] = {
    {.cluster_size = 512},
    {.cluster_size = 4096},
    {.cluster_size = 65536, .version = 2},
    {.cluster_size = 512, .refcount_bits = 1},
    {.cluster_size = 1024, .backing = BASE_PATH, .backing_format = "raw"},
    {.cluster_size = 4096, .refcount_bits = 64, .backing = BASE_PATH, .backing_format = "raw"},
};

/* Good images, made once. */
static struct template
{
    uint8_t *bytes;
    size_t size;
    uint8_t disk[SECTORS * BLOCK_SECTOR];
}
templates[KINDS];

static uint8_t model[SECTORS * BLOCK_SECTOR], memory[SECTORS * BLOCK_SECTOR];

/* --- one disk --- */

struct disk {
    char path[64];
    struct loop *loop;
    struct block *block;
    struct block_channel *channel;
};

static int disk_open(struct disk *d)
{
    const struct block_qcow2_config cfg = {.path = d->path, .no_uring = true, .backing = true};
    int rc = block_qcow2_create(&cfg, &d->block, NULL);

    if (rc < 0)
        return rc;
    fuzz_check(loop_create(&d->loop) == 0);
    const struct block_channel_config channel = {.loop = d->loop};
    fuzz_check(block_open(d->block, &channel, &d->channel) == 0);
    return 0;
}

static void disk_close(struct disk *d)
{
    block_close(d->channel);
    block_destroy(d->block);
    loop_destroy(d->loop);
}

static unsigned under_way;

struct request {
    struct block_req req;
    int result;
};

static void on_done(struct block_req *req, int result)
{
    container_of(req, struct request, req)->result = result;
    under_way--;
}

static int perform(struct disk *d, enum block_op op, uint64_t sector, uint64_t count, bool unmap)
{
    struct iovec iov[2] = {{memory, count * BLOCK_SECTOR / 3}};
    struct request r = {.req = {.op = op,
                                .may_unmap = unmap,
                                .offset = sector * BLOCK_SECTOR,
                                .size = count * BLOCK_SECTOR,
                                .iov = iov,
                                .iov_count = 2,
                                .done = on_done}};

    iov[1] = (struct iovec){memory + iov[0].iov_len, count * BLOCK_SECTOR - iov[0].iov_len};
    under_way++;
    block_submit(d->channel, &r.req);
    block_commit(d->channel);
    while (under_way > 0)
        fuzz_check(loop_run_once(d->loop, -1) == 0);
    return r.result;
}

/* --- templates --- */

static void make_base(void)
{
    int fd = memfd_create("base", 0);

    fuzz_check(fd >= 0 && ftruncate(fd, 300 * BLOCK_SECTOR + 100) == 0);
    for (unsigned i = 0; i < 300; i += 2)
        fuzz_check(pwrite(fd, "backing", 7, (off_t)i * BLOCK_SECTOR) == 7);
    fuzz_check(dup2(fd, BASE_FD) == BASE_FD && close(fd) == 0);
}

static void make_template(unsigned kind)
{
    struct template *t = &templates[kind];
    struct disk d;
    int fd;

    (void)snprintf(d.path, sizeof(d.path), "/dev/shm/hv-fuzz-%d-%u", (int)getpid(), kind);
    fuzz_check(block_qcow2_format(d.path, SECTORS * BLOCK_SECTOR, &kinds[kind], NULL) == 0);
    fuzz_check(disk_open(&d) == 0);
    memset(memory, 0x5a, sizeof(memory));
    fuzz_check(perform(&d, BLOCK_WRITE, 3, 100, false) == 0);
    fuzz_check(perform(&d, BLOCK_WRITE, 500, 20, false) == 0);
    fuzz_check(perform(&d, BLOCK_ZERO, 20, 20, false) == 0);
    fuzz_check(perform(&d, BLOCK_DISCARD, 60, 20, false) == 0);
    fuzz_check(perform(&d, BLOCK_READ, 0, SECTORS, false) == 0);
    memcpy(t->disk, memory, sizeof(memory));
    disk_close(&d);
    t->bytes = malloc(IMAGE_MAX);
    fd = open(d.path, O_RDONLY);
    fuzz_check(fd >= 0 && t->bytes != NULL);
    ssize_t n = read(fd, t->bytes, IMAGE_MAX);
    fuzz_check(n > 0 && n < (ssize_t)IMAGE_MAX);
    t->size = (size_t)n;
    fuzz_check(close(fd) == 0 && unlink(d.path) == 0);
}

/* --- changes --- */

static uint64_t get_be(const struct template *t, uint64_t at)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < 8 && at + i < t->size; i++)
        value = value << 8 | t->bytes[at + i];
    return value & (((uint64_t)1 << 56) - 1);
}

/* Where something lies that is worth spoiling: header, L1, L2, refcount table, refcount block. */
static uint64_t aim(const struct template *t, uint8_t what)
{
    switch (what % 8) {
    case 0:
    case 1:
        return 0;
    case 2:
        return get_be(t, 40);
    case 3:
    case 4:
        return get_be(t, get_be(t, 40));
    case 5:
        return get_be(t, 48);
    default:
        return get_be(t, get_be(t, 48));
    }
}

static void change(int fd, const struct template *t, struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in), width = (uint8_t)(1U << (what >> 3 & 3)), bytes[8];
    uint64_t at = aim(t, what), offset = fuzz_u8(in), value = fuzz_u64(in, width);

    offset = what & 0x80 ? offset * 8 : offset;
    if (what & 0x40) /* a table entry that names a table */
        value = aim(t, (uint8_t)value) | value << 56;
    for (unsigned i = 0; i < width; i++)
        bytes[i] = (uint8_t)(value >> (8 * (width - 1 - i)));
    fuzz_check(pwrite(fd, bytes, width, (off_t)(at + offset)) == width);
}

/* --- requests --- */

/* What a good disk does. */
static void follow(enum block_op op, uint64_t sector, uint64_t count)
{
    uint8_t *range = model + sector * BLOCK_SECTOR;
    size_t size = count * BLOCK_SECTOR;

    if (op == BLOCK_READ)
        fuzz_check(memcmp(range, memory, size) == 0);
    else if (op == BLOCK_WRITE)
        memcpy(range, memory, size);
    else if (op == BLOCK_ZERO)
        memset(range, 0, size);
}

static void request(struct disk *d, struct fuzz_input *in, bool good)
{
    static const enum block_op ops[8] = {BLOCK_READ,  BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE,
                                         BLOCK_WRITE, BLOCK_ZERO, BLOCK_FLUSH, BLOCK_DISCARD};
    uint8_t what = fuzz_u8(in);
    enum block_op op = ops[what % 8];
    uint64_t sector = fuzz_u64(in, 2) % SECTORS, count = 1 + fuzz_u8(in) % REQUEST_MAX;

    if (count > SECTORS - sector)
        count = SECTORS - sector;
    if (op == BLOCK_FLUSH)
        count = 0;
    if (op == BLOCK_WRITE)
        memset(memory, what ^ (int)sector, count * BLOCK_SECTOR);
    int rc = perform(d, op, sector, count, what & 8);
    if (!good)
        return;
    fuzz_check(rc == 0);
    if (op == BLOCK_DISCARD) { /* anything, but the same from now on */
        fuzz_check(perform(d, BLOCK_READ, sector, count, false) == 0);
        follow(BLOCK_WRITE, sector, count);
    }
    follow(op, sector, op == BLOCK_DISCARD ? 0 : count);
}

static void check(const struct disk *d, bool good)
{
    struct block_qcow2_report report;
    int rc = block_qcow2_check(d->path, NULL, NULL, &report, NULL);

    if (good)
        fuzz_check(rc == 0 && report.corruptions == 0 && report.leaks == 0);
    if (rc < 0 || report.corruptions > 0 || report.leaks == 0)
        return;
    if (block_qcow2_repair(d->path, NULL, NULL, &report, NULL) < 0)
        return; /* it can be read only: marked as dirty, or with what writing does not know */
    fuzz_check(block_qcow2_check(d->path, NULL, NULL, &report, NULL) == 0);
    fuzz_check(report.corruptions == 0 && report.leaks == 0);
}

static void fuzz_image(int fd, const struct template *t, struct fuzz_input *in, bool shrinks)
{
    struct disk d = {0};
    bool good = true;

    for (unsigned n = fuzz_u8(in) % 16; n > 0; n--, good = false)
        change(fd, t, in);
    (void)snprintf(d.path, sizeof(d.path), "/proc/self/fd/%d", fd);
    memcpy(model, t->disk, sizeof(model));
    if (disk_open(&d) < 0) {
        fuzz_check(!good);
        check(&d, false);
        return;
    }
    for (unsigned n = 0; n < 200 && in->left > 0; n++) {
        if (shrinks && n == 5) {
            fuzz_check(ftruncate(fd, (off_t)(t->size / 2)) == 0);
            good = false;
        }
        request(&d, in, good);
    }
    disk_close(&d);
    check(&d, good);
    int rc = block_qcow2_resize(d.path, (1 + t->size % 64) * 64 * KIB, true, true, NULL);
    fuzz_check(!good || rc == 0);
    check(&d, good);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    unsigned options = fuzz_u8(&in);
    const struct template *t = &templates[options % KINDS];

    if (templates[0].bytes == NULL) {
        make_base();
        for (unsigned i = 0; i < KINDS; i++)
            make_template(i);
    }
    int fd = memfd_create("image", MFD_CLOEXEC);
    fuzz_check(fd >= 0 && write(fd, t->bytes, t->size) == (ssize_t)t->size);
    fuzz_image(fd, t, &in, options >= 240);
    fuzz_check(close(fd) == 0);
    return 0;
}
