#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/net/net.h"
#include "support/tmp.h"

static struct tmp_dir tmp;
static struct loop *loop;
static struct error err;
static unsigned readable, writable;

static void on_readable(void *ctx)
{
    (void)ctx;
    readable++;
}

static void on_writable(void *ctx)
{
    (void)ctx;
    writable++;
}

static void setup(void)
{
    readable = writable = 0;
    tmp_init(&tmp);
    cr_assert_eq(loop_create(&loop), 0);
}

static void teardown(void)
{
    loop_destroy(loop);
    tmp_fini(&tmp);
}

TestSuite(net, .init = setup, .fini = teardown, .timeout = 60);

static void watch(struct net *n)
{
    const struct net_watch w = {.loop = loop, .readable = on_readable, .writable = on_writable};

    cr_assert_eq(net_watch(n, &w), 0);
}

static void work(void)
{
    for (unsigned i = 0; i < 8; i++)
        cr_assert_eq(loop_run_once(loop, 0), 0);
}

static ssize_t send_text(struct net *n, const char *text)
{
    struct iovec iov[2] = {{(void *)text, 1}, {(void *)(text + 1), strlen(text) - 1}};

    return net_send(n, iov, 2);
}

static ssize_t receive_text(struct net *n, char *text, size_t size)
{
    struct iovec iov[2] = {{text, 2}, {text + 2, size - 2}};
    ssize_t got = net_receive(n, iov, 2);

    if (got >= 0)
        text[got] = '\0';
    return got;
}

/* --- nowhere --- */

Test(net, a_cable_that_leads_nowhere_is_never_full)
{
    struct net *n;
    char text[32];

    cr_assert_eq(net_nowhere_create(&n), 0);
    watch(n);
    net_listen(n, true, true);
    cr_assert_eq(net_set_offloads(n, 12, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4), 0);
    for (unsigned i = 0; i < 20000; i++) /* more than the kernel keeps for a socket */
        cr_assert_eq(send_text(n, "gone"), 4);
    cr_assert_eq(receive_text(n, text, 31), -EAGAIN);
    work();
    cr_assert_eq(readable + writable, 0);
    net_destroy(n);
}

/* --- pair --- */

Test(net, a_pair_keeps_frames_apart)
{
    struct net *a, *b;
    char text[32];

    cr_assert_eq(net_pair_create(&a, &b), 0);
    cr_assert_eq(receive_text(b, text, 31), -EAGAIN);
    cr_assert_eq(send_text(a, "one"), 3);
    cr_assert_eq(send_text(a, "second"), 6);
    cr_assert_eq(receive_text(b, text, 31), 3);
    cr_assert_str_eq(text, "one");
    cr_assert_eq(receive_text(b, text, 31), 6);
    cr_assert_eq(send_text(b, "a long one"), 10);
    cr_assert_eq(receive_text(a, text, 5), -EMSGSIZE);
    cr_assert_eq(receive_text(a, text, 31), -EAGAIN);
    net_destroy(a);
    cr_assert_lt(send_text(b, "nobody"), 0);
    net_destroy(b);
}

Test(net, a_watcher_hears_only_what_it_listens_for)
{
    struct net *a, *b;

    cr_assert_eq(net_pair_create(&a, &b), 0);
    watch(a);
    cr_assert_eq(send_text(b, "frame"), 5);
    work();
    cr_assert_eq(readable + writable, 0);
    net_listen(a, true, false);
    work();
    cr_assert_gt(readable, 0);
    cr_assert_eq(writable, 0);
    net_listen(a, false, true);
    work();
    cr_assert_gt(writable, 0);
    unsigned before = readable;
    cr_assert_eq(net_watch(a, NULL), 0);
    net_listen(a, true, true);
    work();
    cr_assert_eq(readable, before);
    net_destroy(a);
    net_destroy(b);
}

