#include "fuzz/virtio_harness.h"

#include <endian.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"

/* Where a driver that behaves has its things. */
#define RINGS 0x0000 /* RING_STRIDE for each queue: descriptors, available ring, used ring */
#define RING_STRIDE 0x2000
#define RING_AVAIL 0x1000
#define RING_USED 0x1400
#define RING_SIZE_MAX 256 /* entries that fit the stride */
#define TABLES 0x10000    /* indirect tables, TABLE_SIZE each */
#define TABLE_SIZE 0x200
#define TABLE_COUNT 16
#define DATA (TABLES + TABLE_SIZE * TABLE_COUNT)
#define PIECES_MAX 32   /* of one chain that the driver builds */
#define STEPS_MAX 128   /* of one program */
#define ROUNDS 6        /* of the loop, after which a device is idle */
#define ROUNDS_MAX 1024 /* after which it hangs */
#define OFFERS_MAX 256  /* chains of one queue that the device has, or may take */
#define RANGES_MAX 24   /* buffers of one */

struct range {
    uint64_t gpa, len;
};

/* A well-formed chain that the device has or may take. */
struct offer {
    uint16_t at; /* its entry of the available ring */
    uint16_t head;
    uint64_t writable; /* bytes */
    unsigned ranges;
    struct range range[RANGES_MAX]; /* where the device may write */
};

/* The driver's and the judge's view of one queue. */
struct side {
    uint16_t size;      /* entries */
    uint64_t base;      /* where its areas are when they are where they belong */
    uint16_t next_desc; /* the descriptor to use next */
    uint16_t avail_idx; /* as it was written last */
    uint16_t used_idx;  /* as it was seen last */
    unsigned interrupts;
    unsigned offers;
    struct offer offer[OFFERS_MAX];
};

struct harness {
    const struct vfuzz_target *target;
    struct fuzz_input in;
    struct loop *loop;
    struct virtio_dev *v;
    unsigned which;  /* of the target's devices v is */
    unsigned queues; /* that are used */
    uint64_t next_buffer;
    unsigned next_table;
    bool is_wild; /* device writes may change rings: no judgement until the next reset */
    struct side side[VFUZZ_QUEUES_MAX];
};

/* One set for the whole process: what is expensive to make, and clean again with each input. */
static struct mem ram;
static uint8_t *host;             /* the first region's; the others follow at their own addresses */
static uint8_t shadow[VFUZZ_END]; /* what the driver left */

/* --- memory --- */

static void make_ram(void)
{
    static const struct range regions[] = {
        {0, VFUZZ_SEAM},
        {VFUZZ_SEAM, VFUZZ_HOLE - VFUZZ_SEAM},
        {VFUZZ_HOLE_END, VFUZZ_ROM - VFUZZ_HOLE_END},
        {VFUZZ_ROM, VFUZZ_END - VFUZZ_ROM},
    };

    mem_init(&ram);
    for (unsigned i = 0; i < ARRAY_LEN(regions); i++)
        fuzz_check(mem_add(&ram, regions[i].gpa, regions[i].len,
                           regions[i].gpa == VFUZZ_ROM ? MEM_ROM : MEM_RAM, MEM_ANONYMOUS,
                           NULL) == 0);
    host = ram.regions[0].host;
}

static void clean_ram(void)
{
    for (unsigned i = 0; i < ram.count; i++)
        memset(ram.regions[i].host, 0, ram.regions[i].size);
    memset(shadow, 0, sizeof(shadow));
}

/* What the driver writes, nothing where there is no RAM. */
static void put(uint64_t gpa, const void *data, uint64_t len)
{
    if (len > 0 && mem_write(&ram, gpa, data, len) == 0)
        memcpy(shadow + gpa, data, len);
}

static void put16(uint64_t gpa, uint16_t value)
{
    value = htole16(value);
    put(gpa, &value, sizeof(value));
}

static uint16_t get16(uint64_t gpa)
{
    uint16_t value = 0;

    (void)!mem_read_u16(&ram, gpa, &value); /* 0 where nothing is */
    return value;
}

/* What the device may have written is what the driver sees from now on. */
static void accept_range(uint64_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < ram.count; i++) {
        const struct mem_region *r = &ram.regions[i];
        uint64_t from = gpa > r->gpa ? gpa : r->gpa;
        uint64_t to = gpa + len < r->gpa + r->size ? gpa + len : r->gpa + r->size;
        if (from < to && r->kind == MEM_RAM)
            memcpy(shadow + from, (uint8_t *)r->host + (from - r->gpa), to - from);
    }
}

