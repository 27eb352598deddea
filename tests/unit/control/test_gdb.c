/*
 * Whole conversations, with a target that is none.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/fake_target.h"

static struct fake_target fake;
static struct gdb g;
static char sent[128 << 10]; /* by gdb's server, as it goes over the line */
static size_t sent_len;

static void send_to_test(void *ctx, const void *data, size_t len)
{
    (void)ctx;
    cr_assert_lt(sent_len + len, sizeof(sent));
    memcpy(sent + sent_len, data, len);
    sent_len += len;
    sent[sent_len] = '\0';
}

static void begin(void)
{
    const struct gdb_target target = fake_target_of(&fake);

    gdb_fini(&g); /* all zeros the first time */
    gdb_init(&g, &target, NULL, send_to_test, NULL);
    g.no_acks = true;
    sent_len = 0;
    sent[0] = '\0';
}

static void set_up(void)
{
    cr_assert(fake_target_init(&fake));
    begin();
}

static void tear_down(void)
{
    gdb_fini(&g);
    fake_target_fini(&fake);
}

TestSuite(gdb, .init = set_up, .fini = tear_down);

/* Sends a packet and returns all that comes back, as it is on the line. */
static const char *say_bytes(const void *packet, size_t len)
{
    struct rsp_text frame = {0};

    sent_len = 0;
    sent[0] = '\0';
    rsp_put_packet(&frame, packet, len);
    cr_assert_eq(gdb_receive(&g, frame.data, frame.len), frame.len);
    rsp_text_fini(&frame);
    return sent;
}

static const char *say(const char *packet)
{
    return say_bytes(packet, strlen(packet));
}

/* The answer, which is one packet, without its frame. */
static const char *answer(const char *packet)
{
    static char text[RSP_PACKET_MAX + 1];
    const char *raw = say(packet);
    size_t len = strlen(raw);

    cr_assert(len >= 4 && raw[0] == '$' && raw[len - 3] == '#', "%s: %s", packet, raw);
    memcpy(text, raw + 1, len - 4);
    text[len - 4] = '\0';
    return text;
}

#define ANSWERS(packet, wanted) cr_assert_str_eq(answer(packet), wanted, "%s", packet)

/* What a monitor command prints. */
static const char *monitor(const char *line)
{
    static char text[8192];
    struct rsp_text packet = {0};
    size_t len = 0;

    rsp_put_text(&packet, "qRcmd,");
    rsp_put_bytes(&packet, line, strlen(line));
    const char *at = say_bytes(packet.data, packet.len);
    rsp_text_fini(&packet);
    for (; strncmp(at, "$O", 2) == 0 && at[2] != 'K'; at = strchr(at, '#') + 3) {
        struct rsp_view v = {.at = at + 2, .end = strchr(at, '#')};
        size_t n = rsp_left(&v) / 2;
        cr_assert_lt(len + n, sizeof(text));
        cr_assert(rsp_take_bytes(&v, text + len, n));
        len += n;
    }
    cr_assert_str_eq(at, "$OK#9a");
    text[len] = '\0';
    return text;
}

/* --- framing and manners --- */

Test(gdb, acknowledges_until_told_not_to)
{
    g.no_acks = false;
    cr_assert_str_eq(say("qC"), "+$QC1#c5");
    cr_assert_eq(gdb_receive(&g, "$qC#00", 6), 6);
    cr_assert_str_eq(sent, "+$QC1#c5-");
    cr_assert_eq(gdb_receive(&g, "-", 1), 1);
    cr_assert_str_eq(sent, "+$QC1#c5-$QC1#c5", "once more, as it was");
    cr_assert_str_eq(say("QStartNoAckMode"), "+$OK#9a");
    cr_assert_str_eq(say("qC"), "$QC1#c5");
}

Test(gdb, what_it_does_not_know_gets_the_empty_answer)
{
    const char *const unknown[] = {
        "", "!", "vMustReplyEmpty", "qTStatus", "QNonStop:1", "qXfer:", "vFile:open", "Hx1", "b"};

    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
        ANSWERS(unknown[i], "");
}

Test(gdb, too_long_a_packet_is_an_error_and_no_more)
{
    static char packet[RSP_PACKET_MAX + 100];

    memset(packet, 'm', sizeof(packet));
    cr_assert_str_eq(say_bytes(packet, sizeof(packet)), "$E5a#db");
    ANSWERS("qC", "QC1");
}

