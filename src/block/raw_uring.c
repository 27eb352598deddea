/*
 * A channel over io_uring: requests go to the kernel in batches, one system call for each, and an
 * eventfd tells the loop of the answers.
 *
 * The kernel never refuses a request for want of room: what exceeds the submission queue is
 * submitted early, and completions that exceed theirs wait in the kernel.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/raw_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

#define ENTRIES 256

struct uring_channel {
    struct block_channel channel;
    struct io_uring ring;
    int event; /* the kernel counts completions here; owned */
    bool has_ring;
};

static const struct raw_block *raw_of(const struct block_channel *c)
{
    return container_of(c->block, struct raw_block, block);
}

bool raw_has_uring(void)
{
    struct io_uring ring;

    if (io_uring_queue_init(1, &ring, 0) < 0)
        return false;
    io_uring_queue_exit(&ring);
    return true;
}

/* --- submission --- */

static struct io_uring_sqe *take_entry(struct uring_channel *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    if (sqe != NULL)
        return sqe;
    (void)io_uring_submit(&u->ring); /* it is full; what fails, the next one tries again */
    return io_uring_get_sqe(&u->ring);
}

static void prepare(struct io_uring_sqe *sqe, int fd, struct block_req *req)
{
    switch (req->op) {
    case BLOCK_READ:
        io_uring_prep_readv(sqe, fd, req->iov, req->iov_count, req->offset);
        break;
    case BLOCK_WRITE:
        io_uring_prep_writev(sqe, fd, req->iov, req->iov_count, req->offset);
        break;
    case BLOCK_FLUSH:
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
        break;
    default:
        io_uring_prep_fallocate(sqe, fd, raw_fallocate_mode(req), (off_t)req->offset,
                                (off_t)req->size);
    }
    io_uring_sqe_set_data(sqe, req);
}

static void uring_submit(struct block_channel *c, struct block_req *req)
{
    struct uring_channel *u = container_of(c, struct uring_channel, channel);
    const struct raw_block *raw = raw_of(c);
    struct io_uring_sqe *sqe = raw_needs_bounce(raw, req) ? NULL : take_entry(u);

    if (sqe != NULL)
        prepare(sqe, raw->fd, req);
    else
        block_finish(c, req, raw_perform(raw, req, 0));
}

static void uring_commit(struct block_channel *c)
{
    (void)io_uring_submit(&container_of(c, struct uring_channel, channel)->ring);
}

/* --- completion --- */

/* EXERCISE 8.5: what the kernel has done. result_of(): what its answer `res` means for a request:
 * bytes, or -errno. -EINTR and -EAGAIN mean that it was not done: raw_perform() does it now. So it
 * does with the rest of a read or a write that moved less than all; other requests have no bytes.
 * -EOPNOTSUPP is -ENOTSUP here. on_complete(), on the loop, when the eventfd was rung: takes its
 * count away first, so that an answer which comes while we look rings again; then done() for each
 * answer that there is (io_uring_peek_cqe(), io_uring_cqe_seen()), each entry given back before
 * done(), which may submit. Requests that are still in the submission queue, for the kernel had no
 * room, are committed once more; batch_end() is called once, if there was an answer. */
// SOLUTION 8.5
static int result_of(const struct raw_block *raw, const struct block_req *req, int res)
{
    if (res == -EINTR || res == -EAGAIN)
        return raw_perform(raw, req, 0);
    if (res < 0)
        return res == -EOPNOTSUPP ? -ENOTSUP : res;
    if ((req->op == BLOCK_READ || req->op == BLOCK_WRITE) && (uint64_t)res < req->size)
        return raw_perform(raw, req, (uint64_t)res); /* cut short: at the file's end it says so */
    return 0;
}

static void on_complete(void *ctx, uint32_t events)
{
    struct uring_channel *u = ctx;
    struct io_uring_cqe *cqe;
    eventfd_t count;
    bool any = false;

    (void)events;
    (void)eventfd_read(u->event, &count); /* before looking: what comes later rings again */
    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        struct block_req *req = io_uring_cqe_get_data(cqe);
        int res = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        req->done(req, result_of(raw_of(&u->channel), req, res));
        any = true;
    }
    if (io_uring_sq_ready(&u->ring) > 0) /* the kernel had no room for them; now it may */
        uring_commit(&u->channel);
    if (any && u->channel.cfg.batch_end)
        u->channel.cfg.batch_end(u->channel.cfg.ctx);
}
// ELSE
// static void on_complete(void *ctx, uint32_t events)
// {
//     (void)todo("8.5");
// }
// END 8.5

/* --- life --- */

static void uring_close(struct block_channel *c)
{
    struct uring_channel *u = container_of(c, struct uring_channel, channel);

    if (u->event >= 0)
        loop_remove(c->cfg.loop, u->event);
    if (u->has_ring)
        io_uring_queue_exit(&u->ring);
    fd_close(&u->event);
    block_channel_fini(c);
    free(u);
}

static int open_ring(struct uring_channel *u)
{
    int rc = io_uring_queue_init(ENTRIES, &u->ring, 0);

    if (rc < 0)
        return rc;
    u->has_ring = true;
    u->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (u->event < 0)
        return -errno;
    rc = io_uring_register_eventfd(&u->ring, u->event);
    return rc < 0 ? rc : loop_add(u->channel.cfg.loop, u->event, EPOLLIN, on_complete, u);
}

static int uring_open(struct block *b, const struct block_channel_config *cfg,
                      struct block_channel **out)
{
    struct uring_channel *u = calloc(1, sizeof(*u));

    if (u == NULL)
        return -ENOMEM;
    u->event = -1;
    int rc = block_channel_init(&u->channel, b, cfg);
    if (rc < 0) {
        free(u);
        return rc;
    }
    rc = open_ring(u);
    if (rc < 0)
        uring_close(&u->channel);
    else
        *out = &u->channel;
    return rc;
}

const struct block_ops raw_uring_ops = {
    .open = uring_open,
    .submit = uring_submit,
    .commit = uring_commit,
    .close = uring_close,
    .destroy = raw_destroy,
};
