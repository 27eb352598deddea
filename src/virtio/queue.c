/*
 * Split virtqueues, the device's side. Sections are of VIRTIO 1.2.
 *
 * Three areas, two writers. The driver writes descriptors and the available ring, the device the
 * used ring. Who produces writes the element first and the index after it (a release), who consumes
 * reads the index first (an acquire). The pairs are named where they stand.
 *
 * Muting and signalling need more: each side writes one thing and then reads another, which the
 * other side does the other way round. Only when the write is seen before the read is made (both
 * are sequentially consistent, which makes a full barrier of the store) can the two not miss what
 * the other just wrote (§2.7.10, §2.7.13.4).
 */
#include "hv/virtio/queue.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "hv/mem/iov.h"

#define DESC_ALIGN 16 /* §2.7, table of alignments */
#define AVAIL_ALIGN 2
#define USED_ALIGN 4
#define CHAIN_BYTES_MAX (UINT64_C(1) << 32) /* §2.7.5.2: a chain has at most 2^32 bytes */

/* --- life --- */

void vq_init(struct vq *vq, const struct mem *mem, uint16_t size_max)
{
    *vq = (struct vq){.mem = mem, .size_max = size_max, .at.size = size_max};
}

void vq_reset(struct vq *vq)
{
    vq_init(vq, vq->mem, vq->size_max);
}

/* --- the areas --- */

static uint64_t desc_bytes(uint16_t size)
{
    return (uint64_t)size * sizeof(struct vring_desc);
}

/* flags, idx, ring, used_event: §2.7.6 */
static uint64_t avail_bytes(uint16_t size)
{
    return sizeof(struct vring_avail) + ((uint64_t)size + 1) * sizeof(__virtio16);
}

/* flags, idx, ring, avail_event: §2.7.8 */
static uint64_t used_bytes(uint16_t size)
{
    return sizeof(struct vring_used) + (uint64_t)size * sizeof(struct vring_used_elem) +
           sizeof(__virtio16);
}

static bool are_apart(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a + (a_size - 1) < b || b + (b_size - 1) < a; /* both lie in RAM: no sum wraps */
}

/* The used ring is all that we write, so it alone must be apart: were it over the descriptors, an
 * answer would become the next request. */
static bool is_used_apart(const struct vq_layout *at)
{
    return are_apart(at->device, used_bytes(at->size), at->desc, desc_bytes(at->size)) &&
           are_apart(at->device, used_bytes(at->size), at->driver, avail_bytes(at->size));
}

int vq_enable(struct vq *vq, uint64_t features)
{
    const struct vq_layout *at = &vq->at;

    /* EXERCISE 7.2: takes the queue into use where the driver put it (`at`), and is the only place
     * that looks whether it can lie there. -EALREADY: it is in use. -EINVAL: a size that is no
     * power of two (0 is none) or above size_max; an area that is not aligned as §2.7 wants it, or
     * not all in memory, in one piece; descriptors may be in ROM, the two others we write. The used
     * ring overlaps another area. Whatever fails, the queue is as it was. Else: the areas in host
     * memory, event_idx and indirect as `features` say, enabled. */
    // SOLUTION 7.2
    if (vq->enabled)
        return -EALREADY;
    if (!is_power_of_two(at->size) || at->size > vq->size_max)
        return -EINVAL;
    if (at->desc % DESC_ALIGN != 0 || at->driver % AVAIL_ALIGN != 0 || at->device % USED_ALIGN != 0)
        return -EINVAL;

    const void *desc = mem_ptr(vq->mem, at->desc, desc_bytes(at->size), false);
    void *avail = mem_ptr(vq->mem, at->driver, avail_bytes(at->size), true);
    void *used = mem_ptr(vq->mem, at->device, used_bytes(at->size), true);
    if (desc == NULL || avail == NULL || used == NULL || !is_used_apart(at))
        return -EINVAL;

    vq->desc = desc;
    vq->avail = avail;
    vq->used = used;
    vq->event_idx = features & (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX);
    vq->indirect = features & (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC);
    vq->enabled = true;
    return 0;
    // ELSE
    // if (!is_used_apart(at))
    //     return -EINVAL;
    // return todo("7.2");
    // END 7.2
}

