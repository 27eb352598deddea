/*
 * hv doctor: can this host run guests, and if not, what to do.
 */
#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hv/base/num.h"
#include "hv/kvm/kvm.h"
#include "hv/machine/probe.h"

struct doctor_options {
    const char *kvm_path;
    bool quiet;
};

static int set_quiet(void *ctx, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct doctor_options *)ctx)->quiet = true;
    return 0;
}

static int set_kvm_path(void *ctx, const char *value, struct error *err)
{
    (void)err;
    ((struct doctor_options *)ctx)->kvm_path = value;
    return 0;
}

static const struct cli_option doctor_option_table[] = {
    {"quiet", 'q', NULL, "say nothing; the exit status tells", set_quiet},
    {"kvm-device", 0, "FILE", "another KVM device (default: /dev/kvm)", set_kvm_path},
    {0},
};

static const struct cli_group doctor_groups[] = {{"Options", doctor_option_table}};

/* --- capabilities that hv uses --- */

static const struct {
    int number;
    const char *name;
    bool needed;
    const char *without;
} capabilities[] = {
    {KVM_CAP_USER_MEMORY, "USER_MEMORY", true, "guests have no memory"},
    {KVM_CAP_IRQCHIP, "IRQCHIP", true, "no interrupt controllers: only --irqchip off works"},
    {KVM_CAP_PIT2, "PIT2", true, "no timer that Linux starts with"},
    {KVM_CAP_EXT_CPUID, "EXT_CPUID", true, "guests cannot be told their processor"},
    {KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR", true, "no real mode on Intel"},
    {KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT", true, "a machine could not be stopped reliably"},
    {KVM_CAP_SYNC_REGS, "SYNC_REGS", false, "traces and reports show no RIP"},
    {KVM_CAP_TSC_DEADLINE_TIMER, "TSC_DEADLINE_TIMER", false, "guests use a slower timer"},
    {KVM_CAP_READONLY_MEM, "READONLY_MEM", false, "no read-only memory for guests"},
    {KVM_CAP_IRQFD, "IRQFD", false, "slower interrupts from devices"},
    {KVM_CAP_IOEVENTFD, "IOEVENTFD", false, "slower requests to devices"},
};

static void line(const char *state, const char *what, const char *detail)
{
    printf("  %-6s %s%s%s\n", state, what, *detail != '\0' ? ": " : "", detail);
}

static void check_capabilities(const char *path)
{
    struct kvm kvm;
    bool all = true;

    if (kvm_open(path, &kvm, NULL) < 0)
        return; /* the probe has said why */
    for (size_t i = 0; i < ARRAY_LEN(capabilities); i++) {
        char what[64];
        if (kvm_check(&kvm, capabilities[i].number) > 0)
            continue;
        all = false;
        (void)snprintf(what, sizeof(what), "KVM_CAP_%s is missing", capabilities[i].name);
        line(capabilities[i].needed ? "FAIL" : "note", what, capabilities[i].without);
    }
    if (all)
        line("ok", "every capability that hv uses is there", "");
    kvm_close(&kvm);
}

/* --- the findings --- */

static const char *flavour_text(const struct probe *probe)
{
    switch (probe->flavour) {
    case PROBE_INTEL_VMX:
        return probe->nested ? "Intel VT-x, nested in another hypervisor" : "Intel VT-x";
    case PROBE_AMD_SVM:
        return probe->nested ? "AMD-V, nested in another hypervisor" : "AMD-V";
    case PROBE_SOFTWARE:
        break;
    }
    return "none: this CPU offers neither VT-x nor AMD-V";
}

static void report_device(const char *path, const struct probe *probe)
{
    if (probe->result == PROBE_NO_DEVICE)
        line("FAIL", path, "is not there");
    else if (probe->result == PROBE_NO_PERMISSION)
        line("FAIL", path, "is there, but you may not open it");
    else
        line("ok", path, "opens");
}

static void report_guest(const struct probe *probe)
{
    if (probe->result == PROBE_OK)
        line("ok", "a 64-bit guest runs, and takes interrupts and exceptions", "");
    else if (probe->result != PROBE_NO_DEVICE && probe->result != PROBE_NO_PERMISSION)
        line("FAIL", "a test guest does not run", probe->why.text);
}

/* Who may open the device is for its group to say, unless that is root's: then it has none. */
static void advise_on_permission(const char *path)
{
    struct stat st;
    const struct group *group = stat(path, &st) == 0 ? getgrgid(st.st_gid) : NULL;

    printf("\nWhat to do:\n");
    if (group != NULL && group->gr_gid != 0)
        printf("  - join its group: sudo usermod -aG %s $USER; then log in again\n",
               group->gr_name);
    else
        printf("  - get access until the next start: sudo setfacl -m u:$USER:rw %s\n", path);
}

static void advise(const char *path, const struct probe *probe)
{
    switch (probe->result) {
    case PROBE_OK:
        printf("\nThis host runs guests under hv.\n");
        return;
    case PROBE_NO_DEVICE:
        printf("\nWhat to do:\n");
        if (probe->flavour != PROBE_SOFTWARE)
            printf("  - load the module: sudo modprobe %s\n",
                   probe->flavour == PROBE_INTEL_VMX ? "kvm-intel" : "kvm-amd");
        else
            printf("  - switch virtualization on in the firmware set-up (VT-x, SVM), or, in a "
                   "virtual\n    machine or container, ask its host for nested virtualization\n");
        break;
    case PROBE_NO_PERMISSION:
        advise_on_permission(path);
        break;
    case PROBE_NO_INTERRUPTS:
    case PROBE_NO_LONG_MODE:
    case PROBE_INCOMPLETE:
        printf("\nThis KVM emulates the processor in software. Real-mode and simple programs run "
               "on it;\nLinux does not. What to do:\n"
               "  - ask the host of this virtual machine for nested virtualization\n");
        break;
    case PROBE_BROKEN:
        printf("\nWhat to do:\n  - look at the kernel's messages: sudo dmesg | grep -i kvm\n");
        break;
    }
    printf("  - or use the lab machine, which needs no KVM: tests/labvm/labvm run -- hv run …\n");
}

static int doctor(const struct cli_command *cmd, int argc, char **argv)
{
    struct doctor_options opt = {.kvm_path = KVM_DEVICE};
    struct probe probe;
    struct utsname host = {0};

    int first = cli_parse(cmd, argc, argv, &opt);
    if (first < 0)
        return STATUS_USAGE;
    if (argv[first] != NULL) {
        complain("%s: hv doctor takes options only", argv[first]);
        return STATUS_USAGE;
    }
    probe_kvm(opt.kvm_path, &probe);
    if (opt.quiet)
        return probe.result == PROBE_OK ? STATUS_OK : STATUS_KVM;
    (void)uname(&host); /* an empty name is no harm */
    printf("hv %s on Linux %s\n", HV_VERSION, host.release);
    line(probe.flavour == PROBE_SOFTWARE ? "note" : "ok", "hardware virtualization",
         flavour_text(&probe));
    report_device(opt.kvm_path, &probe);
    check_capabilities(opt.kvm_path);
    report_guest(&probe);
    advise(opt.kvm_path, &probe);
    int status = cli_finish_output();
    return status != STATUS_OK ? status : probe.result == PROBE_OK ? STATUS_OK : STATUS_KVM;
}

const struct cli_command command_doctor = {
    .name = "doctor",
    .arguments = "",
    .summary = "Find out whether this host can run guests, and what to do if not",
    .groups = doctor_groups,
    .group_count = ARRAY_LEN(doctor_groups),
    .run = doctor,
};
