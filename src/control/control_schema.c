/*
 * Whether a request may be asked so: its depth, its names, its arguments.
 */
#include <errno.h>
#include <string.h>

#include "control/control_priv.h"
#include "hv/base/num.h"

#define NAME_MAX_COMPARED 32

/* --- depth --- */

bool is_shallow(const char *text, size_t len, unsigned max)
{
    unsigned depth = 0;
    bool quoted = false;

    for (size_t i = 0; i < len; i++) {
        if (quoted && text[i] == '\\')
            i++; /* whatever comes next is no quote */
        else if (text[i] == '"')
            quoted = !quoted;
        else if (!quoted && (text[i] == '{' || text[i] == '['))
            depth++;
        else if (!quoted && (text[i] == '}' || text[i] == ']') && depth > 0)
            depth--;
        if (depth > max)
            return false;
    }
    return true;
}

/* --- names --- */

static unsigned least(unsigned a, unsigned b, unsigned c)
{
    unsigned ab = a < b ? a : b;

    return ab < c ? ab : c;
}

/* Levenshtein's distance, a row at a time. */
unsigned name_distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    unsigned row[NAME_MAX_COMPARED + 1];

    if (la > NAME_MAX_COMPARED || lb > NAME_MAX_COMPARED)
        return NAME_MAX_COMPARED + 1;
    for (unsigned j = 0; j <= lb; j++)
        row[j] = j;
    for (unsigned i = 1; i <= la; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= lb; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = least(row[j] + 1, row[j - 1] + 1, change);
        }
    }
    return row[lb];
}

/* --- arguments --- */

const char *schema_type_name(enum control_type type)
{
    switch (type) {
    case CONTROL_BOOL:
        return "bool";
    case CONTROL_INT:
        return "int";
    case CONTROL_SIZE:
        return "size";
    case CONTROL_TEXT:
        return "text";
    }
    return "?";
}

static const struct control_arg *find(const struct control_arg *schema, const char *name)
{
    for (; schema != NULL && schema->name != NULL; schema++)
        if (strcmp(schema->name, name) == 0)
            return schema;
    return NULL;
}

static int refuse_unknown(const struct control_arg *schema, const char *name, struct error *err)
{
    for (const struct control_arg *a = schema; a != NULL && a->name != NULL; a++)
        if (name_distance(a->name, name) <= NAME_NEAR)
            return error_set(err, -EINVAL, "there is no argument \"%s\"; did you mean \"%s\"?",
                             name, a->name);
    return error_set(err, -EINVAL, "there is no argument \"%s\"", name);
}

static int check_number(const struct control_arg *a, const json_t *value, struct error *err)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return error_set(err, -EINVAL, "%s: give a whole number, 0 or more", a->name);
    if (a->max != 0 && json_integer_value(value) > a->max)
        return error_set(err, -EINVAL, "%s: at most %lld", a->name, (long long)a->max);
    return 0;
}

/* "256M" is put into the arguments as the number it means. */
static int take_size(const struct control_arg *a, json_t *args, struct error *err)
{
    const json_t *value = json_object_get(args, a->name);
    uint64_t bytes;

    if (json_is_string(value)) {
        if (parse_size(json_string_value(value), 1, &bytes) < 0 || bytes > INT64_MAX)
            return error_set(err, -EINVAL, "%s: give a size, as 268435456 or \"256M\"", a->name);
        if (json_object_set_new(args, a->name, json_integer((json_int_t)bytes)) < 0)
            return error_set(err, -EINVAL, "%s: no memory for it", a->name);
    }
    return check_number(a, json_object_get(args, a->name), err);
}

static int check_arg(const struct control_arg *a, json_t *args, struct error *err)
{
    const json_t *value = json_object_get(args, a->name);

    if (value == NULL)
        return a->required ? error_set(err, -EINVAL, "give %s: %s", a->name, a->help) : 0;
    switch (a->type) {
    case CONTROL_BOOL:
        return json_is_boolean(value) ? 0
                                      : error_set(err, -EINVAL, "%s: give true or false", a->name);
    case CONTROL_INT:
        return check_number(a, value, err);
    case CONTROL_SIZE:
        return take_size(a, args, err);
    case CONTROL_TEXT:
        if (!json_is_string(value) || json_string_length(value) > CONTROL_TEXT_MAX)
            return error_set(err, -EINVAL, "%s: give a string of at most %d bytes", a->name,
                             CONTROL_TEXT_MAX);
        return 0;
    }
    return -EINVAL;
}

int schema_check(const struct control_arg *schema, json_t *args, struct error *err)
{
    const char *name;
    json_t *value;

    json_object_foreach(args, name, value)
    {
        if (find(schema, name) == NULL)
            return refuse_unknown(schema, name, err);
    }
    for (const struct control_arg *a = schema; a != NULL && a->name != NULL; a++) {
        int rc = check_arg(a, args, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}
