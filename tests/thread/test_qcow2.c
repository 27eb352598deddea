/*
 * Several threads, each with a channel of its own, on one qcow2 image: what each wrote is there,
 * also where their sectors share clusters, and the image is clean at the end.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/num.h"
#include "hv/block/qcow2.h"
#include "thread/crew.h"

#define THREADS 4
#define REQUESTS 400
#define PIECE 4096      /* bytes; thread n has the pieces n, n + THREADS, … */
#define PIECES 128      /* of each thread */
#define OWN (64U << 10) /* bytes; clusters that one thread alone fills and discards */
#define OWNS 8
#define OWN_AT ((uint64_t)THREADS * PIECES * PIECE)

static struct block *block;

struct waited {
    struct block_req req;
    bool done;
    int result;
};

static void on_done(struct block_req *req, int result)
{
    struct waited *w = container_of(req, struct waited, req);

    w->result = result;
    w->done = true;
}

static void perform(struct loop *loop, struct block_channel *channel, enum block_op op,
                    uint64_t offset, void *data, uint64_t size)
{
    const struct iovec iov = {data, size};
    struct waited w = {.req = {.op = op,
                               .offset = offset,
                               .size = size,
                               .iov = &iov,
                               .iov_count = data != NULL,
                               .done = on_done}};

    block_submit(channel, &w.req);
    block_commit(channel);
    while (!w.done)
        CHECK(loop_run_once(loop, -1) == 0);
    CHECK(w.result == 0);
}

/* Fills a cluster, and discards another, whose place somebody may get at once. */
static void churn(struct loop *loop, struct block_channel *channel, unsigned index, unsigned which,
                  uint8_t value)
{
    uint64_t base = OWN_AT + (uint64_t)index * OWNS * OWN;
    uint8_t *data = malloc(OWN), *wanted = malloc(OWN);

    CHECK(data != NULL && wanted != NULL);
    memset(data, value, OWN);
    memcpy(wanted, data, OWN);
    perform(loop, channel, BLOCK_WRITE, base + (uint64_t)which * OWN, data, OWN);
    perform(loop, channel, BLOCK_DISCARD, base + (uint64_t)((which + 1) % OWNS) * OWN, NULL, OWN);
    perform(loop, channel, BLOCK_READ, base + (uint64_t)which * OWN, data, OWN);
    CHECK(memcmp(data, wanted, OWN) == 0);
    free(data);
    free(wanted);
}

static void use_disk(void *ctx, unsigned index)
{
    uint8_t expected[PIECES] = {0}, data[PIECE], wanted[PIECE];
    struct block_channel *channel;
    struct loop *loop;
    unsigned random = index + 1;

    (void)ctx;
    CHECK(loop_create(&loop) == 0);
    const struct block_channel_config cfg = {.loop = loop};
    CHECK(block_open(block, &cfg, &channel) == 0);
    for (unsigned i = 0; i < REQUESTS; i++) {
        random = random * 1103515245 + 12345;
        unsigned piece = (random >> 16) % PIECES, what = (random >> 8) % 8;
        uint64_t offset = ((uint64_t)piece * THREADS + index) * PIECE;
        if (what < 4) {
            expected[piece] = (uint8_t)i;
            memset(data, expected[piece], PIECE);
            perform(loop, channel, BLOCK_WRITE, offset, data, PIECE);
        } else if (what == 4) {
            expected[piece] = 0;
            perform(loop, channel, BLOCK_ZERO, offset, NULL, PIECE);
        } else if (what == 5) {
            perform(loop, channel, BLOCK_FLUSH, 0, NULL, 0);
        } else if (what == 6) {
            churn(loop, channel, index, piece % OWNS, (uint8_t)i);
        } else {
            memset(wanted, expected[piece], PIECE);
            perform(loop, channel, BLOCK_READ, offset, data, PIECE);
            CHECK(memcmp(data, wanted, PIECE) == 0);
        }
    }
    block_close(channel);
    loop_destroy(loop);
}

static void run(const char *path, uint32_t cluster_size)
{
    const struct block_qcow2_options options = {.cluster_size = cluster_size};
    const struct block_qcow2_config cfg = {.path = path, .no_uring = true};
    struct block_qcow2_report report;
    struct crew crew = {0};

    CHECK(block_qcow2_format(path, OWN_AT + THREADS * OWNS * OWN, &options, NULL) == 0);
    CHECK(block_qcow2_create(&cfg, &block, NULL) == 0);
    crew_start(&crew, THREADS, use_disk, NULL);
    crew_join(&crew);
    block_destroy(block);
    CHECK(block_qcow2_check(path, NULL, NULL, &report, NULL) == 0);
    CHECK(report.corruptions == 0 && report.leaks == 0);
    CHECK(unlink(path) == 0);
}

int main(void)
{
    char folder[] = "/tmp/hv-test-XXXXXX", path[64];

    CHECK(mkdtemp(folder) != NULL);
    strcat(strcpy(path, folder), "/disk.qcow2");
    run(path, 64 << 10); /* many pieces share a cluster */
    run(path, 512);      /* a piece has many */
    CHECK(rmdir(folder) == 0);
    return 0;
}
