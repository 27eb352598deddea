/*
 * What the parts of the harness share: virtio_harness.c (programs, state, probes), virtio_chains.c
 * (the chains that the driver builds), virtio_judge.c (RAM, and what the device may do to it).
 */
#ifndef FUZZ_VIRTIO_HARNESS_PRIV_H
#define FUZZ_VIRTIO_HARNESS_PRIV_H

#include "fuzz/virtio_harness.h"

/* Where a driver that behaves has its indirect tables, and behind them its buffers. */
#define TABLES 0x10000 /* TABLE_SIZE each */
#define TABLE_SIZE 0x200
#define TABLE_COUNT 16
#define DATA (TABLES + TABLE_SIZE * TABLE_COUNT)

#define OFFERS_MAX 256 /* chains of one queue that the device has, or may take */
#define RANGES_MAX 24  /* buffers of one */

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
    bool is_spoilt; /* it loaded a hostile state */
    bool is_wild;   /* device writes may change rings: no judgement until the next reset */
    struct side side[VFUZZ_QUEUES_MAX];
};

enum { DESC, AVAIL, USED, AREAS };

static inline struct vq *vfuzz_vq(struct harness *h, unsigned queue)
{
    return &virtio_queue(h->v, queue)->vq;
}

/* --- virtio_judge.c --- */

const struct mem *vfuzz_ram(void);
void vfuzz_clean_ram(void);

/* What the driver writes, nothing where there is no RAM; and reads, 0 where nothing is. */
void vfuzz_put(uint64_t gpa, const void *data, uint64_t len);
void vfuzz_put16(uint64_t gpa, uint16_t value);
uint16_t vfuzz_get16(uint64_t gpa);

struct range vfuzz_area(const struct vq_layout *at, unsigned which);
/* Would a write there be to what tells the device where to write? */
bool vfuzz_is_delicate(struct harness *h, const struct range *r);
/* Before the device runs: what it may do. And afterwards: did it do anything else? */
void vfuzz_foresee(struct harness *h);
void vfuzz_judge(struct harness *h);

/* --- virtio_chains.c --- */

/* A chain of the input's, in QUEUE, made available. */
void vfuzz_draw_chain(struct harness *h, unsigned queue);
/* Writes D as a chain, through an indirect table if asked to. Returns the head. */
uint16_t vfuzz_write_chain(struct harness *h, unsigned queue, struct vring_desc *d, unsigned count,
                           bool in_table);
void vfuzz_offer(struct harness *h, unsigned queue, uint16_t head);

#endif
