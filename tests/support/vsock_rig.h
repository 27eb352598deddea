/*
 * A socket device between a guest's driver and host programs, both of them the test's own.
 */
#ifndef SUPPORT_VSOCK_RIG_H
#define SUPPORT_VSOCK_RIG_H

#include <linux/virtio_vsock.h>

#include "hv/virtio/vsock.h"
#include "support/tmp.h"
#include "support/virtio_rig.h"

#define VSOCK_CID 7
#define VSOCK_ALLOC 0x40000 /* bytes that the guest says it has room for */

struct vsock_rig {
    struct virtio_rig rig;
    struct tmp_dir tmp;
    char path[128];            /* of the device's listener */
    unsigned offered, taken;   /* receive buffers so far */
    uint32_t buffer;           /* bytes of each, header included */
    uint32_t alloc, forwarded; /* what the guest says of itself in each packet */
};

/* The next packet for the guest; its payload stays where it is until the buffer is offered again.
 */
struct vsock_got {
    struct virtio_vsock_hdr h;
    const uint8_t *data;
};

/* A started device, and no receive buffers yet. */
void vsock_rig_init(struct vsock_rig *r);
void vsock_rig_fini(struct vsock_rig *r);

/* The device's driver begins anew, as after a reset. */
void vsock_rig_start(struct vsock_rig *r);

/* --- the guest --- */

void vsock_offer(struct vsock_rig *r, unsigned count); /* receive buffers of r->buffer bytes */

/* A packet from the guest's port to the host's, and any header at all. */
void vsock_send(struct vsock_rig *r, unsigned op, uint32_t from, uint32_t to, const void *data,
                uint32_t len);
void vsock_send_flags(struct vsock_rig *r, unsigned op, uint32_t from, uint32_t to, uint32_t flags);
struct virtio_vsock_hdr vsock_make(const struct vsock_rig *r, unsigned op, uint32_t from,
                                   uint32_t to, uint32_t len);
void vsock_send_header(struct vsock_rig *r, const struct virtio_vsock_hdr *h, const void *data,
                       uint32_t len);

/* False: none has come. */
bool vsock_receive_any(struct vsock_rig *r, struct vsock_got *out);
/* Asserts that one has come, and that it is so. */
struct vsock_got vsock_expect(struct vsock_rig *r, unsigned op);
void vsock_expect_nothing(struct vsock_rig *r);

struct virtio_vsock_stats vsock_rig_stats(const struct vsock_rig *r);

/* --- the host --- */

int vsock_serve_port(struct vsock_rig *r, uint32_t port); /* a listener at PATH_port */
int vsock_call(struct vsock_rig *r);                      /* connected to PATH */
void vsock_say(int fd, const char *text);
void vsock_hear(int fd, const char *text); /* asserts that this is there, and no more */
bool vsock_has_ended(int fd);              /* reads the end, or a reset */

/* --- both --- */

/* A connection that the guest has begun; returns the host's end. */
int vsock_connect_out(struct vsock_rig *r, uint32_t from, uint32_t port);
/* One that the host has begun; *host_port is what the guest knows it by. */
int vsock_connect_in(struct vsock_rig *r, uint32_t port, uint32_t *host_port);

#endif
