/*
 * Any driver of the network device, and any peer. The first byte of the input chooses the wire:
 * one that carries headers and offloads, or a stream of plain frames, and how many queues there
 * are.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>

#include "fuzz/virtio_harness.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/virtio/net.h"
#include "net/net_priv.h"

#define HEADER sizeof(struct virtio_net_hdr_v1)
#define FRAME_ROOM (HEADER + NET_FRAME_MAX + 64)
#define PAIRS_MAX 2

static const uint8_t mac[VIRTIO_NET_MAC] = {0x52, 0x54, 0, 1, 2, 3};

struct wire {
    struct net *ours; /* the device's end */
    struct net *peer;
};

struct network {
    uint8_t how;
    unsigned pairs;
    struct wire wires[2][PAIRS_MAX]; /* of device 0 and of device 1 */
    const struct wire *probed;       /* the one on which a frame is awaited, or NULL */
    uint8_t frame[FRAME_ROOM];
};

static bool is_plain(const struct network *n)
{
    return n->how & 1;
}

static bool has_limits(const struct network *n)
{
    return n->how & 8;
}

static void make_wire(const struct network *n, struct wire *w)
{
    int fds[2];

    if (!is_plain(n)) {
        fuzz_check(net_pair_create(&w->ours, &w->peer) == 0);
        return;
    }
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    fuzz_check(net_stream_adopt(fds[0], &w->ours) == 0);
    fuzz_check(net_stream_adopt(fds[1], &w->peer) == 0);
}

static int create(void *ctx, unsigned which, const struct mem *mem, struct loop *loop,
                  struct virtio_dev **out)
{
    struct network *n = ctx;
    struct virtio_net_pair pairs[PAIRS_MAX];
    struct virtio_net_setup setup = {.mem = mem, .pairs = pairs, .pair_count = n->pairs};

    for (unsigned i = 0; i < n->pairs; i++) {
        make_wire(n, &n->wires[which][i]);
        pairs[i] = (struct virtio_net_pair){n->wires[which][i].ours, loop};
    }
    memcpy(setup.mac, mac, sizeof(mac));
    setup.mtu = n->how & 4 ? 9000 : 0;
    return virtio_net_create("net", &setup, out);
}

static void destroyed(void *ctx, unsigned which)
{
    struct network *n = ctx;

    for (unsigned i = 0; i < n->pairs; i++) {
        net_destroy(n->wires[which][i].ours);
        net_destroy(n->wires[which][i].peer);
    }
    n->probed = NULL;
}

/* --- what the guest sends --- */

static void put_command(struct fuzz_input *in, uint8_t *bytes, uint32_t len)
{
    static const uint8_t commands[][2] = {
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC},
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET},
    };
    uint8_t what = fuzz_u8(in);

    if (len < 2)
        return;
    memcpy(bytes, commands[what % ARRAY_LEN(commands)], 2);
    for (uint32_t i = 2; i < len && i < 16; i++)
        bytes[i] = fuzz_u8(in);
    if (what >= 0xf0)
        bytes[what % 2] = fuzz_u8(in);
}

/* Of a frame of FRAME bytes, whose end its checksum may miss by little. */
static void put_header(struct fuzz_input *in, struct virtio_net_hdr_v1 *h, size_t frame)
{
    uint8_t what = fuzz_u8(in);

    *h = (struct virtio_net_hdr_v1){0};
    if (what & 1)
        h->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    if (what & 2)
        h->gso_type = what & 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
    if (what & 8) {
        h->csum_start = htole16(fuzz_u8(in));
        h->csum_offset = htole16(16);
        h->gso_size = htole16((uint16_t)(fuzz_u8(in) * 8));
        h->hdr_len = htole16(fuzz_u8(in));
    }
    if (what & 0x10)
        h->csum_start = htole16((uint16_t)(frame - 20 + fuzz_u8(in) % 6));
    if (what >= 0xf0)
        for (unsigned i = 0; i < sizeof(*h); i++)
            ((uint8_t *)h)[i] = fuzz_u8(in);
}

static void put_addresses(struct fuzz_input *in, uint8_t *frame)
{
    uint8_t what = fuzz_u8(in);

    if (what % 4 == 0)
        memset(frame, 0xff, VIRTIO_NET_MAC);
    else if (what % 4 == 1)
        memcpy(frame, mac, VIRTIO_NET_MAC);
    else
        frame[0] = what;
}

static void request(void *ctx, unsigned queue, struct fuzz_input *in, uint8_t *bytes, uint32_t len)
{
    const struct network *n = ctx;
    struct virtio_net_hdr_v1 h;

    if (queue == 2 * n->pairs || queue == 2) { /* or what a driver without MQ takes for it */
        put_command(in, bytes, len);
        return;
    }
    put_header(in, &h, len < HEADER ? 0 : len - HEADER);
    memcpy(bytes, &h, len < HEADER ? len : HEADER);
    if (len >= HEADER + NET_FRAME_MIN)
        put_addresses(in, bytes + HEADER);
}