static void check_ram(void)
{
    for (unsigned i = 0; i < ram.count; i++) {
        const struct mem_region *r = &ram.regions[i];
        fuzz_check(memcmp(r->host, shadow + r->gpa, r->size) == 0);
    }
}

static bool overlaps(const struct range *a, const struct range *b)
{
    return a->len > 0 && b->len > 0 && a->gpa < b->gpa + b->len && b->gpa < a->gpa + a->len;
}

/* --- the judge: another reading of VIRTIO 1.2 §2.7 --- */

static struct vq *vq_of(struct harness *h, unsigned queue)
{
    return &virtio_queue(h->v, queue)->vq;
}

enum { DESC, AVAIL, USED, AREAS };

static struct range area(const struct vq_layout *at, unsigned which)
{
    const struct range areas[AREAS] = {
        [DESC] = {at->desc, 16U * at->size},
        [AVAIL] = {at->driver, 6 + 2U * at->size},
        [USED] = {at->device, 6 + 8U * at->size},
    };

    return areas[which];
}

/* Would a write there be to what tells the device where to write? */
static bool is_delicate(struct harness *h, const struct range *r)
{
    const struct range tables = {TABLES, DATA - TABLES};

    if (overlaps(r, &tables))
        return true;
    for (unsigned i = 0; i < h->queues; i++)
        for (unsigned a = 0; vq_of(h, i)->enabled && a < AREAS; a++) {
            const struct range other = area(&vq_of(h, i)->at, a);
            if (overlaps(r, &other))
                return true;
        }
    return false;
}

static bool is_memory(uint64_t gpa, uint64_t len, bool write)
{
    uint64_t end = write ? VFUZZ_ROM : VFUZZ_END;

    if (len == 0)
        return true;
    return range_fits(gpa, len, VFUZZ_HOLE) || (gpa >= VFUZZ_HOLE_END && range_fits(gpa, len, end));
}

/* In one region: where tables must be. */
static bool is_in_one(uint64_t gpa, uint64_t len)
{
    return mem_ptr(&ram, gpa, len, false) != NULL;
}

static bool note_buffer(struct offer *o, const struct vring_desc *d, uint64_t *sum)
{
    bool write = d->flags & VRING_DESC_F_WRITE;

    if (!is_memory(d->addr, d->len, write) || (!write && o->writable > 0))
        return false;
    *sum += d->len;
    if (*sum > UINT64_C(1) << 32)
        return false;
    if (!write || d->len == 0)
        return true;
    o->writable += d->len;
    for (unsigned i = 0; i < o->ranges && i < RANGES_MAX; i++)
        if (o->range[i].gpa == d->addr && o->range[i].len == d->len)
            return true;
    if (o->ranges < RANGES_MAX)
        o->range[o->ranges] = (struct range){d->addr, d->len};
    o->ranges++; /* above the maximum: too many to judge */
    return true;
}

/* Reads the chain of o->head. False: there is something wrong with it. */
static bool read_chain(struct harness *h, const struct vq *vq, struct offer *o)
{
    uint64_t table = vq->at.desc, entries = vq->at.size, sum = 0;
    unsigned index = o->head, visits = 0;
    bool is_indirect = false;

    for (;;) {
        struct vring_desc d;
        if (index >= entries || visits++ == entries ||
            mem_read(&ram, table + index * sizeof(d), &d, sizeof(d)) < 0)
            return false;
        if (!(d.flags & VRING_DESC_F_INDIRECT)) {
            if (!note_buffer(o, &d, &sum))
                return false;
            if (!(d.flags & VRING_DESC_F_NEXT))
                return true;
            index = d.next;
            continue;
        }
        if (!virtio_has(h->v, VIRTIO_RING_F_INDIRECT_DESC) || is_indirect || d.len == 0 ||
            (d.flags & VRING_DESC_F_NEXT) || d.len % sizeof(d) != 0 ||
            d.len / sizeof(d) > vq->at.size || !is_in_one(d.addr, d.len))
            return false;
        const struct range lies = {d.addr, d.len};
        h->is_wild = h->is_wild || !range_fits(lies.gpa - TABLES, lies.len, DATA - TABLES);
        is_indirect = true;
        table = d.addr;
        entries = d.len / sizeof(d);
        index = visits = 0;
    }
}

