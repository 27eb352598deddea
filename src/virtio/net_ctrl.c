/*
 * The control queue, VIRTIO 1.2 §5.1.6.5: which frames the guest wants, and how many queues it
 * uses.
 *
 * A command is a class, a number and its data; the answer is one byte. What is unknown or malformed
 * is answered with an error and changes nothing.
 */
#include <endian.h>
#include <string.h>

#include "virtio/net_priv.h"

#define CTRL_PIECES 64
#define MULTICAST 1 /* in an address's first byte; broadcast has it, too */

/* --- the filter --- */

void net_filter_reset(struct net_filter *f, const uint8_t mac[VIRTIO_NET_MAC])
{
    memset(f, 0, sizeof(*f));
    memcpy(f->mac, mac, VIRTIO_NET_MAC);
    f->all_multicast = true; /* until a driver says what it wants */
}

static bool is_in_table(const struct net_filter *f, const uint8_t to[VIRTIO_NET_MAC])
{
    for (unsigned i = 0; i < f->count; i++)
        if (memcmp(f->macs[i], to, VIRTIO_NET_MAC) == 0)
            return true;
    return false;
}

static bool wants(const struct net_filter *f, const uint8_t to[VIRTIO_NET_MAC])
{
    static const uint8_t broadcast[VIRTIO_NET_MAC] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    if (f->promiscuous || f->count > NET_MACS_MAX)
        return true;
    if (to[0] & MULTICAST)
        return f->all_multicast || memcmp(to, broadcast, sizeof(broadcast)) == 0 ||
               is_in_table(f, to);
    return memcmp(to, f->mac, VIRTIO_NET_MAC) == 0 || is_in_table(f, to);
}

bool net_filter_wants(struct net_device *d, const uint8_t to[VIRTIO_NET_MAC])
{
    pthread_mutex_lock(&d->filter_lock);
    bool yes = wants(&d->filter, to);
    pthread_mutex_unlock(&d->filter_lock);
    return yes;
}

/* --- commands: the data begins at `at`; true: it was done --- */

static bool set_rx_mode(struct net_device *d, uint8_t command, const struct vq_chain *c,
                        uint64_t at)
{
    uint8_t on;

    if (vq_chain_read(c, at, &on, 1) != 1)
        return false;
    pthread_mutex_lock(&d->filter_lock);
    bool known = command == VIRTIO_NET_CTRL_RX_PROMISC || command == VIRTIO_NET_CTRL_RX_ALLMULTI;
    if (command == VIRTIO_NET_CTRL_RX_PROMISC)
        d->filter.promiscuous = on;
    if (command == VIRTIO_NET_CTRL_RX_ALLMULTI)
        d->filter.all_multicast = on;
    pthread_mutex_unlock(&d->filter_lock);
    return known;
}

/* One of the two tables, unicast and multicast; we keep them together. Returns the place behind it,
 * 0 if the chain ends before. */
static uint64_t read_table(const struct vq_chain *c, uint64_t at, struct net_filter *f)
{
    uint32_t entries;

    if (vq_chain_read(c, at, &entries, sizeof(entries)) != sizeof(entries))
        return 0;
    at += sizeof(entries);
    entries = le32toh(entries);
    if (entries > (c->out_size - at) / VIRTIO_NET_MAC)
        return 0;
    for (uint32_t i = 0; i < entries && f->count <= NET_MACS_MAX; i++) {
        if (f->count < NET_MACS_MAX)
            (void)vq_chain_read(c, at + (uint64_t)i * VIRTIO_NET_MAC, f->macs[f->count],
                                VIRTIO_NET_MAC); /* there are as many: see above */
        f->count++;
    }
    return at + (uint64_t)entries * VIRTIO_NET_MAC;
}

static bool set_mac_tables(struct net_device *d, const struct vq_chain *c, uint64_t at)
{
    struct net_filter read = {0};

    at = read_table(c, at, &read);
    if (at == 0 || read_table(c, at, &read) == 0)
        return false;
    pthread_mutex_lock(&d->filter_lock);
    d->filter.count = read.count;
    memcpy(d->filter.macs, read.macs, sizeof(read.macs));
    pthread_mutex_unlock(&d->filter_lock);
    return true;
}

static bool set_mac(struct net_device *d, const struct vq_chain *c, uint64_t at)
{
    uint8_t mac[VIRTIO_NET_MAC];

    if (vq_chain_read(c, at, mac, sizeof(mac)) != sizeof(mac) || (mac[0] & MULTICAST))
        return false;
    pthread_mutex_lock(&d->filter_lock);
    memcpy(d->filter.mac, mac, sizeof(mac));
    pthread_mutex_unlock(&d->filter_lock);
    return true;
}

/* §5.1.6.5.5 */
static bool set_pairs(struct net_device *d, const struct vq_chain *c, uint64_t at)
{
    uint16_t pairs;

    if (!virtio_has(&d->v, VIRTIO_NET_F_MQ) ||
        vq_chain_read(c, at, &pairs, sizeof(pairs)) != sizeof(pairs))
        return false;
    pairs = le16toh(pairs);
    return pairs >= VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN && pairs <= d->pair_count &&
           net_use_pairs(d, pairs) == 0;
}

static bool obey(struct net_device *d, const struct vq_chain *c)
{
    struct virtio_net_ctrl_hdr h;
    const uint64_t at = sizeof(h);

    if (vq_chain_read(c, 0, &h, sizeof(h)) != sizeof(h))
        return false;
    if (h.class == VIRTIO_NET_CTRL_RX)
        return set_rx_mode(d, h.cmd, c, at);
    if (h.class == VIRTIO_NET_CTRL_MAC && h.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
        return set_mac_tables(d, c, at);
    if (h.class == VIRTIO_NET_CTRL_MAC && h.cmd == VIRTIO_NET_CTRL_MAC_ADDR_SET)
        return set_mac(d, c, at);
    if (h.class == VIRTIO_NET_CTRL_MQ && h.cmd == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET)
        return set_pairs(d, c, at);
    return false;
}

void net_ctrl_serve(struct net_device *d, struct virtio_queue *q)
{
    struct iovec iov[CTRL_PIECES];
    struct vq_chain chain = {.iov = iov, .iov_max = CTRL_PIECES};

    do {
        vq_mute(&q->vq);
        while (vq_pop(&q->vq, &chain) > 0) {
            uint8_t ack = obey(d, &chain) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
            vq_push(&q->vq, &chain, (uint32_t)vq_chain_write(&chain, 0, &ack, sizeof(ack)));
        }
    } while (vq_unmute(&q->vq));
    virtio_publish(q);
}
