#include "support/block_rig.h"

#include <criterion/criterion.h>

#include "hv/base/num.h"

static void on_batch_end(void *ctx)
{
    ((struct block_rig *)ctx)->batches++;
}

void block_rig_init(struct block_rig *rig, struct block *block)
{
    *rig = (struct block_rig){.block = block};
    cr_assert_eq(loop_create(&rig->loop), 0);
    const struct block_channel_config cfg = {
        .loop = rig->loop, .batch_end = on_batch_end, .ctx = rig};
    cr_assert_eq(block_open(block, &cfg, &rig->channel), 0);
}

void block_rig_fini(struct block_rig *rig)
{
    block_close(rig->channel);
    block_destroy(rig->block);
    loop_destroy(rig->loop);
}

void block_rig_wait(struct block_rig *rig, const bool *flag)
{
    while (!*flag)
        cr_assert_eq(loop_run_once(rig->loop, -1), 0);
}

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

int block_rig_do(struct block_rig *rig, enum block_op op, uint64_t offset, void *data,
                 uint64_t size)
{
    const struct iovec iov = {data, size};
    struct waited w = {.req = {.op = op,
                               .offset = offset,
                               .size = size,
                               .iov = data ? &iov : NULL,
                               .iov_count = data != NULL,
                               .done = on_done}};

    block_submit(rig->channel, &w.req);
    block_commit(rig->channel);
    cr_assert_not(w.done); /* never inside submit or commit */
    block_rig_wait(rig, &w.done);
    return w.result;
}
