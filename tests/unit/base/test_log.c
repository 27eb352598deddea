#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "hv/base/fd.h"
#include "hv/base/log.h"

#define SECOND 1000000000ULL

/* What reached the far end. */
static struct {
    unsigned count;
    enum log_level level; /* of the last message */
    char text[2048];      /* the last message */
    char before[2048];    /* the one before it */
} seen;

static void keep(void *ctx, enum log_level level, const char *text)
{
    cr_assert_eq(ctx, &seen);
    seen.count++;
    seen.level = level;
    memcpy(seen.before, seen.text, sizeof(seen.before));
    (void)snprintf(seen.text, sizeof(seen.text), "%s", text);
}

static const struct log chatty = {.level = LOG_DEBUG, .write = keep, .ctx = &seen};

Test(log, delivers_the_message_with_its_level)
{
    log_msg(&chatty, LOG_WARN, "%s has %d", "queue", 7);
    cr_assert_eq(seen.count, 1);
    cr_assert_eq(seen.level, LOG_WARN);
    cr_assert_str_eq(seen.text, "queue has 7");
}

Test(log, drops_what_is_above_its_level)
{
    struct log quiet = {.level = LOG_WARN, .write = keep, .ctx = &seen};

    log_msg(&quiet, LOG_INFO, "no");
    log_msg(&quiet, LOG_DEBUG, "no");
    cr_assert_eq(seen.count, 0);
    log_msg(&quiet, LOG_WARN, "yes");
    log_msg(&quiet, LOG_ERROR, "yes");
    cr_assert_eq(seen.count, 2);
}

Test(log, nobody_has_to_listen)
{
    struct log deaf = {.level = LOG_DEBUG};
    struct log_limit limit = {0};

    log_msg(NULL, LOG_ERROR, "lost");
    log_msg(&deaf, LOG_ERROR, "lost");
    log_limited(NULL, &limit, LOG_ERROR, "lost");
    log_limited(&deaf, &limit, LOG_ERROR, "lost");
    cr_assert_eq(limit.in_window, 0, "what nobody hears uses up no allowance");
}

Test(log, cuts_long_messages)
{
    char text[1500];

    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    log_msg(&chatty, LOG_INFO, "%s", text);
    cr_assert_eq(seen.count, 1);
    cr_assert_eq(strspn(seen.text, "a"), strlen(seen.text));
    cr_assert_lt(strlen(seen.text), strlen(text));
}

Test(log, names_its_levels)
{
    cr_assert_str_eq(log_level_name(LOG_ERROR), "error");
    cr_assert_str_eq(log_level_name(LOG_WARN), "warning");
    cr_assert_str_eq(log_level_name(LOG_INFO), "info");
    cr_assert_str_eq(log_level_name(LOG_DEBUG), "debug");
    cr_assert_str_eq(log_level_name((enum log_level)99), "?");
}

/* --- the rate limit: time is the window's start, which the tests move into the past --- */

static void shout(struct log_limit *limit, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        log_limited(&chatty, limit, LOG_INFO, "bad request %u", i);
}

/* A limit whose second has an hour still to go: however slow this machine, it does not end in
 * mid-test. */
static struct log_limit long_second(void)
{
    return (struct log_limit){.window_ns = now_ns() + 3600 * SECOND};
}

Test(log, a_burst_passes_and_then_nothing)
{
    struct log_limit limit = long_second();

    shout(&limit, 100);
    cr_assert_eq(seen.count, LOG_LIMIT_BURST);
    cr_assert_str_eq(seen.text, "bad request 4");
    cr_assert_eq(limit.swallowed, 100 - LOG_LIMIT_BURST);
}

Test(log, the_next_second_tells_how_many_were_left_out)
{
    struct log_limit limit = {
        .window_ns = now_ns() - SECOND, .in_window = LOG_LIMIT_BURST, .swallowed = 41};

    shout(&limit, 10);
    cr_assert_eq(seen.count, 2, "the count, and one message");
    cr_assert_str_eq(seen.before, "(41 similar messages were left out)");
    cr_assert_str_eq(seen.text, "bad request 0");
    cr_assert_eq(limit.swallowed, 9);
}

Test(log, a_quiet_second_gives_the_burst_back)
{
    struct log_limit limit = {.window_ns = now_ns() - 2 * SECOND, .in_window = LOG_LIMIT_BURST};

    shout(&limit, 100);
    cr_assert_eq(seen.count, LOG_LIMIT_BURST);
}

Test(log, limits_are_independent)
{
    struct log_limit one = long_second(), other = long_second();

    shout(&one, 100);
    shout(&other, 1);
    cr_assert_eq(seen.count, LOG_LIMIT_BURST + 1);
}

Test(log, messages_above_the_level_use_up_no_allowance)
{
    struct log quiet = {.level = LOG_ERROR, .write = keep, .ctx = &seen};
    struct log_limit limit = {0};

    log_limited(&quiet, &limit, LOG_INFO, "no");
    cr_assert_eq(limit.in_window, 0);
    cr_assert_eq(limit.swallowed, 0);
}
