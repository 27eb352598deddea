/*
 * From a line to an answer.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/control_priv.h"

/* --- what goes out --- */

/* Sends an object, and frees it. NULL: there was no memory, not even to say so. */
static void put_json(struct control_client *client, json_t *object)
{
    char *line = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;

    json_decref(object);
    if (line == NULL) {
        client_drop(client, "was dropped: no memory for an answer");
        return;
    }
    client_put(client, line);
    free(line);
}

static const char *error_name(enum control_error what)
{
    switch (what) {
    case CONTROL_SYNTAX:
        return "Syntax";
    case CONTROL_UNKNOWN:
        return "UnknownCommand";
    case CONTROL_ARGUMENT:
        return "BadArgument";
    case CONTROL_NOT_SUPPORTED:
        return "NotSupported";
    case CONTROL_BUSY:
        return "Busy";
    case CONTROL_FAILED:
        return "Failed";
    }
    return "Failed";
}

/* Text that was cut may end within a letter. */
static json_t *error_object(enum control_error what, const char *text)
{
    json_t *desc = json_string(text);

    if (desc == NULL)
        desc = json_string("what is wrong cannot be shown");
    return json_pack("{s:s, s:o}", "class", error_name(what), "desc", desc);
}

void request_refuse(struct control_client *client, enum control_error what, const char *text)
{
    put_json(client, json_pack("{s:o, s:n}", "error", error_object(what, text), "id"));
}

/* --- calls --- */

static struct control_call *call_create(struct control_client *client, json_t *id)
{
    struct control_call *call = calloc(1, sizeof(*call));

    if (call == NULL)
        return NULL;
    *call = (struct control_call){.next = client->calls, .client = client, .id = json_incref(id)};
    client->calls = call;
    client->call_count++;
    return call;
}

static void call_unlink(struct control_call *call)
{
    struct control_call **link = &call->client->calls;

    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
    call->client->call_count--;
}

/* Ends a call with {key: value, "id": id}, whoever is there to hear it. */
static void answer(struct control_call *call, const char *key, json_t *value)
{
    json_t *object = json_pack("{s:o}", key, value);

    if (object != NULL && call->id != NULL)
        (void)json_object_set(object, "id", call->id);
    struct control_client *client = call->client;
    if (client != NULL)
        call_unlink(call);
    json_decref(call->id);
    free(call);
    if (client != NULL)
        put_json(client, object);
    else
        json_decref(object);
}

void control_return(struct control_call *call, json_t *value)
{
    if (value == NULL)
        control_fail(call, CONTROL_FAILED, "no memory for the answer");
    else
        answer(call, "return", value);
}

void control_fail(struct control_call *call, enum control_error what, const char *fmt, ...)
{
    char text[ERROR_TEXT_MAX];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    answer(call, "error", error_object(what, text));
}

void control_follow(struct control_call *call, bool events)
{
    if (call->client != NULL)
        call->client->follows = events;
}

/* --- what comes in --- */

struct found {
    const struct control_command *command;
    void *ctx;
};

static struct found find_command(const struct control *c, const char *name)
{
    for (unsigned i = 0; i < c->module_count; i++)
        for (const struct control_command *k = c->modules[i].module->commands; k->name; k++)
            if (strcmp(k->name, name) == 0)
                return (struct found){k, c->modules[i].ctx};
    return (struct found){NULL, NULL};
}

static void refuse_command(const struct control *c, struct control_call *call, const char *name)
{
    const char *nearest = NULL;
    unsigned best = NAME_NEAR + 1;

    for (unsigned i = 0; i < c->module_count; i++) {
        for (const struct control_command *k = c->modules[i].module->commands; k->name; k++) {
            unsigned distance = name_distance(k->name, name);
            if (distance < best) {
                best = distance;
                nearest = k->name;
            }
        }
    }
    if (nearest != NULL)
        control_fail(call, CONTROL_UNKNOWN, "there is no command \"%s\"; did you mean \"%s\"?",
                     name, nearest);
    else
        control_fail(call, CONTROL_UNKNOWN, "there is no command \"%s\"; \"commands\" lists them",
                     name);
}

static void run(struct control_call *call, const struct found *found, json_t *args)
{
    const struct control_client *client = call->client;
    const struct control_command *command = found->command;
    struct error err = {0};

    if (command->role > client->role) {
        control_fail(call, CONTROL_FAILED, "%s: this client may only look", command->name);
        return;
    }
    if (schema_check(command->args, args, &err) < 0) {
        control_fail(call, CONTROL_ARGUMENT, "%s: %s", command->name, err.text);
        return;
    }
    if (command->role == CONTROL_CHANGES)
        log_msg(client->control->log, LOG_DEBUG, "control: %s, by process %d of user %u",
                command->name, (int)client->who.pid, (unsigned)client->who.uid);
    command->run(found->ctx, call, args);
}