/* --- single accesses to the areas --- */

/* Pairs with the driver's release of avail->idx after it wrote the entry: what it indexes is whole.
 */
static uint16_t load_avail_idx(const struct vq *vq)
{
    return le16toh(__atomic_load_n(&vq->avail->idx, __ATOMIC_SEQ_CST));
}

static uint16_t load_avail_entry(const struct vq *vq, uint16_t index)
{
    return le16toh(__atomic_load_n(&vq->avail->ring[index % vq->at.size], __ATOMIC_RELAXED));
}

/* A copy: whatever the driver does to the original from here on, we decide on this. */
static struct vring_desc copy_desc(const struct vring_desc *table, unsigned index)
{
    struct vring_desc raw;

    memcpy(&raw, (const char *)table + index * sizeof(raw), sizeof(raw));
    return (struct vring_desc){
        .addr = le64toh(raw.addr),
        .len = le32toh(raw.len),
        .flags = le16toh(raw.flags),
        .next = le16toh(raw.next),
    };
}

/* The last word of either ring belongs to the other side: §2.7.7, §2.7.10. */
static __virtio16 *used_event(const struct vq *vq)
{
    return &vq->avail->ring[vq->at.size];
}

static __virtio16 *avail_event(const struct vq *vq)
{
    return (__virtio16 *)(void *)&vq->used->ring[vq->at.size];
}

/* --- chains --- */

static int break_queue(struct vq *vq)
{
    vq->broken = true;
    return -EPROTO;
}

/* Adds a buffer to the chain. §2.7.4.2: what the device reads comes before what it writes. */
static int add_buffer(const struct vq *vq, struct vq_chain *chain, const struct vring_desc *d)
{
    bool write = d->flags & VRING_DESC_F_WRITE;
    unsigned count = chain->out_count + chain->in_count;

    if (!write && chain->in_count > 0)
        return -EPROTO;
    if (chain->out_size + chain->in_size + d->len > CHAIN_BYTES_MAX)
        return -EPROTO;

    int pieces =
        mem_iov(vq->mem, d->addr, d->len, write, chain->iov + count, chain->iov_max - count);
    if (pieces < 0)
        return pieces;
    if (write) {
        chain->in_count += (unsigned)pieces;
        chain->in_size += d->len;
    } else {
        chain->out_count += (unsigned)pieces;
        chain->out_size += d->len;
    }
    return 0;
}

/* A table of descriptors that is being followed: the queue's own, or an indirect one. */
struct table {
    const struct vring_desc *desc;
    unsigned size;
    bool is_indirect;
};

/* The table that an indirect descriptor names: §2.7.5.3. It may have at most as many entries as
 * the queue (§2.7.5.3.1), cannot be followed by another descriptor, and lies in one piece. */
static int open_indirect(const struct vq *vq, const struct vring_desc *d, struct table *table)
{
    /* EXERCISE 7.5: an indirect descriptor leads to a table of its own, which *table describes
     * then. -EPROTO, and *table as it was: nobody negotiated it (vq->indirect); it stands in such a
     * table itself; it has NEXT as well; its length is no whole number of descriptors, or of none,
     * or of more than the queue has; or it does not lie in memory, in one piece. */
    // SOLUTION 7.5
    unsigned entries = d->len / sizeof(struct vring_desc);

    if (!vq->indirect || table->is_indirect || (d->flags & VRING_DESC_F_NEXT))
        return -EPROTO;
    if (d->len % sizeof(struct vring_desc) != 0 || entries == 0 || entries > vq->at.size)
        return -EPROTO;

    const struct vring_desc *desc = mem_ptr(vq->mem, d->addr, d->len, false);
    if (desc == NULL)
        return -EPROTO;
    *table = (struct table){.desc = desc, .size = entries, .is_indirect = true};
    return 0;
    // END 7.5
}

/* Follows a chain from its head. A chain that visits more descriptors than its table has visits
 * one of them twice: it is a loop. */
