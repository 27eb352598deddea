/*
 * Network back ends: where an interface's Ethernet frames go and come from.
 *
 * Frames are pulled: a back end with something to receive makes its watcher run, which takes frames
 * straight into the guest's buffers for as long as it has some, and stops watching when it has
 * none. So what the guest does not take stays with the host's kernel, which drops it when it likes.
 *
 * A frame is preceded by a header (struct virtio_net_hdr_v1, VIRTIO 1.2 §5.1.6) if the user asked
 * for offloads and the back end has them; then a frame may be a segment of up to 64 KiB, with
 * checksums still to be filled in. Otherwise it is a plain frame of at most NET_FRAME_MAX bytes.
 *
 * An interface with several queues is several back ends, of which each has frames of its own flows.
 *
 * Threads: all calls from the thread of the loop that watches, or with nobody watching; except for
 * net_set_active().
 */
#ifndef HV_NET_NET_H
#define HV_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#define NET_FRAME_MAX 65550 /* bytes: 64 KiB of payload and an Ethernet header with a VLAN tag */
#define NET_FRAME_MIN 14    /* an Ethernet header */
#define NET_QUEUES_MAX 8    /* of one interface */

struct net;

struct net_watch {
    struct loop *loop;           /* borrowed; NULL: nobody watches */
    void (*readable)(void *ctx); /* frames may be there */
    void (*writable)(void *ctx); /* net_send() works again after -EAGAIN; may be NULL */
    void *ctx;                   /* borrowed */
};

struct net_ops {
    ssize_t (*send)(struct net *n, const struct iovec *iov, unsigned count);
    ssize_t (*receive)(struct net *n, const struct iovec *iov, unsigned count);
    int (*watch)(struct net *n, const struct net_watch *watch);
    /* Turns wake-ups for readable and writable on and off. */
    void (*listen)(struct net *n, bool readable, bool writable);
    int (*set_offloads)(struct net *n, unsigned header, unsigned offloads); /* NULL: it has none */
    int (*set_active)(struct net *n, bool active);                          /* NULL: it always is */
    void (*destroy)(struct net *n);
};

struct net {
    const struct net_ops *ops;
    unsigned offloads; /* what the back end can do: NET_OFFLOAD_… */
};

/* Both directions: TUN_F_… of <linux/if_tun.h> say the same. */
#define NET_OFFLOAD_CSUM (1U << 0)
#define NET_OFFLOAD_TSO4 (1U << 1)
#define NET_OFFLOAD_TSO6 (1U << 2)
#define NET_OFFLOAD_USO (1U << 3)

/* Sends one frame, its header included if one was asked for. The bytes, or -EAGAIN: no room now,
 * the watcher hears when there is; else -errno, and the frame is lost: -EMSGSIZE, -EIO, -ENOTCONN.
 */
ssize_t net_send(struct net *n, const struct iovec *iov, unsigned count);

/* Takes one frame. The bytes; -EAGAIN: there is none; -EMSGSIZE: it was longer than iov and is
 * lost; -EIO, -ENOTCONN: there will be none. */
ssize_t net_receive(struct net *n, const struct iovec *iov, unsigned count);

/* Who hears of frames from here on; NULL: nobody. Wake-ups begin switched off. */
int net_watch(struct net *n, const struct net_watch *watch) HV_MUST_CHECK;
void net_listen(struct net *n, bool readable, bool writable);

/* From here on frames have a header of `header` bytes (0: none), and may need these offloads by the
 * receiver. -ENOTSUP: more than n->offloads. */
int net_set_offloads(struct net *n, unsigned header, unsigned offloads) HV_MUST_CHECK;

/* May frames come to this queue of an interface? One that is not active has none, and those that
 * waited there are lost; it can still send. Not for the first queue. From any thread, one at a time
 * for all queues of an interface. -ENOTCONN: the interface is gone; or what the system says. */
int net_set_active(struct net *n, bool active) HV_MUST_CHECK;

void net_destroy(struct net *n); /* takes NULL */

/* --- back ends; errors name the interface, path or program --- */

/* A tap interface, which must exist, or be ours to create (root, or CAP_NET_ADMIN). out[0 …
 * queues - 1] are its queues, of which the first is active. One that exists was made either for one
 * queue or for several. */
int net_tap_create(const char *name, unsigned queues, struct net **out,
                   struct error *err) HV_MUST_CHECK;

/* A UNIX stream socket with QEMU's framing: each frame after its length, 4 bytes, big-endian.
 * Connects to `path`, or listens there (listen_unix()) for one peer at a time. */
int net_stream_create(const char *path, bool listen, struct net **out,
                      struct error *err) HV_MUST_CHECK;

/* User-mode networking: passt as a child process, which needs no privilege. `forwards`: passt's -t
 * and -u arguments; NULL-terminated. What passt says goes to `log` (borrowed, outlives; may be
 * NULL) while the network is watched, and that it has ended. */
int net_user_create(const char *const *forwards, const struct log *log, struct net **out,
                    struct error *err) HV_MUST_CHECK;

/* A cable that leads nowhere: all is sent, nothing comes. */
int net_nowhere_create(struct net **out) HV_MUST_CHECK;

/* Two ends of one wire, in memory. */
int net_pair_create(struct net **a, struct net **b) HV_MUST_CHECK;

/* Copies every frame of an interface with these queues to a pcap file. nets[0 … queues - 1] are
 * taken over and replaced; if it fails they are as they were. */
int net_pcap_create(struct net **nets, unsigned queues, const char *path,
                    struct error *err) HV_MUST_CHECK;

#endif
