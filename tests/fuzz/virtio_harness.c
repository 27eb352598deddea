/*
 * The driver's programs: coming up, everything that is no chain, moves of the state, and probes.
 */
#include <endian.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/virtio_harness_priv.h"
#include "hv/base/num.h"

/* Where a driver that behaves has its rings. */
#define RINGS 0x0000 /* RING_STRIDE for each queue: descriptors, available ring, used ring */
#define RING_STRIDE 0x2000
#define RING_AVAIL 0x1000
#define RING_USED 0x1400
#define RING_SIZE_MAX 256 /* entries that fit the stride */

#define STEPS_MAX 128   /* of one program */
#define ROUNDS 6        /* of the loop, after which a device is idle */
#define ROUNDS_MAX 1024 /* after which it hangs */

/* --- running the device --- */

static void on_used(void *ctx, unsigned queue)
{
    struct harness *h = ctx;

    if (queue < h->queues)
        h->side[queue].interrupts++;
}

static void on_config(void *ctx)
{
    (void)ctx;
}

static void turn(struct harness *h, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++)
        fuzz_check(loop_run_once(h->loop, 0) == 0);
}

static void work(struct harness *h)
{
    for (unsigned q = 0; q < h->queues; q++)
        h->side[q].interrupts = 0;
    vfuzz_foresee(h);
    turn(h, ROUNDS);
    vfuzz_judge(h);
}

static bool is_busy(struct harness *h)
{
    for (unsigned i = 0; i < h->v->queue_count; i++)
        if (h->v->queues[i].in_flight > 0)
            return true;
    return false;
}

/* Whoever stops a queue waits for what is in flight, and only this thread can bring it home. */
static void settle(struct harness *h)
{
    unsigned rounds = 0;

    vfuzz_foresee(h);
    if (h->target->release)
        h->target->release(h->target->ctx);
    for (; is_busy(h); turn(h, 1)) {
        if (h->target->release)
            h->target->release(h->target->ctx);
        fuzz_check(rounds++ < ROUNDS_MAX);
    }
    for (unsigned q = 0; q < h->queues; q++)
        h->side[q].interrupts = 1; /* whether it came now or before is not known */
    vfuzz_judge(h);
}

static void create(struct harness *h)
{
    const struct virtio_port port = {.used = on_used, .config = on_config, .ctx = h};

    fuzz_check(h->target->create(h->target->ctx, h->which, vfuzz_ram(), h->loop, &h->v) == 0);
    virtio_attach(h->v, &port);
    h->queues = h->v->queue_count < VFUZZ_QUEUES_MAX ? h->v->queue_count : VFUZZ_QUEUES_MAX;
}

static void destroy(struct harness *h, struct virtio_dev *v, unsigned which)
{
    virtio_destroy(v);
    if (h->target->destroyed)
        h->target->destroyed(h->target->ctx, which);
}

/* --- the driver: coming up --- */

static void forget(struct harness *h)
{
    h->is_wild = false;
    for (unsigned q = 0; q < h->queues; q++)
        h->side[q].offers = 0;
}

static void set_status(struct harness *h, uint8_t status)
{
    settle(h);
    virtio_set_status(h->v, status);
    if (status == 0) {
        for (unsigned i = 0; i < h->v->queue_count; i++)
            fuzz_check(!h->v->queues[i].vq.enabled && h->v->queues[i].in_flight == 0);
        fuzz_check(virtio_status(h->v) == 0);
        forget(h);
    }
}

/* Where a queue of SIZE entries belongs. */
static void lay_out(struct harness *h, unsigned queue, uint16_t size)
{
    static const uint8_t nothing[RING_STRIDE];
    struct side *s = &h->side[queue];
    struct vq *vq = vfuzz_vq(h, queue);

    s->size = size;
    s->base = RINGS + (uint64_t)queue * RING_STRIDE;
    s->next_desc = s->avail_idx = s->used_idx = 0;
    vfuzz_put(s->base, nothing, sizeof(nothing));
    if (virtio_can_place(virtio_queue(h->v, queue)))
        vq->at = (struct vq_layout){size, s->base, s->base + RING_AVAIL, s->base + RING_USED};
}

static uint16_t size_max(struct harness *h, unsigned queue)
{
    uint16_t most = vfuzz_vq(h, queue)->size_max;

    return most < RING_SIZE_MAX ? most : RING_SIZE_MAX;
}

