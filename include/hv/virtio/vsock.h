/*
 * The socket device (VIRTIO 1.2 §5.10): streams between programs in the guest and programs on the
 * host, without a network. The guest sees sockets of the family AF_VSOCK, the host UNIX sockets,
 * which are named after one path the way Firecracker names them:
 *
 *   - A host program connects to PATH and writes "CONNECT 5000\n". If a guest program listens at
 *     port 5000, the answer is "OK 1073741824\n", with the port that the guest sees the program at,
 *     and what follows is the stream. Else the socket is closed.
 *   - A guest program that connects to port 5000 of the host, whose context id (CID) is 2, reaches
 *     whoever listens at PATH_5000. If nobody does, the connection is refused.
 *
 * Both directions are flow controlled: a program that does not read makes its peer wait, and costs
 * hv at most VIRTIO_VSOCK_BUFFER bytes. Each direction can end by itself, as with shutdown(2).
 *
 * What the guest has sent reaches the host program even if the guest closes, or resets the device,
 * before the program reads it. A program that has sent more than the guest wants to know finds its
 * connection reset, once it has read everything.
 *
 * Connections do not survive the saving and loading of a machine: the guest is told that all are
 * gone (§5.10.6.7).
 */
#ifndef HV_VIRTIO_VSOCK_H
#define HV_VIRTIO_VSOCK_H

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/mem/mem.h"
#include "hv/virtio/virtio.h"

#define VIRTIO_VSOCK_CONNECTIONS 256             /* at a time; further ones are refused */
#define VIRTIO_VSOCK_BUFFER (UINT32_C(64) << 10) /* bytes that wait for a host program */
#define VIRTIO_VSOCK_CID_MIN 3                   /* §5.10.4: those below are taken … */
#define VIRTIO_VSOCK_CID_MAX 0xfffffffe          /* … and so is the one above */

struct virtio_vsock_setup {
    const struct mem *mem; /* borrowed, outlives the device */
    struct loop *loop;     /* borrowed likewise: an I/O thread's, not the main thread's */
    uint64_t cid;          /* the guest's */
    const char *path;      /* of the listener; copied */
    int listener;          /* from virtio_vsock_listen(); taken over once the device is there */
};

struct virtio_vsock_stats {
    unsigned connections; /* now, those that are coming and going included */
    uint64_t opened;      /* since the device was made, as all that follow */
    uint64_t refused;     /* by the guest, by the host, or for want of something */
    uint64_t broken;      /* reset because the guest's driver broke the rules */
    uint64_t dropped;     /* packets that were malformed, or not for us */
};

/* As listen_unix(), for a path that has room for ports behind it; -ENAMETOOLONG otherwise. A
 * listener that no device took goes back to unlisten_unix(). */
int virtio_vsock_listen(const char *path, int *out, struct error *err) HV_MUST_CHECK;

/* -EINVAL: the CID is none for a guest. -ENAMETOOLONG, -ENOMEM, -EMFILE. */
int virtio_vsock_create(const char *name, const struct virtio_vsock_setup *setup,
                        struct virtio_dev **out) HV_MUST_CHECK;

/* Any thread. */
void virtio_vsock_stats(const struct virtio_dev *v, struct virtio_vsock_stats *out);

#endif
