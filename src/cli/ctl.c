/*
 * hv ctl: asks a running machine for something, and says what it answered.
 *
 * Which commands there are, and what they take, the machine itself is asked: so this hv also
 * serves a machine that knows more or fewer.
 */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/ctl.h"
#include "hv/base/num.h"

struct ctl_options {
    bool json;
};

/* --- words into arguments --- */

static json_t *find_by_name(const json_t *list, const char *name, size_t len)
{
    size_t i;
    json_t *one;

    json_array_foreach(list, i, one)
    {
        const char *its = json_string_value(json_object_get(one, "name"));
        if (its != NULL && strlen(its) == len && memcmp(its, name, len) == 0)
            return one;
    }
    return NULL;
}

static json_t *to_bool(const char *word)
{
    static const char *const yes[] = {"on", "true", "yes"}, *const no[] = {"off", "false", "no"};

    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(word, yes[i]) == 0)
            return json_true();
        if (strcmp(word, no[i]) == 0)
            return json_false();
    }
    return NULL;
}

/* A word as a value of this type; NULL: it is none. Types that a later hv has are text to us. */
static json_t *to_value(const char *type, const char *word)
{
    uint64_t n;

    if (strcmp(type, "int") == 0)
        return parse_u64(word, INT64_MAX, &n) == 0 ? json_integer((json_int_t)n) : NULL;
    if (strcmp(type, "size") == 0)
        return parse_size(word, 1, &n) == 0 && n <= INT64_MAX ? json_integer((json_int_t)n) : NULL;
    if (strcmp(type, "bool") == 0)
        return to_bool(word);
    return json_string(word);
}

/* The first argument that has no value yet; NULL: all have. */
static json_t *next_argument(const json_t *schema, const json_t *args)
{
    size_t i;
    json_t *one;

    json_array_foreach(schema, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name != NULL && json_object_get(args, name) == NULL)
            return one;
    }
    return NULL;
}

static const char *type_of(const json_t *arg)
{
    const char *type = json_string_value(json_object_get(arg, "type"));

    return type != NULL ? type : "text";
}

/* NAME=VALUE, or the value of the next argument. */
static int take_word(const json_t *schema, const char *word, json_t *args)
{
    size_t letters = strspn(word, "abcdefghijklmnopqrstuvwxyz-");
    const json_t *next = next_argument(schema, args);
    bool named = letters > 0 && word[letters] == '=';
    const json_t *arg = named ? find_by_name(schema, word, letters) : next;
    const char *value = named && arg != NULL ? word + letters + 1 : word;

    if (named && arg == NULL && next != NULL && strcmp(type_of(next), "text") == 0)
        arg = next; /* any text can look like that */
    if (arg == NULL) {
        complain("%s: the command takes no such argument; `hv ctl SOCKET commands` lists them",
                 word);
        return -EINVAL;
    }
    json_t *converted = to_value(type_of(arg), value);
    const char *name = json_string_value(json_object_get(arg, "name"));
    if (converted == NULL) {
        complain("%s: \"%s\" is no %s", name, value, type_of(arg));
        return -EINVAL;
    }
    return json_object_set_new(args, name, converted);
}

/* --- one question --- */

/* The answer to what was sent: events may come before it. */
static int hear_answer(struct ctl_link *l, json_t **out, struct error *err)
{
    json_t *object;
    int rc;

    while ((rc = ctl_receive(l, &object, err)) == 0) {
        if (json_object_get(object, "event") == NULL) {
            *out = object;
            return 0;
        }
        json_decref(object);
    }
    return rc;
}

static int ask(struct ctl_link *l, const char *name, json_t *args, json_t **out, struct error *err)
{
    int rc = ctl_send(l, name, args, err);

    return rc < 0 ? rc : hear_answer(l, out, err);
}

static void print_json(const json_t *value)
{
    (void)json_dumpf(value, stdout, JSON_INDENT(4) | JSON_ENCODE_ANY);
    (void)fprintf(stdout, "\n"); /* cli_finish_output() finds what failed */
}

