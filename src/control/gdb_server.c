/*
 * The gdb server's socket: one debugger, served from the event loop.
 *
 * What the debugger sends is read only when it has taken our answers: nothing piles up here when it
 * asks much and reads little, and nothing waits for it.
 */
#include "hv/control/gdb.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/gdb_listen_priv.h"
#include "control/gdb_machine_priv.h"
#include "hv/base/fd.h"

#define INPUT_ROOM 4096
#define OUTPUT_ENOUGH (64U << 10) /* so much unsent is enough: no more questions for now */

struct gdb_server {
    struct loop *loop;        /* borrowed */
    const struct log *log;    /* borrowed */
    struct machine *machine;  /* borrowed; NULL between two */
    struct debug_means means; /* of the machines on this host */
    struct gdb_listener listener;
    int fd;         /* the debugger's connection, or -1 */
    struct gdb gdb; /* valid while there is one; its `wanted` always */
    uint8_t in[INPUT_ROOM];
    size_t in_len, in_at;
    struct rsp_text out;
    size_t sent; /* of out */
};

/* --- the connection --- */

static size_t unsent(const struct gdb_server *s)
{
    return s->out.len - s->sent;
}

static void send_later(void *ctx, const void *data, size_t len)
{
    struct gdb_server *s = ctx;

    rsp_put(&s->out, data, len);
}

static void close_connection(struct gdb_server *s)
{
    loop_remove(s->loop, s->fd);
    fd_close(&s->fd);
    gdb_fini(&s->gdb);
    rsp_text_fini(&s->out);
    s->in_len = s->in_at = s->sent = 0;
}

/* The connection broke, or is to be broken: as if the debugger had detached. */
static void lose_debugger(struct gdb_server *s, const char *why)
{
    log_msg(s->log, LOG_WARN, "gdb: %s", why);
    if (s->machine != NULL && !s->gdb.over) {
        machine_debug_stop(s->machine);
        gdb_traps_clear(&s->gdb.traps, &s->gdb.target);
        machine_debug_detach(s->machine);
    }
    close_connection(s);
}

/* Sends what the socket takes. False: the connection is gone. */
static bool flush(struct gdb_server *s)
{
    while (unsent(s) > 0) {
        ssize_t n = send(s->fd, s->out.data + s->sent, unsent(s), MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        s->sent += (size_t)n;
    }
    s->out.len = s->sent = 0;
    return !s->out.cut;
}

static bool read_more(struct gdb_server *s)
{
    ssize_t n = recv(s->fd, s->in, sizeof(s->in), 0);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    s->in_len = (size_t)n;
    s->in_at = 0;
    return n > 0;
}

/* A byte at a time, because each can bring an answer, and enough may be enough. */
static void take_input(struct gdb_server *s)
{
    while (s->in_at < s->in_len && unsent(s) < OUTPUT_ENOUGH && !s->gdb.over)
        s->in_at += gdb_receive(&s->gdb, &s->in[s->in_at], 1);
}

static void watch(struct gdb_server *s)
{
    uint32_t events = unsent(s) > 0 ? EPOLLOUT : EPOLLIN;

    (void)!loop_change(s->loop, s->fd, events); /* it is watched, so this cannot fail */
}

/* Answers what there is to answer, then waits for what comes next. */
static void serve(struct gdb_server *s)
{
    do {
        take_input(s);
        if (!flush(s)) {
            lose_debugger(s, "the connection to the debugger broke");
            return;
        }
    } while (s->in_at < s->in_len && unsent(s) == 0 && !s->gdb.over);
    if (s->gdb.over && unsent(s) == 0) {
        log_msg(s->log, LOG_INFO, "gdb: the debugger has detached");
        close_connection(s);
        return;
    }
    watch(s);
}

static void on_connection(void *ctx, uint32_t events)
{
    struct gdb_server *s = ctx;

    if ((events & ~(uint32_t)EPOLLOUT) && s->in_at == s->in_len && !read_more(s)) {
        lose_debugger(s, "the debugger has gone without a word; the machine goes on");
        return;
    }
    serve(s);
}

/* --- the machine's side --- */

static void on_stopped(void *ctx, const struct debug_stop *stop)
{
    struct gdb_server *s = ctx;

    gdb_on_stop(&s->gdb, stop);
    serve(s);
}

static const struct debug_ops debug_ops = {.stopped = on_stopped};

void gdb_server_give(struct gdb_server *s, struct machine *m)
{
    s->machine = m;
    if (s->fd < 0) {
        s->means = machine_debug_means(m);
        return;
    }
    const struct gdb_target target = gdb_machine_target(m, &s->means);
    machine_debug_attach(m, &debug_ops, s);
    gdb_on_reset(&s->gdb, &target);
    serve(s);
}

void gdb_server_take(struct gdb_server *s, bool reset, int status)
{
    s->machine = NULL;
    if (s->fd < 0 || reset)
        return;
    gdb_on_end(&s->gdb, status);
    (void)flush(s); /* what does not fit now has no reader */
    close_connection(s);
}

/* --- connecting --- */

static void meet(struct gdb_server *s, int fd)
{
    const struct gdb_target target = gdb_machine_target(s->machine, &s->means);
    const int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* no port: no matter */
    s->fd = fd;
    machine_debug_attach(s->machine, &debug_ops, s);
    gdb_init(&s->gdb, &target, s->gdb.wanted, send_later, s);
    log_msg(s->log, LOG_INFO, "gdb: a debugger has connected; the machine is stopped");
}

static void on_visitor(void *ctx, uint32_t events)
{
    struct gdb_server *s = ctx;
    int fd = accept4(s->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (fd < 0)
        return; /* it has gone again */
    if (s->fd >= 0 || s->machine == NULL) {
        log_msg(s->log, LOG_WARN, "gdb: a second debugger was turned away");
        fd_close(&fd);
    } else if (loop_add(s->loop, fd, EPOLLIN, on_connection, s) < 0) {
        fd_close(&fd);
    } else {
        meet(s, fd);
    }
}

/* --- life --- */

int gdb_server_create(const char *where, struct loop *loop, const struct log *log,
                      struct gdb_server **out, struct error *err)
{
    struct gdb_server *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return error_set(err, -ENOMEM, "no memory for the gdb server");
    s->loop = loop;
    s->log = log;
    s->fd = s->listener.fd = -1;
    int rc = gdb_listen(where, &s->listener, err);
    if (rc == 0)
        rc = loop_add(loop, s->listener.fd, EPOLLIN, on_visitor, s);
    if (rc < 0) {
        gdb_server_destroy(s);
        return rc;
    }
    *out = s;
    return 0;
}

void gdb_server_destroy(struct gdb_server *s)
{
    if (s == NULL)
        return;
    if (s->fd >= 0)
        close_connection(s);
    loop_remove(s->loop, s->listener.fd);
    gdb_unlisten(&s->listener);
    free(s);
}

bool gdb_server_is_busy(const struct gdb_server *s)
{
    return s->fd >= 0;
}

const char *gdb_server_command(const struct gdb_server *s)
{
    return s->listener.command;
}
