/*
 * Fuzzing a virtio device from its driver's side: the input is a program of a driver that mostly
 * keeps to the rules.
 *
 * The harness has RAM with a hole and a piece of ROM, runs the device's loop itself (there are no
 * threads, and nothing waits), and brings the device up. Each step of the program offers chains,
 * kicks, damages rings, resets, moves the state into a second device, or wakes the other side.
 * After each step it checks what every device owes its driver:
 *
 *   - a used element names a chain that was made available and is well-formed by the harness's own
 *     reading of the rings, once for each time; its length is no more than the chain can take;
 *   - RAM outside used rings and the writable buffers of such chains is as the driver left it;
 *   - who wants an interrupt gets one, and a queue whose chains were all taken asks for kicks;
 *   - a broken queue is a device that needs a reset;
 *   - saved state is the same once a second device has loaded it;
 *   - after a reset the device saves the state of a new one, and serves a valid request.
 *
 * A driver whose buffers lie over its rings makes the device write its own orders: then only
 * crashes and the last of these count, until the next reset.
 *
 *     int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
 *     {
 *         vfuzz_run(&target, data, size);
 *         return 0;
 *     }
 */
#ifndef FUZZ_VIRTIO_HARNESS_H
#define FUZZ_VIRTIO_HARNESS_H

#include "fuzz/dev_fuzz.h"
#include "hv/base/loop.h"
#include "hv/mem/mem.h"
#include "hv/virtio/virtio.h"

#define VFUZZ_QUEUES_MAX 8      /* that the driver uses; a device may have more */
#define VFUZZ_REQUEST_MAX 16384 /* readable bytes of a chain that are filled */
#define VFUZZ_PROBES_MAX 3

/* RAM but for [HOLE, HOLE_END), and ROM behind it; where two regions touch, buffers are cut. */
#define VFUZZ_SEAM 0x20000
#define VFUZZ_HOLE 0x30000
#define VFUZZ_HOLE_END 0x40000
#define VFUZZ_ROM 0x50000
#define VFUZZ_END 0x51000

/* A request that must be answered. */
struct vfuzz_probe {
    unsigned queue;
    uint8_t out[64]; /* what the device reads */
    uint32_t out_len;
    uint32_t in_len;  /* bytes that it may write; 0: no buffer for that */
    uint32_t written; /* and writes at least */
};

struct vfuzz_target {
    /* A device as a machine has it. WHICH is 0 or 1: there may be two at a time, with back ends of
     * their own where these cannot be shared. */
    int (*create)(void *ctx, unsigned which, const struct mem *mem, struct loop *loop,
                  struct virtio_dev **out);
    /* Device WHICH is gone: so may what was made for it alone. NULL: nothing was. */
    void (*destroyed)(void *ctx, unsigned which);
    /* Bytes of a request for the readable part of a chain of QUEUE: the start of what makes sense,
     * drawn from the input. BYTES is zeroed. NULL: bytes of the input. */
    void (*request)(void *ctx, unsigned queue, struct fuzz_input *in, uint8_t *bytes, uint32_t len);
    /* Something from the other side. NULL: there is none. */
    void (*event)(void *ctx, unsigned which, struct virtio_dev *v, struct fuzz_input *in);
    /* Lets go of what is held back, so that everything in flight ends. NULL: nothing is. */
    void (*release)(void *ctx);
    /* Readies the other side for the probes. NULL: it is. */
    void (*before_probe)(void *ctx, unsigned which, struct virtio_dev *v);
    void *ctx;
    struct vfuzz_probe probe[VFUZZ_PROBES_MAX]; /* one without any bytes ends them */
    uint64_t features_off;                      /* never accepted, in the probe either */
    uint64_t mutes; /* queues, one bit each, that need not ask for kicks */
    bool keeps;     /* something outlives a reset: states are not compared */
    bool loads;     /* the same, of what a hostile state had in it */
    bool releases;  /* pages of RAM may become zero, also where the device may not write */
};

/* Runs one input. Aborts on what the device must not do. */
void vfuzz_run(const struct vfuzz_target *target, const uint8_t *data, size_t size);

#endif
