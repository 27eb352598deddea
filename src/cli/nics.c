/*
 * The networks of a session: opened once, whatever machines come and go.
 */
#include <errno.h>
#include <sys/random.h>

#include "cli/session.h"
#include "hv/net/net.h"

/* Locally administered, one station's (IEEE 802 §8.2). Two machines on one network must differ, and
 * know nothing of each other: chance does it. */
static int draw_address(uint8_t *mac, struct error *err)
{
    if (getrandom(mac, 6, 0) != 6)
        return error_sys(err, -EIO, "no random numbers for an address");
    mac[0] = 0x02;
    return 0;
}

static int open_nowhere(struct net **out, struct error *err)
{
    int rc = net_nowhere_create(out);

    return rc < 0 ? error_sys(err, rc, "cannot make a cable") : 0;
}

/* All of its queues. */
static int open_nic(struct session *s, unsigned index, struct net **out, struct error *err)
{
    const struct nic_options *n = &s->opt.nics[index];

    switch (n->kind) {
    case NIC_USER:
        return net_user_create(n->forwards, &s->log, out, err);
    case NIC_TAP:
        return net_tap_create(n->where, n->queues, out, err);
    case NIC_STREAM:
    case NIC_LISTEN:
        return net_stream_create(n->where, n->kind == NIC_LISTEN, out, err);
    case NIC_NONE:
        return open_nowhere(out, err);
    }
    return error_set(err, -EINVAL, "no such network");
}

int open_nics(struct session *s, struct error *err)
{
    for (unsigned i = 0; i < s->opt.nic_count; i++) {
        struct nic_options *n = &s->opt.nics[i];
        int rc = n->mac_given ? 0 : draw_address(n->mac, err);

        if (rc == 0)
            rc = open_nic(s, i, s->nics[i], err);
        if (rc == 0 && n->pcap != NULL)
            rc = net_pcap_create(s->nics[i], n->queues, n->pcap, err);
        if (rc < 0)
            return error_prefix(err, rc, "--net %s", n->text);
    }
    return 0;
}

void close_nics(struct session *s)
{
    for (unsigned i = 0; i < s->opt.nic_count; i++)
        for (unsigned j = 0; j < NET_QUEUES_MAX; j++)
            net_destroy(s->nics[i][j]);
}