static int follow(const struct vq *vq, struct vq_chain *chain)
{
    struct table table = {.desc = vq->desc, .size = vq->at.size};

    /* EXERCISE 7.4: from descriptor to descriptor, from chain->head as far as NEXT says, each
     * copied once (copy_desc()) and added (add_buffer()); one with INDIRECT is no buffer but opens
     * a table (open_indirect()), in which the chain goes on at its first entry, and ends. 0 at the
     * end, or what failed. -EPROTO: an index that the table in hand does not have; more descriptors
     * of one table than it has: the chain is a loop. A chain through all of them is none. */
    // SOLUTION 7.4
    unsigned index = chain->head, left = table.size;

    for (;;) {
        if (index >= table.size || left-- == 0)
            return -EPROTO;

        struct vring_desc d = copy_desc(table.desc, index);
        int rc;
        if (d.flags & VRING_DESC_F_INDIRECT) {
            rc = open_indirect(vq, &d, &table);
            index = 0;
            left = table.size;
        } else {
            rc = add_buffer(vq, chain, &d);
            index = d.next;
        }
        if (rc < 0)
            return rc;
        if (!(d.flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT)))
            return 0;
    }
    // ELSE
    // unsigned index = chain->head % table.size; /* chains of one descriptor work so far */
    // struct vring_desc d = copy_desc(table.desc, index);
    //
    // if (chain->head >= table.size || (d.flags & VRING_DESC_F_NEXT))
    //     return todo("7.4");
    // return d.flags & VRING_DESC_F_INDIRECT ? open_indirect(vq, &d, &table)
    //                                        : add_buffer(vq, chain, &d);
    // END 7.4
}

int vq_pop(struct vq *vq, struct vq_chain *chain)
{
    /* EXERCISE 7.3: takes the next available chain, if there is one. Broken is -EPROTO, for good;
     * not enabled is 0. The available index and ours (next_avail) run from 0 to 65535 and round
     * again, and only their difference means something: a driver is never ahead by more than the
     * ring holds. *chain keeps its iov and iov_max, and begins from nothing otherwise, with the
     * head that stands in the ring's next entry; follow() does the rest. What cannot be followed
     * breaks the queue (break_queue()), and is not taken. */
    // SOLUTION 7.3
    if (vq->broken)
        return -EPROTO;
    if (!vq->enabled)
        return 0;

    uint16_t ready = (uint16_t)(load_avail_idx(vq) - vq->next_avail);
    if (ready == 0)
        return 0;
    if (ready > vq->at.size) /* ahead of what the ring holds, or gone back */
        return break_queue(vq);

    *chain = (struct vq_chain){
        .iov = chain->iov,
        .iov_max = chain->iov_max,
        .head = load_avail_entry(vq, vq->next_avail),
    };
    if (follow(vq, chain) < 0)
        return break_queue(vq);
    vq->next_avail++;
    return 1;
    // ELSE
    // if (todo("7.3") == 0 && load_avail_entry(vq, 0) < vq->at.size && follow(vq, chain) < 0)
    //     return break_queue(vq);
    // return 0;
    // END 7.3
}

void vq_break(struct vq *vq)
{
    vq->broken = true;
}

void vq_unpop(struct vq *vq, unsigned count)
{
    vq->next_avail = (uint16_t)(vq->next_avail - count);
}

/* --- giving back --- */

/* §2.7.7.2, without the event index: the driver may say that it wants nothing. */
static bool is_interrupt_allowed(const struct vq *vq)
{
    uint16_t flags = le16toh(__atomic_load_n(&vq->avail->flags, __ATOMIC_SEQ_CST));

    return !(flags & VRING_AVAIL_F_NO_INTERRUPT);
}

/* With it: the driver names the entry after which it wants to be told. */
static bool has_passed_event(struct vq *vq)
{
    /* EXERCISE 9.1: does the driver want to be told of what was just published? It waits for the
     * used entry that used_event() names. The answer is yes if that entry is among those published
     * since the last question, which ended at `signalled`; next_used is where they end now, and the
     * next question begins. All of these run from 0 to 65535 and round again. The driver writes its
     * word whenever it likes: load it once, after the index (which stands in the ring already), and
     * in no order that a processor may change. */
    // SOLUTION 9.1
    uint16_t event = le16toh(__atomic_load_n(used_event(vq), __ATOMIC_SEQ_CST));
    uint16_t fresh = (uint16_t)(vq->next_used - vq->signalled);

    vq->signalled = vq->next_used;
    return (uint16_t)(vq->next_used - event - 1) < fresh;
    // ELSE
    // return todo("9.1") == 0 && used_event(vq) == NULL;
    // BEFORE
    // vq->signalled = vq->next_used; /* which entry it is, lab 09 asks; too often does no harm */
    // return used_event(vq) != NULL;
    // END 9.1
}

