#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define OPTIONS_MAX 64
#define NAMED 256 /* getopt_long values of options, above all characters */

void complain(const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "hv: %s\n", text);
}

/* The tables in the form getopt_long() takes, and the way back. */
struct parser {
    struct option longs[OPTIONS_MAX + 2];
    char shorts[2 * OPTIONS_MAX + 4];
    const struct cli_option *options[OPTIONS_MAX];
    int count;
};

static void add_short(struct parser *p, char letter, bool takes_arg)
{
    size_t n = strlen(p->shorts);

    p->shorts[n++] = letter;
    if (takes_arg)
        p->shorts[n++] = ':';
    p->shorts[n] = '\0';
}

static void build(struct parser *p, const struct cli_command *cmd)
{
    *p = (struct parser){.shorts = ":"}; /* a missing value is told apart, and getopt is silent */
    add_short(p, 'h', false);
    for (unsigned g = 0; g < cmd->group_count; g++) {
        for (const struct cli_option *o = cmd->groups[g].options; o->name != NULL; o++) {
            if (p->count == OPTIONS_MAX)
                abort(); /* a table grew past the parser: no input leads here */
            p->longs[p->count] = (struct option){
                o->name, o->arg != NULL ? required_argument : no_argument, NULL, NAMED + p->count};
            p->options[p->count++] = o;
            if (o->letter != 0)
                add_short(p, o->letter, o->arg != NULL);
        }
    }
    p->longs[p->count] = (struct option){"help", no_argument, NULL, 'h'};
}

static const struct cli_option *find(const struct parser *p, int value)
{
    if (value >= NAMED)
        return p->options[value - NAMED];
    for (int i = 0; i < p->count; i++)
        if (p->options[i]->letter == value)
            return p->options[i];
    return NULL;
}

static int apply(const struct cli_option *o, const char *value, void *ctx)
{
    struct error err = {0};
    int rc = o->set(ctx, value, &err);

    if (rc < 0)
        complain("--%s%s%s: %s", o->name, value != NULL ? " " : "", value != NULL ? value : "",
                 err.text);
    return rc;
}

/* True if `arg` abbreviates several long options. */
static bool is_ambiguous(const struct parser *p, const char *arg)
{
    size_t len = strcspn(arg, "=");
    int matches = 0;

    for (const struct option *o = p->longs; len > 2 && o->name != NULL; o++)
        matches += strncmp(o->name, arg + 2, len - 2) == 0;
    return matches > 1;
}

/* Says why getopt_long() refused `arg`. It leaves the option it was at in optopt: a letter, one of
 * our numbers (a value was given to an option that takes none), or 0 for an unknown long name. */
static void refuse(const struct parser *p, const char *arg, const struct cli_command *cmd)
{
    if (optopt >= NAMED)
        complain("--%s takes no value; see `hv help %s`", find(p, optopt)->name, cmd->name);
    else if (optopt != 0)
        complain("there is no option -%c; see `hv help %s`", optopt, cmd->name);
    else if (is_ambiguous(p, arg))
        complain("several options begin with %s; see `hv help %s`", arg, cmd->name);
    else
        complain("there is no option %s; see `hv help %s`", arg, cmd->name);
}

int cli_parse(const struct cli_command *cmd, int argc, char **argv, void *ctx)
{
    struct parser p;
    int value;

    build(&p, cmd);
    opterr = 0;
    while ((value = getopt_long(argc, argv, p.shorts, p.longs, NULL)) != -1) {
        if (value == 'h') {
            cli_help(cmd, stdout);
            exit(cli_finish_output());
        }
        if (value == ':') {
            complain("%s needs a value; see `hv help %s`", argv[optind - 1], cmd->name);
            return -1;
        }
        if (value == '?') {
            refuse(&p, argv[optind - 1], cmd);
            return -1;
        }
        if (apply(find(&p, value), optarg, ctx) < 0)
            return -1;
    }
    return optind;
}

/* --- help --- */

static void print_option(const struct cli_option *o, FILE *out)
{
    const int column = 28;
    char head[64];
    int used = snprintf(head, sizeof(head), "  %c%c%s--%s%s%s", o->letter != 0 ? '-' : ' ',
                        o->letter != 0 ? o->letter : ' ', o->letter != 0 ? ", " : "  ", o->name,
                        o->arg != NULL ? " " : "", o->arg != NULL ? o->arg : "");

    (void)fprintf(out, "%s", head);
    if (used >= column) {
        (void)fprintf(out, "\n");
        used = 0;
    }
    /* Lines of the help text after the first are indented to the same column. */
    for (const char *line = o->help; line != NULL;) {
        const char *end = strchr(line, '\n');
        int len = end != NULL ? (int)(end - line) : (int)strlen(line);
        (void)fprintf(out, "%*s%.*s\n", column - used, "", len, line);
        used = 0;
        line = end != NULL ? end + 1 : NULL;
    }
}

void cli_help(const struct cli_command *cmd, FILE *out)
{
    (void)fprintf(out, "Usage: hv %s [OPTION]…%s%s\n%s.\n", cmd->name,
                  *cmd->arguments != '\0' ? " " : "", cmd->arguments, cmd->summary);
    for (unsigned g = 0; g < cmd->group_count; g++) {
        (void)fprintf(out, "\n%s:\n", cmd->groups[g].title);
        for (const struct cli_option *o = cmd->groups[g].options; o->name != NULL; o++)
            print_option(o, out);
    }
    (void)fprintf(out, "\nThe manual is hv(1).\n"); // lab 05
}

int cli_finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return STATUS_OK;
    complain("cannot write to standard output: %s", strerror(errno));
    return STATUS_HOST;
}
