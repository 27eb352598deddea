/*
 * Commands about the machine as a whole: how it is, and when it runs.
 */
#include <errno.h>
#include <stdlib.h>

#include "control/control_priv.h"
#include "hv/machine/manage.h"

#define NS_PER_S UINT64_C(1000000000)
#define STOP_MAX_S 86400

struct machine_commands {
    struct control *control; /* borrowed */
    struct machine *m;       /* borrowed; NULL between two */
    bool held;               /* the last one was, by its user */
    struct timer patience;   /* the guest was asked to power off */
    uint64_t patience_s;
};

bool has_machine(const struct machine *m, struct control_call *call)
{
    if (m == NULL)
        control_fail(call, CONTROL_BUSY, "the machine is between two starts");
    return m != NULL;
}

/* --- how it is --- */

static json_t *hold_names(unsigned holds)
{
    static const struct {
        enum machine_hold bit;
        const char *name;
    } names[] = {{HOLD_USER, "user"}, {HOLD_JOB, "job"}, {HOLD_DEBUGGER, "debugger"}};
    json_t *list = json_array();

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (holds & names[i].bit)
            (void)json_array_append_new(list, json_string(names[i].name));
    return list;
}

static json_t *device_list(const struct machine *m)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < machine_virtio_count(m); i++) {
        const struct virtio_dev *v = machine_virtio(m, i);
        bool driven = virtio_status(v) & VIRTIO_CONFIG_S_DRIVER_OK;
        (void)json_array_append_new(list, json_pack("{s:s, s:s, s:b}", "name", v->name, "kind",
                                                    stats_kind(v->ops->id), "driven", driven));
    }
    return list;
}

static void run_status(void *ctx, struct control_call *call, json_t *args)
{
    const struct machine_commands *k = ctx;

    (void)args;
    if (!has_machine(k->m, call))
        return;
    unsigned holds = machine_holds(k->m);
    control_return(call,
                   json_pack("{s:s, s:o, s:I, s:i, s:I, s:o}", "state",
                             holds != 0 ? "paused" : "running", "reasons", hold_names(holds),
                             "age-ms", (json_int_t)(machine_age_ns(k->m) / 1000000), "cpus",
                             (int)machine_cpus(k->m), "memory",
                             (json_int_t)machine_memory_size(k->m), "devices", device_list(k->m)));
}

static void run_stats(void *ctx, struct control_call *call, json_t *args)
{
    const struct machine_commands *k = ctx;

    (void)args;
    if (has_machine(k->m, call))
        control_return(call, stats_of(k->m));
}

/* --- when it runs --- */

static void run_pause(void *ctx, struct control_call *call, json_t *args)
{
    struct machine_commands *k = ctx;

    (void)args;
    if (!has_machine(k->m, call))
        return;
    machine_hold(k->m, HOLD_USER);
    control_return(call, json_object());
}

static void run_resume(void *ctx, struct control_call *call, json_t *args)
{
    struct machine_commands *k = ctx;

    (void)args;
    if (!has_machine(k->m, call))
        return;
    machine_release(k->m, HOLD_USER);
    control_return(call, json_pack("{s:o}", "reasons", hold_names(machine_holds(k->m))));
}

static void on_hold(void *ctx, bool held)
{
    struct machine_commands *k = ctx;

    if (held)
        control_event(k->control, "paused",
                      json_pack("{s:o}", "reasons", hold_names(machine_holds(k->m))));
    else
        control_event(k->control, "resumed", NULL);
}

/* --- when it ends --- */

static void run_stop(void *ctx, struct control_call *call, json_t *args)
{
    struct machine_commands *k = ctx;

    if (!has_machine(k->m, call))
        return;
    machine_power_button(k->m);
    timer_cancel(&k->patience);
    k->patience_s = control_number(args, "timeout");
    if (k->patience_s > 0)
        timer_set(&k->patience, k->patience_s * NS_PER_S);
    control_return(call, json_object());
}

static void on_patience_over(void *ctx)
{
    struct machine_commands *k = ctx;

    control_event(k->control, "stop-ignored",
                  json_pack("{s:I}", "timeout", (json_int_t)k->patience_s));
}

static void end_machine(struct machine_commands *k, struct control_call *call, enum machine_end end)
{
    if (!has_machine(k->m, call))
        return;
    machine_end(k->m, &(struct machine_outcome){.end = end});
    control_return(call, json_object());
}

static void run_kill(void *ctx, struct control_call *call, json_t *args)
{
    (void)args;
    end_machine(ctx, call, MACHINE_QUIT);
}

static void run_reset(void *ctx, struct control_call *call, json_t *args)
{
    (void)args;
    end_machine(ctx, call, MACHINE_RESET);
}

/* --- the module --- */

static const struct control_arg stop_args[] = {
    {"timeout", CONTROL_INT, false, STOP_MAX_S,
     "seconds after which the event stop-ignored tells that the guest still runs"},
    {0},
};

static const struct control_command commands[] = {
    {"status", CONTROL_SEES, "Say whether it runs, and what it has", NULL, run_status},
    {"stats", CONTROL_SEES, "Count exits, memory, requests and processor time", NULL, run_stats},
    {"pause", CONTROL_CHANGES, "Stop all CPUs", NULL, run_pause},
    {"resume", CONTROL_CHANGES, "Let them go on", NULL, run_resume},
    {"stop", CONTROL_CHANGES, "Press the power button: a guest with ACPI powers off", stop_args,
     run_stop},
    {"kill", CONTROL_CHANGES, "End the machine at once", NULL, run_kill},
    {"reset", CONTROL_CHANGES, "Start the machine anew", NULL, run_reset},
    {0},
};

static void give(void *ctx, struct machine *m)
{
    struct machine_commands *k = ctx;

    k->m = m;
    machine_watch_holds(m, on_hold, k);
    if (k->held)
        machine_hold(m, HOLD_USER);
}

static void take(void *ctx, bool reset)
{
    struct machine_commands *k = ctx;

    k->held = reset && (machine_holds(k->m) & HOLD_USER);
    machine_watch_holds(k->m, NULL, NULL);
    timer_cancel(&k->patience);
    k->m = NULL;
}

static void destroy(void *ctx)
{
    struct machine_commands *k = ctx;

    timer_fini(&k->patience);
    free(k);
}

int control_machine_register(struct control *c)
{
    static const struct control_module module = {
        .name = "machine", .commands = commands, .give = give, .take = take, .destroy = destroy};
    struct machine_commands *k = calloc(1, sizeof(*k));

    if (k == NULL)
        return -ENOMEM;
    *k = (struct machine_commands){.control = c, .patience.fd = -1};
    int rc = timer_init(&k->patience, c->loop, on_patience_over, k);
    if (rc < 0) {
        destroy(k);
        return rc;
    }
    return control_register(c, &module, k);
}
