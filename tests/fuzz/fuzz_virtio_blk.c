/*
 * Any driver of the block device, whose disk fails now and then. The first byte of the input
 * chooses how.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>

#include "fuzz/virtio_harness.h"
#include "hv/base/num.h"
#include "hv/virtio/blk.h"

#define DISK (1U << 20)
#define FAULTS 3

/* What a disk does; all of them are over memory. */
static const struct block_fault disks[][FAULTS] = {
    {{.op = BLOCK_READ, .nth = 2, .result = -EIO},
     {.op = BLOCK_WRITE, .nth = 2, .result = -ENOSPC, .torn = 512},
     {.op = BLOCK_FLUSH, .nth = 2, .result = -EIO}},
    {{.op = BLOCK_READ, .nth = 1, .never = true},
     {.op = BLOCK_WRITE, .nth = 2, .never = true, .result = -EIO},
     {.op = BLOCK_FLUSH, .nth = 1, .never = true}},
    {{.op = BLOCK_READ, .nth = 3, .always = true, .result = -EIO},
     {.op = BLOCK_WRITE, .nth = 1, .always = true, .result = -EIO, .torn = 1024},
     {.op = BLOCK_DISCARD, .nth = 1, .never = true}},
    {{.op = BLOCK_READ, .nth = 2, .never = true},
     {.op = BLOCK_ZERO, .nth = 1, .never = true, .result = -ENOTSUP},
     {.op = BLOCK_DISCARD, .nth = 2, .always = true, .result = -ENOTSUP}},
};

struct disk {
    struct block *block;
    bool has_faults, has_limits;
    unsigned queues;
};

static int create(void *ctx, unsigned which, const struct mem *mem, struct loop *loop,
                  struct virtio_dev **out)
{
    const struct disk *disk = ctx;
    struct loop *const loops[] = {loop, loop};
    const struct virtio_blk_setup setup = {
        .mem = mem, .block = disk->block, .loops = loops, .queues = disk->queues, .serial = "fuzz"};

    (void)which;
    return virtio_blk_create("blk", &setup, out);
}

/* A header, and behind it a range for those requests that have one. */
static void request(void *ctx, unsigned queue, struct fuzz_input *in, uint8_t *bytes, uint32_t len)
{
    static const uint32_t types[] = {VIRTIO_BLK_T_IN,      VIRTIO_BLK_T_OUT,
                                     VIRTIO_BLK_T_FLUSH,   VIRTIO_BLK_T_GET_ID,
                                     VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES};
    uint8_t what = fuzz_u8(in);
    struct {
        struct virtio_blk_outhdr header;
        struct virtio_blk_discard_write_zeroes range;
    } wire = {
        .header.type = htole32(what < 240 ? types[what % ARRAY_LEN(types)] : fuzz_u8(in)),
        .header.sector = htole64(what % 7 == 6 ? fuzz_u64(in, 8) : fuzz_u8(in)),
        .range.sector = htole64(what % 5 == 4 ? fuzz_u64(in, 8) : fuzz_u8(in)),
        .range.num_sectors = htole32(what % 11 == 10 ? (uint32_t)fuzz_u64(in, 4) : fuzz_u8(in)),
        .range.flags = htole32(what % 3 ? fuzz_u8(in) % 2 : fuzz_u8(in)),
    };

    (void)ctx;
    (void)queue;
    memcpy(bytes, &wire, len < sizeof(wire) ? len : sizeof(wire));
}

static void release(void *ctx)
{
    const struct disk *disk = ctx;

    if (disk->has_faults)
        block_fault_release(disk->block);
}

static void event(void *ctx, unsigned which, struct virtio_dev *v, struct fuzz_input *in)
{
    const struct disk *disk = ctx;
    uint8_t what = fuzz_u8(in);

    (void)which;
    switch (what % 4) {
    case 0:
        release(ctx);
        break;
    case 1:
        if (disk->has_limits)
            virtio_blk_limit(v, what / 4 % 2 ? 10 : 0, what / 8 % 2 ? 1000 : 0);
        break;
    case 2:
        virtio_blk_limit(v, 0, 0);
        break;
    default:
        virtio_config_changed(v);
        break;
    }
}

static void before_probe(void *ctx, unsigned which, struct virtio_dev *v)
{
    (void)ctx;
    (void)which;
    virtio_blk_limit(v, 0, 0);
}

static void make_disk(struct disk *disk, uint8_t how)
{
    fuzz_check(block_mem_create(DISK, &disk->block) == 0);
    disk->queues = how & 1 ? 2 : 1;
    disk->block->read_only = how & 2;
    disk->block->logical_size = disk->block->physical_size = how & 4 ? 4096 : BLOCK_SECTOR;
    disk->has_faults = how & 8;
    disk->has_limits = how & 0x40;
    if (disk->has_faults)
        fuzz_check(block_fault_create(disk->block, disks[how / 16 % ARRAY_LEN(disks)], FAULTS,
                                      &disk->block) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct disk disk;
    struct vfuzz_target target = {
        .create = create,
        .request = request,
        .event = event,
        .release = release,
        .before_probe = before_probe,
        .ctx = &disk,
        .probe = {{.out_len = 16, .in_len = 513, .written = 1}},
    };

    if (size == 0)
        return 0;
    make_disk(&disk, data[0]);
    target.mutes = disk.has_limits ? UINT64_MAX : 0; /* a limit's timer comes back on its own */
    vfuzz_run(&target, data + 1, size - 1);
    block_destroy(disk.block);
    return 0;
}
