#include "support/echo_dev.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "hv/base/num.h"

static void echo_start(struct virtio_dev *v)
{
    container_of(v, struct echo, v)->starts++;
}

static void echo_reset(struct virtio_dev *v)
{
    struct echo *e = container_of(v, struct echo, v);

    e->resets++;
    e->value = 0;
}

static void echo_serve(struct virtio_dev *v, struct virtio_queue *q)
{
    struct echo *e = container_of(v, struct echo, v);
    struct iovec iov[4];
    struct vq_chain chain = {.iov = iov, .iov_max = 4};

    if (q->index == 1) {
        e->later = (struct vq_chain){.iov = e->iov, .iov_max = 4};
        e->has_later = !e->has_later && vq_pop(&q->vq, &e->later) > 0;
        if (e->has_later)
            virtio_begin(q);
        return;
    }
    while (vq_pop(&q->vq, &chain) > 0)
        vq_push(&q->vq, &chain, (uint32_t)chain.in_size);
    virtio_publish(q);
}

void echo_answer(struct echo *e)
{
    struct virtio_queue *q = virtio_queue(&e->v, 1);

    pthread_mutex_lock(&q->lock);
    vq_push(&q->vq, &e->later, 1);
    virtio_publish(q);
    virtio_end(q);
    pthread_mutex_unlock(&q->lock);
    e->has_later = false;
}

static void echo_config_read(struct virtio_dev *v, uint64_t offset, void *out, unsigned size)
{
    if (offset == 0 && size > 0)
        *(uint8_t *)out = container_of(v, struct echo, v)->value;
}

static void echo_config_write(struct virtio_dev *v, uint64_t offset, const void *data,
                              unsigned size)
{
    if (offset == 0 && size > 0)
        container_of(v, struct echo, v)->value = *(const uint8_t *)data;
}

static void echo_save(struct virtio_dev *v, struct codec_writer *w)
{
    codec_put_u8(w, container_of(v, struct echo, v)->value);
}

static int echo_load(struct virtio_dev *v, struct codec_reader *r)
{
    uint8_t value = codec_get_u8(r);
    int rc = codec_leave(r);

    if (rc < 0)
        return rc;
    if (value == ECHO_BAD_VALUE)
        return -EINVAL;
    container_of(v, struct echo, v)->value = value;
    return 0;
}

static void echo_destroy(struct virtio_dev *v)
{
    virtio_fini(v);
    free(container_of(v, struct echo, v));
}

static const struct virtio_ops echo_ops = {
    .id = VIRTIO_ID_CONSOLE,
    .features = VIRTIO_FEATURE(ECHO_FEATURE),
    .version = 1,
    .start = echo_start,
    .reset = echo_reset,
    .serve = echo_serve,
    .config_read = echo_config_read,
    .config_write = echo_config_write,
    .save = echo_save,
    .load = echo_load,
    .destroy = echo_destroy,
};

struct echo *echo_create(struct virtio_rig *rig)
{
    const struct virtio_queue_config queues[] = {{16, rig->loop}, {8, rig->loop}};
    struct echo *e = calloc(1, sizeof(*e));

    cr_assert_not_null(e);
    cr_assert_eq(virtio_init(&e->v, &echo_ops, "echo", &rig->mem, 0, queues, 2), 0);
    virtio_rig_take(rig, &e->v);
    return e;
}
