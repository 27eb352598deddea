/*
 * Fuzzing the registers of a virtio transport: a disk behind it, and a driver that knows how to
 * come up when it must.
 *
 * What the rings may do has its own harness; here there is one good layout, and the registers get
 * everything else.
 */
#ifndef FUZZ_TRANSPORT_FUZZ_H
#define FUZZ_TRANSPORT_FUZZ_H

#include <endian.h>
#include <linux/virtio_blk.h>

#include "fuzz/dev_fuzz.h"
#include "hv/virtio/blk.h"

#define FUZZ_RAM 0x10000
#define FUZZ_DESC 0x1000 /* of queue 0; queue 1's areas are FUZZ_QUEUE_STRIDE behind */
#define FUZZ_AVAIL 0x2000
#define FUZZ_USED 0x3000
#define FUZZ_QUEUE_STRIDE 0x4000
#define FUZZ_DATA 0xa000
#define FUZZ_QUEUE_SIZE 16
#define FUZZ_QUEUES 2

/* RAM and a disk, which are there for ever, and a loop. */
struct fuzz_rig {
    struct mem mem;
    struct block *block;
    struct loop *loop;
    uint16_t avail_idx;
};

static inline void fuzz_rig_init(struct fuzz_rig *rig)
{
    if (rig->block == NULL) {
        mem_init(&rig->mem);
        fuzz_check(mem_add(&rig->mem, 0, FUZZ_RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
        fuzz_check(block_mem_create(1 << 16, &rig->block) == 0);
    }
    fuzz_check(mem_zero(&rig->mem, 0, FUZZ_RAM) == 0);
    fuzz_check(loop_create(&rig->loop) == 0);
}

static inline struct virtio_dev *fuzz_rig_disk(struct fuzz_rig *rig)
{
    struct loop *const loops[FUZZ_QUEUES] = {rig->loop, rig->loop};
    const struct virtio_blk_setup setup = {
        .mem = &rig->mem, .block = rig->block, .loops = loops, .queues = FUZZ_QUEUES};
    struct virtio_dev *v;

    fuzz_check(virtio_blk_create("disk", &setup, &v) == 0);
    return v;
}

static inline void fuzz_rig_turn(struct fuzz_rig *rig, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++)
        fuzz_check(loop_run_once(rig->loop, 0) == 0);
}

/* Nothing is in flight afterwards: whoever resets the device does not wait for this thread. */
static inline void fuzz_rig_settle(struct fuzz_rig *rig, struct virtio_dev *v)
{
    for (unsigned i = 0; i < v->queue_count; i++)
        for (unsigned rounds = 0; v->queues[i].in_flight > 0; rounds++) {
            fuzz_check(rounds < 1000);
            fuzz_rig_turn(rig, 1);
        }
}

static inline uint64_t fuzz_rig_area(unsigned queue, uint64_t area)
{
    return area + queue * FUZZ_QUEUE_STRIDE;
}

/* As a driver does before it says where they are. */
static inline void fuzz_rig_clear_rings(struct fuzz_rig *rig)
{
    fuzz_check(mem_zero(&rig->mem, 0, FUZZ_DATA) == 0);
    rig->avail_idx = 0;
}

/* Offers a request that reads sector 0, on queue 0. */
static inline void fuzz_rig_ask(struct fuzz_rig *rig)
{
    const struct vring_desc desc[] = {{FUZZ_DATA, 16, VRING_DESC_F_NEXT, 1},
                                      {FUZZ_DATA + 16, 513, VRING_DESC_F_WRITE, 0}};
    const struct virtio_blk_outhdr header = {.type = htole32(VIRTIO_BLK_T_IN)};
    const uint64_t slot = rig->avail_idx % FUZZ_QUEUE_SIZE;

    fuzz_check(mem_write(&rig->mem, FUZZ_DESC, desc, sizeof(desc)) == 0);
    fuzz_check(mem_write(&rig->mem, FUZZ_DATA, &header, sizeof(header)) == 0);
    fuzz_check(mem_write_u16(&rig->mem, FUZZ_AVAIL + 4 + slot * 2, 0) == 0);
    fuzz_check(mem_write_u16(&rig->mem, FUZZ_AVAIL + 2, ++rig->avail_idx) == 0);
}

static inline uint16_t fuzz_rig_answers(const struct fuzz_rig *rig)
{
    uint16_t used;

    fuzz_check(mem_read_u16(&rig->mem, FUZZ_USED + 2, &used) == 0);
    return used;
}

static inline void fuzz_rig_fini(struct fuzz_rig *rig)
{
    loop_destroy(rig->loop);
}

/* What DEV saved, with some bytes changed: refused, or a state that is saved and loaded again. */
static inline void fuzz_spoiled_state(struct device *dev, struct device *twin,
                                      struct fuzz_input *in)
{
    static uint8_t body[4096];
    struct codec_writer w, spoiled;
    struct codec_reader r;
    uint32_t version;

    codec_writer_init(&w);
    codec_writer_init(&spoiled);
    fuzz_check(dev_save(dev, &w) == 0);
    codec_reader_init(&r, w.data, w.size);
    fuzz_check(codec_enter(&r, dev->name, &version) == 0);
    size_t len = r.body_end - r.body_pos;
    fuzz_check(len <= sizeof(body));
    codec_get_bytes(&r, body, len);
    for (unsigned i = 1 + fuzz_u8(in) % 3; i > 0; i--)
        body[fuzz_u64(in, 2) % len] = fuzz_u8(in);
    codec_begin(&spoiled, dev->name, version);
    codec_put_bytes(&spoiled, body, len);
    fuzz_check(codec_end(&spoiled) == 0);
    codec_reader_init(&r, spoiled.data, spoiled.size);
    if (dev_load(dev, &r) == 0)
        fuzz_round_trip(dev, twin);
    codec_writer_fini(&w);
    codec_writer_fini(&spoiled);
}

#endif
