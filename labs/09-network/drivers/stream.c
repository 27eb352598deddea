/*
 * A stream with a peer of ours at the other end, as a script says; nobody watches.
 *
 *   open                a pair of sockets, one of them the stream's
 *   feed HEX            the peer writes
 *   zeros COUNT         … so many bytes of 0
 *   hangup              the peer goes
 *   receive ROOM…       net_receive() into pieces of so many bytes
 *   send HEX            net_send() of one frame
 *   drain               what the peer has got
 */
#include <sys/socket.h>

#include "hv/net/net.h"
#include "net/net_priv.h"
#include "script.h"

#define PIECES_MAX 16
#define PIECE_MAX 70000
#define BEHIND 16 /* bytes after each piece that nobody may touch */

static struct net *net;
static int peer = -1;
static uint8_t pieces[PIECES_MAX][PIECE_MAX + BEHIND];
static uint8_t all[PIECES_MAX * 1024 + PIECE_MAX];

static void do_open(void)
{
    int fds[2];
    const int room = 4 << 20;

    net_destroy(net);
    net = NULL;
    if (peer >= 0)
        (void)close(peer);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        abort();
    (void)setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    peer = fds[1];
    report_int("rc", net_stream_adopt(fds[0], &net));
}

static void feed(const void *data, size_t size)
{
    report_int("fed", send(peer, data, size, MSG_DONTWAIT | MSG_NOSIGNAL));
}

static void do_receive(char *rest)
{
    struct iovec iov[PIECES_MAX];
    unsigned count = 0;
    bool beyond = false;
    size_t taken = 0;

    while (rest != NULL && count < PIECES_MAX) {
        size_t room = (size_t)take_number(&rest);
        memset(pieces[count], 0x5a, sizeof(pieces[count]));
        iov[count] = (struct iovec){pieces[count], room < PIECE_MAX ? room : PIECE_MAX};
        count++;
    }
    ssize_t got = net_receive(net, iov, count);
    report_int("rc", got);
    for (unsigned i = 0; i < count; i++) {
        size_t here = got < 0                                ? 0
                      : iov[i].iov_len < (size_t)got - taken ? iov[i].iov_len
                                                             : (size_t)got - taken;
        if (taken + here <= sizeof(all))
            memcpy(all + taken, pieces[i], here);
        taken += here;
        beyond = beyond || !all_bytes_are(pieces[i] + iov[i].iov_len, 0x5a, BEHIND);
    }
    report_bool("beyond", beyond);
    report_int("bytes_count", (long long)taken);
    report_hex("bytes", all, taken < 600 ? taken : 600);
}

static bool command(const char *verb, char *rest)
{
    if (strcmp(verb, "open") == 0) {
        do_open();
    } else if (net == NULL) {
        return false;
    } else if (strcmp(verb, "feed") == 0) {
        feed(script_bytes, from_hex(rest, script_bytes, sizeof(script_bytes)));
    } else if (strcmp(verb, "zeros") == 0) {
        memset(script_bytes, 0, sizeof(script_bytes));
        feed(script_bytes, (size_t)take_number(&rest));
    } else if (strcmp(verb, "hangup") == 0) {
        (void)close(peer);
        peer = -1;
    } else if (strcmp(verb, "receive") == 0) {
        do_receive(rest);
    } else if (strcmp(verb, "send") == 0) {
        struct iovec iov = {script_bytes, from_hex(rest, script_bytes, sizeof(script_bytes))};
        report_int("rc", net_send(net, &iov, 1));
    } else if (strcmp(verb, "drain") == 0) {
        ssize_t n = recv(peer, all, 600, MSG_DONTWAIT);
        report_hex("bytes", all, n > 0 ? (size_t)n : 0);
        report_bool("gone", n == 0);
    } else {
        return false;
    }
    return true;
}

int main(void)
{
    return script_run(command);
}
