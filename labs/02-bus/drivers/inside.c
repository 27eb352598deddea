/*
 * The bus from the inside: the search and the pieces, which no header declares.
 *
 * The learner's bus.c is compiled into this program, so that its static functions can be called.
 *
 * args: new:LIMIT  dev:INDEX:MAX_ACCESS:KEY  put:BASE:SIZE:INDEX:OFFSET   as in bus.c
 *       at:ADDR                window_at_or_after_locked()
 *       piece:ADDR:SIZE        piece_at_locked()
 */
#include "bus/bus.c"
#include "recorder.h"

static struct bus bus;

static void put(const uint64_t *f)
{
    bus.windows[bus.count++] = (struct bus_window){
        .base = f[0], .size = f[1], .dev = &recorders[f[2] % RECORDERS].dev, .offset = f[3]};
}

static void find_window(const uint64_t *f)
{
    unsigned at = window_at_or_after_locked(&bus, f[0]);

    report_case();
    report_int("at", at);
}

static void find_piece(const uint64_t *f)
{
    struct piece piece = piece_at_locked(&bus, f[0], (unsigned)f[1]);

    report_case();
    report_int("dev", recorder_index(piece.dev));
    report_u64("offset", piece.offset);
    report_int("size", piece.size);
}

int main(int argc, char **argv)
{
    uint64_t f[4];

    for (int i = 1; i < argc; i++) {
        if (is_command(argv[i], "new", f, 1))
            bus_init(&bus, f[0]);
        else if (is_command(argv[i], "dev", f, 3))
            (void)recorder_init((unsigned)f[0], (unsigned)f[1], (uint8_t)f[2]);
        else if (is_command(argv[i], "put", f, 4))
            put(f);
        else if (is_command(argv[i], "at", f, 1))
            find_window(f);
        else if (is_command(argv[i], "piece", f, 2))
            find_piece(f);
        else
            return 2;
    }
    return report_end();
}
