/*
 * Commands about devices: limits, the balloon, consoles.
 *
 * What the guest tells of its memory has to be asked for and comes when the guest gets to it. So
 * the call waits, looked at now and then, and after a while it gets what was told last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/control_priv.h"
#include "hv/base/fd.h"
#include "hv/machine/manage.h"
#include "hv/virtio/balloon.h"
#include "hv/virtio/blk.h"
#include "hv/virtio/console.h"
#include "hv/virtio/net.h"

#define LOOK_NS UINT64_C(20000000)
#define ANSWER_NS UINT64_C(1000000000) /* so long a guest may take to answer */
#define WAITING_MAX 16
#define DEVICES_MAX 31

/* Of a disk: requests; of a network interface: frames, each way. Per second; 0: none. */
struct limits {
    uint64_t ops, bytes;
};

struct waiting {
    struct control_call *call;
    uint64_t since; /* now_ns() */
};

struct device_commands {
    struct control *control; /* borrowed */
    struct machine *m;       /* borrowed; NULL between two */
    struct timer look;
    struct waiting waiting[WAITING_MAX]; /* for the guest's answer */
    unsigned waiting_count;
    /* What was set at the last machine. */
    bool kept;
    uint64_t balloon; /* pages */
    struct limits limits[DEVICES_MAX];
};

/* --- limits --- */

static bool get_limits(struct virtio_dev *v, struct limits *out)
{
    struct virtio_net_limits net;
    struct virtio_blk_stats blk;

    switch (v->ops->id) {
    case VIRTIO_ID_BLOCK:
        virtio_blk_stats(v, &blk);
        *out = (struct limits){blk.ops.rate, blk.bytes.rate};
        return true;
    case VIRTIO_ID_NET:
        virtio_net_limits(v, &net);
        *out = (struct limits){net.packets, net.bytes};
        return true;
    default:
        return false;
    }
}

static void set_limits(struct virtio_dev *v, const struct limits *limits)
{
    if (v->ops->id == VIRTIO_ID_BLOCK)
        virtio_blk_limit(v, limits->ops, limits->bytes);
    else
        virtio_net_limit(v, &(struct virtio_net_limits){limits->ops, limits->bytes});
}

static struct virtio_dev *find_device(const struct machine *m, const char *name)
{
    for (unsigned i = 0; i < machine_virtio_count(m); i++)
        if (strcmp(machine_virtio(m, i)->name, name) == 0)
            return machine_virtio(m, i);
    return NULL;
}

static void run_set_limits(void *ctx, struct control_call *call, json_t *args)
{
    const struct device_commands *k = ctx;
    const char *name = json_string_value(json_object_get(args, "device"));
    struct limits limits;

    if (!has_machine(k->m, call))
        return;
    struct virtio_dev *v = find_device(k->m, name);
    if (v == NULL || !get_limits(v, &limits)) {
        control_fail(call, CONTROL_ARGUMENT,
                     "device: there is no disk and no network interface "
                     "\"%s\"; \"status\" lists them",
                     name);
        return;
    }
    const char *ops = v->ops->id == VIRTIO_ID_BLOCK ? "iops" : "pps";
    const char *foreign = v->ops->id == VIRTIO_ID_BLOCK ? "pps" : "iops";
    if (control_has(args, foreign)) {
        control_fail(call, CONTROL_ARGUMENT, "%s: %s is limited by %s and bps", foreign, name, ops);
        return;
    }
    if (control_has(args, ops))
        limits.ops = control_number(args, ops);
    if (control_has(args, "bps"))
        limits.bytes = control_number(args, "bps");
    set_limits(v, &limits);
    control_return(call, json_pack("{s:o, s:o}", ops, control_u64(limits.ops), "bps",
                                   control_u64(limits.bytes)));
}

/* --- the balloon --- */

static json_t *memory_told(const struct virtio_balloon_stats *told)
{
    static const char *const names[VIRTIO_BALLOON_S_NR] = VIRTIO_BALLOON_S_NAMES;
    json_t *out = json_pack("{s:I}", "age-ms", (json_int_t)((now_ns() - told->at_ns) / 1000000));

    for (unsigned i = 0; out != NULL && i < VIRTIO_BALLOON_S_NR; i++)
        if (told->known & 1U << i)
            (void)json_object_set_new(out, names[i], control_u64(told->value[i]));
    return out;
}

