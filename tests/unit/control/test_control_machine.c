/*
 * The control socket with a machine behind it: a guest that writes to a port without end, which any
 * KVM can run, with a disk, a network interface, a console and a balloon that it leaves alone.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/num.h"
#include "hv/kvm/kvm.h"
#include "hv/machine/debug.h"
#include "hv/machine/manage.h"
#include "support/control_rig.h"

static const uint8_t guest[] = {0xe6, 0x80, 0xeb, 0xfc}; /* 1: out %al, $0x80; jmp 1b */

static struct control_rig rig;
static struct machine_config cfg;
static struct machine *m;
static struct block *block;
static struct net *net, *other_end;
static struct chr *chr;

static void start(void)
{
    struct error err = {0};

    cfg.boot = (struct boot_request){.protocol = BOOT_FLAT,
                                     .kernel = guest,
                                     .kernel_size = sizeof(guest),
                                     .kernel_name = "guest",
                                     .flat_load = 0x7c00,
                                     .flat_entry = 0x7c00};
    cr_assert_eq(machine_create(&cfg, &m, &err), 0, "%s", err.text);
    control_give(rig.control, m);
    cr_assert_eq(machine_start(m, &err), 0, "%s", err.text);
}

static void set_up(void)
{
    if (access(KVM_DEVICE, R_OK | W_OK) != 0)
        cr_skip_test("no KVM here");
    talk_init(&rig);
    cr_assert_eq(block_mem_create(MIB, &block), 0);
    cr_assert_eq(net_pair_create(&net, &other_end), 0);
    cr_assert_eq(chr_mem_create(64, &chr), 0);
    cfg = (struct machine_config){
        .memory = 4 * MIB,
        .cpus = 2,
        .irqchip = true,
        .kvm_path = KVM_DEVICE,
        .loop = rig.loop,
        .log = &rig.log,
        .rng = true,
        .disks = {{.block = block, .queues = 2, .iops = 100}},
        .disk_count = 1,
        .nics = {{.nets = &net, .queues = 1, .mac = {2}}},
        .nic_count = 1,
        .consoles = {{.chr = chr}},
        .console_count = 1,
        .balloon = true,
    };
    start();
    talk_connect(&rig, 0);
    json_decref(talk_receive(&rig, 0));
}

static struct machine_outcome end(bool reset)
{
    struct machine_outcome outcome = {.end = MACHINE_HOST_ERROR};
    struct error err = {0};

    machine_end(m, &(struct machine_outcome){.end = MACHINE_QUIT});
    cr_assert_eq(machine_run(m, &outcome, &err), 0);
    control_take(rig.control, &outcome, reset, 0);
    machine_destroy(m);
    m = NULL;
    return outcome;
}

static void tear_down(void)
{
    if (rig.control == NULL) /* skipped */
        return;
    if (m != NULL)
        (void)end(false);
    talk_fini(&rig);
    net_destroy(net);
    net_destroy(other_end);
    block_destroy(block);
    chr_destroy(chr);
}

TestSuite(control_machine, .init = set_up, .fini = tear_down, .timeout = 60);

/* What a command returns; the caller owns it. `args` in JSON, or "". */
static json_t *call(const char *name, const char *args)
{
    char line[512];

    (void)snprintf(line, sizeof(line), "{\"execute\":\"%s\"%s%s}", name,
                   *args != '\0' ? ",\"arguments\":" : "", args);
    json_t *answer = json_loads(talk_ask(&rig, 0, line), 0, NULL);
    json_t *value = json_incref(json_object_get(answer, "return"));
    cr_assert_not_null(value, "%s: %s", line, talk_ask(&rig, 0, line));
    json_decref(answer);
    return value;
}

static void tell(const char *name, const char *args)
{
    json_decref(call(name, args));
}

