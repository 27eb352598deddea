/*
 * What the files of virtio-vsock share.
 *
 *     vsock.c          the device: queues, configuration, events, life and death
 *     vsock_packet.c   packets as the driver writes them, and as it reads them
 *     vsock_state.c    what becomes of a connection: by packets, by its program, by time
 *     vsock_conn.c     the connections: names, deadlines, who has something to send
 *     vsock_rx.c       packets for the guest
 *     vsock_unix.c     the host's side of a connection, a UNIX socket, and where programs come in
 *     vsock_buf.c      bytes that wait for a host program
 *
 * Threads: everything here runs on the thread of the device's loop, which is the only one to touch
 * connections and descriptors; so there is no lock. A vCPU that resets the device leaves word
 * (reset_due), and the loop's thread settles that before it does anything else.
 */
#ifndef VIRTIO_VSOCK_PRIV_H
#define VIRTIO_VSOCK_PRIV_H

#include <linux/virtio_vsock.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "hv/base/timer.h"
#include "hv/virtio/vsock.h"

#define VSOCK_HEADER sizeof(struct virtio_vsock_hdr)
#define VSOCK_PACKET_MAX (UINT32_C(64) << 10) /* bytes of payload that we send at once */
#define VSOCK_PIECES 64                       /* of a chain */
#define VSOCK_BUCKETS 64                      /* of connections by name */
#define VSOCK_RESETS_MAX 256                  /* RST packets for what is no connection */
#define VSOCK_BUDGET 64                       /* packets in one go: others use this thread, too */
#define VSOCK_SHUT_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)
#define VSOCK_PORT_FIRST UINT32_C(0x40000000) /* of the host's ports that we choose … */
#define VSOCK_PORT_LAST UINT32_C(0x7fffffff)  /* … and the last one */
#define VSOCK_SUFFIX_MAX 11                   /* characters of "_4294967295" */

enum vsock_queue { VSOCK_RX, VSOCK_TX, VSOCK_EVENT, VSOCK_QUEUES };

/* --- packets, §5.10.6 --- */

/* One that is not of these has op 0, VIRTIO_VSOCK_OP_INVALID. */
#define VSOCK_OPS (VIRTIO_VSOCK_OP_CREDIT_REQUEST + 1)

/* A header in the host's byte order, without the CIDs: there are but two. */
struct vsock_packet {
    uint32_t guest_port, host_port;
    uint16_t type, op;
    uint32_t len, flags;
    uint32_t buf_alloc, fwd_cnt; /* the sender's: room in all, bytes that have left it */
};

/* Reads the header of a chain of the driver's, and cuts the chain to the payload. False: it is not
 * to be answered, being too short for a header, or not between this guest and the host. */
bool vsock_parse(struct vq_chain *chain, uint64_t cid, struct vsock_packet *out);

/* The header of a packet for the guest. */
struct virtio_vsock_hdr vsock_header(const struct vsock_packet *packet, uint64_t cid);

/* --- bytes that wait, at most VIRTIO_VSOCK_BUFFER; memory only while there are some --- */

struct vsock_buf {
    uint8_t *bytes;      /* owned; a ring */
    uint32_t first, len; /* where they begin, how many there are */
};

/* Appends the chain's readable bytes from OFFSET on; there is room. -ENOMEM. */
int vsock_buf_put(struct vsock_buf *b, const struct vq_chain *chain, uint64_t offset) HV_MUST_CHECK;
/* The bytes, oldest first, as one or two pieces; returns how many pieces. */
unsigned vsock_buf_pieces(const struct vsock_buf *b, struct iovec iov[2]);
void vsock_buf_drop(struct vsock_buf *b, uint32_t bytes); /* the oldest */

/* --- connections --- */

enum vsock_state {
    VSOCK_FREE,
    VSOCK_GREETING,  /* a host program has come; where it wants to go, it has not said */
    VSOCK_ASKED,     /* the guest is asked whether it takes the program */
    VSOCK_OPEN,      /* it may still be closed in one direction */
    VSOCK_CLOSING,   /* the guest was told that both directions are; it has the last word */
    VSOCK_ENDING,    /* the last word is ours, and not said yet */
    VSOCK_LINGERING, /* over for the guest; the program has not read everything */
    VSOCK_STATES
};

struct vsock;

struct vsock_conn {
    struct vsock *d;
    enum vsock_state state;
    uint64_t deadline; /* ns of now_ns(), when its state has lasted too long; 0: it may last */
    LIST_ENTRY(vsock_conn) same; /* free ones, or those of one bucket */
    bool is_named;               /* it is in a bucket */
    uint32_t guest_port, host_port;

    /* The host's side. */
    int fd;              /* owned; -1: the program is gone, or of no interest any more */
    bool is_readable;    /* the last read, if any, did not say that nothing is there */
    bool wants_room;     /* it is watched for room to write */
    struct vsock_buf in; /* from the guest, for the program */

    /* What the guest is owed: bits of 1 << op. */
    unsigned due;
    bool is_ready; /* something is, so it is in d->ready */
    TAILQ_ENTRY(vsock_conn) ready;

    /* Directions that are closed: VIRTIO_VSOCK_SHUTDOWN_…, as their owner sees it. */
    uint32_t guest_shut, host_shut;
    uint32_t told_shut; /* of host_shut, what the guest was told */

    /* Credit, §5.10.6.3. Counts of bytes, modulo 2^32. */
    uint32_t received, forwarded;          /* from the guest: to us, and on to the program */
    uint32_t told_forwarded;               /* what the guest knows of the latter */
    uint32_t sent;                         /* to the guest */
    uint32_t guest_alloc, guest_forwarded; /* as the guest said last */
    bool has_asked;                        /* for more; cleared when it comes */
};