Test(net, an_end_that_is_gone_says_so_once)
{
    struct net *a, *b;
    char bytes[8];
    const struct iovec iov = {bytes, sizeof(bytes)};

    for (unsigned listens = 0; listens < 2; listens++) {
        cr_assert_eq(net_pair_create(&a, &b), 0);
        watch(a);
        net_listen(a, listens, false);
        cr_assert_eq(send_text(b, "last"), 4);
        net_destroy(b);
        cr_assert_eq(loop_run_once(loop, 0), 0);
        cr_assert_eq(net_receive(a, &iov, 1), 4);
        cr_assert_eq(net_receive(a, &iov, 1), -ENOTCONN);
        readable = 0;
        work();
        cr_assert_eq(readable, 0, "a wake-up for nothing, again and again");
        net_destroy(a);
    }
}

/* --- tap --- */

/* As "ip link delete" does. */
static void delete_interface(const char *name)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
    } ask = {
        .header = {.nlmsg_len = sizeof(ask),
                   .nlmsg_type = RTM_DELLINK,
                   .nlmsg_flags = NLM_F_REQUEST},
        .info = {.ifi_family = AF_UNSPEC, .ifi_index = (int)if_nametoindex(name)},
    };
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    cr_assert_geq(fd, 0);
    cr_assert_neq(ask.info.ifi_index, 0);
    cr_assert_eq(send(fd, &ask, sizeof(ask), 0), (ssize_t)sizeof(ask));
    cr_assert_eq(if_nametoindex(name), 0); /* the kernel answers in send() */
    close(fd);
}

Test(net, an_interface_that_is_deleted_says_so_once)
{
    char name[IFNAMSIZ], bytes[64] = {0};
    const struct iovec iov = {bytes, sizeof(bytes)};
    struct net *n;

    (void)snprintf(name, sizeof(name), "hvunit%d", (int)getpid() % 100000);
    if (net_tap_create(name, 1, &n, &err) < 0)
        cr_skip_test("%s", err.text); /* not root, or no tun here */
    watch(n);
    net_listen(n, true, false);
    delete_interface(name);
    work();
    cr_assert_eq(net_receive(n, &iov, 1), -ENOTCONN);
    cr_assert_eq(net_send(n, &iov, 1), -ENOTCONN);
    readable = 0;
    work();
    cr_assert_eq(readable, 0, "a wake-up for nothing, again and again");
    net_destroy(n);
}

/* How many queues the kernel spreads an interface's frames over. */
static unsigned attached_queues(const char *name)
{
    char path[128];
    unsigned count = 0;

    do
        (void)snprintf(path, sizeof(path), "/sys/class/net/%s/queues/tx-%u", name, count);
    while (access(path, F_OK) == 0 && ++count);
    return count;
}

Test(net, an_interface_with_several_queues_begins_with_one)
{
    char name[IFNAMSIZ];
    struct net *queues[3], *other;
    unsigned fds = count_open_fds();

    (void)snprintf(name, sizeof(name), "hvmq%d", (int)getpid() % 100000);
    if (net_tap_create(name, 3, queues, &err) < 0)
        cr_skip_test("%s", err.text); /* not root, or no tun here */
    cr_assert_eq(attached_queues(name), 1);
    for (unsigned twice = 0; twice < 2; twice++)
        cr_assert_eq(net_set_active(queues[2], true), 0);
    cr_assert_eq(attached_queues(name), 2);
    cr_assert_eq(net_set_active(queues[1], true), 0);
    cr_assert_eq(attached_queues(name), 3);
    for (unsigned twice = 0; twice < 2; twice++)
        cr_assert_eq(net_set_active(queues[2], false), 0);
    cr_assert_eq(attached_queues(name), 2);
    cr_assert_eq(net_tap_create(name, 1, &other, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "say queues=2"), "%s", err.text);
    delete_interface(name);
    cr_assert_eq(net_set_active(queues[2], true), -ENOTCONN);
    for (unsigned i = 0; i < 3; i++)
        net_destroy(queues[i]);
    cr_assert_eq(count_open_fds(), fds);
}

