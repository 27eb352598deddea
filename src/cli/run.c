/*
 * hv run: from options to a running machine, and from its end to an exit status.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/run_options.h"
#include "cli/term.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/kvm/kvm.h"
#include "hv/machine/machine.h"
#include "hv/machine/probe.h"

#define KERNEL_SIZE_MAX (1 * GIB)
#define INITRD_SIZE_MAX (16 * GIB)

/* Everything that lives from the first start to the last: machines come and go with each reboot. */
struct session {
    struct run_options opt;
    struct log log;
    struct loop *loop;
    struct chr *serial[MACHINE_SERIAL_PORTS];
    struct chr *debug;
    struct trace trace;
    struct machine *machine; /* NULL between two */
    int signal_fd;
    int stdout_watch; /* a duplicate of 1 whose end of life the loop notices */
    int signal;       /* the signal that ended us, or 0 */
    bool output_gone; /* stdout was closed by its reader */
};

/* --- messages --- */

static void write_log(void *ctx, enum log_level level, const char *text)
{
    const char *kind = level <= LOG_WARN ? log_level_name(level) : "";

    (void)ctx;
    (void)fprintf(stderr, "hv: %s%s%s%s", kind, *kind != '\0' ? ": " : "", text, term_newline());
}

/* --- the user's and the system's wishes, on the loop's thread --- */

static void quit(struct session *s)
{
    const struct machine_outcome outcome = {.end = MACHINE_QUIT};

    if (s->machine != NULL)
        machine_end(s->machine, &outcome);
}

static void on_escape(void *ctx, char c)
{
    struct session *s = ctx;

    switch (c) {
    case 'x':
        quit(s);
        break;
    case 'b':
        if (s->machine != NULL)
            machine_power_button(s->machine);
        break;
    default:
        (void)fprintf(stderr, "\r\nCtrl-A x  leave the machine\r\n"
                              "Ctrl-A b  press its power button\r\n"
                              "Ctrl-A a  send a Ctrl-A\r\n"
                              "Ctrl-A h  this help\r\n");
    }
}

static void on_signal(void *ctx, uint32_t events)
{
    struct session *s = ctx;
    struct signalfd_siginfo info;

    (void)events;
    if (fd_read_full(s->signal_fd, &info, sizeof(info)) < 0)
        return;
    switch (info.ssi_signo) {
    case SIGTSTP:
        term_restore();
        (void)raise(SIGSTOP);
        term_raw_again();
        break;
    case SIGCONT:
        term_raw_again();
        break;
    default:
        s->signal = (int)info.ssi_signo;
        quit(s);
    }
}

/* Whoever read our output has gone (EPOLLERR on a pipe, EPOLLHUP on a terminal). */
static void on_stdout_gone(void *ctx, uint32_t events)
{
    struct session *s = ctx;

    (void)events;
    s->output_gone = true;
    loop_remove(s->loop, s->stdout_watch);
    quit(s);
}

static int watch_signals(struct session *s, struct error *err)
{
    static const int wanted[] = {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        sigaddset(&set, wanted[i]);
    (void)sigprocmask(SIG_BLOCK, &set, NULL); /* valid arguments: cannot fail */
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0)
        return error_sys(err, -errno, "signalfd");
    int rc = loop_add(s->loop, s->signal_fd, EPOLLIN, on_signal, s);
    return rc < 0 ? error_sys(err, rc, "cannot watch for signals") : 0;
}

static int watch_stdout(struct session *s, struct error *err)
{
    s->stdout_watch = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (s->stdout_watch < 0)
        return 0; /* there is no stdout: writes will say so */
    int rc = loop_add(s->loop, s->stdout_watch, 0, on_stdout_gone, s);
    /* -EPERM: a regular file, whose reader cannot go away. */
    return rc < 0 && rc != -EPERM ? error_sys(err, rc, "cannot watch standard output") : 0;
}

/* --- back ends --- */

static bool is_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static int open_pty(struct session *s, unsigned port, struct chr **out)
{
    char path[128];
    int rc = chr_pty_create(s->loop, path, sizeof(path), out);

    if (rc == 0)
        log_msg(&s->log, LOG_INFO, "serial port %u is at %s", port, path);
    return rc;
}