static void drop_offer(struct side *s, unsigned i)
{
    memmove(&s->offer[i], &s->offer[i + 1], (--s->offers - i) * sizeof(s->offer[0]));
}

/* Those that the device has not taken yet are read anew: the driver may have changed them. */
static void drop_untaken(struct side *s, const struct vq *vq)
{
    for (unsigned i = s->offers; i-- > 0;)
        if ((uint16_t)(s->offer[i].at - vq->next_avail) < 0x8000)
            drop_offer(s, i);
}

static void read_offers(struct harness *h, unsigned queue)
{
    struct side *s = &h->side[queue];
    const struct vq *vq = vq_of(h, queue);
    uint16_t idx = get16(vq->at.driver + offsetof(struct vring_avail, idx));

    drop_untaken(s, vq);
    if (vq->broken || (uint16_t)(idx - vq->next_avail) > vq->at.size)
        return;
    for (uint16_t at = vq->next_avail; at != idx; at++) {
        uint64_t entry = vq->at.driver + offsetof(struct vring_avail, ring) +
                         (at % vq->at.size) * sizeof(uint16_t);
        if (s->offers == OFFERS_MAX) {
            h->is_wild = true;
            return;
        }
        struct offer *o = &s->offer[s->offers];
        *o = (struct offer){.at = at, .head = get16(entry)};
        if (!read_chain(h, vq, o))
            return; /* here it breaks, and takes nothing that follows */
        if (o->ranges > RANGES_MAX) {
            h->is_wild = true;
            return;
        }
        s->offers++;
    }
}

/* Before the device runs: what it may do. */
static void foresee(struct harness *h)
{
    for (unsigned q = 0; q < h->queues; q++) {
        const struct vq *vq = vq_of(h, q);
        struct side *s = &h->side[q];

        if (!vq->enabled) {
            s->offers = 0;
            continue;
        }
        read_offers(h, q);
        for (unsigned i = 0; i < s->offers; i++)
            for (unsigned r = 0; r < s->offer[i].ranges; r++)
                h->is_wild = h->is_wild || is_delicate(h, &s->offer[i].range[r]);
        for (unsigned other = 0; other < h->queues; other++)
            for (unsigned a = 0; a < AREAS; a++) {
                const struct range used = area(&vq->at, USED),
                                   theirs = area(&vq_of(h, other)->at, a);
                h->is_wild = h->is_wild ||
                             (other != q && vq_of(h, other)->enabled && overlaps(&used, &theirs));
            }
    }
}

/* Finds what a used element gives back, and forgets it. */
static void match_used(struct side *s, const struct vring_used_elem *e)
{
    for (unsigned i = 0; i < s->offers; i++)
        if (s->offer[i].head == le32toh(e->id) && le32toh(e->len) <= s->offer[i].writable) {
            drop_offer(s, i);
            return;
        }
    fuzz_check(!"a chain of that name and size was available");
}

static bool wanted_interrupt(const struct vq *vq, uint16_t old, uint16_t now)
{
    if (!vq->event_idx)
        return !(get16(vq->at.driver) & VRING_AVAIL_F_NO_INTERRUPT);

    uint16_t event = get16(vq->at.driver + offsetof(struct vring_avail, ring) + 2U * vq->at.size);
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

static void judge_used(struct side *s, const struct vq *vq)
{
    uint16_t now = get16(vq->at.device + offsetof(struct vring_used, idx)), old = s->used_idx;

    fuzz_check((uint16_t)(now - old) <= s->offers);
    for (; s->used_idx != now; s->used_idx++) {
        struct vring_used_elem e = {0};
        uint64_t slot = s->used_idx % vq->at.size;
        fuzz_check(mem_read(&ram, vq->at.device + offsetof(struct vring_used, ring) + slot * 8, &e,
                            sizeof(e)) == 0);
        match_used(s, &e);
    }
    if (now != old && wanted_interrupt(vq, old, now))
        fuzz_check(s->interrupts > 0);
}

/* Everything was taken: then the next one must be told of. */
static void judge_mute(const struct harness *h, unsigned queue, const struct virtio_queue *q)
{
    const struct vq *vq = &q->vq;
    uint16_t idx = get16(vq->at.driver + offsetof(struct vring_avail, idx));
    uint16_t mute = get16(vq->at.device);
    uint8_t status = virtio_status(h->v);

    if (vq->broken || !q->running || vq->next_avail != idx || (h->target->mutes >> queue & 1) ||
        (status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)) || h->side[queue].offers)
        return;
    if (vq->event_idx)
        fuzz_check(get16(vq->at.device + offsetof(struct vring_used, ring) + 8U * vq->at.size) ==
                   idx);
    else
        fuzz_check(!(mute & VRING_USED_F_NO_NOTIFY));
}