Test(net, an_interface_with_one_queue_has_no_second)
{
    char name[IFNAMSIZ];
    struct net *one, *queues[2] = {NULL, NULL};

    (void)snprintf(name, sizeof(name), "hvsq%d", (int)getpid() % 100000);
    if (net_tap_create(name, 1, &one, &err) < 0)
        cr_skip_test("%s", err.text); /* likewise */
    cr_assert_eq(net_tap_create(name, 2, queues, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "multi_queue"), "%s", err.text);
    cr_assert_null(queues[0]);
    cr_assert_eq(net_set_active(one, true), 0);
    net_destroy(one);
}

/* --- stream --- */

static int dial(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        fd_close(&fd);
    return fd;
}

/* A stream that listens, and a peer of plain bytes. */
static struct net *listening;
static int peer;

static void meet(void)
{
    const char *path = tmp_path(&tmp, "wire");

    cr_assert_eq(net_stream_create(path, true, &listening, &err), 0, "%s", err.text);
    watch(listening);
    net_listen(listening, true, false);
    peer = dial(path);
    cr_assert_geq(peer, 0);
    work();
}

static void part(void)
{
    close(peer);
    net_destroy(listening);
}

static void put(uint32_t length, const char *bytes, size_t size)
{
    uint32_t wire = htobe32(length);

    cr_assert_eq(write(peer, &wire, 4), 4);
    cr_assert_eq(write(peer, bytes, size), (ssize_t)size);
}

Test(net, a_stream_speaks_with_lengths)
{
    char text[32], raw[32];

    meet();
    put(5, "hello", 5);
    work();
    cr_assert_gt(readable, 0);
    cr_assert_eq(receive_text(listening, text, 31), 5);
    cr_assert_str_eq(text, "hello");
    cr_assert_eq(receive_text(listening, text, 31), -EAGAIN);
    cr_assert_eq(send_text(listening, "answer"), 6);
    cr_assert_eq(read(peer, raw, sizeof(raw)), 10);
    cr_assert_eq(memcmp(raw, "\0\0\0\006answer", 10), 0);
    part();
}

Test(net, a_frame_may_come_byte_by_byte)
{
    const char wire[] = {0, 0, 0, 3, 'a', 'b', 'c'};
    char text[32];

    meet();
    for (unsigned i = 0; i < sizeof(wire); i++) {
        cr_assert_eq(receive_text(listening, text, 31), -EAGAIN);
        cr_assert_eq(write(peer, wire + i, 1), 1);
    }
    cr_assert_eq(receive_text(listening, text, 31), 3);
    cr_assert_str_eq(text, "abc");
    part();
}

Test(net, frames_that_came_together_are_all_told_of)
{
    char text[32];

    meet();
    put(3, "one", 3);
    put(3, "two", 3);
    cr_assert_eq(receive_text(listening, text, 31), 3);
    work();
    readable = 0;
    net_listen(listening, false, false);
    work();
    cr_assert_eq(readable, 0);
    net_listen(listening, true, false); /* the socket is empty: the frame is in the buffer */
    work();
    cr_assert_eq(readable, 1);
    cr_assert_eq(receive_text(listening, text, 31), 3);
    cr_assert_str_eq(text, "two");
    part();
}

Test(net, a_peer_that_speaks_something_else_is_hung_up_on)
{
    static const uint32_t lengths[] = {0, NET_FRAME_MAX + 1, UINT32_MAX, 0x47455420};
    char text[32];

    for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        meet();
        put(lengths[i], "garbage", 7);
        cr_assert_eq(receive_text(listening, text, 31), -ENOTCONN);
        cr_assert_eq(send_text(listening, "nobody"), -ENOTCONN);
        close(peer);
        peer = dial(tmp.file); /* and the next one is welcome */
        work();
        put(2, "ok", 2);
        cr_assert_eq(receive_text(listening, text, 31), 2);
        part();
    }
}

