/*
 * A channel over threads, for where io_uring is forbidden: each carries one request out at a time,
 * and an eventfd tells the loop of the answers.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/raw_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

#define THREADS 4 /* of each channel: as many requests are under way at once */

struct list {
    struct block_req *first;
    struct block_req **end;
};

struct threads_channel {
    struct block_channel channel;
    pthread_t threads[THREADS];
    unsigned started;
    int event;            /* there are answers; owned */
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t work;
    struct list waiting, answered;
    bool stop;
};

static void append(struct list *l, struct block_req *req)
{
    req->next = NULL;
    *l->end = req;
    l->end = &req->next;
}

static struct block_req *take_first(struct list *l)
{
    struct block_req *req = l->first;

    if (req != NULL && (l->first = req->next) == NULL)
        l->end = &l->first;
    return req;
}

/* --- the threads --- */

static struct block_req *wait_for_work(struct threads_channel *t)
{
    struct block_req *req;

    pthread_mutex_lock(&t->lock);
    while ((req = take_first(&t->waiting)) == NULL && !t->stop)
        pthread_cond_wait(&t->work, &t->lock);
    pthread_mutex_unlock(&t->lock);
    return req;
}

static void *work(void *arg)
{
    struct threads_channel *t = arg;
    const struct raw_block *raw = container_of(t->channel.block, struct raw_block, block);
    struct block_req *req;

    while ((req = wait_for_work(t)) != NULL) {
        req->result = raw_perform(raw, req, 0);
        pthread_mutex_lock(&t->lock);
        append(&t->answered, req);
        pthread_mutex_unlock(&t->lock);
        (void)eventfd_write(t->event, 1); /* cannot fail: it counts far beyond our requests */
    }
    return NULL;
}

/* --- the channel --- */

static void threads_submit(struct block_channel *c, struct block_req *req)
{
    struct threads_channel *t = container_of(c, struct threads_channel, channel);

    pthread_mutex_lock(&t->lock);
    append(&t->waiting, req);
    (void)pthread_cond_signal(&t->work);
    pthread_mutex_unlock(&t->lock);
}

static void on_answered(void *ctx, uint32_t events)
{
    struct threads_channel *t = ctx;
    struct block_req *req;
    eventfd_t count;

    (void)events;
    (void)eventfd_read(t->event, &count);
    pthread_mutex_lock(&t->lock);
    req = t->answered.first;
    t->answered = (struct list){.end = &t->answered.first};
    pthread_mutex_unlock(&t->lock);
    if (req == NULL)
        return;
    while (req != NULL) {
        struct block_req *next = req->next; /* done() may free req */
        req->done(req, req->result);
        req = next;
    }
    if (t->channel.cfg.batch_end)
        t->channel.cfg.batch_end(t->channel.cfg.ctx);
}

static void threads_close(struct block_channel *c)
{
    struct threads_channel *t = container_of(c, struct threads_channel, channel);

    pthread_mutex_lock(&t->lock);
    t->stop = true;
    (void)pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    while (t->started > 0)
        (void)pthread_join(t->threads[--t->started], NULL); /* fails only for a bug of ours */
    if (t->event >= 0)
        loop_remove(c->cfg.loop, t->event);
    fd_close(&t->event);
    (void)pthread_cond_destroy(&t->work);
    (void)pthread_mutex_destroy(&t->lock);
    block_channel_fini(c);
    free(t);
}

static int start_threads(struct threads_channel *t)
{
    sigset_t all, old;
    int rc = 0;

    sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &old); /* they inherit it; signals are for others */
    while (rc == 0 && t->started < THREADS) {
        rc = -pthread_create(&t->threads[t->started], NULL, work, t);
        t->started += rc == 0;
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return t->started > 0 ? 0 : rc; /* fewer will do */
}

static int threads_open(struct block *b, const struct block_channel_config *cfg,
                        struct block_channel **out)
{
    struct threads_channel *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return -ENOMEM;
    int rc = block_channel_init(&t->channel, b, cfg);
    if (rc < 0) {
        free(t);
        return rc;
    }
    (void)pthread_mutex_init(&t->lock, NULL); /* neither fails on Linux */
    (void)pthread_cond_init(&t->work, NULL);
    t->waiting.end = &t->waiting.first;
    t->answered.end = &t->answered.first;
    t->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    rc = t->event < 0 ? -errno : loop_add(cfg->loop, t->event, EPOLLIN, on_answered, t);
    if (rc == 0)
        rc = start_threads(t);
    if (rc < 0)
        threads_close(&t->channel);
    else
        *out = &t->channel;
    return rc;
}

const struct block_ops raw_threads_ops = {
    .open = threads_open,
    .submit = threads_submit,
    .close = threads_close,
    .destroy = raw_destroy,
};
