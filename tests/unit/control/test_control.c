/*
 * The control socket's conversations, without a machine.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/control_rig.h"
#include "support/tmp.h"

static struct control_rig rig;
static unsigned fds_before;

/* --- a module of the test's own --- */

static struct control_call *later; /* of "wait", not yet answered */
static unsigned ran;

static void run_wait(void *ctx, struct control_call *call, json_t *args)
{
    (void)ctx;
    (void)args;
    if (later != NULL)
        control_return(later, json_object());
    later = call;
}

static void run_echo(void *ctx, struct control_call *call, json_t *args)
{
    (void)ctx;
    ran++;
    control_return(call, json_incref(args));
}

static void run_forget(void *ctx, struct control_call *call, json_t *args)
{
    (void)ctx;
    (void)args;
    control_return(call, NULL);
}

/* Cannot be shown: it ends in the middle of a letter. */
static void run_garble(void *ctx, struct control_call *call, json_t *args)
{
    (void)ctx;
    (void)args;
    control_fail(call, CONTROL_FAILED, "%s", "\xc3");
}

static void run_hold_all(void *ctx, struct control_call *call, json_t *args)
{
    struct control_call **kept = ctx;

    (void)args;
    while (*kept != NULL)
        kept++;
    *kept = call;
}

static struct control_call *held[64];

static void answer_held(void *ctx)
{
    struct control_call **kept = ctx;

    for (; *kept != NULL; kept++) {
        control_return(*kept, json_object());
        *kept = NULL;
    }
}

static const struct control_arg echo_args[] = {
    {"flag", CONTROL_BOOL, false, 0, "a flag"},
    {"count", CONTROL_INT, false, 10, "up to ten"},
    {"size", CONTROL_SIZE, false, 0, "a size"},
    {"name", CONTROL_TEXT, true, 0, "a name"},
    {0},
};

static const struct control_command test_commands[] = {
    {"wait", CONTROL_SEES, "Answer when the next one comes", NULL, run_wait},
    {"echo", CONTROL_CHANGES, "Answer the arguments", echo_args, run_echo},
    {"forget", CONTROL_SEES, "Have no memory", NULL, run_forget},
    {"garble", CONTROL_SEES, "Fail unspeakably", NULL, run_garble},
    {"hold", CONTROL_SEES, "Never answer", NULL, run_hold_all},
    {0},
};

static const struct control_module test_module = {
    .name = "test", .commands = test_commands, .destroy = answer_held};

static void set_up(void)
{
    later = NULL;
    ran = 0;
    memset(held, 0, sizeof(held));
    fds_before = count_open_fds();
    talk_init(&rig);
    cr_assert_eq(control_register(rig.control, &test_module, held), 0);
    talk_connect(&rig, 0);
    json_decref(talk_receive(&rig, 0));
}

static void tear_down(void)
{
    talk_fini(&rig);
    cr_assert_eq(count_open_fds(), fds_before);
}

TestSuite(control, .init = set_up, .fini = tear_down);

#define ANSWERS(line, wanted) cr_assert_str_eq(talk_ask(&rig, 0, line), wanted)
#define SYNTAX(line)                                                                               \
    cr_assert_not_null(strstr(talk_ask(&rig, 0, line), "{\"error\":{\"class\":\"Syntax\""), line)

static void expect_error(const char *line, const char *class, const char *part)
{
    char begin[64];
    const char *answer = talk_ask(&rig, 0, line);

    (void)snprintf(begin, sizeof(begin), "{\"error\":{\"class\":\"%s\",", class);
    cr_assert_eq(strncmp(answer, begin, strlen(begin)), 0, "%s: %s", line, answer);
    cr_assert_not_null(strstr(answer, part), "%s: %s", line, answer);
}

/* --- manners --- */

Test(control, greets_with_version_protocol_and_capabilities)
{
    talk_connect(&rig, 1);
    json_t *line = talk_receive(&rig, 1);
    const json_t *hv = json_object_get(line, "hv");

    cr_assert_eq(json_integer_value(json_object_get(hv, "protocol")), CONTROL_PROTOCOL);
    cr_assert_str_eq(json_string_value(json_object_get(hv, "version")), HV_VERSION);
    cr_assert_eq(json_array_size(json_object_get(hv, "capabilities")), 4);
    json_decref(line);
}

