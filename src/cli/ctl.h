/*
 * hv ctl: what its files share. ctl.c talks to the machine, ctl_link.c is the connection,
 * ctl_show.c says what came back.
 */
#ifndef HV_CLI_CTL_H
#define HV_CLI_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "hv/base/err.h"

/* ctl_link.c: a connection to a machine's control socket. */
struct ctl_link {
    FILE *in; /* owned */
    int out;
    char *line; /* owned: the last one that came */
    size_t room;
};

/* Connects, and hears the greeting. -ENOENT, -ECONNREFUSED, …; -EPROTO: that is no hv, or one that
 * speaks another protocol. */
int ctl_connect(const char *path, struct ctl_link *out, struct error *err) HV_MUST_CHECK;
void ctl_disconnect(struct ctl_link *l); /* fine if it never connected */

/* Sends {"execute": name, "arguments": args}; args is borrowed, NULL: none. */
int ctl_send(struct ctl_link *l, const char *name, json_t *args, struct error *err) HV_MUST_CHECK;

/* The next object. -ENODATA: the machine has hung up. The caller owns it. */
int ctl_receive(struct ctl_link *l, json_t **out, struct error *err) HV_MUST_CHECK;

/* ctl_show.c: an answer to this command, for a person. */
void ctl_show(const char *command, const json_t *value, FILE *out);
void ctl_show_event(const json_t *event, FILE *out);

#endif