Test(net, a_peer_that_does_not_read_delays_and_loses_nothing)
{
    static char big[60000], wire[80000];
    struct iovec iov = {big, sizeof(big)};
    unsigned sent = 0, whole = 0;
    size_t have = 0;

    meet();
    memset(big, 'x', sizeof(big));
    while (net_send(listening, &iov, 1) == (ssize_t)sizeof(big))
        sent++;
    cr_assert_gt(sent, 0);
    cr_assert_eq(net_send(listening, &iov, 1), -EAGAIN);
    net_listen(listening, true, true);
    work();
    cr_assert_eq(writable, 0);
    cr_assert_eq(fcntl(peer, F_SETFL, O_NONBLOCK), 0);
    while (whole < sent) {
        ssize_t n = read(peer, wire + have, sizeof(wire) - have);
        if (n > 0)
            have += (size_t)n;
        work();
        while (have >= 4 + sizeof(big)) {
            cr_assert_eq(memcmp(wire, "\0\0\352\140xxxx", 8), 0);
            have -= 4 + sizeof(big);
            memmove(wire, wire + 4 + sizeof(big), have);
            whole++;
        }
    }
    cr_assert_gt(writable, 0);
    cr_assert_eq(have, 0);
    part();
}

Test(net, a_second_peer_is_turned_away)
{
    char byte;

    meet();
    int second = dial(tmp.file);
    cr_assert_geq(second, 0);
    work();
    cr_assert_eq(read(second, &byte, 1), 0);
    close(second);
    cr_assert_eq(send_text(listening, "first"), 5);
    part();
}

/* PITFALLS "Inputs a monitor must survive", 14. */
Test(net, a_caller_whom_no_descriptor_is_left_for_is_let_in_later)
{
    const char *path = tmp_path(&tmp, "wire");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct rlimit limit, none;
    struct timespec before, after;
    uint32_t wire = htobe32(14);

    cr_assert_eq(net_stream_create(path, true, &listening, &err), 0, "%s", err.text);
    watch(listening);
    net_listen(listening, true, false);
    strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
    peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    cr_assert_eq(connect(peer, (struct sockaddr *)&addr, sizeof(addr)), 0);
    work();
    cr_assert_eq(clock_gettime(CLOCK_MONOTONIC, &before), 0);
    cr_assert_eq(loop_run_once(loop, -1), 0); /* nothing but the next attempt */
    cr_assert_eq(clock_gettime(CLOCK_MONOTONIC, &after), 0);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    cr_assert_gt(after.tv_sec * 1000 + after.tv_nsec / 1000000,
                 before.tv_sec * 1000 + before.tv_nsec / 1000000 + 100, "it ran in circles");
    cr_assert_eq(write(peer, &wire, 4), 4);
    cr_assert_eq(write(peer, "fourteen bytes", 14), 14);
    while (readable == 0)
        cr_assert_eq(loop_run_once(loop, -1), 0);
    part();
}

Test(net, who_connects_comes_back)
{
    const char *path = tmp_path(&tmp, "wire");
    struct net *caller, *callee;
    char text[32];

    cr_assert_eq(net_stream_create(path, true, &callee, &err), 0);
    watch(callee);
    cr_assert_eq(net_stream_create(path, false, &caller, &err), 0);
    watch(caller);
    net_listen(caller, true, false);
    net_destroy(callee);
    work();
    (void)receive_text(caller, text, 31); /* notices */
    cr_assert_eq(net_stream_create(path, true, &callee, &err), 0);
    watch(callee);
    while (send_text(caller, "again") != 5)
        cr_assert_eq(loop_run_once(loop, 100), 0);
    work();
    cr_assert_eq(receive_text(callee, text, 31), 5);
    net_destroy(caller);
    net_destroy(callee);
}