static int open_back_end(struct session *s, const char *spec, unsigned port, struct chr **out,
                         struct error *err)
{
    int rc;

    if (is_prefix(spec, "file:"))
        return chr_file_create(spec + strlen("file:"), s->opt.file_limit, out, err);
    if (strcmp(spec, "stdio") == 0)
        rc = chr_fds_create(s->loop, STDIN_FILENO, STDOUT_FILENO, on_escape, s, out);
    else if (strcmp(spec, "stdout") == 0)
        rc = chr_fds_create(s->loop, -1, STDOUT_FILENO, NULL, NULL, out);
    else if (strcmp(spec, "pty") == 0)
        rc = open_pty(s, port, out);
    else
        rc = chr_null_create(out);
    return rc < 0 ? error_sys(err, rc, "cannot be opened") : 0;
}

static int open_back_ends(struct session *s, struct error *err)
{
    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++) {
        const char *spec = s->opt.serial[i];
        int rc = spec != NULL ? open_back_end(s, spec, i, &s->serial[i], err) : 0;
        if (rc < 0)
            return error_prefix(err, rc, "--serial %s", spec);
    }
    int rc = open_back_end(s, s->opt.debug, 0, &s->debug, err);
    return rc < 0 ? error_prefix(err, rc, "--debug-port %s", s->opt.debug) : 0;
}

/* --- a session --- */

static void session_fini(struct session *s)
{
    machine_destroy(s->machine);
    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
        chr_destroy(s->serial[i]);
    chr_destroy(s->debug);
    trace_close(&s->trace);
    if (s->loop != NULL) {
        loop_remove(s->loop, s->signal_fd);
        loop_remove(s->loop, s->stdout_watch);
    }
    fd_close(&s->signal_fd);
    fd_close(&s->stdout_watch);
    loop_destroy(s->loop);
    term_restore();
}

