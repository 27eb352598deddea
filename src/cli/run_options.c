#include "cli/run_options.h"

#include <errno.h>
#include <stdlib.h> // lab 09
#include <string.h>
#include <unistd.h>

#include "hv/base/num.h"
#include "hv/kvm/kvm.h"
#include "hv/machine/layout.h"

#define FLAT_LOAD_DEFAULT 0x7c00 /* where a BIOS puts a boot sector */

static const char boot_names[] = ""                              /* the newest first */
                                 "auto, linux, pvh, multiboot, " // lab 05
                                 "elf or "                       // lab 03
                                 "flat";
static const char boot_help[] = "" /* the same, and what it is without the option */
                                "auto, linux, pvh, multiboot, " // lab 05
                                "elf or "                       // lab 03
                                "flat"
                                "\n(default: auto, which goes by the file)" // lab 05
                                "";

/* --- one setter per option --- */

static int set_path(const char **out, const char *value, struct error *err)
{
    if (*value == '\0')
        return error_set(err, -EINVAL, "give a file name");
    *out = value;
    return 0;
}

static int set_kernel(void *ctx, const char *value, struct error *err)
{
    return set_path(&((struct run_options *)ctx)->kernel, value, err);
}

static int set_boot(void *ctx, const char *value, struct error *err)
{
    if (boot_protocol_parse(value, &((struct run_options *)ctx)->boot) < 0)
        return error_set(err, -EINVAL, "give %s", boot_names);
    return 0;
}

static int set_address(uint64_t *out, const char *value, struct error *err)
{
    if (parse_u64(value, LAYOUT_HOLE - 1, out) < 0)
        return error_set(err, -EINVAL, "give a physical address below 3 GiB, such as 0x7c00");
    return 0;
}

static int set_load(void *ctx, const char *value, struct error *err)
{
    return set_address(&((struct run_options *)ctx)->flat_load, value, err);
}

static int set_entry(void *ctx, const char *value, struct error *err)
{
    struct run_options *opt = ctx;

    opt->entry_given = true;
    return set_address(&opt->flat_entry, value, err);
}

/* Host memory, RAM and swap are not asked about here: memory is taken when it is touched. But more
 * than the host could ever have is a slip. */
static int set_memory(void *ctx, const char *value, struct error *err)
{
    struct run_options *opt = ctx;
    uint64_t bytes;
    char text[SIZE_TEXT_MAX], most[SIZE_TEXT_MAX];

    int rc = parse_size(value, MIB, &bytes);
    if (rc == -EINVAL)
        return error_set(err, rc, "give a size such as 512M or 2G (a plain number means MiB)");
    if (rc < 0 || bytes > LAYOUT_MEMORY_MAX)
        return error_set(err, -EINVAL, "more than the %s a machine can have",
                         format_size(LAYOUT_MEMORY_MAX, text));
    if (bytes < LAYOUT_MEMORY_MIN)
        return error_set(err, -EINVAL, "less than the %s a machine needs",
                         format_size(LAYOUT_MEMORY_MIN, text));
    if (bytes % MEM_PAGE_SIZE != 0)
        return error_set(err, -EINVAL, "not a multiple of 4K");
    uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
    if (bytes > host)
        return error_set(err, -EINVAL, "this host has only %s",
                         format_size(align_down(host, MIB), most));
    opt->memory = bytes;
    return 0;
}

static int set_kvm_path(void *ctx, const char *value, struct error *err)
{
    return set_path(&((struct run_options *)ctx)->kvm_path, value, err);
}

// lab 02 {
static int check_back_end(const char *value, struct error *err)
{
    static const char *const kinds[] = {"stdio", "stdout", "pty", "none"};

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(value, kinds[i]) == 0)
            return 0;
    if (strncmp(value, "file:", 5) == 0 && value[5] != '\0')
        return 0;
    return error_set(err, -EINVAL, "give stdio, stdout, pty, file:PATH or none");
}

static int set_serial(void *ctx, const char *value, struct error *err)
{
    struct run_options *opt = ctx;

    if (opt->serial_count == MACHINE_SERIAL_PORTS)
        return error_set(err, -EINVAL, "a machine has at most %d serial ports",
                         MACHINE_SERIAL_PORTS);
    int rc = check_back_end(value, err);
    if (rc == 0)
        opt->serial[opt->serial_count++] = strcmp(value, "none") == 0 ? NULL : value;
    return rc;
}

static int set_debug(void *ctx, const char *value, struct error *err)
{
    int rc = check_back_end(value, err);

    if (rc == 0)
        ((struct run_options *)ctx)->debug = value;
    return rc;
}

static int set_file_limit(void *ctx, const char *value, struct error *err)
{
    if (parse_size(value, 1, &((struct run_options *)ctx)->file_limit) < 0)
        return error_set(err, -EINVAL, "give a size such as 64M; 0 means no limit");
    return 0;
}
// }