/* Says what an answer says. Returns an exit status. */
static int report(const struct ctl_options *opt, const char *command, const json_t *answer)
{
    const json_t *error = json_object_get(answer, "error");
    const char *what = json_string_value(json_object_get(error, "class"));
    const char *desc = json_string_value(json_object_get(error, "desc"));

    if (opt->json && error == NULL)
        print_json(json_object_get(answer, "return"));
    else if (error == NULL)
        ctl_show(command, json_object_get(answer, "return"), stdout);
    if (error == NULL)
        return cli_finish_output();
    complain("%s", desc != NULL ? desc : "the machine refused, and did not say why");
    if (what != NULL && (strcmp(what, "UnknownCommand") == 0 || strcmp(what, "BadArgument") == 0))
        return STATUS_USAGE;
    return STATUS_REFUSED;
}

/* --- events --- */

static int follow(const struct ctl_options *opt, struct ctl_link *l)
{
    struct error err = {0};
    json_t *event;

    while (ctl_receive(l, &event, &err) == 0) {
        if (opt->json) {
            (void)json_dumpf(event, stdout, JSON_COMPACT);
            (void)fprintf(stdout, "\n");
        } else {
            ctl_show_event(event, stdout);
        }
        json_decref(event);
        int status = cli_finish_output(); /* as they come */
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK; /* the machine has ended */
}

/* Waits for what a `stop` with a time-out comes to: the machine hangs up, or says otherwise. */
static int wait_for_end(struct ctl_link *l)
{
    struct error err = {0};
    json_t *event;
    bool ignored = false, reset = false;

    while (!ignored && !reset && ctl_receive(l, &event, &err) == 0) {
        const char *name = json_string_value(json_object_get(event, "event"));
        ignored = name != NULL && strcmp(name, "stop-ignored") == 0;
        reset = name != NULL && strcmp(name, "reset") == 0;
        json_decref(event);
    }
    if (reset)
        complain("the guest has reset its machine instead of powering it off");
    if (ignored)
        complain("the guest has not powered off; `hv ctl SOCKET kill` ends it");
    return ignored || reset ? STATUS_REFUSED : STATUS_OK;
}

/* --- the command --- */

static int converse(const struct ctl_options *opt, struct ctl_link *l, char **words,
                    struct error *err)
{
    json_t *list = NULL, *answer = NULL, *args = json_object();
    int status = STATUS_USAGE;

    if (ask(l, "commands", NULL, &list, err) < 0) {
        status = STATUS_HOST;
        goto done;
    }
    const json_t *command =
        find_by_name(json_object_get(list, "return"), words[0], strlen(words[0]));
    for (char **word = words + 1; command != NULL && *word != NULL; word++)
        if (take_word(json_object_get(command, "arguments"), *word, args) < 0)
            goto done;
    bool waits = strcmp(words[0], "stop") == 0 && json_object_size(args) > 0;
    status = STATUS_HOST;
    if (waits && ask(l, "events", NULL, &answer, err) < 0)
        goto done;
    json_decref(answer);
    answer = NULL;
    if (ask(l, words[0], args, &answer, err) < 0)
        goto done;
    if (strcmp(words[0], "events") == 0 && json_object_get(answer, "return") != NULL)
        status = follow(opt, l);
    else
        status = report(opt, words[0], answer);
    if (status == STATUS_OK && waits)
        status = wait_for_end(l);
done:
    json_decref(list);
    json_decref(answer);
    json_decref(args);
    return status;
}

static int ctl(const struct cli_command *cmd, int argc, char **argv)
{
    struct ctl_options opt = {0};
    struct ctl_link l;
    struct error err = {0};
    int first = cli_parse(cmd, argc, argv, &opt);

    if (first < 0)
        return STATUS_USAGE;
    if (argc - first < 2) {
        complain("give a socket and a command, as in `hv ctl /tmp/vm.sock status`");
        return STATUS_USAGE;
    }
    if (ctl_connect(argv[first], &l, &err) < 0) {
        complain("%s", err.text);
        return STATUS_INPUT;
    }
    int status = converse(&opt, &l, argv + first + 1, &err);
    if (err.text[0] != '\0')
        complain("%s", err.text);
    ctl_disconnect(&l);
    return status;
}

static int set_json(void *ctx, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct ctl_options *)ctx)->json = true;
    return 0;
}

static const struct cli_option options[] = {
    {"json", 0, NULL, "print the answer as JSON", set_json},
    {0},
};

static const struct cli_group groups[] = {{"Output", options}};

const struct cli_command command_ctl = {
    .name = "ctl",
    .arguments = "SOCKET COMMAND [ARGUMENT]…",
    .summary = "Ask a running machine, or tell it what to do",
    .groups = groups,
    .group_count = ARRAY_LEN(groups),
    .run = ctl,
};