Test(gdb, says_what_it_can)
{
    const char *features = answer("qSupported:multiprocess+;swbreak+;hwbreak+");

    cr_assert(strstr(features, "PacketSize=4000;") != NULL);
    cr_assert(strstr(features, "qXfer:features:read+") != NULL);
    cr_assert(g.swbreak && g.hwbreak);
    ANSWERS("vCont?", "vCont;c;C;s;S");
    ANSWERS("qAttached", "1");
}

/* --- threads --- */

Test(gdb, each_cpu_is_a_thread)
{
    fake.halted[1] = true;
    ANSWERS("qfThreadInfo", "m1,2,3");
    ANSWERS("qsThreadInfo", "l");
    ANSWERS("T3", "OK");
    ANSWERS("T4", "E03");
    ANSWERS("T0", "E03");
    ANSWERS("qThreadExtraInfo,2", "7643505520313a2068616c746564"); /* "vCPU 1: halted" */
    ANSWERS("qThreadExtraInfo,9", "E03");
}

Test(gdb, the_chosen_thread_is_the_one_asked)
{
    fake.regs[2].regs.rip = 0x2000;
    ANSWERS("Hg3", "OK");
    ANSWERS("p8", "00200000");
    ANSWERS("Hg0", "OK");
    ANSWERS("qC", "QC3");
    ANSWERS("Hg4", "E03");
    ANSWERS("Hgx", "E03");
    ANSWERS("qC", "QC3");
}

/* --- registers --- */

Test(gdb, all_registers_go_and_come_back)
{
    fake.regs[0].regs.rax = 0x12345678;
    char all[RSP_PACKET_MAX + 1];
    (void)snprintf(all, sizeof(all), "G%s", answer("g"));
    cr_assert_eq(strncmp(all, "G78563412", 9), 0);
    fake.regs[0].regs.rax = 0;
    ANSWERS(all, "OK");
    cr_assert_eq(fake.regs[0].regs.rax, 0x12345678);
    all[20] = '\0';
    ANSWERS(all, "E16");
}

Test(gdb, single_registers)
{
    ANSWERS("P0=efbe0000", "OK");
    cr_assert_eq(fake.regs[0].regs.rax, 0xbeef);
    ANSWERS("p0", "efbe0000");
    ANSWERS("p999", "E16");
    ANSWERS("P999=00000000", "E16");
    ANSWERS("P0=ef", "E16");
    ANSWERS("P0", "E16");
}

Test(gdb, a_target_that_fails_is_reported)
{
    fake.fail = -EIO;
    ANSWERS("g", "E05");
    ANSWERS("p0", "E05");
    ANSWERS("P0=00000000", "E05");
    ANSWERS("m1000,1", "E05");
    ANSWERS("M1000,1:00", "E05");
    ANSWERS("Z0,1000,1", "E05");
    ANSWERS("vCont;c", "E05");
    cr_assert_not(g.running);
    cr_assert_eq(fake.resumed, 0);
}

Test(gdb, the_description_is_read_in_pieces)
{
    char whole[RSP_PACKET_MAX + 1], pieces[RSP_PACKET_MAX + 1] = "";
    char request[80];
    const char *piece;

    (void)snprintf(whole, sizeof(whole), "%s", answer("qXfer:features:read:target.xml:0,3fff"));
    cr_assert_eq(whole[0], 'l');
    do {
        (void)snprintf(request, sizeof(request), "qXfer:features:read:target.xml:%zx,100",
                       strlen(pieces));
        piece = answer(request);
        strcat(pieces, piece + 1);
    } while (piece[0] == 'm');
    cr_assert_str_eq(pieces, whole + 1);
    cr_assert(strstr(whole, "<architecture>i8086</architecture>") != NULL);
    ANSWERS("qXfer:features:read:target.xml:ffffffff,1", "E16");
    ANSWERS("qXfer:features:read:target.xml:0", "E16");
    ANSWERS("qXfer:features:read:other.xml:0,100", "");
}

/* --- memory --- */

