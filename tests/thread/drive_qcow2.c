/*
 * Drives a qcow2 image with random requests. tests/system/test_image.py runs this, and compares
 * what it leaves with what QEMU's tools say.
 *
 *   drive_qcow2 random IMAGE SEED OPS MODEL [threads|direct]
 *       Requests of all kinds, several at once. Every read is compared with a model in memory,
 *       which at the end is written to the file MODEL.
 *   drive_qcow2 kill IMAGE SEED MICROSECONDS
 *       The same in a child that is killed after so long. What was flushed must be there.
 *
 * Every sector that is written begins with its number and that of the request, so that each says
 * who wrote it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hv/base/num.h"
#include "hv/block/qcow2.h"
#include "thread/crew.h"

#define SECTORS_MAX 512 /* of one request */
#define AT_ONCE 8

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* --- the image --- */

struct drive {
    struct loop *loop;
    struct block *block;
    struct block_channel *channel;
    uint64_t sectors, step; /* step: sectors in the smallest request */
};

static bool no_uring, direct;

static void drive_open(struct drive *d, const char *path, bool read_only)
{
    const struct block_qcow2_config cfg = {.path = path,
                                           .read_only = read_only,
                                           .direct = direct,
                                           .no_uring = no_uring,
                                           .backing = true};
    struct error err = {0};
    int rc;

    *d = (struct drive){0};
    /* The kernel ends the io_uring of a process that was killed, and with it lets go of its files,
     * a little after the process. */
    for (unsigned i = 0; (rc = block_qcow2_create(&cfg, &d->block, &err)) == -EBUSY && i < 5000;
         i++)
        (void)usleep(1000);
    if (rc < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    CHECK(loop_create(&d->loop) == 0);
    const struct block_channel_config channel = {.loop = d->loop};
    CHECK(block_open(d->block, &channel, &d->channel) == 0);
    d->sectors = atomic_load(&d->block->size) / BLOCK_SECTOR;
    d->step = d->block->logical_size / BLOCK_SECTOR;
}

static void drive_close(struct drive *d)
{
    block_close(d->channel);
    block_destroy(d->block);
    loop_destroy(d->loop);
}

/* --- requests --- */

struct op {
    struct block_req req;
    struct iovec iov[2];
    uint8_t data[SECTORS_MAX * BLOCK_SECTOR];
    uint64_t number, sector, count;
    bool busy;
};

static struct op ops[AT_ONCE];
static unsigned under_way;

static void on_done(struct block_req *req, int result)
{
    CHECK(result == 0);
    container_of(req, struct op, req)->busy = false;
    under_way--;
}

static void wait_all(struct drive *d)
{
    block_commit(d->channel);
    while (under_way > 0)
        CHECK(loop_run_once(d->loop, -1) == 0);
}

static void stamp(uint8_t *sector, uint64_t at, uint64_t number)
{
    const uint64_t words[2] = {at, number};

    memset(sector, (int)(number * 37 + at), BLOCK_SECTOR);
    memcpy(sector, words, sizeof(words));
}

/* Chooses the next request from the random numbers, which alone decide about it. */
static void choose(struct op *op, uint64_t number, const struct drive *d)
{
    static const enum block_op kinds[16] = {
        BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE,   BLOCK_WRITE,   BLOCK_WRITE, BLOCK_WRITE,
        BLOCK_WRITE, BLOCK_READ,  BLOCK_READ,    BLOCK_READ,    BLOCK_READ,  BLOCK_ZERO,
        BLOCK_ZERO,  BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_DISCARD,
    };
    uint64_t most = next_random() % 4 ? 16 : SECTORS_MAX;

    if (most > d->sectors)
        most = d->sectors;
    op->number = number;
    op->req = (struct block_req){.op = kinds[next_random() % 16], .done = on_done};
    op->count = d->step * (1 + next_random() % (most / d->step));
    op->sector = next_random() % ((d->sectors - op->count) / d->step + 1) * d->step;
    op->req.may_unmap = next_random() & 1;
    uint64_t cut = next_random() % (op->count + 1) * BLOCK_SECTOR;
    if (op->req.op == BLOCK_FLUSH) {
        op->count = 0;
        return;
    }
    op->req.offset = op->sector * BLOCK_SECTOR;
    op->req.size = op->count * BLOCK_SECTOR;
    op->iov[0] = (struct iovec){op->data, cut};
    op->iov[1] = (struct iovec){op->data + cut, op->req.size - cut};
    op->req.iov = op->iov;
    op->req.iov_count = 2;
    for (uint64_t i = 0; op->req.op == BLOCK_WRITE && i < op->count; i++)
        stamp(op->data + i * BLOCK_SECTOR, op->sector + i, number);
}

static bool overlaps(const struct op *a)
{
    for (const struct op *b = ops; b < ops + AT_ONCE; b++)
        if (b != a && b->busy && a->sector < b->sector + b->count &&
            b->sector < a->sector + a->count)
            return true;
    return false;
}

/* --- random --- */

static uint8_t *model;

static void read_now(struct drive *d, uint64_t sector, uint64_t count, uint8_t *to)
{
    const struct iovec iov = {to, count * BLOCK_SECTOR};
    static struct op op;

    op.req = (struct block_req){.op = BLOCK_READ,
                                .offset = sector * BLOCK_SECTOR,
                                .size = count * BLOCK_SECTOR,
                                .iov = &iov,
                                .iov_count = 1,
                                .done = on_done};
    under_way++;
    block_submit(d->channel, &op.req);
    wait_all(d);
}

/* What a request did, once it has ended. */
static void settle(struct drive *d, struct op *op)
{
    uint8_t *range = model + op->sector * BLOCK_SECTOR;

    if (op->req.op == BLOCK_WRITE)
        memcpy(range, op->data, op->req.size);
    else if (op->req.op == BLOCK_ZERO)
        memset(range, 0, op->req.size);
    else if (op->req.op == BLOCK_DISCARD)
        read_now(d, op->sector, op->count, range); /* anything, but the same from now on */
    else if (op->req.op == BLOCK_READ)
        CHECK(memcmp(range, op->data, op->req.size) == 0);
}

static void write_model(const char *path, uint64_t bytes)
{
    FILE *f = fopen(path, "w");

    CHECK(f != NULL && fwrite(model, 1, bytes, f) == bytes && fclose(f) == 0);
}

static void drive_random(const char *path, uint64_t count, const char *model_path)
{
    struct drive d;

    drive_open(&d, path, false);
    model = malloc(d.sectors * BLOCK_SECTOR);
    CHECK(model != NULL);
    read_now(&d, 0, d.sectors, model);
    for (uint64_t done = 0; done < count;) {
        unsigned batch = 1 + (unsigned)(next_random() % AT_ONCE), n = 0;
        for (; n < batch; n++) {
            choose(&ops[n], ++done, &d);
            ops[n].busy = false;
            if (overlaps(&ops[n]))
                break;
            ops[n].busy = true;
            under_way++;
            block_submit(d.channel, &ops[n].req);
        }
        wait_all(&d);
        for (unsigned i = 0; i < n; i++)
            settle(&d, &ops[i]);
    }
    write_model(model_path, d.sectors * BLOCK_SECTOR);
    drive_close(&d);
    free(model);
}

/* --- kill --- */

/* What the child has done, in memory that outlives it. */
struct progress {
    _Atomic uint64_t submitted, flushed; /* requests; before the last flush that was answered */
};

static void write_until_killed(const char *path, struct progress *p)
{
    struct drive d;

    drive_open(&d, path, false);
    for (uint64_t number = 1;; number++) {
        struct op *op = &ops[0];
        choose(op, number, &d);
        if (op->req.op == BLOCK_READ)
            continue;
        atomic_store(&p->submitted, number);
        under_way++;
        block_submit(d.channel, &op->req);
        wait_all(&d);
        if (op->req.op == BLOCK_FLUSH)
            atomic_store(&p->flushed, number);
    }
}

#define ANYTHING UINT64_MAX /* a sector that was discarded */

/* Which request a sector is from; 0: none, it is zero. */
static uint64_t author_of(const uint8_t *data, uint64_t at)
{
    uint8_t expected[BLOCK_SECTOR] = {0};
    uint64_t words[2];

    if (memcmp(data, expected, BLOCK_SECTOR) == 0)
        return 0;
    memcpy(words, data, sizeof(words));
    stamp(expected, at, words[1]);
    CHECK(words[0] == at &&
          memcmp(data, expected, BLOCK_SECTOR) == 0); /* nobody else's, not torn */
    return words[1];
}

/* Replays the requests: each sector must be from the last one before the flush, or from any since.
 */
static void check_survivors(const char *path, uint64_t seed, const struct progress *p)
{
    struct drive d;
    static uint64_t *last, *found;
    static bool *good;

    drive_open(&d, path, true);
    last = calloc(d.sectors, sizeof(*last));
    found = calloc(d.sectors, sizeof(*found));
    good = calloc(d.sectors, sizeof(*good));
    uint8_t *data = malloc(d.sectors * BLOCK_SECTOR);
    CHECK(last && found && good && data);
    read_now(&d, 0, d.sectors, data);
    for (uint64_t i = 0; i < d.sectors; i++)
        found[i] = author_of(data + i * BLOCK_SECTOR, i);
    random_state = seed;
    for (uint64_t number = 1; number <= p->submitted; number++) {
        struct op *op = &ops[0];
        choose(op, number, &d);
        uint64_t author = op->req.op == BLOCK_WRITE  ? number
                          : op->req.op == BLOCK_ZERO ? 0
                                                     : ANYTHING;
        if (op->req.op == BLOCK_READ)
            continue;
        for (uint64_t i = op->sector; i < op->sector + op->count; i++) {
            if (number <= p->flushed)
                last[i] = author;
            else if (found[i] == author || author == ANYTHING)
                good[i] = true;
        }
    }
    for (uint64_t i = 0; i < d.sectors; i++)
        if (!good[i] && found[i] != last[i] && last[i] != ANYTHING) {
            (void)fprintf(
                stderr, "sector %llu is from request %llu, not %llu (flushed: %llu of %llu)\n",
                (unsigned long long)i, (unsigned long long)found[i], (unsigned long long)last[i],
                (unsigned long long)p->flushed, (unsigned long long)p->submitted);
            exit(1);
        }
    drive_close(&d);
    free(last);
    free(found);
    free(good);
    free(data);
}

static void drive_kill(const char *path, uint64_t seed, uint64_t microseconds)
{
    struct progress *p =
        mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status;

    CHECK(p != MAP_FAILED);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        write_until_killed(path, p);
    while (atomic_load(&p->submitted) == 0 && waitpid(child, &status, WNOHANG) == 0)
        (void)usleep(100);
    (void)usleep((useconds_t)microseconds);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    check_survivors(path, seed, p);
    printf("%llu requests, %llu flushed\n", (unsigned long long)p->submitted,
           (unsigned long long)p->flushed);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        (void)fprintf(stderr,
                      "usage: %s random IMAGE SEED OPS MODEL | kill IMAGE SEED MICROSECONDS\n",
                      argv[0]);
        return 2;
    }
    uint64_t seed = strtoull(argv[3], NULL, 0) * 2 + 1, number = strtoull(argv[4], NULL, 0);
    random_state = seed;
    no_uring = argc > 6 && strcmp(argv[6], "threads") == 0;
    direct = argc > 6 && strcmp(argv[6], "direct") == 0;
    if (strcmp(argv[1], "kill") == 0)
        drive_kill(argv[2], seed, number);
    else
        drive_random(argv[2], number, argv[5]);
    return 0;
}
