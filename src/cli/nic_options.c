/*
 * --net KIND[,PART…].
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/device_options.h"
#include "cli/props.h"
#include "hv/base/num.h"
#include "hv/net/net.h"

#define MULTICAST 0x01 /* in an address's first byte */

static int set_mac(void *ctx, const char *value, struct error *err)
{
    struct nic_options *n = ctx;
    unsigned b[6];
    int end = 0;

    if (value == NULL ||
        sscanf(value, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &end) != 6 ||
        value[end] != '\0')
        return error_set(err, -EINVAL, "give an address such as 02:00:00:00:00:01");
    if (b[0] & MULTICAST)
        return error_set(err, -EINVAL, "its first byte must be even: this is a multicast address");
    for (unsigned i = 0; i < ARRAY_LEN(b); i++)
        n->mac[i] = (uint8_t)b[i];
    n->mac_given = true;
    return 0;
}

/* PORT, HOST:GUEST, tcp:… or udp:… becomes two arguments of passt's. */
static int set_forward(void *ctx, const char *value, struct error *err)
{
    struct nic_options *n = ctx;
    const char *ports;
    int rc = prop_text(value, &ports, err);

    if (rc < 0)
        return rc;
    bool udp = strncmp(ports, "udp:", 4) == 0;
    if (udp || strncmp(ports, "tcp:", 4) == 0)
        ports += 4;
    if (*ports == '\0' || strspn(ports, "0123456789:,-") != strlen(ports))
        return error_set(err, -EINVAL, "give PORT or HOST:GUEST, with udp: before it for UDP");
    if (n->forward_count + 2 >= NIC_FORWARDS_MAX)
        return error_set(err, -EINVAL, "that is one too many: ranges such as 8000-8009 are one");
    n->forwards[n->forward_count++] = udp ? "--udp-ports" : "--tcp-ports";
    n->forwards[n->forward_count++] = ports;
    return 0;
}

static int set_pcap(void *ctx, const char *value, struct error *err)
{
    return prop_text(value, &((struct nic_options *)ctx)->pcap, err);
}

static int set_queues(void *ctx, const char *value, struct error *err)
{
    uint64_t n;
    int rc = prop_number(value, 1, NET_QUEUES_MAX, &n, err);

    if (rc == 0)
        ((struct nic_options *)ctx)->queues = (unsigned)n;
    return rc;
}

static int set_packets(void *ctx, const char *value, struct error *err)
{
    return prop_number(value, 0, UINT32_MAX, &((struct nic_options *)ctx)->packets, err);
}

static int set_rate(void *ctx, const char *value, struct error *err)
{
    return prop_size(value, &((struct nic_options *)ctx)->rate, err);
}

static int set_event_idx(void *ctx, const char *value, struct error *err)
{
    return prop_on_off(value, &((struct nic_options *)ctx)->event_idx, err);
}

static const struct prop_rule rules[] = {
    {"mac", "mac=ADDRESS", set_mac},
    {"forward", "forward=PORTS…", set_forward},
    {"queues", "queues=N", set_queues},
    {"pcap", "pcap=FILE", set_pcap},
    {"pps", "pps=N", set_packets},
    {"bps", "bps=SIZE", set_rate},
    {"event-idx", "event-idx=on|off", set_event_idx},
    {0},
};

/* "tap=IF": what it is, and where. */
static int parse_kind(struct nic_options *n, const char *text, struct error *err)
{
    static const struct {
        const char *name;
        enum nic_kind kind;
    } kinds[] = {{"tap=", NIC_TAP}, {"stream=", NIC_STREAM}, {"listen=", NIC_LISTEN}};

    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t len = strlen(kinds[i].name);
        if (strncmp(text, kinds[i].name, len) == 0 && text[len] != '\0') {
            n->kind = kinds[i].kind;
            n->where = text + len;
            return 0;
        }
    }
    if (strcmp(text, "user") == 0 || strcmp(text, "none") == 0) {
        n->kind = strcmp(text, "user") == 0 ? NIC_USER : NIC_NONE;
        return 0;
    }
    return error_set(err, -EINVAL,
                     "begin with user, tap=INTERFACE, stream=PATH, listen=PATH or none");
}

int nic_options_parse(const char *value, struct nic_options *out, struct error *err)
{
    const char *first;

    *out = (struct nic_options){.kind = NIC_NONE, .queues = 1, .event_idx = true};
    int rc = props_parse(value, rules, out, &first, &out->text, err);
    if (rc < 0)
        return rc;
    rc = parse_kind(out, first, err);
    if (rc == 0 && out->forward_count > 0 && out->kind != NIC_USER)
        rc = error_set(err, -EINVAL, "forward: only user forwards ports");
    if (rc == 0 && out->queues > 1 && out->kind != NIC_TAP)
        rc = error_set(err, -EINVAL, "queues: only tap=INTERFACE has several");
    if (rc < 0)
        nic_options_fini(out);
    return rc;
}

void nic_options_fini(struct nic_options *n)
{
    free(n->text);
    n->text = NULL;
}
