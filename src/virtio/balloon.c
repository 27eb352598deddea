/*
 * virtio-balloon, VIRTIO 1.2 §5.5: the device around its queues.
 *
 * Which queue has which number depends on features, and on whom one asks. By §5.5.2 the numbers are
 * fixed: statistics 2, free page hints 3, reports 4. Linux counts only the queues that it uses. So
 * 3 and 4 both take reports, and 2 does where statistics were not negotiated; hints are not
 * offered.
 *
 * Page poisoning (VIRTIO_BALLOON_F_PAGE_POISON) is not offered either: a page that was given back
 * reads as zero. A driver whose guest wants another pattern there must not report free pages, and
 * Linux does not.
 */
#include "hv/virtio/balloon.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/balloon_priv.h"

#define QUEUE_SIZE 64 /* Linux reports 32 pieces at a time, or not at all */

static void balloon_serve(struct virtio_dev *v, struct virtio_queue *q)
{
    struct balloon *b = balloon_of(v);

    if (q->index < BALLOON_STATS)
        balloon_pages_serve(b, q);
    else if (q->index == BALLOON_STATS && virtio_has(v, VIRTIO_BALLOON_F_STATS_VQ))
        balloon_stats_serve(b, q);
    else if (virtio_has(v, VIRTIO_BALLOON_F_REPORTING))
        balloon_report_serve(b, q);
}

static void balloon_stop(struct virtio_dev *v, struct virtio_queue *q)
{
    if (q->index == BALLOON_STATS)
        balloon_stats_stop(balloon_of(v), q);
}

/* The next driver knows nothing of a balloon: all pages are its own again. */
static void balloon_reset(struct virtio_dev *v)
{
    struct balloon *b = balloon_of(v);

    memset(b->inside, 0, balloon_words(b) * sizeof(*b->inside));
    memset(b->places, 0, sizeof(b->places));
    atomic_store(&b->held, 0);
    atomic_store(&b->actual, 0);
    atomic_store(&b->wanted, false);
    pthread_mutex_lock(&b->lock);
    b->told = (struct virtio_balloon_stats){0};
    pthread_mutex_unlock(&b->lock);
}

/* --- configuration, §5.5.4 --- */

static void balloon_config_read(struct virtio_dev *v, uint64_t offset, void *out, unsigned size)
{
    const struct balloon *b = balloon_of(v);
    const struct virtio_balloon_config config = {
        .num_pages = htole32(atomic_load(&b->target)),
        .actual = htole32(atomic_load(&b->actual)),
    };

    if (range_fits(offset, size, sizeof(config)))
        memcpy(out, (const uint8_t *)&config + offset, size);
}

static void balloon_config_write(struct virtio_dev *v, uint64_t offset, const void *data,
                                 unsigned size)
{
    uint32_t actual;

    if (offset != offsetof(struct virtio_balloon_config, actual) || size != sizeof(actual))
        return;
    memcpy(&actual, data, sizeof(actual));
    atomic_store(&balloon_of(v)->actual, le32toh(actual));
}

/* --- from outside --- */

void virtio_balloon_set_target(struct virtio_dev *v, uint64_t pages)
{
    struct balloon *b = balloon_of(v);
    uint64_t most = b->pages < UINT32_MAX ? b->pages : UINT32_MAX;
    uint32_t target = (uint32_t)(pages < most ? pages : most);

    if (atomic_exchange(&b->target, target) != target)
        virtio_config_changed(v);
}

uint32_t virtio_balloon_target(const struct virtio_dev *v)
{
    return atomic_load(&container_of(v, struct balloon, v)->target);
}

uint32_t virtio_balloon_actual(const struct virtio_dev *v)
{
    return atomic_load(&container_of(v, struct balloon, v)->actual);
}

void virtio_balloon_counts(const struct virtio_dev *v, struct virtio_balloon_counts *out)
{
    const struct balloon *b = container_of(v, struct balloon, v);

    *out = (struct virtio_balloon_counts){
        .held = atomic_load(&b->held),
        .inflated = atomic_load(&b->inflated),
        .deflated = atomic_load(&b->deflated),
        .reported = atomic_load(&b->reported),
        .no_ram = atomic_load(&b->no_ram),
        .again = atomic_load(&b->again),
        .torn = atomic_load(&b->torn),
        .refused = atomic_load(&b->refused),
    };
}

/* --- state: what is in the balloon, and what was said; counters begin anew --- */