Test(net, paths_that_cannot_be_are_refused_by_name)
{
    struct net *n = NULL;
    char longest[200];

    cr_assert_eq(net_stream_create("/nonexistent/wire", false, &n, &err), -ENOENT);
    cr_assert_not_null(strstr(err.text, "/nonexistent/wire"));
    cr_assert_eq(net_stream_create("/nonexistent/wire", true, &n, &err), -ENOENT);
    memset(longest, 'x', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    cr_assert_eq(net_stream_create(longest, true, &n, &err), -ENAMETOOLONG);
    cr_assert_eq(net_tap_create("a/b", 1, &n, &err), -EINVAL);
    cr_assert_eq(net_tap_create("a-name-that-is-too-long", 1, &n, &err), -EINVAL);
    cr_assert_null(n);
}

Test(net, a_socket_left_behind_is_in_nobodys_way)
{
    const char *path = tmp_path(&tmp, "wire");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct net *n = NULL;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    close(fd); /* as after kill -9 */
    cr_assert_eq(net_stream_create(path, true, &n, &err), 0);
    net_destroy(n);
    fd = open(path, O_CREAT | O_WRONLY, 0600); /* but a file is left alone */
    close(fd);
    cr_assert_eq(net_stream_create(path, true, &n, &err), -EEXIST);
}

/* --- user: a passt of ours --- */

static struct {
    unsigned debug, warnings;
    char text[512]; /* of the last one */
} logged;

static void on_log(void *ctx, enum log_level level, const char *text)
{
    (void)ctx;
    logged.debug += level == LOG_DEBUG;
    logged.warnings += level == LOG_WARN;
    (void)snprintf(logged.text, sizeof(logged.text), "%s", text);
}

static const struct log test_log = {.level = LOG_DEBUG, .write = on_log};

/* "passt" is a script that does this. */
static void make_passt(const char *script)
{
    FILE *file = fopen(tmp_path(&tmp, "passt"), "w");

    cr_assert_not_null(file);
    cr_assert_gt(fprintf(file, "#!/bin/sh\n%s\n", script), 0);
    cr_assert_eq(fclose(file), 0);
    cr_assert_eq(chmod(tmp_path(&tmp, "passt"), 0755), 0);
    cr_assert_eq(setenv("PATH", tmp.path, true), 0);
    memset(&logged, 0, sizeof(logged));
}

Test(net, what_passt_says_is_logged_and_its_last_words_for_everybody)
{
    struct net *n;
    unsigned fds = count_open_fds();

    make_passt("echo first >&2; printf 'bell \\a and a half' >&2; echo ' line' >&2; exit 1");
    cr_assert_eq(net_user_create(NULL, &test_log, &n, &err), 0, "%s", err.text);
    watch(n);
    while (logged.warnings == 0)
        cr_assert_eq(loop_run_once(loop, -1), 0);
    cr_assert_eq(logged.debug, 2);
    cr_assert_not_null(strstr(logged.text, "last words: bell ? and a half line"), "%s",
                       logged.text);
    work();
    cr_assert_eq(logged.warnings, 1);
    cr_assert_eq(net_watch(n, NULL), 0);
    watch(n);
    net_destroy(n);
    cr_assert_eq(count_open_fds(), fds);
}

Test(net, a_line_of_passts_may_be_long)
{
    struct net *n;

    make_passt("i=0; while [ $i -lt 100 ]; do printf 0123456789 >&2; i=$((i + 1)); done; echo >&2");
    cr_assert_eq(net_user_create(NULL, &test_log, &n, &err), 0, "%s", err.text);
    watch(n);
    while (logged.warnings == 0)
        cr_assert_eq(loop_run_once(loop, -1), 0);
    cr_assert_eq(logged.debug, 1);
    cr_assert_not_null(strstr(logged.text, "0123456789"));
    cr_assert_lt(strlen(logged.text), 300);
    net_destroy(n);
}

Test(net, a_passt_that_we_end_ends_quietly)
{
    struct net *n;
    unsigned fds = count_open_fds();

    make_passt("echo here >&2; read line <&3");
    cr_assert_eq(net_user_create(NULL, &test_log, &n, &err), 0, "%s", err.text);
    watch(n);
    while (logged.debug == 0)
        cr_assert_eq(loop_run_once(loop, -1), 0);
    cr_assert_str_eq(logged.text, "passt: here");
    net_destroy(n);
    cr_assert_eq(logged.warnings, 0);
    cr_assert_eq(count_open_fds(), fds);
}

Test(net, without_passt_the_error_says_what_to_install)
{
    struct net *n = NULL;
    unsigned fds = count_open_fds();

    cr_assert_eq(setenv("PATH", tmp.path, true), 0);
    cr_assert_eq(net_user_create(NULL, NULL, &n, &err), -ENOENT);
    cr_assert_not_null(strstr(err.text, "install the package passt"), "%s", err.text);
    cr_assert_null(n);
    cr_assert_eq(count_open_fds(), fds);
}

/* --- pcap --- */

Test(net, pcap_copies_both_directions)
{
    const char *path = tmp_path(&tmp, "wire.pcap");
    struct net *a, *b;
    uint8_t file[256];
    char text[64];

    cr_assert_eq(net_pair_create(&a, &b), 0);
    cr_assert_eq(net_pcap_create(&a, 1, path, &err), 0);
    cr_assert_eq(net_set_offloads(a, 4, 0), 0);
    cr_assert_eq(send_text(a, "HEADout"), 7);
    cr_assert_eq(send_text(b, "HEADinward"), 10);
    cr_assert_eq(receive_text(a, text, 63), 10);
    net_destroy(a);
    net_destroy(b);
    int fd = open(path, O_RDONLY);
    cr_assert_eq(read(fd, file, sizeof(file)), 24 + 16 + 3 + 16 + 6);
    close(fd);
    cr_assert_eq(memcmp(file, "\x4d\x3c\xb2\xa1\2\0\4\0", 8), 0);
    cr_assert_eq(memcmp(file + 24 + 16, "out", 3), 0);
    cr_assert_eq(memcmp(file + 24 + 16 + 3 + 16, "inward", 6), 0);
}

Test(net, pcap_has_the_frames_of_all_queues)
{
    const char *path = tmp_path(&tmp, "wire.pcap");
    struct net *near[2], *far[2];
    unsigned fds = count_open_fds();
    uint8_t file[256];

    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(net_pair_create(&near[i], &far[i]), 0);
    cr_assert_eq(net_pcap_create(near, 2, path, &err), 0, "%s", err.text);
    cr_assert_eq(send_text(near[0], "one"), 3);
    cr_assert_eq(send_text(near[1], "two"), 3);
    cr_assert_eq(send_text(near[0], "three"), 5);
    cr_assert_eq(net_set_active(near[1], true), 0);
    for (unsigned i = 0; i < 2; i++) {
        net_destroy(near[i]);
        net_destroy(far[i]);
    }
    cr_assert_eq(count_open_fds(), fds);
    cr_assert_eq(tmp_read(path, (char *)file, sizeof(file)), 24 + 3 * 16 + 3 + 3 + 5);
    cr_assert_eq(memcmp(file + 24 + 16, "one", 3), 0);
    cr_assert_eq(memcmp(file + 24 + 16 + 3 + 16, "two", 3), 0);
    cr_assert_eq(memcmp(file + 24 + 16 + 3 + 16 + 3 + 16, "three", 5), 0);
}

Test(net, pcap_needs_a_file)
{
    struct net *a, *b;

    cr_assert_eq(net_pair_create(&a, &b), 0);
    struct net *before = a;
    cr_assert_eq(net_pcap_create(&a, 1, "/nonexistent/x.pcap", &err), -ENOENT);
    cr_assert_eq(a, before);
    net_destroy(a);
    net_destroy(b);
}
