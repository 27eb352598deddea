/*
 * The network device (VIRTIO 1.2 §5.1): an Ethernet interface, one or several pairs of queues, each
 * with a back end of its own.
 */
#ifndef HV_VIRTIO_NET_H
#define HV_VIRTIO_NET_H

#include "hv/base/loop.h"
#include "hv/mem/mem.h"
#include "hv/net/net.h"
#include "hv/virtio/virtio.h"

#define VIRTIO_NET_PAIRS_MAX NET_QUEUES_MAX
#define VIRTIO_NET_MAC 6 /* bytes of an address */

struct virtio_net_pair {
    struct net *net;   /* borrowed: machines come and go, networks stay */
    struct loop *loop; /* borrowed; serves both queues, and watches the back end */
};

struct virtio_net_limits {
    uint64_t packets, bytes; /* per second, each way, of all pairs; 0: no limit */
};

struct virtio_net_setup {
    const struct mem *mem; /* borrowed, outlives the device */
    const struct virtio_net_pair *pairs;
    unsigned pair_count; /* 1 to VIRTIO_NET_PAIRS_MAX */
    uint8_t mac[VIRTIO_NET_MAC];
    uint16_t mtu; /* 0: the guest decides */
    struct virtio_net_limits limits;
};

struct virtio_net_stats {
    uint64_t received, sent; /* frames */
    uint64_t received_bytes, sent_bytes;
    uint64_t dropped_in;  /* frames that came and fitted no buffer, or were too short */
    uint64_t dropped_out; /* frames of the guest's that were malformed, or that nobody took */
    uint64_t filtered;    /* frames for other addresses */
    uint64_t waits;       /* times that a limit held something up */
};

/* -ENOMEM, -EMFILE, or what net_watch() says. */
int virtio_net_create(const char *name, const struct virtio_net_setup *setup,
                      struct virtio_dev **out) HV_MUST_CHECK;

/* Any thread. */
void virtio_net_limit(struct virtio_dev *v, const struct virtio_net_limits *limits);
void virtio_net_limits(struct virtio_dev *v, struct virtio_net_limits *out);
void virtio_net_stats(struct virtio_dev *v, struct virtio_net_stats *out);

/* The cable is plugged in, or pulled. Any thread. */
void virtio_net_set_link(struct virtio_dev *v, bool up);

#endif