static json_t *balloon_answer(const struct virtio_dev *v, bool with_memory)
{
    struct virtio_balloon_stats told;
    json_t *out = json_pack("{s:I, s:I}", "target",
                            (json_int_t)virtio_balloon_target(v) * VIRTIO_BALLOON_PAGE, "actual",
                            (json_int_t)virtio_balloon_actual(v) * VIRTIO_BALLOON_PAGE);

    virtio_balloon_stats(v, &told);
    if (out != NULL && with_memory && told.at_ns != 0)
        (void)json_object_set_new(out, "guest", memory_told(&told));
    return out;
}

/* Could the guest answer at all? */
static bool may_answer(const struct device_commands *k, const struct virtio_dev *v)
{
    return machine_holds(k->m) == 0 && (virtio_status(v) & VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Answers those whose wait is over: the guest has told something since, or takes too long. */
static void on_look(void *ctx)
{
    struct device_commands *k = ctx;
    const struct virtio_dev *v = machine_virtio_of(k->m, VIRTIO_ID_BALLOON);
    struct virtio_balloon_stats told;
    unsigned left = 0;

    virtio_balloon_stats(v, &told);
    for (unsigned i = 0; i < k->waiting_count; i++) {
        struct waiting w = k->waiting[i];
        if (told.at_ns >= w.since || now_ns() - w.since >= ANSWER_NS || !may_answer(k, v))
            control_return(w.call, balloon_answer(v, true));
        else
            k->waiting[left++] = w;
    }
    k->waiting_count = left;
    if (left > 0)
        timer_set(&k->look, LOOK_NS);
}

static void wait_for_guest(struct device_commands *k, struct control_call *call,
                           struct virtio_dev *v)
{
    if (k->waiting_count == WAITING_MAX) {
        control_fail(call, CONTROL_BUSY, "the guest was asked and has not answered yet");
        return;
    }
    k->waiting[k->waiting_count++] = (struct waiting){call, now_ns()};
    virtio_balloon_ask(v);
    timer_set(&k->look, LOOK_NS);
}

static void run_balloon(void *ctx, struct control_call *call, json_t *args)
{
    struct device_commands *k = ctx;
    bool with_memory = json_is_true(json_object_get(args, "guest"));

    if (!has_machine(k->m, call))
        return;
    struct virtio_dev *v = machine_virtio_of(k->m, VIRTIO_ID_BALLOON);
    if (v == NULL) {
        control_fail(call, CONTROL_NOT_SUPPORTED,
                     "the machine has no balloon: start it with "
                     "--balloon 0");
        return;
    }
    if (control_has(args, "target"))
        virtio_balloon_set_target(v, control_number(args, "target") / VIRTIO_BALLOON_PAGE);
    if (with_memory && may_answer(k, v))
        wait_for_guest(k, call, v);
    else
        control_return(call, balloon_answer(v, with_memory));
}

/* --- consoles --- */

/* The console device, if it has such a port; else the call is answered. */
static struct virtio_dev *find_console(const struct device_commands *k, struct control_call *call)
{
    if (!has_machine(k->m, call))
        return NULL;
    struct virtio_dev *v = machine_virtio_of(k->m, VIRTIO_ID_CONSOLE);
    if (v == NULL)
        control_fail(call, CONTROL_NOT_SUPPORTED,
                     "the machine has no console device: start it "
                     "with --console");
    return v;
}

static void answer_console(struct control_call *call, int rc)
{
    if (rc < 0)
        control_fail(call, CONTROL_ARGUMENT, "port: the console device has no such port");
    else
        control_return(call, json_object());
}

static void set_open(struct device_commands *k, struct control_call *call, json_t *args, bool open)
{
    struct virtio_dev *v = find_console(k, call);

    if (v != NULL)
        answer_console(call,
                       virtio_console_set_open(v, (unsigned)control_number(args, "port"), open));
}

static void run_console_open(void *ctx, struct control_call *call, json_t *args)
{
    set_open(ctx, call, args, true);
}

static void run_console_close(void *ctx, struct control_call *call, json_t *args)
{
    set_open(ctx, call, args, false);
}

static void run_console_resize(void *ctx, struct control_call *call, json_t *args)
{
    struct virtio_dev *v = find_console(ctx, call);

    if (v != NULL)
        answer_console(call, virtio_console_resize(v, (unsigned)control_number(args, "port"),
                                                   (uint16_t)control_number(args, "columns"),
                                                   (uint16_t)control_number(args, "rows")));
}

/* --- the module --- */

static const struct control_arg limit_args[] = {
    {"device", CONTROL_TEXT, true, 0, "disk0, net0, and so on"},
    {"iops", CONTROL_INT, false, 0, "requests of a disk in a second; 0: no limit"},
    {"pps", CONTROL_INT, false, 0, "frames of an interface in a second, each way; 0: no limit"},
    {"bps", CONTROL_SIZE, false, 0, "bytes in a second; 0: no limit"},
    {0},
};

static const struct control_arg balloon_args[] = {
    {"target", CONTROL_SIZE, false, 0, "how much of its memory the guest shall give up"},
    {"guest", CONTROL_BOOL, false, 0, "also ask the guest about its memory"},
    {0},
};

static const struct control_arg port_args[] = {
    {"port", CONTROL_INT, true, VIRTIO_CONSOLE_PORTS_MAX - 1, "its number, from 0"},
    {0},
};

static const struct control_arg size_args[] = {
    {"port", CONTROL_INT, true, VIRTIO_CONSOLE_PORTS_MAX - 1, "its number, from 0"},
    {"columns", CONTROL_INT, true, UINT16_MAX, "of its screen"},
    {"rows", CONTROL_INT, true, UINT16_MAX, "of its screen"},
    {0},
};

static const struct control_command commands[] = {
    {"set-limits", CONTROL_CHANGES, "Limit a disk or a network interface; what is not given stays",
     limit_args, run_set_limits},
    {"balloon", CONTROL_CHANGES, "Ask for guest memory, or say how much was given up", balloon_args,
     run_balloon},
    {"console-open", CONTROL_CHANGES, "Tell the guest that somebody is at a console port",
     port_args, run_console_open},
    {"console-close", CONTROL_CHANGES, "Tell the guest that nobody is; its output vanishes",
     port_args, run_console_close},
    {"console-resize", CONTROL_CHANGES, "Tell the guest the size of a console port's screen",
     size_args, run_console_resize},
    {0},
};

static void give(void *ctx, struct machine *m)
{
    struct device_commands *k = ctx;
    struct virtio_dev *balloon = machine_virtio_of(m, VIRTIO_ID_BALLOON);
    struct limits limits;

    k->m = m;
    if (!k->kept)
        return;
    if (balloon != NULL)
        virtio_balloon_set_target(balloon, k->balloon);
    for (unsigned i = 0; i < machine_virtio_count(m) && i < DEVICES_MAX; i++)
        if (get_limits(machine_virtio(m, i), &limits))
            set_limits(machine_virtio(m, i), &k->limits[i]);
}

static void end_waiting(struct device_commands *k)
{
    for (unsigned i = 0; i < k->waiting_count; i++)
        control_fail(k->waiting[i].call, CONTROL_FAILED,
                     "the machine ended before its guest "
                     "answered");
    k->waiting_count = 0;
    timer_cancel(&k->look);
}

/* A reset brings the same machine once more, with the same devices. */
static void take(void *ctx, bool reset)
{
    struct device_commands *k = ctx;
    const struct virtio_dev *balloon = machine_virtio_of(k->m, VIRTIO_ID_BALLOON);

    end_waiting(k);
    k->kept = reset;
    if (balloon != NULL)
        k->balloon = virtio_balloon_target(balloon);
    for (unsigned i = 0; i < machine_virtio_count(k->m) && i < DEVICES_MAX; i++)
        (void)get_limits(machine_virtio(k->m, i), &k->limits[i]);
    k->m = NULL;
}

static void destroy(void *ctx)
{
    struct device_commands *k = ctx;

    if (k->look.fd >= 0)
        end_waiting(k);
    timer_fini(&k->look);
    free(k);
}

int control_devices_register(struct control *c)
{
    static const struct control_module module = {
        .name = "devices", .commands = commands, .give = give, .take = take, .destroy = destroy};
    struct device_commands *k = calloc(1, sizeof(*k));

    if (k == NULL)
        return -ENOMEM;
    *k = (struct device_commands){.control = c, .look.fd = -1};
    int rc = timer_init(&k->look, c->loop, on_look, k);
    if (rc < 0) {
        destroy(k);
        return rc;
    }
    return control_register(c, &module, k);
}
