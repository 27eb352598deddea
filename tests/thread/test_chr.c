/*
 * Four vCPUs write to one character back end while the loop's thread serves it and a reader takes
 * what comes out: every byte arrives, or is counted as dropped.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/chr/stream.h"
#include "thread/crew.h"

#define WRITERS 4
#define MESSAGES 40000
#define LENGTH 37 /* divides neither a pipe nor a buffer */

static struct loop *loop;
static struct chr *chr;
static int ends[2];
static atomic_bool stop;
static uint64_t received[WRITERS]; /* by the reader alone, until it has been joined */

static void write_messages(void *ctx, unsigned index)
{
    char message[LENGTH];

    (void)ctx;
    for (unsigned i = 0; i < LENGTH; i++)
        message[i] = (char)('A' + index);
    for (unsigned i = 0; i < MESSAGES; i++)
        chr_write(chr, message, LENGTH);
}

static void read_all(void *ctx, unsigned index)
{
    char data[4096];
    ssize_t n;

    (void)ctx, (void)index;
    while ((n = read(ends[0], data, sizeof(data))) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            CHECK(data[i] >= 'A' && data[i] < 'A' + WRITERS);
            received[data[i] - 'A']++;
        }
    }
    CHECK(n == 0);
}

static void run_loop(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    while (!atomic_load(&stop))
        CHECK(loop_run_once(loop, -1) == 0);
}

/* On the loop's thread, as its contract wants: the back end and its watches go away with it. */
static void finish(void)
{
    chr_destroy(chr);
    loop_destroy(loop);
    fd_close(&ends[1]);
}

int main(void)
{
    struct crew writers = {0}, server = {0}, reader = {0};
    uint64_t sum = 0;

    (void)signal(SIGPIPE, SIG_IGN);
    CHECK(pipe(ends) == 0);
    CHECK(loop_create(&loop) == 0);
    CHECK(chr_fds_create(loop, -1, ends[1], NULL, NULL, &chr) == 0);
    crew_start(&reader, 1, read_all, NULL);
    crew_start(&server, 1, run_loop, NULL);
    crew_start(&writers, WRITERS, write_messages, NULL);
    crew_join(&writers);
    atomic_store(&stop, true);
    loop_wake(loop);
    crew_join(&server);
    chr_flush(chr);
    CHECK(chr_error(chr) == 0);
    uint64_t dropped = atomic_load(&chr->dropped);
    finish();
    crew_join(&reader);
    for (unsigned i = 0; i < WRITERS; i++) {
        CHECK(received[i] <= (uint64_t)MESSAGES * LENGTH);
        sum += received[i];
    }
    CHECK(sum + dropped == (uint64_t)WRITERS * MESSAGES * LENGTH);
    fd_close(&ends[0]);
    return 0;
}
