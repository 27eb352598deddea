/*
 * The entropy device (VIRTIO 1.2 §5.4): one queue, whose buffers it fills with random bytes of the
 * host's.
 */
#ifndef HV_VIRTIO_RNG_H
#define HV_VIRTIO_RNG_H

#include "hv/base/loop.h"
#include "hv/mem/mem.h"
#include "hv/virtio/virtio.h"

struct virtio_rng_setup {
    const struct mem *mem; /* borrowed, outlives the device */
    struct loop *loop;     /* borrowed likewise: an I/O thread's, not the main thread's */
    uint64_t rate;         /* bytes per second that the guest may take; 0: no limit */
};

/* -ENOMEM, -EMFILE. */
int virtio_rng_create(const char *name, const struct virtio_rng_setup *cfg,
                      struct virtio_dev **out) HV_MUST_CHECK;

#endif
