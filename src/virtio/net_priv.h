/*
 * What net.c (the device), net_rx.c, net_tx.c (its queues) and net_ctrl.c (the control queue)
 * share.
 *
 * Queues, §5.1.2: 2i receives and 2i + 1 transmits for pair i; the one behind the pairs controls.
 * Both queues of a pair are served on one thread, the one that watches the pair's back end; so what
 * is marked [loop] needs no lock.
 *
 * A driver begins with one pair and says how many it uses (§5.1.6.5.5). It may not send through the
 * others, but what it had sent is served; nothing is received there. Who changes the number takes
 * the receive queues' locks, so that no frame comes after the answer.
 */
#ifndef VIRTIO_NET_PRIV_H
#define VIRTIO_NET_PRIV_H

#include <linux/virtio_net.h>
#include <stdatomic.h>

#include "hv/base/bucket.h"
#include "hv/base/timer.h"
#include "hv/virtio/net.h"

#define NET_HEADER sizeof(struct virtio_net_hdr_v1)
#define NET_MACS_MAX 64 /* of the guest's table; with more it gets every frame */
#define RX_HELD_MAX 64  /* chains that wait for a frame */
#define RX_PIECES 512   /* of them together */
#define TX_PIECES 128

struct net_device;

/* Chains that were popped before their frame came, oldest first. Guarded by the receive queue's
 * lock. */
struct rx_held {
    unsigned count, pieces;
    uint64_t bytes;
    struct {
        uint16_t head;
        unsigned pieces;
        uint32_t size; /* bytes */
    } chains[RX_HELD_MAX];
    struct iovec iov[RX_PIECES];
};

/* Of one direction. All pairs share it: how the guest spreads its frames is its own matter. */
struct net_limit {
    struct bucket packets, bytes;
};

struct net_queue {
    struct net_device *d; /* borrowed */
    struct virtio_queue *vq;
    struct net_limit *limit; /* borrowed: of the queue's direction */
    struct timer refill;     /* the limit has something again: kick */
    _Atomic uint64_t moved;  /* bytes of frames, ever */
};

struct net_pair {
    struct net *net; /* borrowed; NULL: not watched yet */
    struct net_queue rx, tx;
    struct rx_held held;
    bool wants_read, wants_write; /* [loop] what the back end is listened to for */
};

/* Which frames the guest wants, §5.1.6.5.1 and §5.1.6.5.2. */
struct net_filter {
    uint8_t mac[VIRTIO_NET_MAC];
    bool promiscuous, all_multicast;
    unsigned count; /* of macs; above NET_MACS_MAX: every frame */
    uint8_t macs[NET_MACS_MAX][VIRTIO_NET_MAC];
};

struct net_device {
    struct virtio_dev v;
    struct net_pair *pairs; /* owned */
    unsigned pair_count;
    uint8_t mac[VIRTIO_NET_MAC]; /* until the driver sets another one */
    uint16_t mtu;
    _Atomic bool link_up;
    /* Settled when the driver starts. */
    bool has_header;             /* frames go to the back end with their header */
    bool merges;                 /* a frame may take several buffers */
    uint64_t frame_max;          /* bytes of a frame that may come, with header */
    struct net_limit in, out;    /* to the guest, from the guest */
    _Atomic unsigned active;     /* pairs that the driver uses; changed by one at a time */
    pthread_mutex_t filter_lock; /* guards filter; innermost */
    struct net_filter filter;
    _Atomic uint64_t received, sent, dropped_in, dropped_out, filtered;
};

static inline void net_count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed); /* a statistic */
}

/* net.c: ns until q's limits let another frame pass, for which the timer is set then; 0: now. */
uint64_t net_limit_wait(struct net_queue *q);
void net_limit_spend(struct net_queue *q, uint64_t bytes);
void net_listen_for(struct net_pair *p, bool readable, bool writable); /* [loop] */
/* §5.1.6.5.5: frames come to the first `pairs` pairs from here on. Under the control queue's lock,
 * or with the queues stopped. A back end's error: all is as it was. */
int net_use_pairs(struct net_device *d, unsigned pairs) HV_MUST_CHECK;

/* net_rx.c, under the receive queue's lock */
void net_rx_pump(struct net_device *d, struct net_pair *p);
void net_rx_give_back(struct net_pair *p);

/* net_tx.c, under the transmit queue's lock */
void net_tx_pump(struct net_device *d, struct net_pair *p);

/* net_ctrl.c */
void net_ctrl_serve(struct net_device *d, struct virtio_queue *q);
void net_filter_reset(struct net_filter *f, const uint8_t mac[VIRTIO_NET_MAC]);
/* Does the guest want a frame to this address? */
bool net_filter_wants(struct net_device *d, const uint8_t to[VIRTIO_NET_MAC]);

#endif
