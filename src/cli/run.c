/*
 * hv run: from options to a running machine, and from its end to an exit status.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h> // lab 04

#include "cli/cli.h"
#include "cli/session.h"
#include "cli/term.h" // lab 04
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/kvm/kvm.h"
#include "hv/machine/manage.h" // lab 10

#define KERNEL_SIZE_MAX (1 * GIB)
#define INITRD_SIZE_MAX (16 * GIB) // lab 05

/* --- messages --- */

static void write_log(void *ctx, enum log_level level, const char *text)
{
    const char *kind = level <= LOG_WARN ? log_level_name(level) : "";
    const char *newline = "\n";

    (void)ctx;
    newline = term_newline(); // lab 04
    (void)fprintf(stderr, "hv: %s%s%s%s", kind, *kind != '\0' ? ": " : "", text, newline);
}

/* todo() leaves no sentence: it has said what is missing. */
static void complain_of(const struct error *err)
{
    if (err->text[0] != '\0')
        complain("%s", err->text);
}

/* --- a session --- */

static void session_fini(struct session *s)
{
    machine_destroy(s->machine);
    control_destroy(s->control); // lab 10
    gdb_server_destroy(s->gdb);  // lab 04
    close_nics(s);               // lab 09
    close_disks(s);              // lab 08
    close_back_ends(s);
    trace_close(&s->trace); // lab 05
    // lab 04 {
    if (s->loop != NULL) {
        loop_remove(s->loop, s->signal_fd);
        loop_remove(s->loop, s->stdout_watch);
    }
    fd_close(&s->signal_fd);
    fd_close(&s->stdout_watch);
    loop_destroy(s->loop);
    term_restore();
    // }
}

// lab 08 {
/* A file that is not there, or is not what it was said to be, is bad input; the rest is the host's.
 */
static int status_of_file(int rc)
{
    switch (rc) {
    case -ENOMEM:
    case -EMFILE:
    case -ENFILE:
    case -EIO:
        return STATUS_HOST;
    default:
        return STATUS_INPUT;
    }
}
// }

// lab 10 {
static int open_control(struct session *s, struct error *err)
{
    if (s->opt.control == NULL)
        return 0;
    int rc = control_create(s->loop, &s->log, &s->control);
    if (rc < 0)
        return error_sys(err, rc, "cannot create the control socket");
    rc = control_listen(s->control, s->opt.control, err);
    return rc < 0 ? error_prefix(err, rc, "--control") : 0;
}
// }

/* Returns an exit status; STATUS_OK: go on. */
static int session_init(struct session *s, struct error *err)
{
    s->log = (struct log){.level = s->opt.log_level, .write = write_log};
    // lab 04 {
    int rc = loop_create(&s->loop);
    if (rc < 0) {
        (void)error_sys(err, rc, "cannot create the event loop");
        return STATUS_HOST;
    }
    if (watch_signals(s, err) < 0 || watch_stdout(s, err) < 0)
        return STATUS_HOST;
    // }
    if (open_back_ends(s, err) < 0)
        return STATUS_HOST;
    // lab 08 {
    rc = open_disks(s, err);
    if (rc < 0)
        return status_of_file(rc);
    // }
    // lab 09 {
    if (open_nics(s, err) < 0)
        return STATUS_HOST;
    // }
    // lab 04 {
    if (s->opt.gdb != NULL) {
        rc = gdb_server_create(s->opt.gdb, s->loop, &s->log, &s->gdb, err);
        if (rc < 0) {
            (void)error_prefix(err, 0, "--gdb %s", s->opt.gdb);
            return rc == -EINVAL ? STATUS_USAGE : STATUS_HOST;
        }
    }
    // }
    // lab 10 {
    if (open_control(s, err) < 0)
        return STATUS_HOST;
    // }
    // lab 05 {
    if (s->opt.trace_path != NULL &&
        trace_create(s->opt.trace_path, s->opt.cpus, s->opt.trace_events, &s->trace, err) < 0)
        return STATUS_HOST;
    // }
    return STATUS_OK;
}

/* A missing KVM has an exit status of its own, so it is looked for before anything else. */
static int check_device(const struct session *s, struct error *err)
{
    struct kvm kvm;

    if (kvm_open(s->opt.kvm_path, &kvm, err) < 0)
        return STATUS_KVM;
    kvm_close(&kvm);
    return STATUS_OK;
}

static int status_of_create(int rc)
{
    switch (rc) {
    case -ENOEXEC:
    case -E2BIG:
    case -ENOTSUP:
        return STATUS_INPUT;
    case -EINVAL:
        return STATUS_USAGE;
    default:
        return STATUS_HOST;
    }
}