static void judge(struct harness *h)
{
    uint8_t status = virtio_status(h->v);

    for (unsigned q = 0; !h->is_wild && q < h->queues; q++) {
        const struct vq *vq = vq_of(h, q);
        struct side *s = &h->side[q];
        const struct range used = area(&vq->at, USED);

        if (!vq->enabled)
            continue;
        for (unsigned i = 0; i < s->offers; i++)
            for (unsigned r = 0; r < s->offer[i].ranges; r++)
                accept_range(s->offer[i].range[r].gpa, s->offer[i].range[r].len);
        accept_range(used.gpa, used.len);
        judge_used(s, vq);
        judge_mute(h, q, virtio_queue(h->v, q));
        if (vq->broken && (status & VIRTIO_CONFIG_S_DRIVER_OK))
            fuzz_check(status & VIRTIO_CONFIG_S_NEEDS_RESET);
    }
    if (h->is_wild)
        accept_range(0, VFUZZ_END);
    check_ram();
}

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
    foresee(h);
    turn(h, ROUNDS);
    judge(h);
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

    foresee(h);
    if (h->target->release)
        h->target->release(h->target->ctx);
    for (; is_busy(h); turn(h, 1)) {
        if (h->target->release)
            h->target->release(h->target->ctx);
        fuzz_check(rounds++ < ROUNDS_MAX);
    }
    for (unsigned q = 0; q < h->queues; q++)
        h->side[q].interrupts = 1; /* whether it came now or before is not known */
    judge(h);
}

static void create(struct harness *h)
{
    const struct virtio_port port = {.used = on_used, .config = on_config, .ctx = h};

    fuzz_check(h->target->create(h->target->ctx, h->which, &ram, h->loop, &h->v) == 0);
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
    struct vq *vq = vq_of(h, queue);

    s->size = size;
    s->base = RINGS + (uint64_t)queue * RING_STRIDE;
    s->next_desc = s->avail_idx = s->used_idx = 0;
    put(s->base, nothing, sizeof(nothing));
    if (virtio_can_place(virtio_queue(h->v, queue)))
        vq->at = (struct vq_layout){size, s->base, s->base + RING_AVAIL, s->base + RING_USED};
}

static uint16_t size_max(struct harness *h, unsigned queue)
{
    uint16_t most = vq_of(h, queue)->size_max;

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
        if (get16(at) != 0)
            return false;
    return true;
}

/* A used ring is to begin empty (§4.2.3.2). One that does not tells the driver nothing. */
static void enable(struct harness *h, unsigned queue)
{
    struct virtio_queue *q = virtio_queue(h->v, queue);
    const struct range used = area(&q->vq.at, USED);

    if (q->vq.enabled)
        return;
    virtio_enable_queue(q);
    if (!q->vq.enabled)
        return;
    h->side[queue].size = q->vq.at.size;
    h->side[queue].used_idx = 0;
    h->side[queue].avail_idx = get16(q->vq.at.driver + offsetof(struct vring_avail, idx));
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
        fuzz_check(vq_of(h, q)->enabled);
    }
    set_status(h, 0x0f);
    work(h);
}

/* --- the driver: chains --- */

static uint32_t draw_length(struct fuzz_input *in)
{
    static const uint32_t lengths[] = {0,    1,    2,    4,    6,    8,    10,    12,
                                       14,   16,   17,   20,   22,   24,   32,    44,
                                       60,   64,   128,  255,  511,  512,  513,   1024,
                                       1514, 1526, 2048, 4095, 4096, 8192, 16384, 0xffffffff};
    uint8_t what = fuzz_u8(in);

    if (what < 240)
        return lengths[what % (ARRAY_LEN(lengths) - 1)];
    return what < 254 ? (uint32_t)fuzz_u64(in, 2) : lengths[ARRAY_LEN(lengths) - 1];
}

