/*
 * The block that guests see: channels, and how a request falls into pieces.
 *
 * A request is cut where its parts lie at different places of the file, or in different files. What
 * has a place already becomes requests to the file's own channel; the rest is done here and now,
 * under the image's lock. The request is answered when its last piece is.
 *
 * A cluster that is given up may have requests under way to it, and must not become something else
 * before they have ended: they are listed in qcow2_image.busy, where qcow2_alloc() looks.
 */
#include "hv/block/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"

struct qcow2_channel {
    struct block_channel channel;
    struct block_channel *files[BLOCK_QCOW2_CHAIN_MAX]; /* owned; of qcow2.images */
};

/* A request that is being answered. */
struct qcow2_ticket {
    struct block_req *req;
    struct qcow2_channel *channel;
    unsigned pieces; /* that are under way, and one while more may come */
    int result;      /* the first error */
};

static struct qcow2 *qcow2_of(struct block *b)
{
    return container_of(b, struct qcow2, block);
}

/* --- pieces --- */

static void link_piece(struct qcow2_piece *p)
{
    struct qcow2_image *img = p->img;

    p->next = img->busy;
    if (p->next != NULL)
        p->next->prev = p;
    img->busy = p;
}

static void unlink_piece(struct qcow2_piece *p)
{
    *(p->prev ? &p->prev->next : &p->img->busy) = p->next;
    if (p->next != NULL)
        p->next->prev = p->prev;
}

/* One piece less. Returns true if it was the last one. */
static bool end_piece(struct qcow2_ticket *t, int result)
{
    if (t->result == 0)
        t->result = result;
    return --t->pieces == 0;
}

/* On the loop, from the file's channel, which will tell of the batch's end, too. */
static void on_piece_done(struct block_req *req, int result)
{
    struct qcow2_piece *p = container_of(req, struct qcow2_piece, req);
    struct qcow2_ticket *t = p->ticket;
    struct qcow2 *q = qcow2_of(t->channel->channel.block);

    pthread_mutex_lock(&q->lock);
    unlink_piece(p);
    pthread_mutex_unlock(&q->lock);
    free(p);
    if (!end_piece(t, result))
        return;
    struct block_req *whole = t->req;
    result = t->result;
    free(t);
    whole->done(whole, result);
}

/* How many entries of memory the next `len` bytes are. */
static unsigned count_entries(const struct qcow2_cursor *c, uint64_t len)
{
    size_t skip = c->skip;
    unsigned n = 0;

    for (uint64_t got = 0; got < len; n++, skip = 0)
        got += c->iov[n].iov_len - skip;
    return n;
}

/* Moves the cursor over `len` bytes; their memory goes to `out`, if that is wanted. */
static void advance(struct qcow2_cursor *c, uint64_t len, struct iovec *out)
{
    while (len > 0) {
        size_t here = c->iov->iov_len - c->skip;
        if (here > len)
            here = (size_t)len;
        if (out != NULL)
            *out++ = (struct iovec){(uint8_t *)c->iov->iov_base + c->skip, here};
        c->skip += here;
        len -= here;
        if (c->skip == c->iov->iov_len)
            *c = (struct qcow2_cursor){c->iov + 1, 0};
    }
}

/* Makes the piece for [host, host + size) of the file, and lists it as under way. */
static int make_piece(struct qcow2_ticket *t, struct qcow2_image *img, uint64_t host, uint64_t size,
                      struct qcow2_cursor *at, struct qcow2_piece **out)
{
    unsigned entries = size > 0 ? count_entries(at, size) : 0;
    struct qcow2_piece *p = calloc(1, sizeof(*p) + entries * sizeof(p->iov[0]));

    if (p == NULL)
        return -ENOMEM;
    p->ticket = t;
    p->img = img;
    p->first = 1; /* and last is 0: a flush touches no cluster */
    if (size > 0) {
        advance(at, size, p->iov);
        p->first = img->is_raw ? 0 : host >> img->h.cluster_bits;
        p->last = img->is_raw ? 0 : (host + size - 1) >> img->h.cluster_bits;
    }
    p->req = (struct block_req){.op = t->req->op,
                                .offset = host,
                                .size = size,
                                .iov = p->iov,
                                .iov_count = entries,
                                .done = on_piece_done};
    link_piece(p);
    *out = p;
    return 0;
}

static void send_piece(struct qcow2_ticket *t, unsigned layer, struct qcow2_piece *p)
{
    t->pieces++;
    block_submit(t->channel->files[layer], &p->req);
}

/* --- reads --- */

