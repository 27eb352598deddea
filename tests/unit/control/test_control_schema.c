/*
 * What may be asked: names, depth.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "control/control_priv.h"

Test(control_schema, distance_is_letters_to_change)
{
    cr_assert_eq(name_distance("", ""), 0);
    cr_assert_eq(name_distance("status", "status"), 0);
    cr_assert_eq(name_distance("stats", "status"), 1);
    cr_assert_eq(name_distance("status", "stauts"), 2);
    cr_assert_eq(name_distance("", "kill"), 4);
    cr_assert_eq(name_distance("kitten", "sitting"), 3);
    cr_assert_eq(name_distance("sitting", "kitten"), 3);
    cr_assert_gt(name_distance("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a"), 30);
    cr_assert_gt(name_distance("a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), 30);
}

static bool shallow(const char *text, unsigned max)
{
    return is_shallow(text, strlen(text), max);
}

Test(control_schema, depth_counts_brackets_outside_of_strings)
{
    cr_assert(shallow("", 0));
    cr_assert(shallow("1", 0));
    cr_assert_not(shallow("[]", 0));
    cr_assert(shallow("[[]]", 2));
    cr_assert_not(shallow("[{\"a\":[]}]", 2));
    cr_assert(shallow("[],[],[],{}", 1));
    cr_assert(shallow("[\"[[[[\"]", 1));
    cr_assert(shallow("[\"\\\"[[[[\"]", 1));
    cr_assert_not(shallow("[\"\\\\\"[", 1), "an escaped backslash ends nothing");
    cr_assert(shallow("]]]][", 1), "what closes too much is the parser's to refuse");
    cr_assert(shallow("\"\\", 1), "cut off within an escape");
}

Test(control_schema, depth_looks_no_further_than_the_length)
{
    cr_assert(is_shallow("[[[[", 1, 1));
}
