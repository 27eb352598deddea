/*
 * hv: the command line. One file per subcommand; this one picks.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hv/base/num.h"

static const struct cli_command *const commands[] = {
    &command_run,
    &command_doctor,  // lab 05
    &command_inspect, // lab 05
    &command_trace,   // lab 05
    &command_image,   // lab 08
    &command_ctl,     // lab 10
};

static const struct cli_command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static void print_usage(FILE *out)
{
    (void)fprintf(out, "hv runs virtual machines through KVM.\n\nUsage: hv COMMAND [OPTION]…\n\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        (void)fprintf(out, "  hv %-9s %s\n", commands[i]->name, commands[i]->summary);
    (void)fprintf(out, "  hv %-9s Explain a command\n", "help");
    (void)fprintf(out, "\nThe manual is hv(1).\n"); // lab 05
}

static int unknown_command(const char *name)
{
    complain("there is no command \"%s\"; `hv help` lists them", name);
    return STATUS_USAGE;
}

static int help(const char *name)
{
    const struct cli_command *cmd = name != NULL ? find_command(name) : NULL;

    if (name != NULL && cmd == NULL)
        return unknown_command(name);
    if (cmd != NULL)
        cli_help(cmd, stdout);
    else
        print_usage(stdout);
    return cli_finish_output();
}

/* Whoever started us may have closed one of the standard descriptors. The next file opened would
 * take its number, and the guest's output would go there. Read-only, so that writing still fails.
 */
static void fill_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", O_RDONLY); /* the lowest free number, hence fd */
}

int main(int argc, char **argv)
{
    fill_standard_descriptors();
    /* A closed pipe is an error to report, not a silent death. */
    (void)signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        print_usage(stderr);
        return STATUS_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(argc > 2 ? argv[2] : NULL);
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("hv %s\n", HV_VERSION);
        return cli_finish_output();
    }
    const struct cli_command *cmd = find_command(name);
    if (cmd == NULL)
        return unknown_command(name);
    return cmd->run(cmd, argc - 1, argv + 1);
}