/* Mostly memory of its own; now and then over a seam, an end, a hole, or anywhere. */
static uint64_t draw_address(struct harness *h, uint32_t len)
{
    uint8_t what = fuzz_u8(&h->in);
    uint64_t at = h->next_buffer;

    if (what >= 252)
        return fuzz_u64(&h->in, 8);
    if (what >= 248)
        return fuzz_u64(&h->in, 3);
    if (what >= 244)
        return VFUZZ_HOLE - (what % 4) * (len / 2);
    if (what >= 240)
        return VFUZZ_ROM - (what % 4) * (len / 2);
    if (what >= 224)
        return VFUZZ_SEAM - len / 2;
    if (at + len > VFUZZ_HOLE)
        at = DATA;
    h->next_buffer = at + len;
    return at;
}

/* One wrong field. */
static void flip(struct harness *h, struct vring_desc *d)
{
    switch (fuzz_u8(&h->in) % 8) {
    case 0:
        d->addr = fuzz_u64(&h->in, 8);
        break;
    case 1:
        d->addr ^= UINT64_C(1) << fuzz_u8(&h->in) % 64;
        break;
    case 2:
        d->len = (uint32_t)fuzz_u64(&h->in, 4);
        break;
    case 3:
        d->len = 0;
        break;
    case 4:
        d->flags ^= (uint16_t)(1U << fuzz_u8(&h->in) % 3);
        break;
    case 5:
        d->flags = (uint16_t)fuzz_u64(&h->in, 2);
        break;
    case 6:
        d->next = (uint16_t)fuzz_u64(&h->in, 2);
        break;
    default:
        d->next = (uint16_t)(d->next + fuzz_u8(&h->in));
        break;
    }
}

/* The readable bytes, spread over their buffers. */
static void fill_request(struct harness *h, unsigned queue, const struct vring_desc *d,
                         unsigned count)
{
    static uint8_t bytes[VFUZZ_REQUEST_MAX];
    uint32_t size = 0, at = 0;

    for (unsigned i = 0; i < count && !(d[i].flags & VRING_DESC_F_WRITE); i++)
        size += d[i].len < VFUZZ_REQUEST_MAX - size ? d[i].len : VFUZZ_REQUEST_MAX - size;
    memset(bytes, 0, size);
    if (h->target->request)
        h->target->request(h->target->ctx, queue, &h->in, bytes, size);
    else
        for (uint32_t i = 0; i < size && i < 16; i++)
            bytes[i] = fuzz_u8(&h->in);
    for (unsigned i = 0; at < size; i++) {
        uint32_t here = d[i].len < size - at ? d[i].len : size - at;
        const struct range r = {d[i].addr, here};
        h->is_wild = h->is_wild || is_delicate(h, &r);
        put(r.gpa, bytes + at, r.len);
        at += here;
    }
}

/* COUNT descriptors for a chain of OUT readable buffers and then writable ones. */
static void draw_buffers(struct harness *h, struct vring_desc *d, unsigned out, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t len = draw_length(&h->in);
        d[i] = (struct vring_desc){
            .addr = draw_address(h, len),
            .len = len,
            .flags = i < out ? 0 : VRING_DESC_F_WRITE,
        };
    }
}

/* Writes D as a chain, through TABLE if that is not the queue's. Returns the head. */
static uint16_t write_chain(struct harness *h, unsigned queue, struct vring_desc *d, unsigned count,
                            bool in_table)
{
    struct side *s = &h->side[queue];
    uint64_t table = TABLES + (uint64_t)(h->next_table++ % TABLE_COUNT) * TABLE_SIZE;
    uint16_t head = s->next_desc;
    const struct vring_desc link = {
        .addr = table, .len = count * 16, .flags = VRING_DESC_F_INDIRECT};

    for (unsigned i = 0; i < count; i++) {
        uint16_t index = in_table ? (uint16_t)i : s->next_desc;
        uint16_t next = in_table ? (uint16_t)(i + 1) : (uint16_t)((index + 1) % s->size);
        bool is_last = i == count - 1;
        d[i].flags = (uint16_t)(d[i].flags | (is_last ? 0 : VRING_DESC_F_NEXT));
        d[i].next = is_last ? 0 : next;
    }
    if (fuzz_u8(&h->in) >= 240)
        flip(h, &d[fuzz_u8(&h->in) % count]);
    for (unsigned i = 0; i < count; i++) {
        put(in_table ? table + i * 16 : vq_of(h, queue)->at.desc + s->next_desc * 16U, &d[i], 16);
        if (!in_table)
            s->next_desc = (uint16_t)((s->next_desc + 1) % s->size);
    }
    if (!in_table)
        return head;
    put(vq_of(h, queue)->at.desc + head * 16U, &link, sizeof(link));
    s->next_desc = (uint16_t)((head + 1) % s->size);
    return head;
}