static void refused(const char *name, const char *args, const char *class)
{
    char line[512], wanted[64];

    (void)snprintf(line, sizeof(line), "{\"execute\":\"%s\",\"arguments\":%s}", name, args);
    (void)snprintf(wanted, sizeof(wanted), "{\"error\":{\"class\":\"%s\"", class);
    const char *answer = talk_ask(&rig, 0, line);
    cr_assert_eq(strncmp(answer, wanted, strlen(wanted)), 0, "%s: %s", line, answer);
}

static int64_t number(json_t *object, const char *name)
{
    int64_t n = json_integer_value(json_object_get(object, name));

    json_decref(object);
    return n;
}

/* "running", or "paused:" and the reasons. */
static const char *state(void)
{
    static char text[64];
    json_t *status = call("status", "");
    const json_t *reasons = json_object_get(status, "reasons");
    size_t i;
    json_t *one;

    (void)snprintf(text, sizeof(text), "%s", json_string_value(json_object_get(status, "state")));
    json_array_foreach(reasons, i, one)
    {
        (void)strcat(text, i == 0 ? ":" : ",");
        (void)strcat(text, json_string_value(one));
    }
    json_decref(status);
    return text;
}

#define STATE(wanted) cr_assert_str_eq(state(), wanted)

static uint64_t exits(void)
{
    struct machine_cpu_stats s;

    machine_cpu_stats(m, 0, &s);
    return s.exits;
}

/* The guest moves, and that within reason. */
static void moves(void)
{
    uint64_t before = exits();

    while (exits() == before)
        talk_turn(&rig); /* the suite's time-out ends it */
}

static void stands_still(void)
{
    uint64_t before = exits();

    for (unsigned i = 0; i < 100; i++)
        talk_turn(&rig);
    cr_assert_eq(exits(), before);
    cr_assert(machine_is_paused(m));
}

static const char *next_event(unsigned client)
{
    static char name[64];
    json_t *event = talk_receive(&rig, client);

    (void)snprintf(name, sizeof(name), "%s",
                   event == NULL ? "hung up" : json_string_value(json_object_get(event, "event")));
    json_decref(event);
    return name;
}

/* A second client, which follows events. */
static void follow(void)
{
    talk_connect(&rig, 1);
    json_decref(talk_receive(&rig, 1));
    cr_assert_str_eq(talk_ask(&rig, 1, "{\"execute\":\"events\"}"), "{\"return\":{}}");
}

/* --- how it is --- */

Test(control_machine, status_tells_what_there_is)
{
    json_t *status = call("status", "");
    const json_t *devices = json_object_get(status, "devices");
    const char *const names[] = {"disk0", "net0", "rng", "console", "balloon"};

    cr_assert_eq(json_integer_value(json_object_get(status, "cpus")), 2);
    cr_assert_eq(json_integer_value(json_object_get(status, "memory")), 4 * MIB);
    cr_assert_eq(json_array_size(devices), ARRAY_LEN(names));
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const json_t *one = json_array_get(devices, i);
        cr_assert_str_eq(json_string_value(json_object_get(one, "name")), names[i]);
        cr_assert(json_is_false(json_object_get(one, "driven")));
    }
    json_decref(status);
}

Test(control_machine, stats_count_while_the_guest_runs)
{
    moves();
    json_t *stats = call("stats", "");
    const json_t *cpu = json_array_get(json_object_get(stats, "cpus"), 0);

    cr_assert_eq(json_array_size(json_object_get(stats, "cpus")), 2);
    cr_assert_gt(json_integer_value(json_object_get(cpu, "exits")), 0);
    cr_assert_gt(json_integer_value(json_object_get(json_object_get(cpu, "reasons"), "IO")), 0);
    cr_assert_gt(
        json_integer_value(json_object_get(json_object_get(stats, "unclaimed"), "port-bytes")), 0);
    const json_t *memory = json_object_get(stats, "memory");
    cr_assert_gt(json_integer_value(json_object_get(memory, "resident")), 0);
    const json_t *disk = json_array_get(json_object_get(stats, "devices"), 0);
    cr_assert_eq(json_array_size(json_object_get(disk, "queues")), 2);
    cr_assert_eq(
        json_integer_value(json_object_get(json_object_get(disk, "counters"), "iops-limit")), 100);
    const json_t *threads = json_object_get(stats, "io-threads");
    cr_assert_eq(json_array_size(threads), 4, "the shared one, two queues' and the interface's");
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(threads, 3), "name")),
                     "net0");
    json_decref(stats);
}