/* How much of the next `len` bytes is in one piece of memory. */
static size_t in_one_piece(struct qcow2_cursor *at, uint64_t len)
{
    while (at->skip == at->iov->iov_len)
        *at = (struct qcow2_cursor){at->iov + 1, 0};
    size_t here = at->iov->iov_len - at->skip;
    return here < len ? here : (size_t)len;
}

static void fill_zero(struct qcow2_cursor *at, uint64_t len)
{
    while (len > 0) {
        size_t here = in_one_piece(at, len);
        memset((uint8_t *)at->iov->iov_base + at->skip, 0, here);
        advance(at, here, NULL);
        len -= here;
    }
}

/* Reads [offset, offset + len) here and now, into one piece of memory after the other. */
static int read_now(struct qcow2 *q, uint64_t offset, uint64_t len, struct qcow2_cursor *at)
{
    int rc = 0;

    while (rc == 0 && len > 0) {
        size_t here = in_one_piece(at, len);
        rc = qcow2_read(q, 0, offset, (uint8_t *)at->iov->iov_base + at->skip, here);
        advance(at, here, NULL);
        offset += here;
        len -= here;
    }
    return rc;
}

static unsigned layer_of(const struct qcow2 *q, const struct qcow2_image *img)
{
    unsigned layer = 0;

    while (q->images[layer] != img)
        layer++;
    return layer;
}

/* The part of a read that begins at `offset`; *size: how much of it. */
static int read_part(struct qcow2 *q, struct qcow2_ticket *t, uint64_t offset,
                     struct qcow2_cursor *at, uint64_t *size)
{
    struct qcow2_piece *piece = NULL;
    struct qcow2_extent e = {0};

    pthread_mutex_lock(&q->lock);
    int rc = qcow2_find(q, 0, offset, *size, &e);
    /* The file may end inside its last cluster, or block: then what is missing is zero. */
    bool is_whole = rc == 0 && e.kind == QCOW2_KIND_DATA && e.place + e.size <= e.img->file_end &&
                    (e.place + e.size) % e.img->align == 0;
    if (is_whole)
        rc = make_piece(t, e.img, e.place, e.size, at, &piece);
    else if (rc == 0 && e.kind != QCOW2_KIND_ZERO)
        rc = read_now(q, offset, e.size, at);
    pthread_mutex_unlock(&q->lock);
    if (rc < 0)
        return rc;
    if (piece != NULL)
        send_piece(t, layer_of(q, e.img), piece);
    else if (e.kind == QCOW2_KIND_ZERO)
        fill_zero(at, e.size);
    *size = e.size;
    return 0;
}

/* --- writes --- */

static int write_part(struct qcow2 *q, struct qcow2_ticket *t, uint64_t offset,
                      struct qcow2_cursor *at, uint64_t *size)
{
    struct qcow2_image *img = q->images[0];
    struct qcow2_piece *piece = NULL;
    uint64_t host, found = 0;

    pthread_mutex_lock(&q->lock);
    int rc = qcow2_begin_change(img);
    if (rc == 0)
        rc = qcow2_find_writable(img, offset, *size, &host, &found);
    if (rc == 0 && found > 0) {
        rc = make_piece(t, img, host, found, at, &piece);
    } else if (rc == 0) {
        uint64_t left = img->cluster_size - offset % img->cluster_size;
        found = *size < left ? *size : left;
        rc = qcow2_write_new(q, offset, found, at);
    }
    pthread_mutex_unlock(&q->lock);
    if (piece != NULL)
        send_piece(t, 0, piece);
    *size = found;
    return rc;
}

/* --- requests --- */

static int transfer(struct qcow2 *q, struct qcow2_ticket *t)
{
    struct qcow2_cursor at = {t->req->iov, 0};
    uint64_t offset = t->req->offset, left = t->req->size;
    int rc = 0;

    while (rc == 0 && left > 0) {
        uint64_t size = left;
        rc = (t->req->op == BLOCK_READ ? read_part : write_part)(q, t, offset, &at, &size);
        offset += size;
        left -= rc == 0 ? size : left;
    }
    return rc;
}

/* The tables go to the file now, the sync that covers them and all data later. */
static int flush(struct qcow2 *q, struct qcow2_ticket *t)
{
    struct qcow2_image *img = q->images[0];
    struct qcow2_piece *piece = NULL;

    if (img->read_only)
        return 0;
    pthread_mutex_lock(&q->lock);
    int rc = qcow2_commit(img);
    if (rc == 0)
        rc = make_piece(t, img, 0, 0, NULL, &piece);
    pthread_mutex_unlock(&q->lock);
    if (rc == 0)
        send_piece(t, 0, piece);
    return rc;
}

