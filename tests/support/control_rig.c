#include "support/control_rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/fd.h"

#define PATIENCE_NS UINT64_C(20000000000)

static void keep_log(void *ctx, enum log_level level, const char *text)
{
    struct control_rig *rig = ctx;

    (void)level;
    rig->logged++;
    (void)snprintf(rig->last_log, sizeof(rig->last_log), "%s", text);
}

void talk_init(struct control_rig *rig)
{
    *rig = (struct control_rig){.log = {.level = LOG_INFO, .write = keep_log, .ctx = rig}};
    for (unsigned i = 0; i < TALK_CLIENTS; i++)
        rig->clients[i].fd = -1;
    cr_assert_eq(loop_create(&rig->loop), 0);
    cr_assert_eq(control_create(rig->loop, &rig->log, &rig->control), 0);
}

void talk_fini(struct control_rig *rig)
{
    control_destroy(rig->control);
    for (unsigned i = 0; i < TALK_CLIENTS; i++)
        talk_hang_up(rig, i);
    loop_destroy(rig->loop);
}

void talk_turn(struct control_rig *rig)
{
    for (unsigned i = 0; i < 8; i++)
        cr_assert_eq(loop_run_once(rig->loop, 0), 0);
}

void talk_connect(struct control_rig *rig, unsigned n)
{
    int ends[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    cr_assert_eq(fd_set_nonblock(ends[0]), 0);
    rig->clients[n] = (struct talk_client){.fd = ends[0]};
    (void)!control_adopt(rig->control, ends[1]); /* what it says, the client hears */
}

void talk_hang_up(struct control_rig *rig, unsigned n)
{
    struct talk_client *c = &rig->clients[n];

    fd_close(&c->fd);
    free(c->in);
    c->in = NULL;
    c->len = 0;
}

size_t talk_send(struct control_rig *rig, unsigned n, const void *data, size_t len)
{
    const char *bytes = data;
    size_t sent = 0;
    unsigned idle = 0;

    while (sent < len && idle < 100) {
        ssize_t k = send(rig->clients[n].fd, bytes + sent, len - sent, MSG_NOSIGNAL);
        if (k < 0 && errno != EAGAIN)
            break;
        idle = k < 0 ? idle + 1 : 0;
        sent += k > 0 ? (size_t)k : 0;
        talk_turn(rig);
    }
    talk_turn(rig);
    return sent;
}

/* Reads what there is. False: the other end has hung up. */
static bool read_some(struct talk_client *c)
{
    c->in = realloc(c->in, c->len + 65536);
    cr_assert_not_null(c->in);
    ssize_t n = recv(c->fd, c->in + c->len, 65536, 0);
    c->len += n > 0 ? (size_t)n : 0;
    return n > 0 || (n < 0 && errno == EAGAIN);
}

static json_t *take_line(struct talk_client *c)
{
    const char *newline = c->len > 0 ? memchr(c->in, '\n', c->len) : NULL;
    json_error_t error;

    if (newline == NULL)
        return NULL;
    size_t len = (size_t)(newline + 1 - c->in);
    json_t *line = json_loadb(c->in, len, 0, &error);
    cr_assert_not_null(line, "%s: %.*s", error.text, (int)len, c->in);
    c->len -= len;
    memmove(c->in, newline + 1, c->len);
    return line;
}

json_t *talk_receive(struct control_rig *rig, unsigned n)
{
    struct talk_client *c = &rig->clients[n];
    uint64_t end = now_ns() + PATIENCE_NS;
    json_t *line;

    while ((line = take_line(c)) == NULL) {
        if (!read_some(c))
            return take_line(c);
        if (c->len == 0 || memchr(c->in, '\n', c->len) == NULL)
            cr_assert_eq(loop_run_once(rig->loop, 10), 0);
        cr_assert_lt(now_ns(), end, "no line came");
    }
    return line;
}

bool talk_is_silent(struct control_rig *rig, unsigned n)
{
    struct talk_client *c = &rig->clients[n];

    talk_turn(rig);
    return read_some(c) && c->len == 0;
}

const char *talk_ask(struct control_rig *rig, unsigned n, const char *line)
{
    static char *text;

    cr_assert_eq(talk_send(rig, n, line, strlen(line)), strlen(line));
    cr_assert_eq(talk_send(rig, n, "\n", 1), 1);
    json_t *answer = talk_receive(rig, n);
    free(text);
    text = answer != NULL ? json_dumps(answer, JSON_COMPACT) : strdup("hung up");
    json_decref(answer);
    return text;
}