/* Returns an exit status; STATUS_OK: go on. */
static int session_init(struct session *s, struct error *err)
{
    s->log = (struct log){.level = s->opt.log_level, .write = write_log};
    int rc = loop_create(&s->loop);
    if (rc < 0) {
        (void)error_sys(err, rc, "cannot create the event loop");
        return STATUS_HOST;
    }
    if (watch_signals(s, err) < 0 || watch_stdout(s, err) < 0 || open_back_ends(s, err) < 0)
        return STATUS_HOST;
    if (s->opt.trace_path != NULL &&
        trace_create(s->opt.trace_path, s->opt.cpus, s->opt.trace_events, &s->trace, err) < 0)
        return STATUS_HOST;
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

static bool is_linux(enum boot_protocol protocol)
{
    return protocol == BOOT_LINUX || protocol == BOOT_LINUX_UNPACKED || protocol == BOOT_PVH;
}

/* A KVM that only emulates the processor fails somewhere inside Linux, bafflingly. Where the CPU
 * offers no virtualization, look before the start; elsewhere the start is not delayed. Returns an
 * exit status. */
static int check_kvm(const struct session *s, struct error *err)
{
    struct probe probe;

    if (s->opt.skip_probe || !is_linux(machine_protocol(s->machine)) ||
        probe_flavour() != PROBE_SOFTWARE)
        return STATUS_OK;
    probe_kvm(s->opt.kvm_path, &probe);
    if (probe.result == PROBE_OK)
        return STATUS_OK;
    (void)error_set(err, 0,
                    "%s; `hv doctor` says what to do, --no-probe starts the guest all the same",
                    probe.why.text);
    return STATUS_KVM;
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

/* Reads the files and makes a machine of them. Returns an exit status. */
static int create_machine(struct session *s, struct error *err)
{
    struct file_bytes kernel = {0}, initrd = {0};
    struct machine_config cfg = {
        .memory = s->opt.memory,
        .backing = s->opt.backing,
        .cpus = s->opt.cpus,
        .irqchip = s->opt.irqchip,
        .kvm_path = s->opt.kvm_path,
        .serial = {s->serial[0], s->serial[1]},
        .debug = s->debug,
        .loop = s->loop,
        .log = &s->log,
        .trace = s->trace.header != NULL ? &s->trace : NULL,
    };
    int status = STATUS_INPUT;

    if (file_read_all(s->opt.kernel, KERNEL_SIZE_MAX, &kernel, err) < 0) {
        (void)error_prefix(err, 0, "--kernel");
        goto done;
    }
    if (s->opt.initrd != NULL && file_read_all(s->opt.initrd, INITRD_SIZE_MAX, &initrd, err) < 0) {
        (void)error_prefix(err, 0, "--initrd");
        goto done;
    }
    cfg.boot = (struct boot_request){
        .protocol = s->opt.boot,
        .kernel = kernel.data,
        .kernel_size = kernel.size,
        .kernel_name = s->opt.kernel,
        .initrd = initrd.data,
        .initrd_size = initrd.size,
        .initrd_name = s->opt.initrd,
        .cmdline = s->opt.append,
        .flat_load = s->opt.flat_load,
        .flat_entry = s->opt.flat_entry,
    };
    int rc = machine_create(&cfg, &s->machine, err);
    status = rc < 0 ? status_of_create(rc) : STATUS_OK;
done:
    file_fini(&initrd);
    file_fini(&kernel);
    return status;
}

/* --- the end --- */

static int status_of_end(struct session *s, const struct machine_outcome *outcome)
{
    switch (outcome->end) {
    case MACHINE_POWER_OFF:
    case MACHINE_HALTED:
        return STATUS_OK;
    case MACHINE_QUIT:
        if (s->output_gone) {
            complain("standard output was closed by its reader, so the machine was ended");
            return STATUS_HOST;
        }
        return s->signal != 0 ? 128 + s->signal : STATUS_OK;
    case MACHINE_RESET:
        return STATUS_RESET;
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

/* What the guest said comes before what hv has to say about it. And if it was lost, that must not
 * pass for success: returns the first error that output met. */
static int flush_output(struct session *s)
{
    struct chr *const all[] = {s->serial[0], s->serial[1], s->debug};
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (all[i] == NULL)
            continue;
        chr_flush(all[i]);
        rc = rc < 0 ? rc : chr_error(all[i]);
    }
    return rc;
}

/* One machine from start to end; *reboot: the guest wants another. Returns an exit status. */
static int run_once(struct session *s, bool *reboot)
{
    struct machine_outcome outcome = {.end = MACHINE_HOST_ERROR};
    struct error err = {0};
    int status = create_machine(s, &err);

    *reboot = false;
    if (status == STATUS_OK)
        status = check_kvm(s, &err);
    if (status != STATUS_OK) {
        complain("%s", err.text);
        return status;
    }
    if (s->opt.uses_stdin && term_raw(STDIN_FILENO) < 0)
        log_msg(&s->log, LOG_WARN, "the terminal cannot be made raw");
    if (machine_start(s->machine, &err) < 0 || machine_run(s->machine, &outcome, &err) < 0) {
        term_restore();
        complain("%s", err.text);
        return STATUS_HOST;
    }
    *reboot = outcome.end == MACHINE_RESET && s->opt.reboot;
    int lost = flush_output(s);
    if (!*reboot)
        term_restore();
    if (outcome.end == MACHINE_TRIPLE_FAULT || outcome.end == MACHINE_CRASH)
        machine_report(s->machine, &outcome, stderr);
    if (s->opt.stats)
        machine_print_stats(s->machine, stderr);
    machine_destroy(s->machine);
    s->machine = NULL;
    status = status_of_end(s, &outcome);
    if (lost == 0 || s->output_gone)
        return status;
    complain("the guest's output could not all be written: %s", strerror(-lost));
    return status == STATUS_OK ? STATUS_HOST : status;
}

static int run(const struct cli_command *cmd, int argc, char **argv)
{
    struct session s = {.signal_fd = -1, .stdout_watch = -1};
    struct error err = {0};
    bool reboot = true;

    run_options_init(&s.opt);
    int first = cli_parse(cmd, argc, argv, &s.opt);
    if (first < 0 || run_options_check(&s.opt, argv + first) < 0)
        return STATUS_USAGE;
    int status = check_device(&s, &err);
    if (status == STATUS_OK)
        status = session_init(&s, &err);
    if (status != STATUS_OK)
        complain("%s", err.text);
    while (status == STATUS_OK && reboot) {
        status = run_once(&s, &reboot);
        if (reboot)
            status = STATUS_OK;
    }
    session_fini(&s);
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