/* --- when it runs --- */

Test(control_machine, pauses_and_goes_on)
{
    follow();
    moves();
    STATE("running");
    tell("pause", "");
    stands_still();
    STATE("paused:user");
    tell("pause", "");
    tell("resume", "");
    moves();
    STATE("running");
    tell("resume", "");
    cr_assert_str_eq(next_event(1), "paused", "once, for two");
    cr_assert_str_eq(next_event(1), "resumed");
    cr_assert(talk_is_silent(&rig, 1));
}

Test(control_machine, goes_on_when_the_last_reason_is_gone)
{
    tell("pause", "");
    machine_hold(m, HOLD_JOB);
    STATE("paused:user,job");
    tell("resume", "");
    stands_still();
    STATE("paused:job");
    machine_resume(m); /* is no reason's end */
    stands_still();
    machine_release(m, HOLD_JOB);
    moves();
}

/* --- beside a debugger --- */

static void on_stopped(void *ctx, const struct debug_stop *stop)
{
    (void)ctx;
    (void)stop;
}

static const struct debug_ops debug_ops = {.stopped = on_stopped};

Test(control_machine, a_resume_does_not_end_a_debuggers_turn)
{
    machine_debug_attach(m, &debug_ops, NULL);
    STATE("paused:debugger");
    tell("pause", "");
    STATE("paused:user,debugger");
    tell("resume", "");
    stands_still();
    STATE("paused:debugger");
    machine_debug_resume(m, NULL);
    moves();
    STATE("running");
    machine_debug_detach(m);
    moves();
}

Test(control_machine, a_debuggers_continue_does_not_end_a_pause_that_came_after_it)
{
    follow();
    machine_debug_attach(m, &debug_ops, NULL);
    machine_debug_resume(m, NULL);
    tell("pause", "");
    machine_debug_stop(m);
    machine_debug_resume(m, NULL);
    stands_still();
    STATE("paused:user");
    machine_debug_detach(m);
    stands_still();
    tell("resume", "");
    moves();
    cr_assert_str_eq(next_event(1), "paused");
    cr_assert_str_eq(next_event(1), "resumed");
    cr_assert(talk_is_silent(&rig, 1), "a debugger's turns are no events");
}

Test(control_machine, a_debuggers_continue_ends_a_pause_that_it_found)
{
    follow();
    tell("pause", "");
    cr_assert_str_eq(next_event(1), "paused");
    machine_debug_attach(m, &debug_ops, NULL);
    STATE("paused:user,debugger");
    machine_debug_resume(m, NULL);
    moves();
    STATE("running");
    cr_assert_str_eq(next_event(1), "resumed");
    machine_debug_detach(m);
    moves();
}

Test(control_machine, one_that_only_looks_in_lets_go_too)
{
    tell("pause", "");
    machine_debug_attach(m, &debug_ops, NULL);
    machine_debug_detach(m);
    moves();
    STATE("running");
}

/* --- when it ends --- */

Test(control_machine, kill_ends_it_and_tells)
{
    struct machine_outcome outcome;
    struct error err = {0};

    follow();
    tell("kill", "");
    cr_assert_eq(machine_run(m, &outcome, &err), 0);
    cr_assert_eq(outcome.end, MACHINE_QUIT);
    control_take(rig.control, &outcome, false, 0);
    machine_destroy(m);
    m = NULL;
    json_t *event = talk_receive(&rig, 1);
    cr_assert_str_eq(json_string_value(json_object_get(event, "event")), "shutdown");
    const json_t *data = json_object_get(event, "data");
    cr_assert_str_eq(json_string_value(json_object_get(data, "reason")), "quit");
    json_decref(event);
}