static void negotiate(struct harness *h, uint64_t features)
{
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

    features &= h->v->offered & ~h->target->features_off;
    features |= VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
    set_status(h, 0);
    set_status(h, status);
    virtio_accept(h->v, 0, (uint32_t)features);
    virtio_accept(h->v, 1, (uint32_t)(features >> 32));
    set_status(h, status | VIRTIO_CONFIG_S_FEATURES_OK);
    fuzz_check(virtio_status(h->v) & VIRTIO_CONFIG_S_FEATURES_OK);
}

static bool is_zero(const struct range *r)
{
    for (uint64_t at = r->gpa; at < r->gpa + r->len; at += 2)
        if (vfuzz_get16(at) != 0)
            return false;
    return true;
}

/* A used ring is to begin empty (§4.2.3.2). One that does not tells the driver nothing. */
static void enable(struct harness *h, unsigned queue)
{
    struct virtio_queue *q = virtio_queue(h->v, queue);
    const struct range used = vfuzz_area(&q->vq.at, USED);

    if (q->vq.enabled)
        return;
    virtio_enable_queue(q);
    if (!q->vq.enabled)
        return;
    h->side[queue].size = q->vq.at.size;
    h->side[queue].used_idx = 0;
    h->side[queue].avail_idx = vfuzz_get16(q->vq.at.driver + offsetof(struct vring_avail, idx));
    h->is_wild = h->is_wild || !is_zero(&used);
}

/* All queues in their places, of any size that is allowed. */
static void come_up(struct harness *h, uint64_t features, uint8_t sizes)
{
    negotiate(h, features);
    for (unsigned q = 0; q < h->queues; q++) {
        uint16_t size = (uint16_t)(size_max(h, q) >> (sizes % 4 * 2));
        lay_out(h, q, size > 1 ? size : 2);
        enable(h, q);
        fuzz_check(vfuzz_vq(h, q)->enabled);
    }
    set_status(h, 0x0f);
    work(h);
}
/* --- the driver: everything else --- */

static void kick(struct harness *h, unsigned queue)
{
    virtio_kick(virtio_queue(h->v, queue));
    work(h);
}

/* Something wrong in a ring, or in an indirect table. */
static void damage(struct harness *h, unsigned queue)
{
    const struct vq_layout *at = &vfuzz_vq(h, queue)->at;
    uint8_t what = fuzz_u8(&h->in);
    uint64_t value = fuzz_u64(&h->in, 1 + what / 8 % 8);

    switch (what % 8) {
    case 0:
        vfuzz_put16(at->driver + 2, (uint16_t)value);
        break;
    case 1:
        vfuzz_put16(at->driver + 2, (uint16_t)(h->side[queue].avail_idx + (int8_t)value));
        break;
    case 2:
        vfuzz_put16(at->driver, (uint16_t)value);
        break;
    case 3:
        vfuzz_put16(at->driver + 4 + 2U * at->size,
                    (uint16_t)(h->side[queue].used_idx + (int8_t)value));
        break;
    case 4:
        vfuzz_put16(at->driver + 4 + (value >> 16) % 256 * 2, (uint16_t)value);
        break;
    case 5:
        vfuzz_put(at->desc + (value & 0xff) * 8, (uint8_t *)&value + 1, 7);
        break;
    case 6:
        vfuzz_put(TABLES + (value & 0xff) * 8, (uint8_t *)&value + 1, 7);
        break;
    default: /* elements that the device writes and never reads */
        vfuzz_put16(at->device + 4 + (value >> 16) % (at->size + 1U) * 4, (uint16_t)value);
        break;
    }
}

/* Queue reset (§2.6.1), or registers written where they may not be. */
static void replace(struct harness *h, unsigned queue)
{
    uint8_t what = fuzz_u8(&h->in);
    struct vq_layout *at = &vfuzz_vq(h, queue)->at;

    settle(h);
    virtio_reset_queue(virtio_queue(h->v, queue));
    h->side[queue].offers = 0;
    lay_out(h, queue, (uint16_t)(1U << what % 9));
    if (what >= 0x80)
        at->size = (uint16_t)fuzz_u64(&h->in, 2);
    if (what >= 0xa0)
        at->desc = fuzz_u64(&h->in, what >= 0xf0 ? 8 : 3);
    if (what >= 0xb0)
        at->driver = fuzz_u64(&h->in, what >= 0xf0 ? 8 : 3);
    if (what >= 0xc0)
        at->device = fuzz_u64(&h->in, what >= 0xf0 ? 8 : 3);
    enable(h, queue);
    work(h);
}