// lab 08 {
static void give_disks(const struct session *s, struct machine_config *cfg)
{
    for (unsigned i = 0; i < s->opt.disk_count; i++) {
        const struct disk_options *d = &s->opt.disks[i];
        cfg->disks[i] = (struct machine_disk){.block = s->disks[i],
                                              .queues = d->queues,
                                              .serial = d->serial,
                                              .iops = d->iops,
                                              .bps = d->bps,
                                              .no_event_idx = !d->event_idx};
    }
    cfg->disk_count = s->opt.disk_count;
}
// }

// lab 09 {
static void give_more(const struct session *s, struct machine_config *cfg)
{
    for (unsigned i = 0; i < s->opt.nic_count; i++) {
        const struct nic_options *n = &s->opt.nics[i];
        cfg->nics[i] = (struct machine_nic){.nets = s->nics[i],
                                            .queues = n->queues,
                                            .packets = n->packets,
                                            .bytes = n->rate,
                                            .no_event_idx = !n->event_idx};
        memcpy(cfg->nics[i].mac, n->mac, sizeof(n->mac));
    }
    cfg->nic_count = s->opt.nic_count;
    for (unsigned i = 0; i < s->opt.console_count; i++)
        cfg->consoles[i] = (struct machine_console){s->consoles[i], s->opt.consoles[i].name};
    cfg->console_count = s->opt.console_count;
    cfg->balloon = s->opt.balloon;
    cfg->balloon_size = s->opt.balloon_size;
    cfg->vsock_path = s->opt.vsock.path;
    cfg->vsock_cid = s->opt.vsock.cid;
    cfg->virtio_mmio = s->opt.virtio_mmio;
}
// }

/* Reads the files and makes a machine of them. Returns an exit status. */
static int create_machine(struct session *s, struct error *err)
{
    struct file_bytes kernel = {0};
    struct file_bytes initrd = {0}; // lab 05
    struct machine_config cfg = {
        .memory = s->opt.memory,
        .backing = s->opt.backing,
        .cpus = s->opt.cpus,
        .irqchip = s->opt.irqchip, // lab 04
        .kvm_path = s->opt.kvm_path,
        .serial = {s->serial[0], s->serial[1]}, // lab 02
        .debug = s->debug,
        .loop = s->loop, // lab 04
        .log = &s->log,
        .trace = s->trace.header != NULL ? &s->trace : NULL, // lab 05
    };
    int status = STATUS_INPUT;

    cfg.rng = s->opt.rng; // lab 07
    give_disks(s, &cfg);  // lab 08
    give_more(s, &cfg);   // lab 09
    if (file_read_all(s->opt.kernel, KERNEL_SIZE_MAX, &kernel, err) < 0) {
        (void)error_prefix(err, 0, "--kernel");
        goto done;
    }
    // lab 05 {
    if (s->opt.initrd != NULL && file_read_all(s->opt.initrd, INITRD_SIZE_MAX, &initrd, err) < 0) {
        (void)error_prefix(err, 0, "--initrd");
        goto done;
    }
    // }
    cfg.boot = (struct boot_request){
        .protocol = s->opt.boot,
        .kernel = kernel.data,
        .kernel_size = kernel.size,
        .kernel_name = s->opt.kernel,
        // lab 05 {
        .initrd = initrd.data,
        .initrd_size = initrd.size,
        .initrd_name = s->opt.initrd,
        .cmdline = s->opt.append,
        // }
        .flat_load = s->opt.flat_load,
        .flat_entry = s->opt.flat_entry,
    };
    int rc = machine_create(&cfg, &s->machine, err);
    status = rc < 0 ? status_of_create(rc) : STATUS_OK;
done:
    file_fini(&initrd); // lab 05
    file_fini(&kernel);
    return status;
}

/* --- the end --- */

static int status_of_end(struct session *s, const struct machine_outcome *outcome)
{
    switch (outcome->end) {
    case MACHINE_POWER_OFF: // lab 05
    case MACHINE_HALTED:
        return STATUS_OK;
    // lab 04 {
    case MACHINE_QUIT:
        if (s->output_gone) {
            complain("standard output was closed by its reader, so the machine was ended");
            return STATUS_HOST;
        }
        return s->signal != 0 ? 128 + s->signal : STATUS_OK;
    // }
    // lab 05 {
    case MACHINE_RESET:
        return STATUS_RESET;
    // }
    case MACHINE_DEBUG_EXIT:
        return (int)((outcome->value << 1 | 1) & 0xff);
    case MACHINE_TRIPLE_FAULT:
        return STATUS_TRIPLE_FAULT;
    case MACHINE_CRASH:
        return STATUS_CRASH;
    case MACHINE_HOST_ERROR:
        complain("KVM_RUN failed on CPU %u: %s", outcome->cpu, strerror((int)outcome->value));
        return STATUS_HOST;
    }
    return STATUS_HOST;
}

// lab 05 {
static bool wants_reboot(const struct session *s, const struct machine_outcome *outcome)
{
    return outcome->end == MACHINE_RESET && s->opt.reboot;
}
// }