static void offer(struct harness *h, unsigned queue, uint16_t head)
{
    struct side *s = &h->side[queue];
    uint64_t avail = vq_of(h, queue)->at.driver;

    put16(avail + offsetof(struct vring_avail, ring) + (s->avail_idx % s->size) * 2U, head);
    put16(avail + offsetof(struct vring_avail, idx), ++s->avail_idx);
}

static void draw_chain(struct harness *h, unsigned queue)
{
    struct vring_desc d[PIECES_MAX];
    uint8_t shape = fuzz_u8(&h->in);
    unsigned out = shape & 3, in = shape >> 2 & 3;
    bool in_table = (shape & 0x30) == 0x30;

    if (shape >= 0xf0) { /* a long one */
        out = fuzz_u8(&h->in) % 16;
        in = fuzz_u8(&h->in) % 16;
    }
    if (out + in == 0)
        in = 1;
    if (h->side[queue].size == 0)
        return;
    draw_buffers(h, d, out, out + in);
    fill_request(h, queue, d, out + in);
    offer(h, queue, write_chain(h, queue, d, out + in, in_table));
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
    const struct vq_layout *at = &vq_of(h, queue)->at;
    uint8_t what = fuzz_u8(&h->in);
    uint64_t value = fuzz_u64(&h->in, 1 + what / 8 % 8);

    switch (what % 8) {
    case 0:
        put16(at->driver + 2, (uint16_t)value);
        break;
    case 1:
        put16(at->driver + 2, (uint16_t)(h->side[queue].avail_idx + (int8_t)value));
        break;
    case 2:
        put16(at->driver, (uint16_t)value);
        break;
    case 3:
        put16(at->driver + 4 + 2U * at->size, (uint16_t)(h->side[queue].used_idx + (int8_t)value));
        break;
    case 4:
        put16(at->driver + 4 + (value >> 16) % 256 * 2, (uint16_t)value);
        break;
    case 5:
        put(at->desc + (value & 0xff) * 8, (uint8_t *)&value + 1, 7);
        break;
    case 6:
        put(TABLES + (value & 0xff) * 8, (uint8_t *)&value + 1, 7);
        break;
    default: /* elements that the device writes and never reads */
        put16(at->device + 4 + (value >> 16) % (at->size + 1U) * 4, (uint16_t)value);
        break;
    }
}

/* Queue reset (§2.6.1), or registers written where they may not be. */
static void replace(struct harness *h, unsigned queue)
{
    uint8_t what = fuzz_u8(&h->in);
    struct vq_layout *at = &vq_of(h, queue)->at;

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

/* The device's state goes to another one, which takes its place. */
static void migrate(struct harness *h, bool is_hostile)
{
    struct virtio_dev *old = h->v;
    unsigned old_which = h->which;
    struct codec_writer sent, again;

    settle(h);
    virtio_stop(old);
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
    fuzz_check(h->target->keeps || are_same(&old, &new));
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

    put(d[0].addr, p->out, p->out_len);
    uint16_t before = s->used_idx;
    offer(h, p->queue, write_chain(h, p->queue, has_out ? d : d + 1, has_out + has_in, false));
    do {
        fuzz_check(rounds++ < 64);
        kick(h, p->queue);
        if (h->target->release)
            h->target->release(h->target->ctx);
    } while (s->used_idx == before);
    uint64_t slot = before % s->size;
    fuzz_check(mem_read(&ram, vq_of(h, p->queue)->at.device + 4 + slot * 8, &e, 8) == 0);
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
        draw_chain(h, queue);
        kick(h, queue);
        break;
    case 5:
    case 6:
        draw_chain(h, queue);
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

    if (host == NULL)
        make_ram();
    clean_ram();
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
