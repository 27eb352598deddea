/*
 * What the subcommands of hv share. This layer alone prints and decides how the process exits.
 */
#ifndef HV_CLI_H
#define HV_CLI_H

#include <stdbool.h>
#include <stdio.h>

#include "hv/base/err.h"

/* Exit statuses, documented in hv.1. Those of hv itself are even: odd ones belong to
 * isa-debug-exit, whose guests end hv with (value << 1) | 1, as QEMU does. A signal gives 128 + its
 * number, as in a shell. */
enum exit_status {
    STATUS_OK = 0,    /* the guest powered off or halted, or the user left */
    STATUS_USAGE = 2, /* an option or its value is wrong */
    STATUS_INPUT = 4, /* a kernel, initrd or other file cannot be used */
    STATUS_KVM = 6,   /* no usable KVM on this host */
    STATUS_HOST = 8,  /* the host refused something else: memory, a file, a thread */
    // lab 05 {
    STATUS_RESET = 10, /* the guest asked for a reset, and --no-reboot was given */
    // }
    STATUS_TRIPLE_FAULT = 12, /* the guest died of a triple fault */
    STATUS_CRASH = 14,        /* KVM could not run the guest any further */
    // lab 08 {
    STATUS_LEAKS = 16, /* hv image check found nothing but lost clusters */
    // }
    // lab 10 {
    STATUS_REFUSED = 18, /* hv ctl: the machine was asked, and said no */
    // }
};

/* One line on stderr: "hv: " and the message. */
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* --- options: one table per group, from which parsing and help both work --- */

struct cli_option {
    const char *name; /* without dashes; NULL ends the table */
    char letter;      /* short form, or 0 */
    const char *arg;  /* "FILE", or NULL: takes none */
    const char *help;
    /* Takes the value (NULL if the option has none) into `ctx`. On failure the error's text
     * completes
     * "--name VALUE: …". */
    int (*set)(void *ctx, const char *value, struct error *err);
};

struct cli_group {
    const char *title;
    const struct cli_option *options;
};

struct cli_command {
    const char *name;
    const char *arguments; /* "FILE", or "" */
    const char *summary;   /* one line */
    const struct cli_group *groups;
    unsigned group_count;
    int (*run)(const struct cli_command *cmd, int argc, char **argv);
};

/* Parses argv[1…] by the command's groups, calling each option's set() with `ctx`. Returns the
 * index of the first operand, or -1 after a complaint. --help is answered here: prints and exits 0.
 */
int cli_parse(const struct cli_command *cmd, int argc, char **argv, void *ctx);

void cli_help(const struct cli_command *cmd, FILE *out);

/* Ends a command that printed to stdout: STATUS_OK, or a complaint and STATUS_HOST if not all of it
 * went out. */
int cli_finish_output(void);

extern const struct cli_command command_run;
extern const struct cli_command command_doctor;  // lab 05
extern const struct cli_command command_trace;   // lab 05
extern const struct cli_command command_inspect; // lab 05
extern const struct cli_command command_image;   // lab 08
extern const struct cli_command command_ctl;     // lab 10

#endif
