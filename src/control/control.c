/*
 * The control socket's server: who is connected, and what all of them are told.
 *
 * A client may be dropped at any moment, also by what its own request brings about; its structure
 * stays until reap(), which runs when nothing of it is on the stack any more.
 */
#include "hv/control/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "control/control_priv.h"
#include "hv/base/fd.h"
#include "hv/base/listen.h"

#define AGAIN_NS UINT64_C(1000000000)

/* --- clients --- */

static unsigned count_clients(const struct control *c)
{
    unsigned n = 0;

    for (const struct control_client *client = c->clients; client != NULL; client = client->next)
        n += client->fd >= 0;
    return n;
}

static void reap(struct control *c)
{
    struct control_client **link = &c->clients;

    while (*link != NULL) {
        struct control_client *client = *link;
        if (client->fd < 0) {
            *link = client->next;
            client_destroy(client);
        } else {
            link = &client->next;
        }
    }
}

static void on_client(void *ctx, uint32_t events)
{
    struct control_client *client = ctx;
    struct control *c = client->control;

    client_on_event(client, events);
    reap(c);
}

static void greet(struct control_client *client)
{
    json_t *greeting = request_greeting(client->control);
    char *line = greeting != NULL ? json_dumps(greeting, JSON_COMPACT) : NULL;

    if (line != NULL)
        client_put(client, line);
    else
        client_drop(client, "was turned away: no memory");
    free(line);
    json_decref(greeting);
}

int control_adopt(struct control *c, int fd)
{
    bool full = count_clients(c) >= CONTROL_CLIENTS_MAX;
    int rc = fd_set_nonblock(fd);
    struct control_client *client = client_create(c, fd); /* owns fd from here on */

    if (client == NULL)
        return -ENOMEM;
    if (rc == 0)
        rc = loop_add(c->loop, fd, EPOLLIN, on_client, client);
    if (rc < 0) {
        client_destroy(client);
        return rc;
    }
    client->next = c->clients;
    c->clients = client;
    if (!full) {
        greet(client);
        return 0;
    }
    request_refuse(client, CONTROL_BUSY, "too many clients are connected");
    client_drop(client, "was turned away: there are clients enough");
    return -EBUSY;
}

/* --- connecting --- */

static void accept_again(void *ctx)
{
    struct control *c = ctx;

    (void)!loop_change(c->loop, c->listener, EPOLLIN); /* watched: cannot fail */
}

static void on_visitor(void *ctx, uint32_t events)
{
    struct control *c = ctx;
    int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        /* The visitor stays at the door, and must not wake us without end. */
        log_msg(c->log, LOG_WARN, "control: a client has to wait: %s", strerror(errno));
        (void)!loop_change(c->loop, c->listener, 0);
        timer_set(&c->again, AGAIN_NS);
    } else if (fd >= 0) {
        (void)!control_adopt(c, fd); /* it was told, and the log too */
    }
    reap(c);
}

int control_listen(struct control *c, const char *path, struct error *err)
{
    char *copy = strdup(path);

    if (copy == NULL)
        return error_set(err, -ENOMEM, "no memory for the control socket");
    c->listener = listen_unix(path, err);
    int rc = c->listener;
    if (rc >= 0) {
        rc = loop_add(c->loop, c->listener, EPOLLIN, on_visitor, c);
        if (rc < 0)
            (void)error_sys(err, rc, "cannot watch %s", path);
    }
    if (rc < 0) {
        unlisten_unix(path, &c->listener);
        c->listener = -1;
        free(copy);
        return rc;
    }
    c->path = copy;
    return 0;
}

/* --- events --- */

/* {"event": NAME, "timestamp": {…}, "data": {…}}; the clock on the wall, as people's logs have it.
 */
static char *event_line(const char *name, json_t *data)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    json_t *event =
        json_pack("{s:s, s:{s:I, s:I}, s:o}", "event", name, "timestamp", "seconds",
                  (json_int_t)now.tv_sec, "microseconds", (json_int_t)(now.tv_nsec / 1000), "data",
                  data != NULL ? data : json_object());
    char *line = event != NULL ? json_dumps(event, JSON_COMPACT) : NULL;
    json_decref(event);
    return line;
}

void control_event(struct control *c, const char *name, json_t *data)
{
    char *line = event_line(name, data);

    for (struct control_client *client = c->clients; client != NULL; client = client->next) {
        if (client->follows && line != NULL)
            client_put(client, line);
        else if (client->follows)
            client_drop(client, "was dropped: no memory for an event");
    }
    free(line);
}

/* --- the machine --- */

void control_give(struct control *c, struct machine *m)
{
    c->machine = m;
    for (unsigned i = 0; i < c->module_count; i++)
        if (c->modules[i].module->give != NULL)
            c->modules[i].module->give(c->modules[i].ctx, m);
}

static const char *end_name(enum machine_end end)
{
    switch (end) {
    case MACHINE_POWER_OFF:
        return "power-off";
    case MACHINE_RESET:
        return "reset";
    case MACHINE_DEBUG_EXIT:
        return "debug-exit";
    case MACHINE_HALTED:
        return "halted";
    case MACHINE_QUIT:
        return "quit";
    case MACHINE_TRIPLE_FAULT:
        return "triple-fault";
    case MACHINE_CRASH:
        return "crash";
    case MACHINE_HOST_ERROR:
        return "host-error";
    }
    return "?";
}

void control_take(struct control *c, const struct machine_outcome *outcome, bool reset, int status)
{
    for (unsigned i = 0; i < c->module_count; i++)
        if (c->modules[i].module->take != NULL)
            c->modules[i].module->take(c->modules[i].ctx, reset);
    c->machine = NULL;
    if (reset)
        control_event(c, "reset", NULL);
    else
        control_event(c, "shutdown",
                      json_pack("{s:s, s:i}", "reason", end_name(outcome->end), "status", status));
}

/* --- life --- */

int control_register(struct control *c, const struct control_module *module, void *ctx)
{
    if (c->module_count == CONTROL_MODULES_MAX) {
        if (module->destroy != NULL)
            module->destroy(ctx);
        return -ENOSPC;
    }
    c->modules[c->module_count].module = module;
    c->modules[c->module_count++].ctx = ctx;
    return 0;
}

int control_create(struct loop *loop, const struct log *log, struct control **out)
{
    struct control *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return -ENOMEM;
    *c = (struct control){.loop = loop, .log = log, .listener = -1, .again.fd = -1};
    int rc = timer_init(&c->again, loop, accept_again, c);
    if (rc == 0)
        rc = control_register(c, &control_own, c);
    if (rc == 0)
        rc = control_machine_register(c);
    if (rc == 0)
        rc = control_devices_register(c);
    if (rc < 0) {
        control_destroy(c);
        return rc;
    }
    *out = c;
    return 0;
}

void control_destroy(struct control *c)
{
    if (c == NULL)
        return;
    while (c->module_count > 0) {
        c->module_count--;
        if (c->modules[c->module_count].module->destroy != NULL)
            c->modules[c->module_count].module->destroy(c->modules[c->module_count].ctx);
    }
    for (struct control_client *client = c->clients; client != NULL; client = client->next)
        client_drop(client, NULL);
    reap(c);
    if (c->path != NULL) {
        loop_remove(c->loop, c->listener);
        unlisten_unix(c->path, &c->listener);
    }
    free(c->path);
    timer_fini(&c->again);
    free(c);
}
