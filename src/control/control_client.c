/*
 * One client's connection: lines in, lines out, and no more memory than was said.
 *
 * While answers wait to be sent nothing is read, so a client that asks and does not read stops
 * itself. Events are not asked for: who follows them and does not read is dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "control/control_priv.h"
#include "hv/base/fd.h"

/* --- life --- */

struct control_client *client_create(struct control *c, int fd)
{
    struct control_client *client = calloc(1, sizeof(*client));
    socklen_t len = sizeof(client->who);

    if (client == NULL) {
        fd_close(&fd);
        return NULL;
    }
    client->control = c;
    client->fd = fd;
    client->role = CONTROL_CHANGES;
    (void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &client->who, &len); /* 0 where it cannot tell */
    return client;
}

/* Their answers find nobody. */
static void orphan_calls(struct control_client *client)
{
    for (struct control_call *call = client->calls; call != NULL; call = call->next)
        call->client = NULL;
    client->calls = NULL;
    client->call_count = 0;
}

void client_drop(struct control_client *client, const char *why)
{
    if (client->fd < 0)
        return;
    if (why != NULL)
        log_limited(client->control->log, &client->control->limit, LOG_WARN,
                    "control: process %d %s", (int)client->who.pid, why);
    loop_remove(client->control->loop, client->fd);
    fd_close(&client->fd);
    orphan_calls(client);
    free(client->out);
    client->out = NULL;
    client->out_len = client->out_room = client->sent = 0;
    client->follows = false;
}

void client_destroy(struct control_client *client)
{
    client_drop(client, NULL);
    free(client);
}

/* --- out --- */

static size_t unsent(const struct control_client *client)
{
    return client->out_len - client->sent;
}

/* What was sent makes room for what comes. */
static int make_room(struct control_client *client, size_t len)
{
    if (client->sent > 0)
        memmove(client->out, client->out + client->sent, unsent(client));
    client->out_len -= client->sent;
    client->sent = 0;
    if (client->out_room - client->out_len >= len)
        return 0;
    size_t room = client->out_room > 0 ? client->out_room : 4096;
    while (room - client->out_len < len)
        room *= 2;
    char *larger = realloc(client->out, room);
    if (larger == NULL)
        return -ENOMEM;
    client->out = larger;
    client->out_room = room;
    return 0;
}

/* Sends what the socket takes. False: the client was dropped. */
static bool flush(struct control_client *client)
{
    while (unsent(client) > 0) {
        ssize_t n = send(client->fd, client->out + client->sent, unsent(client), MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return true;
        if (n < 0) {
            client_drop(client, NULL); /* it has gone, which is its good right */
            return false;
        }
        client->sent += (size_t)n;
    }
    client->out_len = client->sent = 0;
    return true;
}

/* Is there nothing more to do for it? */
static bool is_finished(const struct control_client *client)
{
    if (unsent(client) > 0)
        return false;
    return client->closing || (client->ended && client->call_count == 0 && !client->follows);
}

static void watch(struct control_client *client)
{
    uint32_t events = client->ended || client->closing ? 0 : EPOLLIN;

    if (is_finished(client)) {
        client_drop(client, NULL);
        return;
    }
    if (unsent(client) > 0)
        events = EPOLLOUT;
    (void)!loop_change(client->control->loop, client->fd, events); /* watched: cannot fail */
}

void client_put(struct control_client *client, const char *line)
{
    size_t len = strlen(line);

    if (client->fd < 0)
        return;
    if (unsent(client) + len + 1 > CONTROL_OUTPUT_MAX || make_room(client, len + 1) < 0) {
        client_drop(client, "does not read what it is told, and was dropped");
        return;
    }
    memcpy(client->out + client->out_len, line, len);
    client->out[client->out_len + len] = '\n';
    client->out_len += len + 1;
    if (!client->serving && flush(client))
        watch(client);
}

/* --- in --- */

/* False: there is nothing to take now. */
static bool read_more(struct control_client *client)
{
    ssize_t n =
        recv(client->fd, client->in + client->in_len, sizeof(client->in) - client->in_len, 0);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    client->in_len += (size_t)n;
    client->ended = n == 0;
    return true;
}

/* What is left of the input, without what was taken from its front. */
static void keep_rest(struct control_client *client, const char *at)
{
    client->in_len = (size_t)(client->in + client->in_len - at);
    memmove(client->in, at, client->in_len);
}

/* Takes whole lines. True: there is another one, for which too much waits to be sent. */
static bool take_lines(struct control_client *client)
{
    const char *at = client->in, *end = client->in + client->in_len, *newline;
    bool enough = false;

    while (client->fd >= 0 && (newline = memchr(at, '\n', (size_t)(end - at))) != NULL) {
        enough = unsent(client) >= CONTROL_OUTPUT_ENOUGH;
        if (enough)
            break;
        request_take(client, at, (size_t)(newline - at));
        at = newline + 1;
    }
    keep_rest(client, at);
    return enough;
}

/* A line without its end: nothing follows it, or it is too long. */
static void take_end(struct control_client *client)
{
    if (client->ended) {
        request_take(client, client->in, client->in_len);
        client->in_len = 0;
    } else if (client->in_len == sizeof(client->in)) {
        request_refuse(client, CONTROL_SYNTAX, "a request has at most 65536 bytes");
        client->closing = true;
    }
}

/* Answers what there is to answer, then waits for what comes next. */
static void serve(struct control_client *client)
{
    bool more = !client->closing;

    while (more && flush(client) && unsent(client) == 0) {
        client->serving = true;
        more = take_lines(client);
        if (!more && client->fd >= 0)
            take_end(client);
        client->serving = false;
        if (client->fd < 0)
            return;
    }
    if (client->fd >= 0 && flush(client))
        watch(client);
}

void client_on_event(struct control_client *client, uint32_t events)
{
    bool readable = events & ~(uint32_t)EPOLLOUT;

    if (readable && unsent(client) == 0 && !client->ended) {
        if (!read_more(client)) {
            client_drop(client, NULL);
            return;
        }
    } else if (events & (EPOLLHUP | EPOLLERR)) {
        client_drop(client, NULL); /* nobody is there to be told anything */
        return;
    }
    serve(client);
}