Test(gdb, memory_is_read_and_written)
{
    ANSWERS("M1000,3:616263", "OK");
    ANSWERS("m1000,3", "616263");
    cr_assert_str_eq(say_bytes("X1001,2:\x23\x24", 10), "$OK#9a");
    ANSWERS("m1000,3", "612324");
    ANSWERS("X1000,0:", "OK");
    ANSWERS("m1000,0", "");
}

Test(gdb, memory_that_is_not_there)
{
    ANSWERS("m8000,1", "E0e");
    ANSWERS("m7fff,2", "00");
    ANSWERS("M8000,1:00", "E0e");
    ANSWERS("M1000,2:00", "E16");
    ANSWERS("M1000,ffffffffffffffff:00", "E16");
    ANSWERS("X1000,5:abc", "E16");
    ANSWERS("m1000", "E16");
    ANSWERS("m,1", "E16");
}

Test(gdb, a_read_is_cut_to_what_a_packet_holds)
{
    cr_assert_eq(strlen(answer("m0,ffffffff")), RSP_PACKET_MAX);
}

/* --- going on --- */

static void stop_with(enum debug_event event, unsigned cpu, unsigned slots)
{
    const struct debug_stop stop = {.event = event, .cpu = cpu, .slots = slots};

    sent_len = 0;
    sent[0] = '\0';
    gdb_on_stop(&g, &stop);
}

static void asks_and_waits(const char *packet)
{
    cr_assert_str_eq(say(packet), "", "%s: no answer before something stops", packet);
    cr_assert(g.running);
}

Test(gdb, at_first_it_is_stopped)
{
    ANSWERS("?", "T05thread:1;");
}

Test(gdb, all_continue)
{
    asks_and_waits("vCont;c");
    cr_assert(fake.run[0] && fake.run[1] && fake.run[2]);
    cr_assert_not(fake.traps[0].step);
}

Test(gdb, one_steps_and_the_others_stand_still)
{
    asks_and_waits("vCont;s:2;c");
    cr_assert(!fake.run[0] && fake.run[1] && !fake.run[2]);
    cr_assert(fake.traps[1].step);
    stop_with(DEBUG_STEPPED, 1, 0);
    cr_assert_str_eq(sent, "$T05thread:2;#d8");
    ANSWERS("qC", "QC2");
}

Test(gdb, others_run_beside_a_step_if_they_are_named)
{
    asks_and_waits("vCont;s:1;c:3");
    cr_assert(fake.run[0] && !fake.run[1] && fake.run[2]);
    cr_assert(fake.traps[0].step && !fake.traps[2].step);
}

Test(gdb, wrong_plans_move_nobody)
{
    const char *const wrong[] = {"vCont",   "vCont;",    "vCont;x",      "vCont;c:9", "vCont;c:",
                                 "vCont;C", "vCont;Cz1", "vCont;c:1;s:", "vCont;cc"};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ANSWERS(wrong[i], "E16");
    cr_assert_eq(fake.resumed, 0);
}

Test(gdb, the_old_commands_step_and_continue_by_hc)
{
    ANSWERS("Hc2", "OK");
    asks_and_waits("s");
    cr_assert(!fake.run[0] && fake.run[1] && fake.traps[1].step);
    stop_with(DEBUG_STEPPED, 1, 0);
    ANSWERS("Hc-1", "OK");
    asks_and_waits("C05");
    cr_assert(fake.run[0] && fake.run[1] && fake.run[2]);
}

Test(gdb, who_runs_hears_only_the_interrupt)
{
    asks_and_waits("vCont;c");
    cr_assert_str_eq(say("g"), "");
    cr_assert_eq(gdb_receive(&g, "\003", 1), 1);
    cr_assert_str_eq(sent, "$T02thread:1;#d4");
    cr_assert_eq(fake.stopped, 1);
    cr_assert_not(g.running);
    cr_assert_eq(gdb_receive(&g, "\003", 1), 1);
    cr_assert_eq(fake.stopped, 1, "it has stopped already");
}

Test(gdb, a_step_of_a_halted_cpu_is_announced)
{
    fake.halted[0] = true;
    cr_assert_eq(strncmp(say("vCont;s:1"), "$O54686973", 10), 0); /* "This…" */
    cr_assert(g.running);
}

/* --- breakpoints --- */

