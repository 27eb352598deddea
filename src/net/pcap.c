/*
 * Copies what passes to a file that tcpdump and Wireshark read (pcap, with nanoseconds).
 *
 * The guest must not be able to fill the host's disk: the file ends at FILE_MAX.
 *
 * The queues of an interface write to one file, from threads of their own: a record is appended
 * with one system call, which Linux does not interleave with another's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/net/net.h"

#define FILE_MAX (1024 * MIB)
#define MAGIC_NS 0xa1b23c4d
#define LINKTYPE_ETHERNET 1
#define PIECES 1024

struct file_header {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t zone, accuracy;
    uint32_t snaplen, linktype;
};

struct frame_header {
    uint32_t seconds, ns;
    uint32_t stored, length;
};

struct pcap {
    struct net net;
    struct net *under;             /* owned */
    int fd;                        /* owned */
    unsigned header;               /* bytes before each frame, which the file does not get */
    uint64_t written, written_max; /* by this queue */
};

static struct pcap *pcap_of(struct net *n)
{
    return container_of(n, struct pcap, net);
}

/* Whatever goes wrong with the file, the frames go on. */
static void record(struct pcap *p, const struct iovec *iov, unsigned count, size_t size)
{
    struct iovec all[PIECES];
    struct timespec now;
    size_t skip = p->header, left;
    unsigned used = 1;

    if (size < skip || count >= PIECES || p->written > p->written_max)
        return;
    left = size - skip;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    struct frame_header h = {(uint32_t)now.tv_sec, (uint32_t)now.tv_nsec, (uint32_t)left,
                             (uint32_t)left};
    all[0] = (struct iovec){&h, sizeof(h)};
    for (unsigned i = 0; i < count && left > 0; i++) {
        size_t drop = skip < iov[i].iov_len ? skip : iov[i].iov_len;
        size_t here = iov[i].iov_len - drop < left ? iov[i].iov_len - drop : left;
        all[used++] = (struct iovec){(uint8_t *)iov[i].iov_base + drop, here};
        skip -= drop;
        left -= here;
    }
    ssize_t n = writev(p->fd, all, (int)used);
    p->written = n < 0 ? p->written_max + 1 : p->written + (uint64_t)n; /* a full disk ends it */
}

static ssize_t pcap_send(struct net *n, const struct iovec *iov, unsigned count)
{
    struct pcap *p = pcap_of(n);
    ssize_t sent = net_send(p->under, iov, count);

    if (sent > 0)
        record(p, iov, count, (size_t)sent);
    return sent;
}

static ssize_t pcap_receive(struct net *n, const struct iovec *iov, unsigned count)
{
    struct pcap *p = pcap_of(n);
    ssize_t got = net_receive(p->under, iov, count);

    if (got > 0)
        record(p, iov, count, (size_t)got);
    return got;
}

static int pcap_watch(struct net *n, const struct net_watch *watch)
{
    return net_watch(pcap_of(n)->under, watch);
}

static void pcap_listen(struct net *n, bool readable, bool writable)
{
    net_listen(pcap_of(n)->under, readable, writable);
}

static int pcap_set_active(struct net *n, bool active)
{
    return net_set_active(pcap_of(n)->under, active);
}

static int pcap_set_offloads(struct net *n, unsigned header, unsigned offloads)
{
    struct pcap *p = pcap_of(n);
    int rc = net_set_offloads(p->under, header, offloads);

    if (rc == 0)
        p->header = header;
    return rc;
}

static void pcap_destroy(struct net *n)
{
    struct pcap *p = pcap_of(n);

    net_destroy(p->under);
    fd_close(&p->fd);
    free(p);
}

static const struct net_ops pcap_ops = {
    .send = pcap_send,
    .receive = pcap_receive,
    .watch = pcap_watch,
    .listen = pcap_listen,
    .set_offloads = pcap_set_offloads,
    .set_active = pcap_set_active,
    .destroy = pcap_destroy,
};

/* NULL: no memory, or no descriptor. */
static struct pcap *create(struct net *under, int fd, unsigned queues)
{
    struct pcap *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return NULL;
    p->net = (struct net){.ops = &pcap_ops, .offloads = under->offloads};
    p->under = under;
    p->written_max = FILE_MAX / queues;
    p->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (p->fd >= 0)
        return p;
    free(p);
    return NULL;
}

/* Puts one before each of the queues, or before none. */
static int put_before(struct net **nets, unsigned queues, int fd)
{
    struct pcap *made[NET_QUEUES_MAX];

    for (unsigned i = 0; i < queues; i++) {
        made[i] = create(nets[i], fd, queues);
        if (made[i] != NULL)
            continue;
        while (i-- > 0) {
            made[i]->under = NULL;
            pcap_destroy(&made[i]->net);
        }
        return -ENOMEM;
    }
    for (unsigned i = 0; i < queues; i++)
        nets[i] = &made[i]->net;
    return 0;
}

int net_pcap_create(struct net **nets, unsigned queues, const char *path, struct error *err)
{
    const struct file_header header = {.magic = MAGIC_NS,
                                       .major = 2,
                                       .minor = 4,
                                       .snaplen = 1 << 18,
                                       .linktype = LINKTYPE_ETHERNET};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    int rc = fd < 0 ? -errno : fd_write_full(fd, &header, sizeof(header));

    if (rc == 0)
        rc = put_before(nets, queues, fd);
    fd_close(&fd);
    return rc < 0 ? error_sys(err, rc, "cannot write %s", path) : 0;
}