/* --- the peer --- */

/* What leaves the device must be whole, and ask only for what can be done. */
static void check_frame(const struct network *n, const uint8_t *frame, size_t size)
{
    struct virtio_net_hdr_v1 h;
    size_t header = is_plain(n) ? 0 : HEADER;

    fuzz_check(size >= header + NET_FRAME_MIN && size <= header + NET_FRAME_MAX);
    if (is_plain(n))
        return;
    memcpy(&h, frame, sizeof(h));
    if (h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        fuzz_check(le16toh(h.csum_start) + le16toh(h.csum_offset) + 2U <= size - HEADER);
    if (h.gso_type != VIRTIO_NET_HDR_GSO_NONE)
        fuzz_check(h.gso_size != 0 && (h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM));
}

static void drain(struct network *n, const struct wire *w)
{
    const struct iovec iov = {n->frame, sizeof(n->frame)};
    ssize_t got;

    while ((got = net_receive(w->peer, &iov, 1)) >= 0)
        check_frame(n, n->frame, (size_t)got);
}

static void send_frame(struct network *n, const struct wire *w, size_t size)
{
    const struct iovec iov = {n->frame, size};

    (void)net_send(w->peer, &iov, 1); /* the wire may be full */
}

/* A frame of the peer's, of any length, addressed to somebody. */
static void send_any(struct network *n, const struct wire *w, struct fuzz_input *in)
{
    static const size_t sizes[] = {1, 2, 11, 12, 13, 14, 25, 26, 60, 64, 512, 1514, 2048, 9014};
    uint8_t what = fuzz_u8(in);
    size_t size = what < 224 ? sizes[what % ARRAY_LEN(sizes)]
                             : 1 + (size_t)fuzz_u64(in, 3) % (FRAME_ROOM - 1);
    struct virtio_net_hdr_v1 h;

    memset(n->frame, what, size);
    if (!is_plain(n)) {
        put_header(in, &h, size < HEADER ? 0 : size - HEADER);
        memcpy(n->frame, &h, sizeof(h));
    }
    put_addresses(in, n->frame + (is_plain(n) ? 0 : HEADER));
    for (unsigned i = 0; i < 1U + (what & 0x10); i++)
        send_frame(n, w, size);
}

static void event(void *ctx, unsigned which, struct virtio_dev *v, struct fuzz_input *in)
{
    struct network *n = ctx;
    uint8_t what = fuzz_u8(in);
    const struct wire *w = &n->wires[which][what >> 7 ? n->pairs - 1 : 0];
    const struct virtio_net_limits limits = {.packets = what & 8 ? 10 : 0,
                                             .bytes = what & 16 ? 1000 : 0};

    switch (what % 8) {
    case 0:
        drain(n, w);
        break;
    case 1:
        virtio_net_set_link(v, what & 8);
        break;
    case 2:
        if (has_limits(n))
            virtio_net_limit(v, &limits);
        break;
    default:
        send_any(n, w, in);
        break;
    }
}

/* A frame for everybody to receive. What was sent before may be half on its way: so again and
 * again. */
static void release(void *ctx)
{
    struct network *n = ctx;
    size_t header = is_plain(n) ? 0 : HEADER;

    if (n->probed == NULL)
        return;
    drain(n, n->probed);
    memset(n->frame, 0, header);
    memset(n->frame + header, 0xff, 60);
    send_frame(n, n->probed, header + 60);
}

static void before_probe(void *ctx, unsigned which, struct virtio_dev *v)
{
    struct network *n = ctx;

    virtio_net_limit(v, &(struct virtio_net_limits){0});
    virtio_net_set_link(v, true);
    n->probed = &n->wires[which][0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct network n;
    struct vfuzz_target target = {
        .create = create,
        .destroyed = destroyed,
        .request = request,
        .event = event,
        .release = release,
        .before_probe = before_probe,
        .ctx = &n,
        .probe =
            {
                {.queue = 1, .out_len = HEADER + 32},
                {.queue = 0, .in_len = 2048, .written = HEADER + NET_FRAME_MIN},
                {.out_len = 3, .in_len = 1, .written = 1},
            },
    };

    if (size == 0)
        return 0;
    n.how = data[0];
    n.probed = NULL;
    n.pairs = n.how & 2 ? PAIRS_MAX : 1;
    target.probe[2].queue = 2 * n.pairs;
    target.mutes = has_limits(&n) ? UINT64_MAX : 0; /* a limit's timer comes back on its own */
    vfuzz_run(&target, data + 1, size - 1);
    return 0;
}