Test(control, an_id_comes_back_whatever_it_is)
{
    ANSWERS("{\"execute\":\"events\",\"id\":[1,{\"a\":null}]}",
            "{\"return\":{},\"id\":[1,{\"a\":null}]}");
    ANSWERS("{\"execute\":\"events\",\"id\":null}", "{\"return\":{},\"id\":null}");
    ANSWERS("{\"execute\":\"events\"}", "{\"return\":{}}");
}

Test(control, blank_lines_and_carriage_returns_are_nothing)
{
    cr_assert_eq(talk_send(&rig, 0, "\n \t\r\n\r\n", 7), 7);
    cr_assert(talk_is_silent(&rig, 0));
    ANSWERS("{\"execute\":\"events\"}\r", "{\"return\":{}}");
}

Test(control, a_request_may_come_in_pieces_and_many_in_one)
{
    const char *line = "{\"execute\":\"events\",\"id\":1}\n";

    for (size_t i = 0; i < strlen(line); i++)
        cr_assert_eq(talk_send(&rig, 0, line + i, 1), 1);
    json_decref(talk_receive(&rig, 0));
    cr_assert(talk_is_silent(&rig, 0));
    const char *three =
        "{\"execute\":\"events\",\"id\":1}\n{\"execute\":\"events\",\"id\":2}\n{\"execute\":"
        "\"events\",\"id\":3}\n";
    (void)talk_send(&rig, 0, three, strlen(three));
    for (int i = 1; i <= 3; i++) {
        json_t *answer = talk_receive(&rig, 0);
        cr_assert_eq(json_integer_value(json_object_get(answer, "id")), i);
        json_decref(answer);
    }
}

Test(control, a_client_that_sends_and_ends_is_answered_first)
{
    const char *last = "{\"execute\":\"events\",\"arguments\":{\"enable\":false}}";

    (void)talk_send(&rig, 0, last, strlen(last));
    cr_assert(talk_is_silent(&rig, 0));
    cr_assert_eq(shutdown(rig.clients[0].fd, SHUT_WR), 0);
    json_t *answer = talk_receive(&rig, 0);
    cr_assert_not_null(json_object_get(answer, "return"));
    json_decref(answer);
    cr_assert_null(talk_receive(&rig, 0), "hung up");
}

/* --- what is no request --- */

Test(control, malformed_json_is_an_error_and_the_connection_stays)
{
    SYNTAX("{");
    SYNTAX("}");
    SYNTAX("nonsense");
    SYNTAX("{\"execute\": \"status\"");
    SYNTAX("{\"execute\": \"status\"} trailing");
    SYNTAX("{\"execute\": \"a\", \"execute\": \"b\"}");
    SYNTAX("\xff\xfe\x01\x02");
    SYNTAX("{\"execute\": \"\\ud800\"}");
    SYNTAX("{\"execute\": \"a\\u0000b\"}");
    SYNTAX("{\"execute\":\"events\",\"id\":123456789012345678901234567890}");
    ANSWERS("{\"execute\":\"events\"}", "{\"return\":{}}");
}

Test(control, json_that_is_no_request_is_an_error)
{
    SYNTAX("[]");
    SYNTAX("{}");
    SYNTAX("{\"execute\": 1}");
    SYNTAX("{\"execute\": null, \"id\": 7}");
    SYNTAX("{\"execute\": \"status\", \"arguments\": []}");
    SYNTAX("{\"execute\": \"status\", \"arguments\": null}");
    SYNTAX("{\"execute\": \"status\", \"more\": 1}");
    expect_error("{\"id\": 7}", "Syntax", "\"id\":7");
}

