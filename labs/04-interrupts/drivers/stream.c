/*
 * The console's input, from a pipe to a device that takes only what it has room for.
 *
 * args: PART ROOMS HEX for each case. HEX: the bytes in the pipe.
 *   pace ROOMS  the device has room for so many bytes, says so, and the loop runs; "5,0,3" does so
 *               three times
 *   gone ROOM   the device takes ROOM bytes and is detached; something wakes the stream; then it is
 *               attached again, with room for all
 *   gap WHEN    the device has no room, and makes room (and says so) right after it has answered
 *               that it has none, WHEN times
 * Of each: what arrived, in pieces; how often more came than there was room for; how often the
 * device was asked while it had no room and nothing happened.
 */
#include <errno.h>
#include <fcntl.h>

#include "hv/base/fd.h"
#include "hv/base/loop.h"
#include "hv/chr/stream.h"
#include "observe.h"

static struct {
    struct chr *chr;
    size_t room;
    unsigned gaps; /* answers "no room" that room follows at once */
    unsigned asked, too_much;
    uint8_t got[8192];
    size_t count;
} front;

static size_t front_room(void *ctx)
{
    size_t room = front.room;

    (void)ctx;
    front.asked++;
    if (room == 0 && front.gaps > 0 && --front.gaps == 0) {
        front.room = sizeof(front.got);
        chr_resume(front.chr); /* as a vCPU's thread would, between our answer and its use */
    }
    return room;
}

static void front_input(void *ctx, const uint8_t *data, size_t len)
{
    (void)ctx;
    front.too_much += len > front.room;
    if (len <= sizeof(front.got) - front.count)
        memcpy(front.got + front.count, data, len);
    front.count += len;
    front.room -= len < front.room ? len : front.room;
}

static void settle(struct loop *loop)
{
    for (int i = 0; i < 50; i++)
        if (loop_run_once(loop, 0) < 0)
            exit(2);
}

static void pace(struct loop *loop, const char *rooms)
{
    char text[32];

    report_name("pieces");
    report_raw("[");
    for (bool first = true; *rooms != '\0'; first = false) {
        size_t before = front.count;
        front.room = strtoul(rooms, (char **)&rooms, 10);
        rooms += *rooms == ',';
        chr_resume(front.chr);
        settle(loop);
        (void)snprintf(text, sizeof(text), "%s%zu", first ? "" : ",", front.count - before);
        report_raw(text);
    }
    report_raw("]");
    front.asked = 0;
    if (loop_run_once(loop, 30) < 0)
        exit(2);
    report_int("asked_idle", front.asked);
}

static void gone(struct loop *loop, const struct chr_front *ends, size_t room)
{
    front.room = room;
    chr_resume(front.chr);
    settle(loop);
    chr_attach(front.chr, NULL);
    chr_resume(front.chr);
    settle(loop);
    front.room = sizeof(front.got);
    chr_attach(front.chr, ends);
    settle(loop);
}

static void try(const char *part, const char *how, const char *hex)
{
    const struct chr_front ends = {.room = front_room, .input = front_input};
    uint8_t data[8192];
    size_t size = from_hex(hex, data, sizeof(data));
    struct loop *loop;
    int in[2], out;

    memset(&front, 0, sizeof(front));
    out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (pipe2(in, O_CLOEXEC) < 0 || loop_create(&loop) < 0 ||
        chr_fds_create(loop, in[0], out, NULL, NULL, &front.chr) < 0)
        exit(2);
    chr_attach(front.chr, &ends);
    settle(loop);
    report_case();
    front.gaps = strcmp(part, "gap") == 0 ? (unsigned)number(how) : 0;
    if (write(in[1], data, size) != (ssize_t)size)
        exit(2);
    if (front.gaps > 0)
        settle(loop);
    else if (strcmp(part, "gone") == 0)
        gone(loop, &ends, number(how));
    else
        pace(loop, how);
    report_hex("got", front.got, front.count < sizeof(front.got) ? front.count : 0);
    report_int("too_much", front.too_much);
    chr_destroy(front.chr);
    loop_destroy(loop);
    fd_close(&in[0]);
    fd_close(&in[1]);
    fd_close(&out);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 2 < argc; i += 3)
        try(argv[i], argv[i + 1], argv[i + 2]);
    return report_end();
}
