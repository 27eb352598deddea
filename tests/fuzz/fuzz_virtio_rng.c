/* Any driver of the entropy device. */
#include "fuzz/virtio_harness.h"
#include "hv/virtio/rng.h"

static int create(void *ctx, unsigned which, const struct mem *mem, struct loop *loop,
                  struct virtio_dev **out)
{
    const struct virtio_rng_setup setup = {.mem = mem, .loop = loop};

    (void)ctx;
    (void)which;
    return virtio_rng_create("rng", &setup, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct vfuzz_target target = {
        .create = create,
        .probe = {{.in_len = 64, .written = 1}},
    };

    vfuzz_run(&target, data, size);
    return 0;
}