Test(control, depth_is_limited)
{
    static char line[60000];

    memset(line, '[', sizeof(line) - 1);
    expect_error(line, "Syntax", "brackets");
    ANSWERS("{\"execute\":\"events\",\"id\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[[\"}",
            "{\"return\":{},\"id\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[[\"}");
}

Test(control, the_longest_line_is_taken)
{
    static char line[CONTROL_LINE_MAX + 1];
    int head = snprintf(line, sizeof(line), "{\"execute\":\"events\",\"id\":\"");

    memset(line + head, 'x', CONTROL_LINE_MAX - (size_t)head - 3);
    memcpy(line + CONTROL_LINE_MAX - 3, "\"}\n", 4);
    cr_assert_eq(talk_send(&rig, 0, line, CONTROL_LINE_MAX), CONTROL_LINE_MAX);
    json_t *answer = talk_receive(&rig, 0);
    cr_assert_not_null(json_object_get(answer, "return"));
    json_decref(answer);
}

Test(control, a_line_that_is_too_long_ends_the_connection)
{
    static char line[1 << 20];

    memset(line, 'x', sizeof(line));
    cr_assert_lt(talk_send(&rig, 0, line, sizeof(line)), sizeof(line));
    json_t *answer = talk_receive(&rig, 0);
    const json_t *error = json_object_get(answer, "error");
    cr_assert_str_eq(json_string_value(json_object_get(error, "class")), "Syntax");
    json_decref(answer);
    cr_assert_null(talk_receive(&rig, 0));
    talk_connect(&rig, 1);
    json_decref(talk_receive(&rig, 1));
    cr_assert_str_eq(talk_ask(&rig, 1, "{\"execute\":\"events\"}"), "{\"return\":{}}");
}

/* --- commands and arguments --- */

Test(control, unknown_commands_get_the_nearest_name)
{
    expect_error("{\"execute\":\"statsu\"}", "UnknownCommand", "did you mean \\\"stats\\\"");
    expect_error("{\"execute\":\"evnets\"}", "UnknownCommand", "did you mean \\\"events\\\"");
    expect_error("{\"execute\":\"frobnicate\"}", "UnknownCommand", "\\\"commands\\\" lists them");
    expect_error("{\"execute\":\"\"}", "UnknownCommand", "no command");
}

Test(control, a_name_that_is_too_long_to_show_is_an_error_all_the_same)
{
    static char line[8000] = "{\"execute\":\"";

    for (size_t i = 0; i < 2000; i++)
        (void)strcat(line, "\xc3\xa4");
    (void)strcat(line, "x\"}");
    expect_error(line, "UnknownCommand", "");
}

Test(control, arguments_are_checked_before_the_command_runs)
{
    expect_error("{\"execute\":\"echo\"}", "BadArgument", "give name: a name");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":1}}", "BadArgument", "a string");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"flag\":1}}", "BadArgument",
                 "true or false");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"count\":-1}}", "BadArgument",
                 "0 or more");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"count\":11}}", "BadArgument",
                 "at most 10");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"count\":1.5}}",
                 "BadArgument", "whole");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"count\":\"1\"}}",
                 "BadArgument", "whole");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"size\":\"12Q\"}}",
                 "BadArgument", "give a size");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"size\":\"9999999T\"}}",
                 "BadArgument", "give a size");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"size\":-1}}", "BadArgument",
                 "0 or more");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"nam\":\"\"}}", "BadArgument",
                 "did you mean \\\"name\\\"");
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\",\"other-thing\":1}}",
                 "BadArgument", "no argument");
    expect_error("{\"execute\":\"wait\",\"arguments\":{\"x\":1}}", "BadArgument", "no argument");
    cr_assert_eq(ran, 0);
}

Test(control, sizes_reach_the_command_as_numbers)
{
    ANSWERS("{\"execute\":\"echo\",\"arguments\":{\"name\":\"n\",\"size\":\"64M\",\"flag\":true,"
            "\"count\":10}}",
            "{\"return\":{\"name\":\"n\",\"size\":67108864,\"flag\":true,\"count\":10}}");
    ANSWERS("{\"execute\":\"echo\",\"arguments\":{\"name\":\"n\",\"size\":9223372036854775807}}",
            "{\"return\":{\"name\":\"n\",\"size\":9223372036854775807}}");
}

