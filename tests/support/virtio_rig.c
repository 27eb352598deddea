#include "support/virtio_rig.h"

#include <criterion/criterion.h>

#include "support/ram.h"

static void on_used(void *ctx, unsigned queue)
{
    struct virtio_rig *rig = ctx;

    if (queue < VIRTIO_RIG_QUEUES)
        rig->used[queue]++;
}

static void on_config(void *ctx)
{
    ((struct virtio_rig *)ctx)->config++;
}

void virtio_rig_init(struct virtio_rig *rig)
{
    *rig = (struct virtio_rig){0};
    ram_init(&rig->mem, VIRTIO_RIG_RAM);
    cr_assert_eq(loop_create(&rig->loop), 0);
}

void virtio_rig_fini(struct virtio_rig *rig)
{
    virtio_destroy(rig->v);
    loop_destroy(rig->loop);
    mem_fini(&rig->mem);
}

void virtio_rig_take(struct virtio_rig *rig, struct virtio_dev *v)
{
    rig->v = v;
    virtio_attach(v, &(struct virtio_port){.used = on_used, .config = on_config, .ctx = rig});
}

/* A queue at its largest size, with its areas in [at, at + room). */
static void place(struct virtio_rig *rig, unsigned index, struct ring *ring, uint64_t at,
                  uint64_t room)
{
    struct virtio_queue *q = virtio_queue(rig->v, index);

    cr_assert_eq(mem_zero(&rig->mem, at, room), 0);
    ring_init(ring, &rig->mem, at, q->vq.size_max);
    q->vq.at = ring->at;
    virtio_enable_queue(q);
    cr_assert(q->vq.enabled);
}

void virtio_rig_start(struct virtio_rig *rig, uint64_t features)
{
    struct virtio_dev *v = rig->v;
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

    features = (features | VIRTIO_FEATURE(VIRTIO_F_VERSION_1)) & v->offered;
    virtio_set_status(v, 0);
    virtio_set_status(v, status);
    virtio_accept(v, 0, (uint32_t)features);
    virtio_accept(v, 1, (uint32_t)(features >> 32));
    virtio_set_status(v, status |= VIRTIO_CONFIG_S_FEATURES_OK);
    cr_assert_eq(virtio_status(v), status);
    for (unsigned i = 0; i < v->queue_count && i < VIRTIO_RIG_QUEUES; i++)
        place(rig, i, &rig->rings[i], VIRTIO_RIG_RINGS + (uint64_t)i * VIRTIO_RIG_STRIDE,
              VIRTIO_RIG_STRIDE);
    virtio_set_status(v, status | VIRTIO_CONFIG_S_DRIVER_OK);
    virtio_rig_work(rig);
}

void virtio_rig_work(struct virtio_rig *rig)
{
    for (unsigned i = 0; i < 16; i++) /* each round is at most one event of every watch */
        cr_assert_eq(loop_run_once(rig->loop, 0), 0);
}

void virtio_rig_start_all(struct virtio_rig *rig, uint64_t features, struct ring *far,
                          unsigned queues, uint64_t base, uint64_t stride)
{
    virtio_rig_start(rig, features);
    for (unsigned q = VIRTIO_RIG_QUEUES; q < queues; q++)
        place(rig, q, &far[q], base + (uint64_t)(q - VIRTIO_RIG_QUEUES) * stride, stride);
    virtio_rig_work(rig);
}

void virtio_rig_kick(struct virtio_rig *rig, unsigned queue)
{
    virtio_kick(virtio_queue(rig->v, queue));
    virtio_rig_work(rig);
}