/* Steps out of order, features after the fact. */
static void misbehave(struct harness *h)
{
    uint8_t what = fuzz_u8(&h->in);

    switch (what % 4) {
    case 0:
        set_status(h, fuzz_u8(&h->in));
        break;
    case 1:
        virtio_accept(h->v, what / 4 % 3, (uint32_t)fuzz_u64(&h->in, 4));
        break;
    case 2:
        settle(h);
        virtio_stop(h->v);
        virtio_go_on(h->v);
        break;
    default:
        enable(h, what / 4 % h->queues);
        break;
    }
    work(h);
}

static void configure(struct harness *h)
{
    uint8_t what = fuzz_u8(&h->in), data[8];
    unsigned size = 1U << what % 4;
    uint64_t offset = fuzz_u64(&h->in, what >= 0xe0 ? 8 : 1), value = 0;

    virtio_config_read(h->v, offset, data, size);
    if (what & 0x10) {
        value = fuzz_u64(&h->in, size);
        memcpy(data, &value, sizeof(data));
        settle(h);
        virtio_config_write(h->v, offset, data, size);
    }
    work(h);
}

/* --- state --- */

static void save(struct virtio_dev *v, struct codec_writer *w)
{
    codec_writer_init(w);
    codec_begin(w, "fuzz", 1);
    virtio_save(v, w);
    fuzz_check(codec_end(w) == 0);
}

static int load(struct virtio_dev *v, const struct codec_writer *w)
{
    struct codec_reader r;
    uint32_t version;

    codec_reader_init(&r, w->data, w->size);
    fuzz_check(codec_enter(&r, "fuzz", &version) == 0);
    return virtio_load(v, &r);
}

