/*
 * RAM, and the judge: another reading of VIRTIO 1.2 §2.7, of what the device may take, write and
 * give back.
 */
#include <endian.h>
#include <stddef.h>
#include <string.h>

#include "fuzz/virtio_harness_priv.h"
#include "hv/base/num.h"

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

const struct mem *vfuzz_ram(void)
{
    return &ram;
}

void vfuzz_clean_ram(void)
{
    if (host == NULL)
        make_ram();
    for (unsigned i = 0; i < ram.count; i++)
        memset(ram.regions[i].host, 0, ram.regions[i].size);
    memset(shadow, 0, sizeof(shadow));
}

/* What the driver writes, nothing where there is no RAM. */
void vfuzz_put(uint64_t gpa, const void *data, uint64_t len)
{
    if (len > 0 && mem_write(&ram, gpa, data, len) == 0)
        memcpy(shadow + gpa, data, len);
}

void vfuzz_put16(uint64_t gpa, uint16_t value)
{
    value = htole16(value);
    vfuzz_put(gpa, &value, sizeof(value));
}

uint16_t vfuzz_get16(uint64_t gpa)
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

/* Are all bytes that are not as the driver left them zero, and is there one? */
static bool was_released(const uint8_t *page, const uint8_t *before)
{
    if (memcmp(page, before, MEM_PAGE_SIZE) == 0)
        return false;
    for (unsigned i = 0; i < MEM_PAGE_SIZE; i++)
        if (page[i] != before[i] && page[i] != 0)
            return false;
    return true;
}

static bool overlaps(const struct range *a, const struct range *b)
{
    return a->len > 0 && b->len > 0 && a->gpa < b->gpa + b->len && b->gpa < a->gpa + a->len;
}
/* --- what the driver offers --- */

struct range vfuzz_area(const struct vq_layout *at, unsigned which)
{
    const struct range areas[AREAS] = {
        [DESC] = {at->desc, 16U * at->size},
        [AVAIL] = {at->driver, 6 + 2U * at->size},
        [USED] = {at->device, 6 + 8U * at->size},
    };

    return areas[which];
}

/* Would a write there be to what tells the device where to write? */
bool vfuzz_is_delicate(struct harness *h, const struct range *r)
{
    const struct range tables = {TABLES, DATA - TABLES};

    if (overlaps(r, &tables))
        return true;
    for (unsigned i = 0; i < h->queues; i++)
        for (unsigned a = 0; vfuzz_vq(h, i)->enabled && a < AREAS; a++) {
            const struct range other = vfuzz_area(&vfuzz_vq(h, i)->at, a);
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
    const struct vq *vq = vfuzz_vq(h, queue);
    uint16_t idx = vfuzz_get16(vq->at.driver + offsetof(struct vring_avail, idx));

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
        *o = (struct offer){.at = at, .head = vfuzz_get16(entry)};
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
void vfuzz_foresee(struct harness *h)
{
    for (unsigned q = 0; q < h->queues; q++) {
        const struct vq *vq = vfuzz_vq(h, q);
        struct side *s = &h->side[q];

        if (!vq->enabled) {
            s->offers = 0;
            continue;
        }
        read_offers(h, q);
        for (unsigned i = 0; i < s->offers; i++)
            for (unsigned r = 0; r < s->offer[i].ranges; r++)
                h->is_wild = h->is_wild || vfuzz_is_delicate(h, &s->offer[i].range[r]);
        for (unsigned other = 0; other < h->queues; other++)
            for (unsigned a = 0; a < AREAS; a++) {
                const struct range used = vfuzz_area(&vq->at, USED),
                                   theirs = vfuzz_area(&vfuzz_vq(h, other)->at, a);
                h->is_wild = h->is_wild || (other != q && vfuzz_vq(h, other)->enabled &&
                                            overlaps(&used, &theirs));
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
        return !(vfuzz_get16(vq->at.driver) & VRING_AVAIL_F_NO_INTERRUPT);

    uint16_t event =
        vfuzz_get16(vq->at.driver + offsetof(struct vring_avail, ring) + 2U * vq->at.size);
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

static void judge_used(struct side *s, const struct vq *vq)
{
    uint16_t now = vfuzz_get16(vq->at.device + offsetof(struct vring_used, idx)), old = s->used_idx;

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
    uint16_t idx = vfuzz_get16(vq->at.driver + offsetof(struct vring_avail, idx));
    uint16_t mute = vfuzz_get16(vq->at.device);
    uint8_t status = virtio_status(h->v);

    if (vq->broken || !q->running || vq->next_avail != idx || (h->target->mutes >> queue & 1) ||
        (status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)) || h->side[queue].offers)
        return;
    if (vq->event_idx)
        fuzz_check(vfuzz_get16(vq->at.device + offsetof(struct vring_used, ring) +
                               8U * vq->at.size) == idx);
    else
        fuzz_check(!(mute & VRING_USED_F_NO_NOTIFY));
}

/* Where the device may write. */
static void accept_written(struct harness *h, unsigned queue)
{
    const struct side *s = &h->side[queue];
    const struct range used = vfuzz_area(&vfuzz_vq(h, queue)->at, USED);

    for (unsigned i = 0; i < s->offers; i++)
        for (unsigned r = 0; r < s->offer[i].ranges; r++)
            accept_range(s->offer[i].range[r].gpa, s->offer[i].range[r].len);
    accept_range(used.gpa, used.len);
}

/* Pages that the device gave back to the host: the driver asked for it, also where it has rings. */
static void accept_released(struct harness *h)
{
    for (unsigned i = 0; i < ram.count; i++) {
        const struct mem_region *r = &ram.regions[i];
        for (uint64_t at = 0; r->kind == MEM_RAM && at < r->size; at += MEM_PAGE_SIZE) {
            const struct range page = {r->gpa + at, MEM_PAGE_SIZE};
            if (!was_released((uint8_t *)r->host + at, shadow + page.gpa))
                continue;
            h->is_wild = h->is_wild || vfuzz_is_delicate(h, &page);
            accept_range(page.gpa, page.len);
        }
    }
}

void vfuzz_judge(struct harness *h)
{
    uint8_t status = virtio_status(h->v);

    for (unsigned q = 0; !h->is_wild && q < h->queues; q++)
        if (vfuzz_vq(h, q)->enabled)
            accept_written(h, q);
    if (h->target->releases)
        accept_released(h);
    for (unsigned q = 0; !h->is_wild && q < h->queues; q++) {
        const struct vq *vq = vfuzz_vq(h, q);

        if (!vq->enabled)
            continue;
        judge_used(&h->side[q], vq);
        judge_mute(h, q, virtio_queue(h->v, q));
        if (vq->broken && (status & VIRTIO_CONFIG_S_DRIVER_OK))
            fuzz_check(status & VIRTIO_CONFIG_S_NEEDS_RESET);
    }
    if (h->is_wild)
        accept_range(0, VFUZZ_END);
    check_ram();
}
