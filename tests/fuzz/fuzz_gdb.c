/*
 * A debugger that sends anything, to a target whose CPUs stop whenever the input says so.
 *
 * Input: pieces of a length byte and a kind byte. Kind 0: the rest of the piece goes over the line
 * as it is; 1: as a packet with the right sum; 2: the target stops, for a reason out of the piece;
 * 3: the target fails from now on, or no more.
 *
 * Checked: every reply is a whole packet; output is bounded by input; memory that nobody wrote to
 * is as it was once all traps are gone.
 */
#include <stdlib.h>
#include <string.h>

#include "support/fake_target.c" /* a fuzzer links the library alone */

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t sent;

static void check_frame(void *ctx, const void *data, size_t len)
{
    const char *bytes = data;

    (void)ctx;
    sent += len;
    if (len == 1) {
        REQUIRE(bytes[0] == '+' || bytes[0] == '-');
        return;
    }
    REQUIRE(len >= 4 && bytes[0] == '$' && bytes[len - 3] == '#');
    REQUIRE(memchr(bytes + 1, '$', len - 1) == NULL);
    REQUIRE(len <= 2 * RSP_PACKET_MAX + 8);
}

static void stop_target(struct gdb *g, const uint8_t *data, size_t len)
{
    const struct debug_stop stop = {
        .event = len > 0 ? data[0] % (DEBUG_DYING + 1) : DEBUG_STEPPED,
        .cpu = len > 1 ? data[1] % FAKE_CPUS : 0,
        .slots = len > 2 ? data[2] & 0xf : 0,
    };

    if (g->running)
        gdb_on_stop(g, &stop);
}

static void send_packet(struct gdb *g, const uint8_t *data, size_t len)
{
    struct rsp_text frame = {0};

    rsp_put_packet(&frame, data, len);
    (void)gdb_receive(g, frame.data, frame.len);
    rsp_text_fini(&frame);
}

static void play(struct gdb *g, struct fake_target *fake, const uint8_t *data, size_t size)
{
    while (size >= 2) {
        size_t len = data[0] < size - 2 ? data[0] : size - 2;
        const uint8_t *piece = data + 2;
        sent = 0;
        if (data[1] % 4 == 0)
            (void)gdb_receive(g, piece, len);
        else if (data[1] % 4 == 1)
            send_packet(g, piece, len);
        else if (data[1] % 4 == 2)
            stop_target(g, piece, len);
        else
            fake->fail = fake->fail == 0 ? -5 : 0;
        REQUIRE(sent <= (len + 1) * (2 * RSP_PACKET_MAX + 8));
        data += 2 + len;
        size -= 2 + len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fake_target fake;
    static struct gdb g;

    if (size < 1)
        return 0;
    REQUIRE(fake_target_init(&fake));
    struct gdb_target target = fake_target_of(&fake);
    target.means.int3 = data[0] & 1;
    target.means.execute = data[0] & 2;
    target.means.data = data[0] & 4;
    if (data[0] & 8)
        fake_target_enter_long_mode(&fake, 0);
    fake.halted[1] = data[0] & 16;
    gdb_init(&g, &target, NULL, check_frame, NULL);
    play(&g, &fake, data + 1, size - 1);
    gdb_traps_clear(&g.traps, &target);
    REQUIRE(g.traps.break_count == 0);
    gdb_fini(&g);
    fake_target_fini(&fake);
    return 0;
}
