#include "cli/props.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"

#define RULES_MAX 32

/* Ends the part that begins at `text` with a null byte, making one comma of two. Returns the next
 * part, or NULL. */
static char *end_part(char *text)
{
    char *to = text;

    for (char *from = text; *from != '\0'; from++) {
        if (*from == ',' && from[1] != ',') {
            *to = '\0';
            return from + 1;
        }
        from += *from == ',';
        *to++ = *from;
    }
    *to = '\0';
    return NULL;
}

static int unknown(const char *name, const struct prop_rule *rules, struct error *err)
{
    char known[512] = "";
    size_t used = 0;

    for (const struct prop_rule *r = rules; r->name != NULL; r++) {
        int n =
            snprintf(known + used, sizeof(known) - used, "%s%s", r == rules ? "" : ", ", r->usage);
        used += (size_t)n < sizeof(known) - used ? (size_t)n : 0;
    }
    return error_set(err, -EINVAL, "there is no \"%s\"; give %s", name, known);
}

/* One NAME=VALUE or NAME. */
static int apply(char *part, const struct prop_rule *rules, bool *given, void *ctx,
                 struct error *err)
{
    char *value = strchr(part, '=');

    if (value != NULL)
        *value++ = '\0';
    for (unsigned i = 0; rules[i].name != NULL && i < RULES_MAX; i++) {
        if (strcmp(rules[i].name, part) != 0)
            continue;
        if (given[i] && strstr(rules[i].usage, "…") == NULL)
            return error_set(err, -EINVAL, "%s is given twice", part);
        given[i] = true;
        int rc = rules[i].set(ctx, value, err);
        return rc < 0 ? error_prefix(err, rc, "%s", rules[i].name) : 0;
    }
    return unknown(part, rules, err);
}

int props_parse(const char *text, const struct prop_rule *rules, void *ctx, const char **first,
                char **copy, struct error *err)
{
    bool given[RULES_MAX] = {false};
    char *parts = strdup(text);
    int rc = 0;

    if (parts == NULL)
        return error_set(err, -ENOMEM, "no memory for the option");
    char *next = end_part(parts);
    while (rc == 0 && next != NULL) {
        char *part = next;
        next = end_part(part);
        rc = apply(part, rules, given, ctx, err);
    }
    if (rc < 0) {
        free(parts);
        return rc;
    }
    *first = parts;
    *copy = parts;
    return 0;
}

int prop_no_value(const char *value, struct error *err)
{
    return value == NULL ? 0 : error_set(err, -EINVAL, "it takes no value");
}

int prop_on_off(const char *value, bool *out, struct error *err)
{
    bool on = value == NULL || strcmp(value, "on") == 0;

    if (!on && strcmp(value, "off") != 0)
        return error_set(err, -EINVAL, "give on or off");
    *out = on;
    return 0;
}

int prop_number(const char *value, uint64_t min, uint64_t max, uint64_t *out, struct error *err)
{
    if (value == NULL || parse_u64(value, max, out) < 0 || *out < min)
        return error_set(err, -EINVAL, "give a number from %" PRIu64 " to %" PRIu64, min, max);
    return 0;
}

int prop_size(const char *value, uint64_t *out, struct error *err)
{
    if (value == NULL || parse_size(value, 1, out) < 0)
        return error_set(err, -EINVAL, "give a size such as 64M");
    return 0;
}

int prop_text(const char *value, const char **out, struct error *err)
{
    if (value == NULL || *value == '\0')
        return error_set(err, -EINVAL, "give a value after =");
    *out = value;
    return 0;
}
