/*
 * A control server without a path, and clients of it at the other ends of socket pairs, all in one
 * thread: whoever waits for an answer turns the server's loop meanwhile.
 */
#ifndef SUPPORT_CONTROL_RIG_H
#define SUPPORT_CONTROL_RIG_H

#include <jansson.h>
#include <stddef.h>

#include "control/control_priv.h"

#define TALK_CLIENTS 20

struct talk_client {
    int fd; /* -1: none */
    char *in;
    size_t len;
};

struct control_rig {
    struct loop *loop;
    struct control *control;
    struct log log; /* counts its messages, and keeps the last one */
    unsigned logged;
    char last_log[256];
    struct talk_client clients[TALK_CLIENTS];
};

void talk_init(struct control_rig *rig);
void talk_fini(struct control_rig *rig);

/* Lets the server do what it can do now. */
void talk_turn(struct control_rig *rig);

/* Connects number n; its greeting is still to be read. */
void talk_connect(struct control_rig *rig, unsigned n);
void talk_hang_up(struct control_rig *rig, unsigned n);

/* Sends bytes as they are, turning the loop until the server has taken all it wants. Returns how
 * many that were. */
size_t talk_send(struct control_rig *rig, unsigned n, const void *data, size_t len);

/* The next line that the server sends to this client, which fails the test after some seconds. The
 * caller owns it. NULL: the server has hung up. */
json_t *talk_receive(struct control_rig *rig, unsigned n);

/* Nothing has come, and nothing comes. */
bool talk_is_silent(struct control_rig *rig, unsigned n);

/* Sends a line and returns the next one that comes back, as text that lives until the next call. */
const char *talk_ask(struct control_rig *rig, unsigned n, const char *line);

#endif
