/*
 * How a module brings commands to the control socket.
 *
 * A module has a table of commands. What a command takes is said there, and checked against it
 * before the command runs. It answers with control_return() or control_fail(), exactly once for
 * each call: at once, or when the work is done that was asked for; until then other requests of the
 * same client go on. If the client goes away meanwhile, its answers go nowhere, and are to be given
 * all the same.
 *
 * Threads: everything on the loop's thread.
 */
#ifndef HV_CONTROL_COMMAND_H
#define HV_CONTROL_COMMAND_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/control/control.h"

enum control_type {
    CONTROL_BOOL,
    CONTROL_INT,  /* 0 to `max` */
    CONTROL_SIZE, /* bytes, as a number or as "256M"; the command always sees a number */
    CONTROL_TEXT, /* at most CONTROL_TEXT_MAX bytes */
};

#define CONTROL_TEXT_MAX 4096

struct control_arg {
    const char *name; /* NULL ends the table */
    enum control_type type;
    bool required;
    int64_t max;      /* of a number; 0: any */
    const char *help; /* a few words */
};

/* Who may call it. Everyone who reaches the socket may do both, so far. */
enum control_role {
    CONTROL_SEES,    /* only looks */
    CONTROL_CHANGES, /* changes something about the machine */
};

/* What an error is, for programs; the sentence beside it is for people. */
enum control_error {
    CONTROL_SYNTAX,        /* no JSON, or no request */
    CONTROL_UNKNOWN,       /* there is no such command */
    CONTROL_ARGUMENT,      /* an argument is wrong, missing, or names something that is not there */
    CONTROL_NOT_SUPPORTED, /* this machine, or this hv, has no such thing */
    CONTROL_BUSY,          /* later perhaps */
    CONTROL_FAILED,
};

struct control_call;

struct control_command {
    const char *name; /* NULL ends the table */
    enum control_role role;
    const char *help;               /* one sentence, without its full stop */
    const struct control_arg *args; /* NULL: none */
    /* `args` is an object, borrowed, that fits the table. */
    void (*run)(void *ctx, struct control_call *call, json_t *args);
};

struct control_module {
    const char *name; /* of its capability, in the greeting */
    const struct control_command *commands;
    /* The machine, as control_give() and control_take(). NULL: nothing to do. */
    void (*give)(void *ctx, struct machine *m);
    void (*take)(void *ctx, bool reset);
    /* The server ends. Answers the calls that the module still has. */
    void (*destroy)(void *ctx);
};

/* Adds a module, for good; its destroy() is called also when it fails. -ENOSPC: there are too many.
 * Both pointers are borrowed until then. */
int control_register(struct control *c, const struct control_module *module,
                     void *ctx) HV_MUST_CHECK;

/* Answers. The value is taken over; NULL: there was no memory for it, which the client is told. */
void control_return(struct control_call *call, json_t *value);
void control_fail(struct control_call *call, enum control_error what, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Tells all clients that follow events. The data is taken over; NULL: none. */
void control_event(struct control *c, const char *name, json_t *data);

/* The next answer of `call`'s client comes after events as well, or no more. */
void control_follow(struct control_call *call, bool events);

/* What the arguments say; false, 0 or NULL if it is not there. */
static inline bool control_has(const json_t *args, const char *name)
{
    return json_object_get(args, name) != NULL;
}

static inline uint64_t control_number(const json_t *args, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(args, name));
}

/* For building answers. */
static inline json_t *control_u64(uint64_t n)
{
    return json_integer(n < INT64_MAX ? (json_int_t)n : INT64_MAX);
}

#endif
