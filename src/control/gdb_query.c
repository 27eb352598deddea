/*
 * Questions about us and about the target in general: q and Q.
 */
#include <errno.h>
#include <string.h>

#include "control/gdb_priv.h"

static bool knows(const struct rsp_view *v, const char *feature)
{
    return memmem(v->at, rsp_left(v), feature, strlen(feature)) != NULL;
}

/* What gdb can do, answered by what we can. */
static void exchange_features(struct gdb *g, const struct rsp_view *v)
{
    g->swbreak = knows(v, "swbreak+");
    g->hwbreak = knows(v, "hwbreak+");
    rsp_put_text(&g->reply, "PacketSize=");
    rsp_put_number(&g->reply, RSP_PACKET_MAX);
    rsp_put_text(&g->reply, ";QStartNoAckMode+;qXfer:features:read+;vContSupported+;"
                            "swbreak+;hwbreak+");
    gdb_reply_done(g);
}

/* A document is read in pieces: l before the last, m before others. */
static void read_document(struct gdb *g, struct rsp_view *v, const struct rsp_text *document)
{
    uint64_t offset, len;

    if (!rsp_take_number(v, &offset) || !rsp_take_text(v, ",") || !rsp_take_number(v, &len) ||
        offset > document->len) {
        gdb_reply_error(g, -EINVAL);
        return;
    }
    bool last = len >= document->len - offset;
    if (last)
        len = document->len - offset;
    rsp_put_text(&g->reply, last ? "l" : "m");
    rsp_put(&g->reply, document->data + offset, len);
    gdb_reply_done(g);
}

static void read_description(struct gdb *g, struct rsp_view *v)
{
    struct rsp_text xml = {0};

    gdb_describe(g->layout, &xml);
    if (xml.cut)
        gdb_reply_error(g, -ENOMEM);
    else
        read_document(g, v, &xml);
    rsp_text_fini(&xml);
}

static void list_threads(struct gdb *g)
{
    for (unsigned i = 0; i < g->target.cpus; i++) {
        rsp_put_text(&g->reply, i == 0 ? "m" : ",");
        rsp_put_number(&g->reply, i + 1);
    }
    gdb_reply_done(g);
}

static void describe_thread(struct gdb *g, struct rsp_view *v)
{
    char state[DEBUG_STATE_TEXT_MAX];
    char text[DEBUG_STATE_TEXT_MAX + 16];
    unsigned cpu;
    int id;

    if (!rsp_take_thread(v, &id) || !gdb_cpu_of(g, id, &cpu)) {
        gdb_reply_error(g, -ESRCH);
        return;
    }
    (void)snprintf(text, sizeof(text), "vCPU %u: %s", cpu,
                   g->target.ops->state_text(g->target.ctx, cpu, state, sizeof(state)));
    rsp_put_bytes(&g->reply, text, strlen(text));
    gdb_reply_done(g);
}

static void run_monitor(struct gdb *g, struct rsp_view *v)
{
    char line[256] = "";
    size_t len = rsp_left(v) / 2;

    if (len >= sizeof(line) || !rsp_take_bytes(v, line, len))
        gdb_reply_error(g, -EINVAL);
    else
        gdb_monitor(g, line);
}

void gdb_query(struct gdb *g, struct rsp_view *v)
{
    if (rsp_take_text(v, "Supported"))
        exchange_features(g, v);
    else if (rsp_take_text(v, "Xfer:features:read:target.xml:"))
        read_description(g, v);
    else if (rsp_take_text(v, "fThreadInfo"))
        list_threads(g);
    else if (rsp_take_text(v, "sThreadInfo"))
        gdb_reply_text(g, "l"); /* all of them were in the first answer */
    else if (rsp_take_text(v, "ThreadExtraInfo,"))
        describe_thread(g, v);
    else if (rsp_take_text(v, "Rcmd,"))
        run_monitor(g, v);
    else if (rsp_take_text(v, "Attached"))
        gdb_reply_text(g, "1"); /* it was there before gdb: on leaving, gdb detaches */
    else if (rsp_left(v) == 1 && rsp_take_text(v, "C")) {
        rsp_put_text(&g->reply, "QC");
        rsp_put_number(&g->reply, g->cpu + 1);
        gdb_reply_done(g);
    } else
        gdb_reply_text(g, "");
}

void gdb_set(struct gdb *g, struct rsp_view *v)
{
    if (!rsp_take_text(v, "StartNoAckMode")) {
        gdb_reply_text(g, "");
        return;
    }
    gdb_reply_text(g, "OK");
    g->no_acks = true;
}