Test(control, hello_agrees_on_a_protocol_or_says_why_not)
{
    cr_assert_not_null(
        strstr(talk_ask(&rig, 0, "{\"execute\":\"hello\"}"), "\"return\":{\"version\""));
    cr_assert_not_null(strstr(
        talk_ask(&rig, 0, "{\"execute\":\"hello\",\"arguments\":{\"protocol\":1}}"), "\"return\""));
    expect_error("{\"execute\":\"hello\",\"arguments\":{\"protocol\":2}}", "NotSupported",
                 "protocol 1");
}

Test(control, commands_lists_them_all_with_their_arguments)
{
    json_t *answer = json_loads(talk_ask(&rig, 0, "{\"execute\":\"commands\"}"), 0, NULL);
    const json_t *list = json_object_get(answer, "return");
    size_t i;
    json_t *one;
    bool found = false;

    cr_assert_gt(json_array_size(list), 12);
    json_array_foreach(list, i, one)
    {
        if (strcmp(json_string_value(json_object_get(one, "name")), "echo") != 0)
            continue;
        found = true;
        cr_assert(json_is_true(json_object_get(one, "changes")));
        cr_assert_eq(json_array_size(json_object_get(one, "arguments")), 4);
        const json_t *count = json_array_get(json_object_get(one, "arguments"), 1);
        cr_assert_eq(json_integer_value(json_object_get(count, "max")), 10);
    }
    cr_assert(found);
    json_decref(answer);
}

Test(control, a_client_that_may_only_look_changes_nothing)
{
    rig.control->clients->role = CONTROL_SEES;
    expect_error("{\"execute\":\"echo\",\"arguments\":{\"name\":\"\"}}", "Failed", "may only look");
    cr_assert_eq(ran, 0);
    ANSWERS("{\"execute\":\"events\"}", "{\"return\":{}}");
}

Test(control, between_two_machines_commands_about_it_have_to_wait)
{
    const char *const names[] = {"status", "stats", "pause", "resume",
                                 "stop",   "kill",  "reset", "balloon"};
    char line[64];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        (void)snprintf(line, sizeof(line), "{\"execute\":\"%s\"}", names[i]);
        expect_error(line, "Busy", "between two starts");
    }
    expect_error("{\"execute\":\"set-limits\",\"arguments\":{\"device\":\"disk0\"}}", "Busy", "");
    expect_error("{\"execute\":\"console-close\",\"arguments\":{\"port\":0}}", "Busy", "");
}

/* --- answers that come later --- */

Test(control, others_are_answered_while_one_waits)
{
    const char *line = "{\"execute\":\"wait\",\"id\":\"first\"}\n";

    (void)talk_send(&rig, 0, line, strlen(line));
    cr_assert(talk_is_silent(&rig, 0));
    ANSWERS("{\"execute\":\"events\",\"id\":\"second\"}", "{\"return\":{},\"id\":\"second\"}");
    control_return(later, json_object());
    json_t *answer = talk_receive(&rig, 0);
    cr_assert_str_eq(json_string_value(json_object_get(answer, "id")), "first");
    json_decref(answer);
    later = NULL;
}

Test(control, an_answer_to_a_client_that_has_gone_goes_nowhere)
{
    const char *line = "{\"execute\":\"wait\",\"id\":\"first\"}\n";

    (void)talk_send(&rig, 0, line, strlen(line));
    talk_hang_up(&rig, 0);
    talk_turn(&rig);
    cr_assert_null(rig.control->clients);
    control_follow(later, true);
    control_return(later, json_object());
    later = NULL;
}

Test(control, too_many_unanswered_requests_are_refused)
{
    for (unsigned i = 0; i < CONTROL_CALLS_MAX; i++)
        (void)talk_send(&rig, 0, "{\"execute\":\"hold\"}\n", 19);
    cr_assert(talk_is_silent(&rig, 0));
    expect_error("{\"execute\":\"hold\"}", "Busy", "16 requests");
    answer_held(held);
    for (unsigned i = 0; i < CONTROL_CALLS_MAX; i++)
        json_decref(talk_receive(&rig, 0));
    ANSWERS("{\"execute\":\"events\"}", "{\"return\":{}}");
}