static int change(struct qcow2 *q, const struct block_req *req)
{
    pthread_mutex_lock(&q->lock);
    int rc = qcow2_begin_change(q->images[0]);
    if (rc == 0 && req->op == BLOCK_ZERO)
        rc = qcow2_write_zeros(q, req->offset, req->size, req->may_unmap);
    else if (rc == 0)
        rc = qcow2_discard(q, req->offset, req->size);
    pthread_mutex_unlock(&q->lock);
    return rc;
}

static void qcow2_submit(struct block_channel *channel, struct block_req *req)
{
    struct qcow2 *q = qcow2_of(channel->block);
    struct qcow2_ticket *t;
    int rc;

    if (req->op == BLOCK_DISCARD || req->op == BLOCK_ZERO) {
        block_finish(channel, req, change(q, req));
        return;
    }
    t = malloc(sizeof(*t));
    if (t == NULL) {
        block_finish(channel, req, -EIO);
        return;
    }
    *t = (struct qcow2_ticket){
        .req = req,
        .channel = container_of(channel, struct qcow2_channel, channel),
        .pieces = 1,
    };
    rc = req->op == BLOCK_FLUSH ? flush(q, t) : transfer(q, t);
    if (!end_piece(t, rc))
        return;
    block_finish(channel, req, t->result);
    free(t);
}

static void qcow2_channel_commit(struct block_channel *channel)
{
    struct qcow2_channel *c = container_of(channel, struct qcow2_channel, channel);

    for (unsigned i = 0; i < qcow2_of(channel->block)->depth; i++)
        block_commit(c->files[i]);
}

/* --- life --- */

static void qcow2_close(struct block_channel *channel)
{
    struct qcow2_channel *c = container_of(channel, struct qcow2_channel, channel);

    for (unsigned i = 0; i < BLOCK_QCOW2_CHAIN_MAX; i++)
        block_close(c->files[i]);
    block_channel_fini(channel);
    free(c);
}

static int qcow2_open(struct block *b, const struct block_channel_config *cfg,
                      struct block_channel **out)
{
    struct qcow2 *q = qcow2_of(b);
    struct qcow2_channel *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return -ENOMEM;
    int rc = block_channel_init(&c->channel, b, cfg);
    if (rc < 0) {
        free(c);
        return rc;
    }
    for (unsigned i = 0; rc == 0 && i < q->depth; i++)
        rc = block_open(q->images[i]->raw, cfg, &c->files[i]);
    if (rc < 0)
        qcow2_close(&c->channel);
    else
        *out = &c->channel;
    return rc;
}

static void qcow2_destroy(struct block *b)
{
    struct qcow2 *q = qcow2_of(b);
    struct qcow2_image *img = q->images[0];

    if (!b->read_only) {
        int rc = qcow2_commit_all(img);
        if (rc < 0)
            log_msg(img->log, LOG_ERROR, "%s: what was not flushed is lost: %s", img->path,
                    strerror(-rc));
    }
    qcow2_chain_close(q);
    (void)pthread_mutex_destroy(&q->lock);
    free(q);
}

static const struct block_ops qcow2_ops = {
    .open = qcow2_open,
    .submit = qcow2_submit,
    .commit = qcow2_channel_commit,
    .close = qcow2_close,
    .destroy = qcow2_destroy,
};

int block_qcow2_create(const struct block_qcow2_config *cfg, struct block **out, struct error *err)
{
    struct qcow2 *q = calloc(1, sizeof(*q));

    if (q == NULL)
        return error_sys(err, -ENOMEM, "%s", cfg->path);
    (void)pthread_mutex_init(&q->lock, NULL); /* does not fail on Linux */
    int rc = qcow2_chain_open(q, cfg, err);
    if (rc < 0) {
        qcow2_chain_close(q);
        (void)pthread_mutex_destroy(&q->lock);
        free(q);
        return rc;
    }
    q->block = (struct block){
        .ops = &qcow2_ops,
        .size = q->images[0]->h.size,
        .logical_size = q->images[0]->raw->logical_size,
        .physical_size = 4096,
        .read_only = cfg->read_only,
        .can_discard = !cfg->read_only,
        .can_zero = !cfg->read_only,
    };
    *out = &q->block;
    return 0;
}

int block_qcow2_extent(struct block *b, uint64_t offset, uint64_t *size, bool *zero)
{
    struct qcow2 *q = qcow2_of(b);
    struct qcow2_extent e;

    if (offset >= atomic_load(&b->size))
        return -EINVAL;
    pthread_mutex_lock(&q->lock);
    int rc = qcow2_find(q, 0, offset, atomic_load(&b->size) - offset, &e);
    pthread_mutex_unlock(&q->lock);
    if (rc < 0)
        return rc;
    *size = e.size;
    *zero = e.kind == QCOW2_KIND_ZERO;
    return 0;
}