Test(control_machine, reset_ends_it_as_a_reset)
{
    struct machine_outcome outcome;
    struct error err = {0};

    tell("reset", "");
    tell("pause", ""); /* comes too late, and does no harm */
    cr_assert_eq(machine_run(m, &outcome, &err), 0);
    cr_assert_eq(outcome.end, MACHINE_RESET);
}

Test(control_machine, what_was_set_survives_a_reset)
{
    follow();
    tell("pause", "");
    cr_assert_str_eq(next_event(1), "paused");
    tell("set-limits", "{\"device\":\"net0\",\"pps\":5}");
    tell("set-limits", "{\"device\":\"disk0\",\"iops\":0,\"bps\":\"1M\"}");
    tell("balloon", "{\"target\":\"2M\"}");
    (void)end(true);
    refused("status", "{}", "Busy");
    start();
    cr_assert_str_eq(next_event(1), "reset");
    cr_assert_str_eq(next_event(1), "paused");
    stands_still();
    cr_assert_eq(number(call("balloon", ""), "target"), 2 * MIB);
    cr_assert_eq(number(call("set-limits", "{\"device\":\"net0\"}"), "pps"), 5);
    cr_assert_eq(number(call("set-limits", "{\"device\":\"disk0\"}"), "iops"), 0);
    cr_assert_eq(number(call("set-limits", "{\"device\":\"disk0\"}"), "bps"), MIB);
    tell("resume", "");
    moves();
}

Test(control_machine, a_guest_that_ignores_the_button_is_told_of)
{
    follow();
    tell("stop", "{\"timeout\":1}");
    json_t *event = talk_receive(&rig, 1);
    cr_assert_str_eq(json_string_value(json_object_get(event, "event")), "stop-ignored");
    cr_assert_eq(json_integer_value(json_object_get(json_object_get(event, "data"), "timeout")), 1);
    json_decref(event);
    refused("stop", "{\"timeout\":86401}", "BadArgument");
}

/* --- devices --- */

Test(control_machine, limits_change_one_at_a_time)
{
    cr_assert_eq(number(call("set-limits", "{\"device\":\"disk0\"}"), "iops"), 100);
    cr_assert_eq(number(call("set-limits", "{\"device\":\"disk0\",\"bps\":4096}"), "iops"), 100);
    cr_assert_eq(number(call("set-limits", "{\"device\":\"disk0\",\"iops\":7}"), "bps"), 4096);
    cr_assert_eq(number(call("set-limits", "{\"device\":\"net0\",\"pps\":9}"), "pps"), 9);
    refused("set-limits", "{\"device\":\"net0\",\"iops\":9}", "BadArgument");
    refused("set-limits", "{\"device\":\"disk0\",\"pps\":9}", "BadArgument");
    refused("set-limits", "{\"device\":\"disk1\"}", "BadArgument");
    refused("set-limits", "{\"device\":\"rng\"}", "BadArgument");
    refused("set-limits", "{}", "BadArgument");
}

Test(control_machine, the_balloon_takes_at_most_all_there_is)
{
    cr_assert_eq(number(call("balloon", "{\"target\":\"1M\"}"), "target"), MIB);
    cr_assert_eq(number(call("balloon", ""), "target"), MIB);
    cr_assert_eq(number(call("balloon", "{\"target\":\"1T\"}"), "target"), 4 * MIB);
    json_t *answer = call("balloon", "{\"guest\":true}"); /* nobody drives it: no wait */
    cr_assert_null(json_object_get(answer, "guest"));
    json_decref(answer);
}

Test(control_machine, console_ports_are_opened_closed_and_resized)
{
    tell("console-close", "{\"port\":0}");
    tell("console-open", "{\"port\":0}");
    tell("console-resize", "{\"port\":0,\"columns\":100,\"rows\":30}");
    refused("console-open", "{\"port\":1}", "BadArgument");
    refused("console-open", "{\"port\":8}", "BadArgument");
    refused("console-resize", "{\"port\":0,\"columns\":65536,\"rows\":30}", "BadArgument");
}