// lab 04 {
static int set_irqchip(void *ctx, const char *value, struct error *err)
{
    bool on = strcmp(value, "on") == 0;

    if (!on && strcmp(value, "off") != 0)
        return error_set(err, -EINVAL, "give on or off");
    ((struct run_options *)ctx)->irqchip = on;
    return 0;
}

static int set_gdb(void *ctx, const char *value, struct error *err)
{
    if (*value == '\0')
        return error_set(err, -EINVAL, "give PORT, HOST:PORT or unix:PATH");
    ((struct run_options *)ctx)->gdb = value;
    return 0;
}

static int set_pause(void *ctx, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)ctx)->pause = true;
    return 0;
}
// }

// lab 05 {
static int set_initrd(void *ctx, const char *value, struct error *err)
{
    return set_path(&((struct run_options *)ctx)->initrd, value, err);
}

static int set_append(void *ctx, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)ctx)->append = value;
    return 0;
}

static int set_backing(void *ctx, const char *value, struct error *err)
{
    static const struct {
        const char *name;
        enum mem_backing backing;
    } kinds[] = {{"anonymous", MEM_ANONYMOUS}, {"memfd", MEM_MEMFD}, {"hugetlb", MEM_HUGETLB}};

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(value, kinds[i].name) == 0) {
            ((struct run_options *)ctx)->backing = kinds[i].backing;
            return 0;
        }
    }
    return error_set(err, -EINVAL, "give anonymous, memfd or hugetlb");
}

static int set_no_reboot(void *ctx, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)ctx)->reboot = false;
    return 0;
}

static int set_trace(void *ctx, const char *value, struct error *err)
{
    return set_path(&((struct run_options *)ctx)->trace_path, value, err);
}

static int set_trace_events(void *ctx, const char *value, struct error *err)
{
    uint64_t n;

    if (parse_u64(value, TRACE_EVENTS_MAX, &n) < 0 || n == 0)
        return error_set(err, -EINVAL, "give a number from 1 to %u", TRACE_EVENTS_MAX);
    ((struct run_options *)ctx)->trace_events = (uint32_t)n;
    return 0;
}

static int set_stats(void *ctx, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)ctx)->stats = true;
    return 0;
}

static int set_log_level(void *ctx, const char *value, struct error *err)
{
    for (int level = LOG_ERROR; level <= LOG_DEBUG; level++) {
        if (strcmp(value, log_level_name((enum log_level)level)) == 0) {
            ((struct run_options *)ctx)->log_level = (enum log_level)level;
            return 0;
        }
    }
    return error_set(err, -EINVAL, "give error, warning, info or debug");
}

static int set_no_probe(void *ctx, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)ctx)->skip_probe = true;
    return 0;
}
// }

// lab 06 {
static int set_cpus(void *ctx, const char *value, struct error *err)
{
    uint64_t n;

    if (parse_u64(value, X86_CPUS_MAX, &n) < 0 || n == 0)
        return error_set(err, -EINVAL, "give a number of CPUs from 1 to %d", X86_CPUS_MAX);
    ((struct run_options *)ctx)->cpus = (unsigned)n;
    return 0;
}
// }

// lab 07 {
static int set_rng(void *ctx, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct run_options *)ctx)->rng = true;
    return 0;
}
// }

// lab 08 {
static int set_disk(void *ctx, const char *value, struct error *err)
{
    struct run_options *opt = ctx;

    if (opt->disk_count == MACHINE_DISKS_MAX)
        return error_set(err, -EINVAL, "a machine has at most %d disks", MACHINE_DISKS_MAX);
    int rc = disk_options_parse(value, &opt->disks[opt->disk_count], err);
    opt->disk_count += rc == 0;
    return rc;
}
// }

// lab 09 {
static int set_net(void *ctx, const char *value, struct error *err)
{
    struct run_options *opt = ctx;

    if (opt->nic_count == MACHINE_NICS_MAX)
        return error_set(err, -EINVAL, "a machine has at most %d interfaces", MACHINE_NICS_MAX);
    int rc = nic_options_parse(value, &opt->nics[opt->nic_count], err);
    opt->nic_count += rc == 0;
    return rc;
}

static int set_console(void *ctx, const char *value, struct error *err)
{
    struct run_options *opt = ctx;
    struct console_options *c = &opt->consoles[opt->console_count];

    if (opt->console_count == MACHINE_CONSOLES_MAX)
        return error_set(err, -EINVAL, "a console has at most %d ports", MACHINE_CONSOLES_MAX);
    int rc = console_options_parse(value, c, err);
    if (rc < 0)
        return rc;
    opt->console_count++;
    return check_back_end(c->spec, err);
}