/* What there is to say about a machine that has ended. */
static void report_end(const struct session *s, const struct machine_outcome *outcome)
{
    if (outcome->end == MACHINE_TRIPLE_FAULT || outcome->end == MACHINE_CRASH)
        machine_report(s->machine, outcome, stderr);
    if (s->opt.stats)                            // lab 05
        machine_print_stats(s->machine, stderr); // lab 05
}

/* The end's exit status, unless the guest's output was lost on the way. */
static int status_with_output(struct session *s, const struct machine_outcome *outcome, int lost)
{
    int status = status_of_end(s, outcome);

    if (s->output_gone) // lab 04
        return status;  // lab 04
    if (lost == 0)
        return status;
    complain("the guest's output could not all be written: %s", strerror(-lost));
    return status == STATUS_OK ? STATUS_HOST : status;
}

// lab 04 {
/* Says how to go on, because a machine that does nothing looks like one that hangs. */
static void say_how_to_go_on(const struct session *s)
{
    if (s->gdb != NULL)
        log_msg(&s->log, LOG_INFO, "%s in gdb: %s", s->opt.pause ? "paused; go on" : "debug it",
                gdb_server_command(s->gdb));
    else if (s->opt.pause && s->opt.uses_stdin && isatty(STDIN_FILENO))
        log_msg(&s->log, LOG_INFO, "paused before its first instruction; Ctrl-A p goes on");
    else if (s->opt.pause)
        log_msg(&s->log, LOG_INFO, "paused before its first instruction; kill -CONT %d goes on",
                (int)getpid());
}

/* What is to happen before the first instruction: of each machine, and of the first. */
static void prepare_debugging(struct session *s)
{
    if (s->gdb != NULL)
        gdb_server_give(s->gdb, s->machine);
    if (s->control != NULL)                   // lab 10
        control_give(s->control, s->machine); // lab 10
    if (s->restarted)
        return;
    s->restarted = true;
    if (s->opt.pause)
        machine_pause(s->machine);
    if (s->opt.pause)                        // lab 10
        machine_hold(s->machine, HOLD_USER); // lab 10
    say_how_to_go_on(s);
}

static void finish_debugging(struct session *s, const struct machine_outcome *outcome, int status)
{
    bool reset = false;

    (void)outcome;
    reset = wants_reboot(s, outcome); // lab 05
    if (s->gdb != NULL)
        gdb_server_take(s->gdb, reset, status);
    if (s->control != NULL)                               // lab 10
        control_take(s->control, outcome, reset, status); // lab 10
}
// }

/* One machine from start to end. Returns an exit status. */
static int run_once(struct session *s, struct machine_outcome *outcome)
{
    struct error err = {0};
    int status = create_machine(s, &err);

    if (status == STATUS_OK)         // lab 05
        status = check_kvm(s, &err); // lab 05
    if (status != STATUS_OK) {
        complain_of(&err);
        return status;
    }
    // lab 04 {
    if (s->opt.uses_stdin && term_raw(STDIN_FILENO) < 0)
        log_msg(&s->log, LOG_WARN, "the terminal cannot be made raw");
    prepare_debugging(s);
    // }
    tell_screen_size(s); // lab 09
    if (machine_start(s->machine, &err) < 0 || machine_run(s->machine, outcome, &err) < 0) {
        term_restore(); // lab 04
        complain_of(&err);
        return STATUS_HOST;
    }
    int lost = flush_back_ends(s);
    if (!wants_reboot(s, outcome)) // lab 05
        term_restore();            // lab 04
    report_end(s, outcome);
    status = status_with_output(s, outcome, lost);
    finish_debugging(s, outcome, status); // lab 04
    machine_destroy(s->machine);
    s->machine = NULL;
    return status;
}

static int run(const struct cli_command *cmd, int argc, char **argv)
{
    struct session s = {.machine = NULL};
    struct machine_outcome outcome = {.end = MACHINE_HOST_ERROR};
    struct error err = {0};

    s.signal_fd = s.stdout_watch = -1; // lab 04
    run_options_init(&s.opt);
    int first = cli_parse(cmd, argc, argv, &s.opt);
    if (first < 0 || run_options_check(&s.opt, argv + first) < 0) {
        run_options_fini(&s.opt); // lab 08
        return STATUS_USAGE;
    }
    int status = check_device(&s, &err);
    if (status == STATUS_OK)
        status = session_init(&s, &err);
    if (status != STATUS_OK)
        complain_of(&err);
    else
        status = run_once(&s, &outcome);
    // lab 05 {
    while (status == STATUS_RESET && wants_reboot(&s, &outcome))
        status = run_once(&s, &outcome);
    // }
    session_fini(&s);
    run_options_fini(&s.opt); // lab 08
    return status;
}

const struct cli_command command_run = {
    .name = "run",
    .arguments = "",
    .summary = "Start a virtual machine",
    .groups = run_option_groups,
    .group_count = RUN_OPTION_GROUPS,
    .run = run,
};
