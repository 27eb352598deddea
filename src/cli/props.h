/*
 * An option's value made of parts: "disk.img,readonly,queues=2".
 *
 * Parts are separated by commas; a comma that belongs to a name is written twice. The first part
 * is the thing itself, the others say more about it, each NAME=VALUE or just NAME.
 */
#ifndef HV_CLI_PROPS_H
#define HV_CLI_PROPS_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"

struct prop_rule {
    const char *name;  /* NULL ends the table */
    const char *usage; /* "queues=N", for messages; with "…" at the end: may be given again */
    /* Takes the value, NULL if there was no '='; the string lives as long as the parts do. */
    int (*set)(void *ctx, const char *value, struct error *err);
};

/* Takes `text` apart: *first is its first part, the others go to their rules with `ctx`. *copy
 * owns all strings: free() it when they are not needed any more. -EINVAL: a part without a rule, or
 * given twice, or what its rule says; nothing is to be freed then. -ENOMEM. */
int props_parse(const char *text, const struct prop_rule *rules, void *ctx, const char **first,
                char **copy, struct error *err) HV_MUST_CHECK;

/* Values that several have. */
int prop_no_value(const char *value, struct error *err) HV_MUST_CHECK;
int prop_on_off(const char *value, bool *out, struct error *err) HV_MUST_CHECK; /* NULL: on */
int prop_number(const char *value, uint64_t min, uint64_t max, uint64_t *out,
                struct error *err) HV_MUST_CHECK;
/* A size with a suffix, as for parse_size(). */
int prop_size(const char *value, uint64_t *out, struct error *err) HV_MUST_CHECK;
/* A string that is not empty. */
int prop_text(const char *value, const char **out, struct error *err) HV_MUST_CHECK;

#endif