static int set_vsock(void *ctx, const char *value, struct error *err)
{
    struct run_options *opt = ctx;

    if (opt->vsock.path != NULL)
        return error_set(err, -EINVAL, "a machine has one socket device");
    return vsock_options_parse(value, &opt->vsock, err);
}

static int set_balloon(void *ctx, const char *value, struct error *err)
{
    struct run_options *opt = ctx;

    if (parse_size(value, MIB, &opt->balloon_size) < 0)
        return error_set(err, -EINVAL, "give a size such as 64M, or 0");
    opt->balloon = true;
    return 0;
}

static int set_virtio(void *ctx, const char *value, struct error *err)
{
    bool mmio = strcmp(value, "mmio") == 0;

    if (!mmio && strcmp(value, "pci") != 0)
        return error_set(err, -EINVAL, "give pci or mmio");
    ((struct run_options *)ctx)->virtio_mmio = mmio;
    return 0;
}
// }

// lab 10 {
static int set_control(void *ctx, const char *value, struct error *err)
{
    (void)err;
    ((struct run_options *)ctx)->control = value;
    return 0;
}
// }

/* --- the tables --- */

static const struct cli_option kernel_options[] = {
    {"kernel", 'k', "FILE", "the kernel, or another program, to start", set_kernel},
    // lab 05 {
    {"initrd", 'i', "FILE", "initial RAM disk; with Multiboot, the first module", set_initrd},
    {"append", 'p', "STRING",
     "the kernel's command line\n(default: " BOOT_CMDLINE_DEFAULT " for Linux and PVH)",
     set_append},
    // }
    {"boot", 0, "PROTOCOL", boot_help, set_boot},
    {"load", 0, "ADDRESS", "flat: where the file is loaded (default: 0x7c00)", set_load},
    {"entry", 0, "ADDRESS", "flat: the first instruction (default: as --load)", set_entry},
    {0},
};

static const struct cli_option machine_options[] = {
    {"memory", 'm', "SIZE", "guest memory, as 512M or 2G; a plain number is\nMiB (default: 512M)",
     set_memory},
    // lab 05 {
    {"memory-backing", 0, "KIND", "anonymous, memfd or hugetlb (default: anonymous)", set_backing},
    // }
    {"cpus", 'c', "N", "virtual CPUs, 1 to 64 (default: 1)", set_cpus}, // lab 06
    // lab 04 {
    {"irqchip", 0, "on|off", "interrupt controllers; off: HLT ends the machine\n(default: on)",
     set_irqchip},
    // }
    // lab 05 {
    {"no-reboot", 0, NULL, "exit with status 10 when the guest resets itself", set_no_reboot},
    // }
    {0},
};

// lab 02 {
static const struct cli_option port_options[] = {
    {"serial", 0, "BACKEND",
     "stdio, stdout, pty, file:PATH or none, for COM1;\nonce more for COM2 (default: stdio)",
     set_serial},
    {"debug-port", 0, "BACKEND", "the same for port 0xe9 (default: stdout)", set_debug},
    {"file-limit", 0, "SIZE", "most that a file:PATH may grow to (default: 64M)", set_file_limit},
    {0},
};
// }

// lab 08 {
static const char disk_help[] = "a disk; parts: format=raw|qcow2, readonly, queues=N,\n"
                                "direct=on, iops=N, bps=SIZE, serial=TEXT, backing=on,\n"
                                "aio=threads, event-idx=off";
// }

// lab 09 {
static const char net_help[] = "a network interface: user, tap=IF, stream=PATH,\n"
                               "listen=PATH or none; parts: mac=ADDRESS, pcap=FILE,\n"
                               "queues=N, forward=PORTS, pps=N, bps=SIZE,\n"
                               "event-idx=off";
// }

// lab 07 {
static const struct cli_option device_options[] = {
    {"rng", 0, NULL, "an entropy device", set_rng},
    // }
    {"disk", 'd', "FILE", disk_help, set_disk}, // lab 08
    {"net", 0, "KIND", net_help, set_net},      // lab 09
    // lab 09 {
    {"console", 0, "BACKEND",
     "a port of a console device, as for --serial, with\n,name=NAME; the first is hvc0",
     set_console},
    {"vsock", 0, "PATH", "a socket device: UNIX sockets at PATH; part: cid=N", set_vsock},
    {"balloon", 0, "SIZE", "a balloon device, which takes SIZE from the guest", set_balloon},
    // }
    {"virtio", 0, "pci|mmio", "where the guest finds them (default: pci)", set_virtio}, // lab 09
    // lab 07 {
    {0},
};
// }