Test(gdb, a_breakpoint_is_reported_by_its_kind)
{
    (void)answer("qSupported:swbreak+;hwbreak+");
    ANSWERS("Z0,1000,1", "OK");
    asks_and_waits("vCont;c");
    cr_assert(fake.traps[2].int3);
    stop_with(DEBUG_INT3, 0, 0);
    cr_assert_eq(strncmp(sent, "$T05thread:1;swbreak:;#", 23), 0, "%s", sent);
    ANSWERS("z0,1000,1", "OK");

    ANSWERS("Z1,2000,1", "OK");
    asks_and_waits("vCont;c");
    cr_assert_eq(fake.traps[1].slots[0].addr, 0x2000);
    stop_with(DEBUG_HARDWARE, 0, 1);
    cr_assert_eq(strncmp(sent, "$T05thread:1;hwbreak:;#", 23), 0, "%s", sent);
}

Test(gdb, watchpoints_name_their_address)
{
    ANSWERS("Z2,3000,4", "OK");
    asks_and_waits("vCont;c");
    stop_with(DEBUG_HARDWARE, 1, 1);
    cr_assert_eq(strncmp(sent, "$T05thread:2;watch:3000;#", 25), 0, "%s", sent);
    ANSWERS("z2,3000,4", "OK");
    ANSWERS("Z4,3000,4", "OK");
    asks_and_waits("vCont;c");
    stop_with(DEBUG_HARDWARE, 1, 1);
    cr_assert_eq(strncmp(sent, "$T05thread:2;awatch:3000;#", 26), 0, "%s", sent);
    ANSWERS("Z3,3000,4", "");
    ANSWERS("Z5,3000,4", "");
    ANSWERS("Z0,3000", "E16");
}

Test(gdb, sdm3b_17_2_3_a_debug_register_not_in_use_stops_nobody)
{
    asks_and_waits("vCont;c");
    stop_with(DEBUG_HARDWARE, 0, 4);
    cr_assert_str_eq(sent, "");
    cr_assert_eq(fake.resumed, 2);
    cr_assert(g.running);
}

Test(gdb, an_int3_of_the_guests_own_becomes_its_exception)
{
    const uint8_t int3 = 0xcc;

    cr_assert_eq(mem_write(&fake.mem, 0x1000, &int3, 1), 0);
    ANSWERS("Z0,2000,1", "OK");
    asks_and_waits("vCont;c");
    stop_with(DEBUG_INT3, 0, 0);
    cr_assert_str_eq(sent, "");
    cr_assert(fake.traps[0].raise_bp);
    cr_assert_eq(fake.resumed, 2);
}

Test(gdb, a_breakpoint_taken_away_meanwhile_is_no_exception)
{
    asks_and_waits("vCont;c");
    stop_with(DEBUG_INT3, 0, 0); /* nothing is at 0x1000 any longer */
    cr_assert_str_eq(sent, "");
    cr_assert_not(fake.traps[0].raise_bp);
    cr_assert_eq(fake.resumed, 2);
}

/* A guest whose CS is not 0: gdb takes IP for the address and sees no breakpoint there. */
static void stop_at_breakpoint_that_gdb_does_not_see(void)
{
    fake.regs[0].sregs.cs.base = 0x1000;
    fake.regs[0].regs.rip = 0x200;
    ANSWERS("Z0,1200,1", "OK");
    asks_and_waits("vCont;c");
    stop_with(DEBUG_INT3, 0, 0);
    cr_assert_eq(strncmp(sent, "$T05thread:1;#", 14), 0, "%s", sent);
}

Test(gdb, whoever_stopped_at_a_breakpoint_is_taken_past_it)
{
    uint8_t byte = 0;

    stop_at_breakpoint_that_gdb_does_not_see();
    asks_and_waits("vCont;c");
    cr_assert(fake.run[0] && !fake.run[1], "alone");
    cr_assert(fake.traps[0].step);
    cr_assert_eq(mem_read(&fake.mem, 0x1200, &byte, 1), 0);
    cr_assert_eq(byte, 0);
    fake.regs[0].regs.rip = 0x201;
    stop_with(DEBUG_STEPPED, 0, 0);
    cr_assert_str_eq(sent, "", "that was not for gdb");
    cr_assert(fake.run[0] && fake.run[1] && !fake.traps[0].step);
    cr_assert_eq(mem_read(&fake.mem, 0x1200, &byte, 1), 0);
    cr_assert_eq(byte, 0xcc);
}