Test(control, the_server_answers_what_is_left_before_it_goes)
{
    (void)talk_send(&rig, 0, "{\"execute\":\"hold\"}\n", 19);
    control_destroy(rig.control);
    rig.control = NULL;
    json_t *answer = talk_receive(&rig, 0);
    cr_assert_not_null(json_object_get(answer, "return"));
    json_decref(answer);
    cr_assert_null(talk_receive(&rig, 0));
}

Test(control, an_answer_there_was_no_memory_for_says_so)
{
    expect_error("{\"execute\":\"forget\"}", "Failed", "no memory");
    expect_error("{\"execute\":\"garble\"}", "Failed", "cannot be shown");
}

/* --- events --- */

Test(control, events_reach_those_who_follow_them)
{
    talk_connect(&rig, 1);
    json_decref(talk_receive(&rig, 1));
    ANSWERS("{\"execute\":\"events\"}", "{\"return\":{}}");
    control_event(rig.control, "tried", json_pack("{s:i}", "n", 7));
    json_t *event = talk_receive(&rig, 0);
    cr_assert_str_eq(json_string_value(json_object_get(event, "event")), "tried");
    cr_assert_eq(json_integer_value(json_object_get(json_object_get(event, "data"), "n")), 7);
    const json_t *stamp = json_object_get(event, "timestamp");
    cr_assert_gt(json_integer_value(json_object_get(stamp, "seconds")), 1600000000);
    cr_assert_lt(json_integer_value(json_object_get(stamp, "microseconds")), 1000000);
    json_decref(event);
    cr_assert(talk_is_silent(&rig, 1));
    ANSWERS("{\"execute\":\"events\",\"arguments\":{\"enable\":false}}", "{\"return\":{}}");
    control_event(rig.control, "tried", NULL);
    cr_assert(talk_is_silent(&rig, 0));
}

Test(control, who_follows_and_does_not_read_is_dropped_and_the_others_are_not)
{
    talk_connect(&rig, 1);
    json_decref(talk_receive(&rig, 1));
    ANSWERS("{\"execute\":\"events\"}", "{\"return\":{}}");
    cr_assert_str_eq(talk_ask(&rig, 1, "{\"execute\":\"events\"}"), "{\"return\":{}}");
    for (unsigned i = 0; i < 40000 && rig.logged == 0; i++) {
        control_event(rig.control, "tried",
                      json_pack("{s:s}", "text", "a hundred letters of nothing"));
        json_decref(talk_receive(&rig, 0));
    }
    cr_assert_eq(rig.logged, 1);
    cr_assert_not_null(strstr(rig.last_log, "does not read"));
    ANSWERS("{\"execute\":\"events\"}", "{\"return\":{}}");
    json_t *line;
    unsigned lines = 0;
    while ((line = talk_receive(&rig, 1)) != NULL) { /* what it was sent is whole */
        lines++;
        json_decref(line);
        if (rig.clients[1].len > 0 && memchr(rig.clients[1].in, '\n', rig.clients[1].len) == NULL)
            break; /* but for the last, which was cut off */
    }
    cr_assert_gt(lines, 100);
}

/* --- many, and slow --- */