static const struct cli_option insight_options[] = {
    // lab 04 {
    {"gdb", 0, "WHERE", "let gdb connect, at PORT, HOST:PORT or unix:PATH", set_gdb},
    {"pause", 0, NULL, "start stopped, until gdb, Ctrl-A p or SIGCONT says go", set_pause},
    // }
    // lab 10 {
    {"control", 0, "PATH", "listen at a UNIX socket for `hv ctl` and other programs", set_control},
    // }
    // lab 05 {
    {"trace", 0, "FILE", "record every exit; `hv trace FILE` shows them", set_trace},
    {"trace-events", 0, "N", "exits kept per CPU (default: 65536)", set_trace_events},
    {"stats", 0, NULL, "print counts of exits at the end", set_stats},
    {"log-level", 0, "LEVEL", "error, warning, info or debug (default: info)", set_log_level},
    // }
    {"kvm-device", 0, "FILE", "another KVM device (default: /dev/kvm)", set_kvm_path},
    // lab 05 {
    {"no-probe", 0, NULL, "start even if this KVM cannot deliver interrupts", set_no_probe},
    // }
    {0},
};

const struct cli_group run_option_groups[RUN_OPTION_GROUPS] = {
    [GROUP_KERNEL] = {"What to start", kernel_options},
    [GROUP_MACHINE] = {"The machine", machine_options},
    [GROUP_PORTS] = {"Ports", port_options},              // lab 02
    [GROUP_DEVICES] = {"Virtio devices", device_options}, // lab 07
    [GROUP_INSIGHT] = {"Looking inside", insight_options},
};

/* --- the whole --- */

void run_options_init(struct run_options *opt)
{
    *opt = (struct run_options){
        .boot = BOOT_AUTO, // lab 05
        .flat_load = FLAT_LOAD_DEFAULT,
        .memory = 512 * MIB,
        .cpus = 1,
        .irqchip = true,           // lab 04
        .reboot = true,            // lab 05
        .serial = {"stdio", NULL}, // lab 02
        .debug = "stdout",
        .file_limit = 64 * MIB,               // lab 02
        .trace_events = TRACE_EVENTS_DEFAULT, // lab 05
        .log_level = LOG_INFO,
        .kvm_path = KVM_DEVICE,
    };
}

// lab 09 {
static void free_more(struct run_options *opt)
{
    for (unsigned i = 0; i < opt->nic_count; i++)
        nic_options_fini(&opt->nics[i]);
    for (unsigned i = 0; i < opt->console_count; i++)
        free(opt->consoles[i].text);
    free(opt->vsock.text);
}
// }

// lab 08 {
void run_options_fini(struct run_options *opt)
{
    for (unsigned i = 0; i < opt->disk_count; i++)
        disk_options_fini(&opt->disks[i]);
    free_more(opt); // lab 09
}
// }

// lab 09 {
static int count_stdio_consoles(const struct run_options *opt)
{
    int n = 0;

    for (unsigned i = 0; i < opt->console_count; i++)
        n += strcmp(opt->consoles[i].spec, "stdio") == 0;
    return n;
}
// }

// lab 04 {
static int count_stdio(const struct run_options *opt)
{
    int n = strcmp(opt->debug, "stdio") == 0;

    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
        n += opt->serial[i] != NULL && strcmp(opt->serial[i], "stdio") == 0;
    n += count_stdio_consoles(opt); // lab 09
    return n;
}
// }

int run_options_check(struct run_options *opt, char **operands)
{
    if (*operands != NULL) {
        complain("%s: hv run takes options only; did you mean --kernel %s?", *operands, *operands);
        return -EINVAL;
    }
    if (opt->kernel == NULL) {
        complain("nothing to start: give --kernel FILE; see `hv help run`");
        return -EINVAL;
    }
    if (opt->serial_count == 0 && count_stdio_consoles(opt) > 0) // lab 09
        opt->serial[0] = NULL; /* nobody asked for it there */   // lab 09
    // lab 04 {
    if (count_stdio(opt) > 1) {
        complain("only one port can have stdio; give the others stdout, pty, file:PATH or none");
        return -EINVAL;
    }
    // }
    // lab 06 {
    if (opt->cpus > 1 && !opt->irqchip) {
        complain("--cpus %u needs the interrupt controllers: leave --irqchip on", opt->cpus);
        return -EINVAL;
    }
    // }
    bool virtio = opt->rng;                 // lab 07
    virtio = virtio || opt->disk_count > 0; // lab 08
    // lab 09 {
    virtio = virtio || opt->nic_count > 0 || opt->console_count > 0 || opt->balloon ||
             opt->vsock.path != NULL;
    // }
    // lab 07 {
    if (virtio && !opt->irqchip) {
        complain("virtio devices need the interrupt controllers: leave --irqchip on");
        return -EINVAL;
    }
    // }
    if (!opt->entry_given)
        opt->flat_entry = opt->flat_load;
    opt->uses_stdin = count_stdio(opt) == 1; // lab 04
    return 0;
}
