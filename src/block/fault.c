/*
 * A block that fails on demand: the n-th request, or all from it on; late, never, or half done.
 *
 * It keeps at most one answer back for each fault, so a fault that never answers is meant for one
 * request.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/block/block.h"

#define FAULTS_MAX 8
#define TORN_IOV 64

struct fault_block {
    struct block block;
    struct block *under;  /* owned */
    pthread_mutex_t lock; /* guards the rest, which channels share */
    struct block_fault faults[FAULTS_MAX];
    unsigned count;
    uint64_t seen[BLOCK_ZERO + 1]; /* requests of each kind */
    struct held {
        struct block_channel *channel;
        struct block_req *req; /* NULL: none */
        int result;
    } held[FAULTS_MAX];
};

struct fault_channel {
    struct block_channel channel;
    struct block_channel *under;
    struct block_req torn; /* one write that is cut short at a time */
    struct iovec torn_iov[TORN_IOV];
    struct block_req *torn_for; /* whose answer follows it; NULL: none */
    int torn_result;
};

/* The fault that this request meets, or NULL. */
static const struct block_fault *meet_locked(struct fault_block *f, enum block_op op)
{
    uint64_t number = ++f->seen[op];

    for (unsigned i = 0; i < f->count; i++) {
        const struct block_fault *fault = &f->faults[i];
        if (fault->op == op && (number == fault->nth || (fault->always && number > fault->nth)))
            return fault;
    }
    return NULL;
}

static void on_torn(struct block_req *torn, int result)
{
    struct fault_channel *c = container_of(torn, struct fault_channel, torn);
    struct block_req *req = c->torn_for;

    (void)result;
    c->torn_for = NULL;
    block_finish(&c->channel, req, c->torn_result);
}

/* Writes the first `bytes` of it only, then gives the fault's answer. */
static void tear(struct fault_channel *c, struct block_req *req, uint64_t bytes, int result)
{
    unsigned count = 0;

    c->torn = (struct block_req){.op = BLOCK_WRITE, .offset = req->offset, .done = on_torn};
    for (unsigned i = 0; i < req->iov_count && bytes > 0 && count < TORN_IOV; i++) {
        size_t here = req->iov[i].iov_len < bytes ? req->iov[i].iov_len : (size_t)bytes;
        c->torn_iov[count++] = (struct iovec){req->iov[i].iov_base, here};
        c->torn.size += here;
        bytes -= here;
    }
    c->torn.iov = c->torn_iov;
    c->torn.iov_count = count;
    c->torn_for = req;
    c->torn_result = result;
    block_submit(c->under, &c->torn);
    block_commit(c->under);
}

static void fault_submit(struct block_channel *channel, struct block_req *req)
{
    struct fault_channel *c = container_of(channel, struct fault_channel, channel);
    struct fault_block *f = container_of(channel->block, struct fault_block, block);

    pthread_mutex_lock(&f->lock);
    const struct block_fault *fault = meet_locked(f, req->op);
    if (fault != NULL && fault->never)
        f->held[fault - f->faults] = (struct held){channel, req, fault->result};
    pthread_mutex_unlock(&f->lock);

    if (fault == NULL || (fault->result == 0 && !fault->never))
        block_submit(c->under, req);
    else if (fault->never)
        ; /* block_fault_release() answers */
    else if (fault->torn > 0 && c->torn_for == NULL)
        tear(c, req, align_down(fault->torn, BLOCK_SECTOR), fault->result);
    else
        block_finish(channel, req, fault->result);
}

static void fault_commit(struct block_channel *c)
{
    block_commit(container_of(c, struct fault_channel, channel)->under);
}

void block_fault_release(struct block *b)
{
    struct fault_block *f = container_of(b, struct fault_block, block);

    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < f->count; i++) {
        struct held *h = &f->held[i];
        if (h->req != NULL)
            block_finish(h->channel, h->req, h->result);
        h->req = NULL;
    }
    pthread_mutex_unlock(&f->lock);
}

static void fault_close(struct block_channel *channel)
{
    struct fault_channel *c = container_of(channel, struct fault_channel, channel);

    block_close(c->under);
    block_channel_fini(channel);
    free(c);
}

static int fault_open(struct block *b, const struct block_channel_config *cfg,
                      struct block_channel **out)
{
    struct fault_block *f = container_of(b, struct fault_block, block);
    struct fault_channel *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return -ENOMEM;
    int rc = block_channel_init(&c->channel, b, cfg);
    if (rc < 0) {
        free(c);
        return rc;
    }
    rc = block_open(f->under, cfg, &c->under);
    if (rc < 0)
        fault_close(&c->channel);
    else
        *out = &c->channel;
    return rc;
}

static void fault_destroy(struct block *b)
{
    struct fault_block *f = container_of(b, struct fault_block, block);

    block_destroy(f->under);
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}

static const struct block_ops fault_ops = {
    .open = fault_open,
    .submit = fault_submit,
    .commit = fault_commit,
    .close = fault_close,
    .destroy = fault_destroy,
};

int block_fault_create(struct block *under, const struct block_fault *faults, unsigned count,
                       struct block **out)
{
    struct fault_block *f = count <= FAULTS_MAX ? calloc(1, sizeof(*f)) : NULL;

    if (f == NULL) {
        block_destroy(under);
        return count <= FAULTS_MAX ? -ENOMEM : -EINVAL;
    }
    f->block = (struct block){
        .ops = &fault_ops,
        .size = atomic_load(&under->size),
        .logical_size = under->logical_size,
        .physical_size = under->physical_size,
        .read_only = under->read_only,
        .can_discard = under->can_discard,
        .can_zero = under->can_zero,
    };
    f->under = under;
    f->count = count;
    memcpy(f->faults, faults, count * sizeof(*faults));
    (void)pthread_mutex_init(&f->lock, NULL); /* does not fail on Linux */
    *out = &f->block;
    return 0;
}