/* {"execute": NAME, "arguments": {…}, "id": anything}, the last two if there are any. */
static const char *check_request(const json_t *request)
{
    const json_t *args = json_object_get(request, "arguments");
    size_t known = 0;

    if (!json_is_object(request))
        return "a request is an object: {\"execute\": NAME, \"arguments\": {…}, \"id\": …}";
    if (!json_is_string(json_object_get(request, "execute")))
        return "a request says \"execute\" and the name of a command";
    if (args != NULL && !json_is_object(args))
        return "\"arguments\" is an object";
    known = 1 + (args != NULL) + (json_object_get(request, "id") != NULL);
    return json_object_size(request) == known
               ? NULL
               : "a request has \"execute\", \"arguments\" and \"id\", and nothing else";
}

static void take_request(struct control_client *client, json_t *request)
{
    json_t *args = json_object_get(request, "arguments");
    struct control_call *call = call_create(client, json_object_get(request, "id"));
    const char *wrong = check_request(request);

    if (call == NULL) {
        client_drop(client, "was dropped: no memory for its request");
        return;
    }
    if (wrong != NULL) {
        control_fail(call, CONTROL_SYNTAX, "%s", wrong);
        return;
    }
    if (client->call_count > CONTROL_CALLS_MAX) {
        control_fail(call, CONTROL_BUSY, "%d requests of yours are not answered yet",
                     CONTROL_CALLS_MAX);
        return;
    }
    const char *name = json_string_value(json_object_get(request, "execute"));
    struct found found = find_command(client->control, name);
    if (found.command == NULL) {
        refuse_command(client->control, call, name);
        return;
    }
    args = args != NULL ? json_incref(args) : json_object();
    run(call, &found, args);
    json_decref(args);
}

static bool is_blank(const char *line, size_t len)
{
    while (len > 0 && strchr(" \t\r", line[len - 1]) != NULL && line[len - 1] != '\0')
        len--;
    return len == 0;
}

void request_take(struct control_client *client, const char *line, size_t len)
{
    json_error_t error;

    if (is_blank(line, len))
        return;
    if (!is_shallow(line, len, CONTROL_DEPTH_MAX)) {
        request_refuse(client, CONTROL_SYNTAX, "too many brackets within each other");
        return;
    }
    json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
    if (request == NULL) {
        request_refuse(client, CONTROL_SYNTAX, error.text);
        return;
    }
    take_request(client, request);
    json_decref(request);
}

/* --- hv's commands about the socket itself --- */

json_t *request_greeting(const struct control *c)
{
    json_t *names = json_array();

    for (unsigned i = 0; i < c->module_count; i++)
        (void)json_array_append_new(names, json_string(c->modules[i].module->name));
    return json_pack("{s:{s:s, s:i, s:o}}", "hv", "version", HV_VERSION, "protocol",
                     CONTROL_PROTOCOL, "capabilities", names);
}

static void run_hello(void *ctx, struct control_call *call, json_t *args)
{
    uint64_t protocol = control_number(args, "protocol");
    json_t *greeting = request_greeting(ctx);

    if (control_has(args, "protocol") && protocol != CONTROL_PROTOCOL)
        control_fail(call, CONTROL_NOT_SUPPORTED, "hv " HV_VERSION " speaks protocol %d",
                     CONTROL_PROTOCOL);
    else
        control_return(call, json_incref(json_object_get(greeting, "hv")));
    json_decref(greeting);
}

static json_t *describe_args(const struct control_arg *a)
{
    json_t *list = json_array();

    for (; a != NULL && a->name != NULL; a++) {
        json_t *one =
            json_pack("{s:s, s:s, s:b, s:s}", "name", a->name, "type", schema_type_name(a->type),
                      "required", a->required, "help", a->help);
        if (one != NULL && a->max != 0)
            (void)json_object_set_new(one, "max", json_integer(a->max));
        (void)json_array_append_new(list, one);
    }
    return list;
}

static void run_commands(void *ctx, struct control_call *call, json_t *args)
{
    const struct control *c = ctx;
    json_t *list = json_array();

    (void)args;
    for (unsigned i = 0; i < c->module_count; i++)
        for (const struct control_command *k = c->modules[i].module->commands; k->name; k++)
            (void)json_array_append_new(
                list, json_pack("{s:s, s:s, s:b, s:o}", "name", k->name, "help", k->help, "changes",
                                k->role == CONTROL_CHANGES, "arguments", describe_args(k->args)));
    control_return(call, list);
}

static void run_events(void *ctx, struct control_call *call, json_t *args)
{
    const json_t *enable = json_object_get(args, "enable");

    (void)ctx;
    control_follow(call, enable == NULL || json_is_true(enable));
    control_return(call, json_object());
}

static const struct control_arg hello_args[] = {
    {"protocol", CONTROL_INT, false, INT32_MAX, "the one that the client speaks"},
    {0},
};

static const struct control_arg events_args[] = {
    {"enable", CONTROL_BOOL, false, 0, "follow them, or no more (default: true)"},
    {0},
};

static const struct control_command commands[] = {
    {"hello", CONTROL_SEES, "Say version, protocol and capabilities once more", hello_args,
     run_hello},
    {"commands", CONTROL_SEES, "List the commands and what they take", NULL, run_commands},
    {"events", CONTROL_SEES, "Tell this client what happens, from now on", events_args, run_events},
    {0},
};

const struct control_module control_own = {.name = "control", .commands = commands};
