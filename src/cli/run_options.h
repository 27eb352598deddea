/*
 * The options of `hv run`.
 */
#ifndef HV_CLI_RUN_OPTIONS_H
#define HV_CLI_RUN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"
#include "cli/device_options.h" // lab 08
#include "hv/base/log.h"
#include "hv/boot/boot.h"
#include "hv/machine/machine.h"

/* Strings are borrowed from argv. */
struct run_options {
    const char *kernel;
    enum boot_protocol boot;
    uint64_t flat_load;
    uint64_t flat_entry;
    bool entry_given;
    uint64_t memory; /* bytes */
    enum mem_backing backing;
    unsigned cpus;
    const char *debug; /* back end specification */
    enum log_level log_level;
    const char *kvm_path;
    // lab 02 {
    const char *serial[MACHINE_SERIAL_PORTS]; /* the same; NULL: no such port */
    unsigned serial_count;                    /* how often --serial was given */
    uint64_t file_limit; /* bytes that a file: back end may write; 0: no limit */
    // }
    // lab 04 {
    bool irqchip;
    bool uses_stdin;
    const char *gdb; /* where to listen for a debugger; NULL: nowhere */
    bool pause;      /* start stopped */
    // }
    // lab 05 {
    const char *initrd;
    const char *append; /* NULL: the protocol's default */
    bool reboot;
    const char *trace_path;
    uint32_t trace_events;
    bool stats;
    bool skip_probe;
    // }
    // lab 07 {
    bool rng;
    // }
    // lab 08 {
    struct disk_options disks[MACHINE_DISKS_MAX];
    unsigned disk_count;
    // }
    // lab 09 {
    struct nic_options nics[MACHINE_NICS_MAX];
    unsigned nic_count;
    struct console_options consoles[MACHINE_CONSOLES_MAX];
    unsigned console_count;
    struct vsock_options vsock;
    bool balloon;
    uint64_t balloon_size;
    bool virtio_mmio;
    // }
    // lab 10 {
    const char *control; /* where to listen for `hv ctl`; NULL: nowhere */
    // }
};

enum run_option_group {
    GROUP_KERNEL,
    GROUP_MACHINE,
    GROUP_PORTS,   // lab 02
    GROUP_DEVICES, // lab 07
    GROUP_INSIGHT,
    RUN_OPTION_GROUPS,
};
extern const struct cli_group run_option_groups[RUN_OPTION_GROUPS];

void run_options_init(struct run_options *opt);
void run_options_fini(struct run_options *opt); // lab 08

/* What no single option can tell: required ones, combinations, left-over operands. Complains. */
int run_options_check(struct run_options *opt, char **operands) HV_MUST_CHECK;

#endif