Test(gdb, a_step_at_a_breakpoint_ends_after_one_instruction)
{
    stop_at_breakpoint_that_gdb_does_not_see();
    asks_and_waits("vCont;s:1");
    fake.regs[0].regs.rip = 0x201;
    stop_with(DEBUG_STEPPED, 0, 0);
    cr_assert_eq(strncmp(sent, "$T05thread:1;#", 14), 0, "%s", sent);
}

Test(gdb, an_interrupt_on_the_way_past_a_breakpoint_puts_it_back)
{
    uint8_t byte = 0;

    stop_at_breakpoint_that_gdb_does_not_see();
    asks_and_waits("vCont;c");
    cr_assert_eq(gdb_receive(&g, "\003", 1), 1);
    cr_assert_eq(mem_read(&fake.mem, 0x1200, &byte, 1), 0);
    cr_assert_eq(byte, 0xcc);
    cr_assert_not(g.passing);
}

/* --- where int3 passes unseen --- */

static void begin_with_out(void)
{
    begin();
    g.target.means = (struct debug_means){0};
    gdb_traps_init(&g.traps, &g.target.means);
}

Test(gdb, an_out_looks_like_a_breakpoint)
{
    begin_with_out();
    (void)answer("qSupported:swbreak+");
    ANSWERS("Z0,1000,1", "OK");
    asks_and_waits("vCont;c");
    cr_assert_not(fake.traps[0].int3);
    fake.regs[0].regs.rip = 0x1002;
    stop_with(DEBUG_OUT, 0, 0);
    cr_assert_eq(strncmp(sent, "$T05thread:1;swbreak:;#", 23), 0, "%s", sent);
    cr_assert_eq(fake.regs[0].regs.rip, 0x1000);
}

Test(gdb, an_out_of_the_guests_own_goes_on)
{
    const uint8_t own[] = {0xe6, DEBUG_TRAP_PORT, 0xee};

    begin_with_out();
    cr_assert_eq(mem_write(&fake.mem, 0x1000, own, sizeof(own)), 0);
    asks_and_waits("vCont;c");
    fake.regs[0].regs.rip = 0x1002;
    stop_with(DEBUG_OUT, 0, 0);
    cr_assert_eq(fake.regs[0].regs.rip, 0x1002);
    fake.regs[0].regs.rip = 0x1003;
    fake.regs[0].regs.rdx = DEBUG_TRAP_PORT;
    stop_with(DEBUG_OUT, 0, 0);
    cr_assert_eq(fake.regs[0].regs.rip, 0x1003);
    cr_assert_eq(fake.resumed, 3);
    cr_assert_str_eq(sent, "");
}

Test(gdb, an_out_taken_away_meanwhile_gives_its_instruction_back)
{
    begin_with_out();
    asks_and_waits("vCont;c");
    fake.regs[0].regs.rip = 0x1002;
    stop_with(DEBUG_OUT, 0, 0);
    cr_assert_eq(fake.regs[0].regs.rip, 0x1000);
    cr_assert_eq(fake.resumed, 2);
}

Test(gdb, with_int3_the_port_is_like_any_other)
{
    asks_and_waits("vCont;c");
    fake.regs[0].regs.rip = 0x1002;
    stop_with(DEBUG_OUT, 0, 0);
    cr_assert_eq(fake.regs[0].regs.rip, 0x1002);
    cr_assert_eq(fake.resumed, 2);
}

/* --- the end --- */

Test(gdb, detaching_leaves_nothing_behind)
{
    uint8_t byte = 1;

    ANSWERS("Z0,1000,1", "OK");
    ANSWERS("D", "OK");
    cr_assert_eq(fake.detached, 1);
    cr_assert(g.over);
    cr_assert_eq(mem_read(&fake.mem, 0x1000, &byte, 1), 0);
    cr_assert_eq(byte, 0);
    cr_assert_eq(gdb_receive(&g, "$g#67", 5), 0, "nobody listens");
}

Test(gdb, kill_wants_no_answer)
{
    cr_assert_str_eq(say("k"), "");
    cr_assert_eq(fake.ended, 1);
    cr_assert(g.over);
}