LIST_HEAD(vsock_list, vsock_conn);
TAILQ_HEAD(vsock_fifo, vsock_conn);

struct vsock {
    struct virtio_dev v;
    uint64_t cid;
    struct loop *loop; /* borrowed */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path) - VSOCK_SUFFIX_MAX];
    int listener;                    /* owned */
    struct timer hear;               /* callers wait until then: there were no descriptors */
    int wake;                        /* eventfd: reset_due; owned */
    _Atomic bool reset_due;          /* all connections of the guest's are over; [any thread] */
    _Atomic bool event_due;          /* and it is to be told; [any thread] */
    struct timer clock;              /* for the first deadline */
    uint64_t clock_at;               /* what it is set to; 0: nothing */
    uint64_t patience[VSOCK_STATES]; /* ns that a state may last; 0: for ever */
    uint32_t next_port;              /* that we choose */
    struct vsock_list spare;
    struct vsock_list buckets[VSOCK_BUCKETS];
    struct vsock_fifo ready; /* those with something for the guest, whose turn is next first */
    struct vsock_packet resets[VSOCK_RESETS_MAX]; /* RSTs for what is no connection; a ring */
    unsigned reset_first, reset_count;
    bool tx_waits; /* for room in it */
    _Atomic unsigned connections;
    _Atomic uint64_t opened, refused, broken, dropped;
    struct vsock_conn conns[VIRTIO_VSOCK_CONNECTIONS];
};

static inline void vsock_count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed); /* a statistic */
}

/* vsock_conn.c */

/* A connection over fd (owned from here on, also on failure) in this state. NULL: there are too
 * many, or no memory. */
struct vsock_conn *vsock_conn_create(struct vsock *d, int fd, enum vsock_state state);
void vsock_conn_destroy(struct vsock_conn *c);
void vsock_name(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port);
void vsock_unname(struct vsock_conn *c);
struct vsock_conn *vsock_find(struct vsock *d, uint32_t guest_port, uint32_t host_port);
/* A port of the host's that no connection to this port of the guest's has. */
uint32_t vsock_choose_port(struct vsock *d, uint32_t guest_port);
/* Changes the state, or begins the same one anew: its time runs from here. */
void vsock_enter(struct vsock_conn *c, enum vsock_state state);
/* Has something for the guest, or no longer. */
void vsock_owe(struct vsock_conn *c, unsigned op);
void vsock_disown(struct vsock_conn *c, unsigned op);
/* A RST for a packet that belongs to no connection. There is room. */
void vsock_refuse(struct vsock *d, const struct vsock_packet *packet);
void vsock_on_clock(void *ctx);

/* vsock_state.c */

/* A packet has come; `payload`: its readable bytes. */
void vsock_receive(struct vsock *d, const struct vsock_packet *packet, struct vq_chain *payload);
/* A packet of this connection went to the guest. Who it was may be gone afterwards. */
void vsock_sent(struct vsock_conn *c, unsigned op);
/* The program wants to go to this port of the guest's. */
void vsock_ask(struct vsock_conn *c, uint32_t guest_port);
/* The program closes these directions. */
void vsock_host_shuts(struct vsock_conn *c, uint32_t directions);
/* The program reads no more: it is gone, or will not. */
void vsock_host_gone(struct vsock_conn *c);
/* All that waited for the program is with it. */
void vsock_drained(struct vsock_conn *c);
/* Owes the guest data, or a question for credit, if the program has something to read. */
void vsock_offer_data(struct vsock_conn *c);
/* Tells the guest of room once there is much that it does not know of. */
void vsock_offer_credit(struct vsock_conn *c);
/* The state has lasted too long. */
void vsock_expire(struct vsock_conn *c);
/* For the guest it is over. */
void vsock_over(struct vsock_conn *c);
/* Bytes that the guest can take. */
uint32_t vsock_credit(const struct vsock_conn *c);

/* vsock_unix.c */

int vsock_listen_on(struct vsock *d) HV_MUST_CHECK; /* begins to take callers */
void vsock_on_hear(void *ctx);
/* A socket connected to whoever serves this port on the host, or -errno. */
int vsock_dial(const struct vsock *d, uint32_t port) HV_MUST_CHECK;
int vsock_watch(struct vsock_conn *c) HV_MUST_CHECK;
void vsock_hang_up(struct vsock_conn *c); /* closes the socket, forgets what waits for it */
/* Passes on what directions the guest has closed: SEND when nothing waits for the program. */
void vsock_shut(struct vsock_conn *c);
/* "OK <port>\n". -EPIPE: the program is gone. */
int vsock_greet(struct vsock_conn *c) HV_MUST_CHECK;
/* Bytes that the program has sent, as readv(). 0: there will be no more. -EAGAIN: not now. */
ssize_t vsock_take(struct vsock_conn *c, const struct iovec *iov, unsigned count);
/* Bytes for the program, which reads them now or later: within the credit, so there is room.
 * -EPIPE: it will not; -ENOMEM. */
int vsock_give(struct vsock_conn *c, const struct vq_chain *payload) HV_MUST_CHECK;

/* vsock_rx.c */
void vsock_rx_pump(struct vsock *d, struct virtio_queue *q);

/* vsock.c: does what a reset left to do. True: it was due, and connections may be gone. */
bool vsock_settle(struct vsock *d);

#endif
