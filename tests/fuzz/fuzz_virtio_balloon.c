/*
 * Any driver of the balloon device. Its page numbers are mostly of RAM that it has; which page goes
 * back to the host is not foreseen, but nothing else may happen to memory.
 */
#include <endian.h>

#include "fuzz/virtio_harness.h"
#include "hv/base/num.h"
#include "hv/virtio/balloon.h"

#define PAGES (VFUZZ_END >> VIRTIO_BALLOON_PFN_SHIFT)

static int create(void *ctx, unsigned which, const struct mem *mem, struct loop *loop,
                  struct virtio_dev **out)
{
    const struct virtio_balloon_setup setup = {
        .mem = mem, .loop = loop, .deflate_on_oom = true, .reporting = true};

    (void)ctx;
    (void)which;
    return virtio_balloon_create("balloon", &setup, out);
}

static void put_number(struct fuzz_input *in, uint8_t *bytes)
{
    uint8_t what = fuzz_u8(in);
    uint32_t pfn = what < 240 ? what % (PAGES + 2) : (uint32_t)fuzz_u64(in, 4);

    pfn = htole32(pfn);
    memcpy(bytes, &pfn, sizeof(pfn));
}

static void put_stat(struct fuzz_input *in, uint8_t *bytes)
{
    const struct virtio_balloon_stat stat = {htole16(fuzz_u8(in) % (VIRTIO_BALLOON_S_NR + 2)),
                                             htole64(fuzz_u64(in, 2))};

    memcpy(bytes, &stat, sizeof(stat));
}

static void request(void *ctx, unsigned queue, struct fuzz_input *in, uint8_t *bytes, uint32_t len)
{
    uint32_t size = queue < 2 ? sizeof(__le32) : sizeof(struct virtio_balloon_stat);

    (void)ctx;
    for (uint32_t at = 0, i = 0; len - at >= size && i < 16; at += size, i++) {
        if (queue < 2)
            put_number(in, bytes + at);
        else
            put_stat(in, bytes + at);
    }
}

static void check_counts(struct virtio_dev *v)
{
    struct virtio_balloon_counts c;
    struct virtio_balloon_stats s;

    virtio_balloon_counts(v, &c);
    virtio_balloon_stats(v, &s);
    fuzz_check(c.held <= PAGES);
    fuzz_check(c.refused == 0);
    fuzz_check(s.known >> VIRTIO_BALLOON_S_NR == 0);
}

static struct vfuzz_target target;

static void event(void *ctx, unsigned which, struct virtio_dev *v, struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in);

    (void)ctx;
    (void)which;
    check_counts(v);
    switch (what % 4) {
    case 0:
        virtio_balloon_set_target(v, fuzz_u64(in, 1 + what / 4 % 8));
        target.keeps = true; /* a target outlives a reset */
        break;
    case 1:
        virtio_balloon_ask_every(v, what & 4 ? 1000000 : 0);
        break;
    default:
        virtio_balloon_ask(v);
        break;
    }
}

static void before_probe(void *ctx, unsigned which, struct virtio_dev *v)
{
    (void)ctx;
    (void)which;
    check_counts(v);
    virtio_balloon_ask(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    target = (struct vfuzz_target){
        .create = create,
        .request = request,
        .event = event,
        .before_probe = before_probe,
        .probe = {{.queue = 0, .out = {VFUZZ_HOLE_END >> 12}, .out_len = 4},
                  {.queue = 2, .out = {VIRTIO_BALLOON_S_MEMFREE}, .out_len = 10},
                  {.queue = 3, .in_len = 0x1000}},
        .loads = true,
        .releases = true,
    };
    vfuzz_run(&target, data, size);
    return 0;
}