static void balloon_save(struct virtio_dev *v, struct codec_writer *w)
{
    const struct balloon *b = balloon_of(v);

    codec_put_u32(w, atomic_load(&b->target));
    codec_put_u32(w, atomic_load(&b->actual));
    for (unsigned i = 0; i < BALLOON_QUEUES; i++) {
        codec_put_u64(w, b->places[i].done);
        codec_put_u16(w, b->places[i].of);
    }
    codec_put_u32(w, b->told.known);
    for (unsigned i = 0; i < VIRTIO_BALLOON_S_NR; i++)
        codec_put_u64(w, b->told.value[i]);
    codec_put_u64(w, b->pages);
    for (size_t i = 0; i < balloon_words(b); i++)
        codec_put_u64(w, b->inside[i]);
}

struct balloon_state {
    uint32_t target, actual;
    struct balloon_place places[BALLOON_QUEUES];
    struct virtio_balloon_stats told;
    uint64_t held;
    uint64_t *inside; /* as many words as the device's */
};

static void load_fields(struct balloon_state *s, struct codec_reader *r)
{
    s->target = codec_get_u32(r);
    s->actual = codec_get_u32(r);
    for (unsigned i = 0; i < BALLOON_QUEUES; i++) {
        s->places[i].done = codec_get_u64(r);
        s->places[i].of = codec_get_u16(r);
    }
    s->told.known = codec_get_u32(r);
    for (unsigned i = 0; i < VIRTIO_BALLOON_S_NR; i++)
        s->told.value[i] = codec_get_u64(r);
}

static int load_state(const struct balloon *b, struct balloon_state *s, struct codec_reader *r)
{
    load_fields(s, r);
    if (codec_get_u64(r) != b->pages) /* another machine's */
        return r->failed ? r->failed : -EINVAL;
    for (size_t i = 0; i < balloon_words(b); i++) {
        s->inside[i] = codec_get_u64(r);
        s->held += (unsigned)__builtin_popcountll(s->inside[i]);
    }
    int rc = codec_leave(r);
    if (rc < 0)
        return rc;
    unsigned tail = b->pages % 64;
    if (tail != 0 && s->inside[balloon_words(b) - 1] >> tail != 0)
        return -EINVAL;
    return s->target > b->pages || s->told.known >> VIRTIO_BALLOON_S_NR ? -EINVAL : 0;
}

static int balloon_load(struct virtio_dev *v, struct codec_reader *r)
{
    struct balloon *b = balloon_of(v);
    size_t size = balloon_words(b) * sizeof(*b->inside);
    struct balloon_state s = {.inside = malloc(size + 1)};

    if (s.inside == NULL)
        return -ENOMEM;
    int rc = load_state(b, &s, r);
    if (rc == 0) {
        memcpy(b->inside, s.inside, size);
        memcpy(b->places, s.places, sizeof(b->places));
        atomic_store(&b->held, s.held);
        atomic_store(&b->target, s.target);
        atomic_store(&b->actual, s.actual);
        pthread_mutex_lock(&b->lock);
        b->told = s.told;
        pthread_mutex_unlock(&b->lock);
    }
    free(s.inside);
    return rc;
}

/* --- life --- */

static void balloon_destroy(struct virtio_dev *v)
{
    struct balloon *b = balloon_of(v);

    balloon_stats_fini(b);
    (void)pthread_mutex_destroy(&b->lock);
    free(b->inside);
    virtio_fini(v);
    free(b);
}

static const struct virtio_ops balloon_ops = {
    .id = VIRTIO_ID_BALLOON,
    .features = VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ),
    .version = 1,
    .reset = balloon_reset,
    .serve = balloon_serve,
    .stop = balloon_stop,
    .config_read = balloon_config_read,
    .config_write = balloon_config_write,
    .save = balloon_save,
    .load = balloon_load,
    .destroy = balloon_destroy,
};

int virtio_balloon_create(const char *name, const struct virtio_balloon_setup *setup,
                          struct virtio_dev **out)
{
    struct virtio_queue_config queues[BALLOON_QUEUES];
    struct balloon *b = calloc(1, sizeof(*b));
    uint64_t features = 0;

    if (b == NULL)
        return -ENOMEM;
    (void)pthread_mutex_init(&b->lock, NULL); /* does not fail on Linux */
    b->mem = setup->mem;
    b->log = setup->log;
    b->poll.fd = -1;
    if (setup->deflate_on_oom)
        features |= VIRTIO_FEATURE(VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
    if (setup->reporting)
        features |= VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING);
    for (unsigned i = 0; i < BALLOON_QUEUES; i++)
        queues[i] = (struct virtio_queue_config){.size = QUEUE_SIZE, .loop = setup->loop};
    int rc = virtio_init(&b->v, &balloon_ops, name, setup->mem, features, queues, BALLOON_QUEUES);
    if (rc == 0)
        rc = balloon_pages_init(b);
    if (rc == 0)
        rc = balloon_stats_init(b);
    if (rc < 0) {
        balloon_destroy(&b->v);
        return rc;
    }
    *out = &b->v;
    return 0;
}
