/*
 * The control socket's parts: control.c the server, control_client.c a connection,
 * control_request.c what its lines ask, control_schema.c whether they may ask it so;
 * control_machine.c, control_devices.c and control_stats.c are modules of commands.
 */
#ifndef CONTROL_CONTROL_PRIV_H
#define CONTROL_CONTROL_PRIV_H

#include <stddef.h>
#include <sys/socket.h>

#include "hv/base/timer.h"
#include "hv/control/command.h"

#define CONTROL_MODULES_MAX 8
#define CONTROL_DEPTH_MAX 16              /* of a request's brackets */
#define CONTROL_OUTPUT_ENOUGH (64U << 10) /* so much unsent: no more requests for now */
#define CONTROL_OUTPUT_MAX (1U << 20)     /* so much unsent: the client does not read */

struct control_client {
    struct control_client *next;
    struct control *control;    /* borrowed */
    int fd;                     /* owned; -1: it was dropped, and goes with the next reap */
    struct ucred who;           /* as the system knows it, for the log */
    enum control_role role;     /* what it may do */
    bool follows;               /* events */
    bool ended;                 /* it sends nothing more */
    bool closing;               /* nothing more is taken from it */
    bool serving;               /* on the stack: what is put is sent by those below */
    struct control_call *calls; /* not yet answered, owned until their client goes */
    unsigned call_count;
    char *out; /* owned */
    size_t out_len, out_room, sent;
    size_t in_len;
    char in[CONTROL_LINE_MAX];
};

/* A request that is not yet answered. */
struct control_call {
    struct control_call *next;
    struct control_client *client; /* NULL: it has gone */
    json_t *id;                    /* owned; NULL: it gave none */
};

struct control {
    struct loop *loop;       /* borrowed */
    const struct log *log;   /* borrowed */
    struct machine *machine; /* borrowed; NULL between two */
    int listener;            /* owned; -1: none */
    char *path;              /* owned; where it listens */
    struct timer again;      /* accepts again after it could not */
    struct control_client *clients;
    struct log_limit limit; /* of complaints about them */
    struct {
        const struct control_module *module;
        void *ctx;
    } modules[CONTROL_MODULES_MAX];
    unsigned module_count;
};

/* --- control_client.c --- */

/* Takes fd over. NULL: no memory. The loop does not watch it yet. */
struct control_client *client_create(struct control *c, int fd);
void client_destroy(struct control_client *client);

/* Ends the connection, and logs why unless that is NULL. The structure stays until it is reaped. */
void client_drop(struct control_client *client, const char *why);

/* Sends a line: JSON, without its newline. */
void client_put(struct control_client *client, const char *line);

/* Something arrived, or there is room again. */
void client_on_event(struct control_client *client, uint32_t events);

/* --- control_request.c --- */

extern const struct control_module control_own;

/* Takes one line from a client, without its newline. */
void request_take(struct control_client *client, const char *line, size_t len);

/* An error that answers no request that could be read. */
void request_refuse(struct control_client *client, enum control_error what, const char *text);

/* What every client is told first. NULL: no memory. Owned. */
json_t *request_greeting(const struct control *c);

/* Frees a call that nobody waits for any more. */
void call_forget(struct control_call *call);

/* --- control_schema.c --- */

/* Do the arguments fit the table? Sizes become numbers. -EINVAL, with a sentence. */
int schema_check(const struct control_arg *schema, json_t *args, struct error *err) HV_MUST_CHECK;

const char *schema_type_name(enum control_type type);

/* How far two names are from each other: letters to change, add or leave out; more than any limit
 * for names that are long. */
unsigned name_distance(const char *a, const char *b);
#define NAME_NEAR 2 /* perhaps this was meant */

/* Do its brackets nest no deeper than `max`? Asked before a parser recurses. */
bool is_shallow(const char *text, size_t len, unsigned max);

/* --- the modules; each registers itself --- */

int control_machine_register(struct control *c) HV_MUST_CHECK;
int control_devices_register(struct control *c) HV_MUST_CHECK;

/* control_machine.c: true if there is a machine; else (NULL: between two) the call is answered. */
bool has_machine(const struct machine *m, struct control_call *call);

/* control_stats.c: the answer to `stats`. NULL: no memory. */
json_t *stats_of(const struct machine *m);
/* "disk" and the like: what kind of device this VIRTIO_ID_… is. */
const char *stats_kind(uint32_t id);

#endif