Test(control, ten_thousand_requests_without_reading_take_bounded_memory)
{
    static char all[10000 * 40];
    size_t len = 0;

    for (unsigned i = 0; i < 10000; i++)
        len += (size_t)sprintf(all + len, "{\"execute\":\"commands\",\"id\":%u}\n", i);
    size_t sent = talk_send(&rig, 0, all, len);
    cr_assert_lt(sent, len, "the server stopped reading");
    cr_assert_lt(rig.control->clients->out_room, 2 * CONTROL_OUTPUT_ENOUGH + (64U << 10));
    talk_connect(&rig, 1);
    json_decref(talk_receive(&rig, 1));
    cr_assert_str_eq(talk_ask(&rig, 1, "{\"execute\":\"events\"}"), "{\"return\":{}}",
                     "others are served");
    unsigned answers = 0;
    while (answers < 300) { /* and it goes on as the client reads */
        json_t *answer = talk_receive(&rig, 0);
        cr_assert_eq(json_integer_value(json_object_get(answer, "id")), answers);
        json_decref(answer);
        answers++;
    }
    talk_hang_up(&rig, 0); /* in the middle of answers */
    talk_turn(&rig);
    cr_assert_eq(rig.control->clients->next, NULL);
}

Test(control, everything_is_answered_in_the_end_and_in_order)
{
    static char all[3000 * 40];
    size_t len = 0, sent = 0;

    for (unsigned i = 0; i < 3000; i++)
        len += (size_t)sprintf(all + len, "{\"execute\":\"commands\",\"id\":%u}\n", i);
    for (unsigned i = 0; i < 3000; i++) {
        ssize_t n = send(rig.clients[0].fd, all + sent, len - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        json_t *answer = talk_receive(&rig, 0);
        cr_assert_eq(json_integer_value(json_object_get(answer, "id")), i);
        json_decref(answer);
    }
    cr_assert(talk_is_silent(&rig, 0));
}

Test(control, a_client_too_many_is_told_and_turned_away)
{
    for (unsigned i = 1; i < CONTROL_CLIENTS_MAX; i++) {
        talk_connect(&rig, i);
        json_decref(talk_receive(&rig, i));
    }
    talk_connect(&rig, CONTROL_CLIENTS_MAX);
    json_t *answer = talk_receive(&rig, CONTROL_CLIENTS_MAX);
    const json_t *error = json_object_get(answer, "error");
    cr_assert_str_eq(json_string_value(json_object_get(error, "class")), "Busy");
    json_decref(answer);
    cr_assert_null(talk_receive(&rig, CONTROL_CLIENTS_MAX));
    talk_hang_up(&rig, 3);
    talk_turn(&rig);
    talk_hang_up(&rig, CONTROL_CLIENTS_MAX);
    talk_connect(&rig, CONTROL_CLIENTS_MAX);
    answer = talk_receive(&rig, CONTROL_CLIENTS_MAX);
    cr_assert_not_null(json_object_get(answer, "hv"));
    json_decref(answer);
}

Test(control, modules_too_many_are_refused_and_ended)
{
    unsigned n = rig.control->module_count;

    for (; n < CONTROL_MODULES_MAX; n++)
        cr_assert_eq(control_register(rig.control, &control_own, rig.control), 0);
    cr_assert_eq(control_register(rig.control, &test_module, held), -ENOSPC);
}

/* --- at a path --- */

static int connect_to(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

Test(control, listens_at_a_path_for_its_user_alone_and_removes_it)
{
    struct tmp_dir tmp;
    struct error err = {0};
    struct stat st;

    tmp_init(&tmp);
    const char *path = tmp_path(&tmp, "control");
    cr_assert_eq(control_listen(rig.control, path, &err), 0, "%s", err.text);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert(S_ISSOCK(st.st_mode));
    cr_assert_eq(st.st_mode & 0777, 0600);
    rig.clients[1].fd = connect_to(path);
    json_t *greeting = talk_receive(&rig, 1);
    cr_assert_not_null(json_object_get(greeting, "hv"));
    json_decref(greeting);
    control_destroy(rig.control);
    rig.control = NULL;
    cr_assert_neq(stat(path, &st), 0);
    tmp_fini(&tmp);
}

Test(control, a_path_that_cannot_be_is_an_error_and_nothing_more)
{
    struct error err = {0};

    cr_assert_eq(control_listen(rig.control, "/nonexistent/socket", &err), -ENOENT);
    cr_assert_neq(err.text[0], '\0');
    cr_assert_eq(rig.control->listener, -1);
    ANSWERS("{\"execute\":\"events\"}", "{\"return\":{}}");
}