static bool wants_interrupt(struct vq *vq)
{
    return vq->event_idx ? has_passed_event(vq) : is_interrupt_allowed(vq);
}

/* EXERCISE 7.6: a chain goes back in two steps, and there may be several pushes for one publish.
 * vq_push() fills the next element of the used ring (id: the chain's head; len: WRITTEN), and
 * counts it in `pushed`; the driver does not see it yet. vq_publish() moves the ring's index over
 * all that was pushed, and only then asks wants_interrupt(). Numbers in the ring are little-endian,
 * whatever the host. A driver on another processor that sees the new index must see whole elements;
 * and of the two who write and then look, driver (flags, index) and device (index, flags), one at
 * least must see what the other wrote: a store and a load that no processor swaps. A queue that is
 * not enabled is left alone: it was reset while the request was on its way. Nothing pushed: nothing
 * to tell. */
// SOLUTION 7.6
void vq_push(struct vq *vq, const struct vq_chain *chain, uint32_t written)
{
    if (!vq->enabled)
        return;

    uint16_t at = (uint16_t)(vq->next_used + vq->pushed);
    struct vring_used_elem *e = &vq->used->ring[at % vq->at.size];
    e->id = htole32(chain->head);
    e->len = htole32(written);
    vq->pushed++;
}

bool vq_publish(struct vq *vq)
{
    if (!vq->enabled || vq->pushed == 0)
        return false;

    vq->next_used = (uint16_t)(vq->next_used + vq->pushed);
    vq->pushed = 0;
    /* Pairs with the driver's acquire of used->idx: the entries before it are whole. And the driver
     * writes used_event or flags and then reads used->idx; we the other way round. */
    __atomic_store_n(&vq->used->idx, htole16(vq->next_used), __ATOMIC_SEQ_CST);
    return wants_interrupt(vq);
}
// ELSE
// void vq_push(struct vq *vq, const struct vq_chain *chain, uint32_t written)
// {
//     (void)todo("7.6");
// }
//
// bool vq_publish(struct vq *vq)
// {
//     return todo("7.6") == 0 && wants_interrupt(vq);
// }
// END 7.6

/* --- notifications --- */

bool vq_has_work(const struct vq *vq)
{
    return vq->enabled && !vq->broken && load_avail_idx(vq) != vq->next_avail;
}

/* With the event index: the driver is to notify for the entry after which there was none. */
static void ask_by_event(struct vq *vq)
{
    __atomic_store_n(avail_event(vq), htole16(vq->next_avail), __ATOMIC_SEQ_CST);
}

/* EXERCISE 7.7: notifications, which cost an exit each. vq_mute() says in the used ring's flags
 * that none is wanted; with the event index these flags mean nothing, and there is nothing to do.
 * vq_unmute() takes it back, or calls ask_by_event(); and because a driver that still saw the old
 * word has told nobody of what it added, it looks once more: is there work? Between the store and
 * that look stands the same barrier as in vq_publish(). A queue that is not enabled has no flags
 * and no work. */
// SOLUTION 7.7
void vq_mute(struct vq *vq)
{
    if (vq->enabled && !vq->event_idx)
        __atomic_store_n(&vq->used->flags, htole16(VRING_USED_F_NO_NOTIFY), __ATOMIC_RELAXED);
}

bool vq_unmute(struct vq *vq)
{
    if (!vq->enabled)
        return false;
    /* The driver writes avail->idx and then reads these; we the other way round. */
    if (vq->event_idx)
        ask_by_event(vq);
    else
        __atomic_store_n(&vq->used->flags, 0, __ATOMIC_SEQ_CST);
    return vq_has_work(vq);
}
// ELSE
// void vq_mute(struct vq *vq)
// {
//     (void)todo("7.7");
// }
//
// bool vq_unmute(struct vq *vq)
// {
//     if (todo("7.7") == 0)
//         ask_by_event(vq);
//     return false;
// }
// END 7.7