static bool are_same(const struct codec_writer *a, const struct codec_writer *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

/* The state with some bytes changed, and a good checksum. */
static void spoil(struct harness *h, struct codec_writer *w)
{
    struct codec_reader r;
    uint32_t version;

    codec_reader_init(&r, w->data, w->size);
    fuzz_check(codec_enter(&r, "fuzz", &version) == 0);
    size_t len = r.body_end - r.body_pos;
    uint8_t *body = malloc(len);
    fuzz_check(body != NULL);
    codec_get_bytes(&r, body, len);
    for (unsigned i = 1 + fuzz_u8(&h->in) % 3; i > 0; i--)
        body[fuzz_u64(&h->in, 2) % len] = fuzz_u8(&h->in);
    if (fuzz_u8(&h->in) >= 0xf0)
        len -= fuzz_u8(&h->in) % len;
    codec_writer_fini(w);
    codec_writer_init(w);
    codec_begin(w, "fuzz", 1);
    codec_put_bytes(w, body, len);
    fuzz_check(codec_end(w) == 0);
    free(body);
}

/* A stopped device has answered, or given back, every chain that it took. */
static void check_stopped(struct harness *h)
{
    for (unsigned q = 0; q < h->queues && !h->is_wild; q++) {
        const struct vq *vq = vfuzz_vq(h, q);
        fuzz_check(!vq->enabled || vq->broken || vq->next_avail == vq->next_used);
    }
}

/* The device's state goes to another one, which takes its place. */
static void migrate(struct harness *h, bool is_hostile)
{
    struct virtio_dev *old = h->v;
    unsigned old_which = h->which;
    struct codec_writer sent, again;

    settle(h);
    virtio_stop(old);
    check_stopped(h);
    save(old, &sent);
    if (is_hostile)
        spoil(h, &sent);
    h->which = !h->which;
    create(h);
    int rc = load(h->v, &sent);
    if (rc < 0) {
        fuzz_check(is_hostile);
        destroy(h, h->v, h->which);
        h->which = old_which;
        h->v = old;
        virtio_go_on(old);
    } else {
        save(h->v, &again);
        fuzz_check(is_hostile || are_same(&sent, &again));
        codec_writer_fini(&again);
        destroy(h, old, old_which);
        h->is_wild = h->is_wild || is_hostile;
        h->is_spoilt = h->is_spoilt || is_hostile;
    }
    codec_writer_fini(&sent);
    work(h);
}

/* §2.4: after a reset nothing tells that there was a driver, but for the generation of the
 * configuration, which goes on counting. */
static void check_fresh(struct harness *h)
{
    struct virtio_dev *used = h->v;
    struct codec_writer old, new;

    set_status(h, 0);
    atomic_store(&used->generation, 0);
    save(used, &old);
    h->which = !h->which;
    create(h);
    save(h->v, &new);
    fuzz_check(h->target->keeps || (h->target->loads && h->is_spoilt) || are_same(&old, &new));
    codec_writer_fini(&old);
    codec_writer_fini(&new);
    destroy(h, h->v, h->which);
    h->which = !h->which;
    h->v = used;
}

static void restart(struct harness *h)
{
    uint8_t what = fuzz_u8(&h->in);
    uint64_t features = what & 1 ? UINT64_MAX : fuzz_u64(&h->in, 8);

    if (what >= 0xe0)
        check_fresh(h);
    come_up(h, features, what >> 1);
}

static void probe(struct harness *h, const struct vfuzz_probe *p)
{
    struct side *s = &h->side[p->queue];
    struct vring_desc d[2] = {{.addr = DATA, .len = p->out_len},
                              {DATA + 0x1000, p->in_len, VRING_DESC_F_WRITE, 0}};
    bool has_out = p->out_len > 0, has_in = p->in_len > 0;
    unsigned rounds = 0;
    struct vring_used_elem e;

    vfuzz_put(d[0].addr, p->out, p->out_len);
    uint16_t before = s->used_idx;
    vfuzz_offer(h, p->queue,
                vfuzz_write_chain(h, p->queue, has_out ? d : d + 1, has_out + has_in, false));
    do {
        fuzz_check(rounds++ < 64);
        kick(h, p->queue);
        if (h->target->release)
            h->target->release(h->target->ctx);
    } while (s->used_idx == before);
    uint64_t slot = before % s->size;
    fuzz_check(mem_read(vfuzz_ram(), vfuzz_vq(h, p->queue)->at.device + 4 + slot * 8, &e, 8) == 0);
    fuzz_check(le32toh(e.len) >= p->written);
}

/* Whatever happened before, a driver that begins anew is served. */
static void probe_all(struct harness *h)
{
    h->in.left = 0; /* what is drawn from here on is 0 */
    come_up(h, UINT64_MAX, 0);
    if (h->target->before_probe)
        h->target->before_probe(h->target->ctx, h->which, h->v);
    for (unsigned i = 0; i < VFUZZ_PROBES_MAX; i++)
        if (h->target->probe[i].out_len + h->target->probe[i].in_len > 0)
            probe(h, &h->target->probe[i]);
}

/* --- programs --- */

static void step(struct harness *h)
{
    uint8_t what = fuzz_u8(&h->in);
    unsigned queue = what / 16 % h->queues;

    switch (what % 16) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        vfuzz_draw_chain(h, queue);
        kick(h, queue);
        break;
    case 5:
    case 6:
        vfuzz_draw_chain(h, queue);
        break;
    case 7:
        kick(h, queue);
        break;
    case 8:
    case 9:
        if (h->target->event)
            h->target->event(h->target->ctx, h->which, h->v, &h->in);
        work(h);
        break;
    case 10:
        damage(h, queue);
        break;
    case 11:
        replace(h, queue);
        break;
    case 12:
        restart(h);
        break;
    case 13:
        migrate(h, what >= 0x80);
        break;
    case 14:
        misbehave(h);
        break;
    default:
        configure(h);
        break;
    }
}

void vfuzz_run(const struct vfuzz_target *target, const uint8_t *data, size_t size)
{
    static struct harness h;

    vfuzz_clean_ram();
    h = (struct harness){.target = target, .in = {data, size}, .next_buffer = DATA};
    fuzz_check(loop_create(&h.loop) == 0);
    create(&h);
    restart(&h);
    for (unsigned i = 0; h.in.left > 0 && i < STEPS_MAX; i++)
        step(&h);
    probe_all(&h);
    set_status(&h, 0);
    destroy(&h, h.v, h.which);
    loop_destroy(h.loop);
}
