/*
 * Clients of the control socket that send anything, and read when the input says so.
 *
 * Input: pieces of a length byte and a kind byte, whose high half picks one of four clients. Kind
 * 0: the piece is sent as it is; 1: as a line; 2: the client reads what there is; 3: it goes, and
 * another one comes; 4: an event happens; 5: what waits for an answer is answered.
 *
 * Checked: every line that comes back is a JSON object that says one thing, "hv", "return", "error"
 * or "event"; a client that does not read is not sent without bound; the server's memory is.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/control_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

#define CLIENTS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct control_call *waiting[CLIENTS * CONTROL_CALLS_MAX + 64];
static unsigned waiting_count;

/* --- commands that take and do everything --- */

static void run_echo(void *ctx, struct control_call *call, json_t *args)
{
    (void)ctx;
    control_return(call, json_incref(args));
}

static void run_later(void *ctx, struct control_call *call, json_t *args)
{
    (void)ctx;
    (void)args;
    if (waiting_count == ARRAY_LEN(waiting))
        control_fail(call, CONTROL_BUSY, "enough");
    else
        waiting[waiting_count++] = call;
}

static void answer_all(void *ctx)
{
    (void)ctx;
    while (waiting_count > 0)
        control_return(waiting[--waiting_count], json_object());
}

static const struct control_arg args[] = {
    {"bool", CONTROL_BOOL, false, 0, ""},
    {"int", CONTROL_INT, false, 100, ""},
    {"size", CONTROL_SIZE, false, 0, ""},
    {"text", CONTROL_TEXT, true, 0, ""},
    {0},
};

static const struct control_command commands[] = {
    {"echo", CONTROL_CHANGES, "", args, run_echo},
    {"later", CONTROL_SEES, "", NULL, run_later},
    {0},
};

static const struct control_module module = {
    .name = "fuzz", .commands = commands, .destroy = answer_all};

/* --- clients --- */

struct peer {
    int fd;
    char line[2 * CONTROL_OUTPUT_MAX]; /* the beginning of the next one */
    size_t len;
};

static struct peer peers[CLIENTS];

static void turn(struct loop *loop)
{
    for (unsigned i = 0; i < 3; i++)
        REQUIRE(loop_run_once(loop, 0) == 0);
}

static void check_line(const char *line, size_t len)
{
    static const char *const keys[] = {"hv", "return", "error", "event"};
    json_t *object = json_loadb(line, len, 0, NULL);
    unsigned said = 0;

    REQUIRE(json_is_object(object));
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        said += json_object_get(object, keys[i]) != NULL;
    REQUIRE(said == 1);
    json_decref(object);
}

static void listen_to(struct loop *loop, struct peer *p)
{
    ssize_t n;

    turn(loop);
    while ((n = recv(p->fd, p->line + p->len, sizeof(p->line) - p->len, MSG_DONTWAIT)) > 0) {
        char *at = p->line, *newline;
        p->len += (size_t)n;
        while ((newline = memchr(at, '\n', p->len - (size_t)(at - p->line))) != NULL) {
            check_line(at, (size_t)(newline - at));
            at = newline + 1;
        }
        p->len -= (size_t)(at - p->line);
        memmove(p->line, at, p->len);
        REQUIRE(p->len < sizeof(p->line));
        turn(loop);
    }
}

static void come(struct control *c, struct peer *p)
{
    int ends[2];

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    p->fd = ends[0];
    p->len = 0;
    (void)!control_adopt(c, ends[1]); /* too many: it is told */
}

static void say(struct loop *loop, const struct peer *p, const void *data, size_t len)
{
    (void)!send(p->fd, data, len,
                MSG_NOSIGNAL | MSG_DONTWAIT); /* who is full, or gone, is not heard */
    turn(loop);
}

/* What all clients together make the server keep. */
static void check_memory(const struct control *c)
{
    for (const struct control_client *k = c->clients; k != NULL; k = k->next) {
        REQUIRE(k->out_len - k->sent <= CONTROL_OUTPUT_MAX);
        REQUIRE(k->in_len <= sizeof(k->in));
        REQUIRE(k->call_count <= CONTROL_CALLS_MAX);
    }
}

static void play(struct control *c, struct loop *loop, const uint8_t *data, size_t size)
{
    while (size >= 2) {
        size_t len = data[0] < size - 2 ? data[0] : size - 2;
        struct peer *p = &peers[(data[1] >> 4) % CLIENTS];
        const uint8_t *piece = data + 2;
        switch (data[1] % 6) {
        case 0:
            say(loop, p, piece, len);
            break;
        case 1:
            say(loop, p, piece, len);
            say(loop, p, "\n", 1);
            break;
        case 2:
            listen_to(loop, p);
            break;
        case 3:
            fd_close(&p->fd);
            turn(loop);
            come(c, p);
            break;
        case 4:
            control_event(c, "happened", json_pack("{s:i}", "bytes", (int)len));
            break;
        default:
            answer_all(NULL);
        }
        check_memory(c);
        data += 2 + len;
        size -= 2 + len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct loop *loop;
    struct control *c;

    REQUIRE(loop_create(&loop) == 0);
    REQUIRE(control_create(loop, NULL, &c) == 0);
    REQUIRE(control_register(c, &module, NULL) == 0);
    for (unsigned i = 0; i < CLIENTS; i++)
        come(c, &peers[i]);
    play(c, loop, data, size);
    for (unsigned i = 0; i < CLIENTS; i++)
        listen_to(loop, &peers[i]);
    control_destroy(c);
    REQUIRE(waiting_count == 0);
    for (unsigned i = 0; i < CLIENTS; i++)
        fd_close(&peers[i].fd);
    loop_destroy(loop);
    return 0;
}
