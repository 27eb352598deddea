/*
 * What all block back ends share: the checks that every request passes, and answers that come from
 * the loop.
 */
#include "hv/block/block.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

/* --- answers --- */

/* EXERCISE 8.1: answers that come from the loop. block_finish() has an answer: nobody is called
 * now, for who calls may hold a lock that done() wants. The request joins the end of the
 * channel's list (`finished`, linked by `next`, the place for the next one in finished_end), and
 * the bell is rung if the list was empty. on_bell(), on the loop: every request that is in the
 * list now is done(), in the order in which they were finished, then batch_end() is called once,
 * if the user gave one; not at all if there was none. A done() may free its request, and may
 * submit another one that finishes at once: that one's turn comes with the next ring, so that
 * nobody is kept here for ever. */
// SOLUTION 8.1
static void on_bell(void *ctx, uint32_t events)
{
    struct block_channel *c = ctx;
    struct block_req *req = c->finished;
    eventfd_t count;

    (void)events;
    (void)eventfd_read(c->bell, &count); /* EAGAIN: an earlier ring was answered with this one */
    if (req == NULL)
        return;
    c->finished = NULL;
    c->finished_end = &c->finished;
    while (req != NULL) {
        struct block_req *next = req->next; /* done() may free req */
        req->done(req, req->result);
        req = next;
    }
    if (c->cfg.batch_end)
        c->cfg.batch_end(c->cfg.ctx);
}

void block_finish(struct block_channel *c, struct block_req *req, int result)
{
    if (c->finished == NULL)
        (void)eventfd_write(c->bell, 1); /* cannot fail: it counts far beyond one */
    req->result = result;
    req->next = NULL;
    *c->finished_end = req;
    c->finished_end = &req->next;
}
// ELSE
// static void on_bell(void *ctx, uint32_t events)
// {
//     (void)todo("8.1");
// }
//
// void block_finish(struct block_channel *c, struct block_req *req, int result)
// {
//     (void)todo("8.1");
// }
// END 8.1

int block_channel_init(struct block_channel *c, struct block *b,
                       const struct block_channel_config *cfg)
{
    *c = (struct block_channel){.block = b, .cfg = *cfg};
    c->finished_end = &c->finished;
    c->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (c->bell < 0)
        return -errno;
    int rc = loop_add(cfg->loop, c->bell, EPOLLIN, on_bell, c);
    if (rc < 0)
        fd_close(&c->bell);
    return rc;
}

void block_channel_fini(struct block_channel *c)
{
    if (c->bell < 0)
        return;
    loop_remove(c->cfg.loop, c->bell);
    fd_close(&c->bell);
}

/* --- requests --- */

/* EXERCISE 8.2: 0, or why the back end need not see this request. A flush is always fine. On a
 * read-only block all that changes it is -EROFS; discards and zeros that the block cannot do are
 * -ENOTSUP. Offset and size are multiples of BLOCK_SECTOR, and the range lies in the block whatever
 * numbers a guest has chosen; the pieces of a read or a write have as many bytes together as its
 * size says: else -EINVAL, in this order. Back ends rely on all of it. */
// SOLUTION 8.2
static uint64_t iov_bytes(const struct block_req *req)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < req->iov_count; i++)
        sum += req->iov[i].iov_len;
    return sum;
}

static int check(const struct block *b, const struct block_req *req)
{
    bool writes = req->op != BLOCK_READ && req->op != BLOCK_FLUSH;

    if (req->op == BLOCK_FLUSH)
        return 0;
    if (writes && b->read_only)
        return -EROFS;
    if ((req->op == BLOCK_DISCARD && !b->can_discard) || (req->op == BLOCK_ZERO && !b->can_zero))
        return -ENOTSUP;
    if (req->offset % BLOCK_SECTOR != 0 || req->size % BLOCK_SECTOR != 0 ||
        !range_fits(req->offset, req->size, atomic_load(&b->size)))
        return -EINVAL;
    if ((req->op == BLOCK_READ || req->op == BLOCK_WRITE) && iov_bytes(req) != req->size)
        return -EINVAL;
    return 0;
}
// ELSE
// static int check(const struct block *b, const struct block_req *req)
// {
//     return todo("8.2");
// }
// END 8.2

int block_open(struct block *b, const struct block_channel_config *cfg, struct block_channel **out)
{
    return b->ops->open(b, cfg, out);
}

void block_submit(struct block_channel *c, struct block_req *req)
{
    int rc = check(c->block, req);

    if (rc < 0 || (req->size == 0 && req->op != BLOCK_FLUSH))
        block_finish(c, req, rc);
    else
        c->block->ops->submit(c, req);
}

void block_commit(struct block_channel *c)
{
    if (c->block->ops->commit)
        c->block->ops->commit(c);
}

void block_close(struct block_channel *c)
{
    if (c != NULL)
        c->block->ops->close(c);
}

void block_destroy(struct block *b)
{
    if (b != NULL)
        b->ops->destroy(b);
}