/* --- copying --- */

/* Copies between LEN bytes of ours and the pieces iov[0 … count), from their byte OFFSET on. */
static size_t copy(const struct iovec *iov, unsigned count, uint64_t offset, void *data, size_t len,
                   bool to_guest)
{
    uint8_t *ours = data;
    size_t done = 0;

    for (unsigned i = 0; i < count && done < len; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t here = iov[i].iov_len - offset < len - done ? iov[i].iov_len - offset : len - done;
        uint8_t *theirs = (uint8_t *)iov[i].iov_base + offset;
        memcpy(to_guest ? theirs : ours + done, to_guest ? ours + done : theirs, here);
        done += here;
        offset = 0;
    }
    return done;
}

size_t vq_chain_read(const struct vq_chain *chain, uint64_t offset, void *out, size_t len)
{
    return copy(chain->iov, chain->out_count, offset, out, len, false);
}

size_t vq_chain_write(const struct vq_chain *chain, uint64_t offset, const void *data, size_t len)
{
    return copy(chain->iov + chain->out_count, chain->in_count, offset, (void *)data, len, true);
}

/* Pieces that become empty stay, with length 0: dropping them would move the others. */
void vq_chain_skip_out(struct vq_chain *chain, uint64_t bytes)
{
    assert(bytes <= chain->out_size);
    chain->out_size -= bytes;
    for (struct iovec *v = chain->iov; bytes > 0; v++) {
        size_t here = v->iov_len < bytes ? v->iov_len : (size_t)bytes;
        v->iov_base = (uint8_t *)v->iov_base + here;
        v->iov_len -= here;
        bytes -= here;
    }
}

void vq_chain_trim_in(struct vq_chain *chain, uint64_t bytes)
{
    assert(bytes <= chain->in_size);
    chain->in_size -= bytes;
    for (struct iovec *v = chain->iov + chain->out_count + chain->in_count - 1; bytes > 0; v--) {
        size_t here = v->iov_len < bytes ? v->iov_len : (size_t)bytes;
        v->iov_len -= here;
        bytes -= here;
    }
}

/* --- state --- */

void vq_save(const struct vq *vq, struct codec_writer *w)
{
    codec_put_u16(w, vq->at.size);
    codec_put_u64(w, vq->at.desc);
    codec_put_u64(w, vq->at.driver);
    codec_put_u64(w, vq->at.device);
    codec_put_u8(w, vq->enabled);
    codec_put_u8(w, vq->broken);
    codec_put_u8(w, vq->event_idx);
    codec_put_u8(w, vq->indirect);
    codec_put_u16(w, vq->next_avail);
    codec_put_u16(w, vq->next_used);
    codec_put_u16(w, vq->signalled);
}

static uint64_t features_of(bool event_idx, bool indirect)
{
    return (uint64_t)event_idx << VIRTIO_RING_F_EVENT_IDX | (uint64_t)indirect
                                                                << VIRTIO_RING_F_INDIRECT_DESC;
}

int vq_load(struct vq *vq, struct codec_reader *r)
{
    struct vq loaded;

    vq_init(&loaded, vq->mem, vq->size_max);
    loaded.at.size = codec_get_u16(r);
    loaded.at.desc = codec_get_u64(r);
    loaded.at.driver = codec_get_u64(r);
    loaded.at.device = codec_get_u64(r);
    bool enabled = codec_get_u8(r);
    loaded.broken = codec_get_u8(r);
    bool event_idx = codec_get_u8(r);
    bool indirect = codec_get_u8(r);
    loaded.next_avail = codec_get_u16(r);
    loaded.next_used = codec_get_u16(r);
    loaded.signalled = codec_get_u16(r);
    if (enabled && vq_enable(&loaded, features_of(event_idx, indirect)) < 0)
        return -EINVAL;
    if (!enabled && (event_idx || indirect || loaded.next_avail || loaded.next_used))
        return -EINVAL;
    *vq = loaded;
    return 0;
}