Test(gdb, a_dying_guest_is_shown)
{
    const struct debug_stop stop = {
        .event = DEBUG_DYING, .cpu = 1, .outcome = {.end = MACHINE_TRIPLE_FAULT, .cpu = 1}};

    cr_assert_str_eq(monitor("death"), "the guest is alive\n");
    asks_and_waits("vCont;c");
    gdb_on_stop(&g, &stop);
    cr_assert(strstr(sent, "$T0bthread:2;#") != NULL, "%s", sent);
    cr_assert_str_eq(monitor("death"), "death on 1\n");
}

Test(gdb, the_end_is_an_exit_status_or_a_signal)
{
    asks_and_waits("vCont;c");
    gdb_on_end(&g, 33);
    cr_assert_str_eq(sent, "$W21#ba");
    cr_assert(g.over);
    begin();
    asks_and_waits("vCont;c");
    gdb_on_end(&g, 128 + 15);
    cr_assert_str_eq(sent, "$X0f#ee");
    begin();
    gdb_on_end(&g, 0);
    cr_assert_str_eq(sent, "", "gdb asked nothing");
}

Test(gdb, a_reset_is_a_stop_at_the_first_instruction)
{
    const struct gdb_target target = fake_target_of(&fake);

    ANSWERS("Z0,1000,1", "OK");
    ANSWERS("Z1,2000,1", "OK");
    asks_and_waits("vCont;c");
    gdb_on_reset(&g, &target);
    cr_assert(strstr(sent, "$T05thread:1;#") != NULL, "%s", sent);
    cr_assert_not(g.running);
    asks_and_waits("vCont;c");
    cr_assert_not(fake.traps[0].int3, "what was planted has gone with the memory");
    cr_assert_eq(fake.traps[0].slots[0].addr, 0x2000);
}

/* --- monitor --- */

Test(gdb, monitor_lists_itself)
{
    cr_assert(strstr(monitor("help"), "monitor walk") != NULL);
    cr_assert(strstr(monitor(""), "monitor walk") != NULL);
    cr_assert(strstr(monitor("nonsense 1"), "no monitor command \"nonsense\"") != NULL);
}

Test(gdb, monitor_walks)
{
    cr_assert_str_eq(monitor("walk 0xffffffff81000000"), "walk of 0xffffffff81000000 on 0\n");
    fake.regs[0].sregs.cs.base = 0x7c00;
    cr_assert_str_eq(monitor("walk"), "walk of 0x8c00 on 0\n", "linear");
    fake.regs[0].sregs.cr2 = 0x123;
    cr_assert_str_eq(monitor("walk cr2"), "walk of 0x123 on 0\n");
    cr_assert(strstr(monitor("walk nowhere"), "give an address") != NULL);
    ANSWERS("Hg2", "OK");
    cr_assert_str_eq(monitor("regs"), "registers of 1\n");
}

Test(gdb, monitor_shows_memory)
{
    cr_assert_eq(mem_write(&fake.mem, 0x1000, "hvlab", 5), 0);
    cr_assert_str_eq(monitor("phys 0x1000 5"),
                     "  0x0000001000: 68 76 6c 61 62                                   hvlab\n");
    cr_assert(strstr(monitor("phys 0x7ff0 32"), "0x0000008000: no memory there") != NULL);
    cr_assert(strstr(monitor("phys"), "give a guest-physical address") != NULL);
    cr_assert(strstr(monitor("phys 0 1000000"), "up to 4096") != NULL);
    cr_assert(strstr(monitor("info mem"), "RAM  32K") != NULL);
    cr_assert_str_eq(monitor("info"), "there is info mem\n");
    cr_assert_str_eq(monitor("exits"), "exits\n");
}

Test(gdb, monitor_changes_how_the_next_connection_sees_registers)
{
    cr_assert(strstr(monitor("arch"), "i8086") != NULL);
    cr_assert_null(g.wanted);
    cr_assert(strstr(monitor("arch x86-64"), "from the next connection") != NULL);
    cr_assert_str_eq(g.wanted->architecture, "i386:x86-64");
    (void)monitor("arch auto");
    cr_assert_null(g.wanted);
}

Test(gdb, a_monitor_line_that_is_too_long_or_no_text)
{
    char packet[700] = "qRcmd,";

    memset(packet + 6, '6', 600);
    ANSWERS(packet, "E16");
    ANSWERS("qRcmd,6x", "E16");
}
