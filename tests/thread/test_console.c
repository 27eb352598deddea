/*
 * A console between its threads: the back end's loop, the I/O thread, vCPUs, and whoever asks about
 * it. First a driver sends back what it gets, while somebody stops and continues the device all the
 * time: what a writer at the host sends comes back to a reader there, all of it, in order. Then
 * drivers come and go, with input and output on their way.
 */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "driver.h"
#include "hv/base/fd.h"
#include "hv/base/iothread.h"
#include "hv/chr/stream.h"
#include "hv/virtio/console.h"

#define BYTES 4000000
#define BUFFERS 16 /* for input */
#define RESETS 300

static struct mem mem;
static struct loop *loop;
static struct iothread *io;
static struct chr *chr;
static struct virtio_dev *console;
static struct driver_queue rx, tx;
static int in[2], out[2];
static atomic_bool stop;

static void end(void)
{
    atomic_store(&stop, true);
    loop_wake(loop);
}

static void run_loop(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    while (!atomic_load(&stop))
        CHECK(loop_run_once(loop, -1) == 0);
}

static void ask(void *ctx, unsigned index)
{
    struct virtio_console_stats stats;

    (void)ctx, (void)index;
    for (uint16_t i = 0; !atomic_load(&stop); i++) {
        CHECK(virtio_console_resize(console, 0, i, 25) == 0);
        CHECK(virtio_console_set_open(console, 0, true) == 0);
        virtio_console_stats(console, &stats);
        (void)virtio_console_is_open(console, 0);
        (void)sched_yield();
    }
}

/* --- all of it, in order --- */

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 7 + i / 256);
}

static void write_all(void *ctx, unsigned index)
{
    uint8_t bytes[1000];

    (void)ctx, (void)index;
    for (size_t at = 0; at < BYTES; at += sizeof(bytes)) {
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = byte_at(at + i);
        CHECK(fd_write_full(in[1], bytes, sizeof(bytes)) == 0);
    }
}

static void read_all(void *ctx, unsigned index)
{
    uint8_t bytes[700];

    (void)ctx, (void)index;
    for (size_t at = 0; at < BYTES;) {
        ssize_t n = read(out[0], bytes, sizeof(bytes));
        CHECK(n > 0);
        for (ssize_t i = 0; i < n; i++)
            CHECK(bytes[i] == byte_at(at + (size_t)i));
        at += (size_t)n;
    }
    end();
}

static void pause_all(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    while (!atomic_load(&stop)) {
        virtio_stop(console);
        virtio_go_on(console);
        (void)sched_yield();
    }
}

static void echo(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < BUFFERS; i++)
        driver_offer(&rx, DRIVER_SLOT, VRING_DESC_F_WRITE);
    for (size_t done = 0; done < BYTES;) {
        uint16_t from = rx.seen;
        uint32_t len = driver_await(&rx);
        CHECK(len > 0 && len <= DRIVER_SLOT);
        if ((uint16_t)(tx.offered - tx.seen) == DRIVER_SLOTS)
            (void)driver_await(&tx);
        memcpy(driver_slot(&tx, tx.offered), driver_slot(&rx, from), len);
        driver_offer(&tx, len, 0);
        driver_offer(&rx, DRIVER_SLOT, VRING_DESC_F_WRITE);
        done += len;
    }
}

static void start_driver(void)
{
    driver_begin(console, 0);
    driver_place(&rx, &mem, console, 0);
    driver_place(&tx, &mem, console, 1);
    driver_ok(console);
}

static void check_order(void)
{
    struct crew crew = {0};

    atomic_store(&stop, false);
    start_driver();
    CHECK(iothread_start(io) == 0);
    crew_start(&crew, 1, run_loop, NULL);
    crew_start(&crew, 1, ask, NULL);
    crew_start(&crew, 1, write_all, NULL);
    crew_start(&crew, 1, read_all, NULL);
    crew_start(&crew, 1, echo, NULL);
    crew_start(&crew, 1, pause_all, NULL);
    crew_join(&crew);
    iothread_stop(io);
}

/* --- drivers that come and go --- */

static void type(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    while (!atomic_load(&stop))
        if (write(in[1], "0123456789", 10) < 0)
            (void)sched_yield(); /* full */
}

static void swallow(void *ctx, unsigned index)
{
    uint8_t bytes[4096];

    (void)ctx, (void)index;
    while (!atomic_load(&stop))
        if (read(out[0], bytes, sizeof(bytes)) < 0)
            (void)sched_yield(); /* empty */
}

/* One vCPU: nothing is waited for. */
static void reset_and_start(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < RESETS; i++) {
        start_driver();
        for (unsigned slot = 0; slot < DRIVER_SLOTS; slot++) {
            driver_offer(&rx, DRIVER_SLOT, VRING_DESC_F_WRITE);
            driver_offer(&tx, DRIVER_SLOT, 0);
        }
        virtio_config_write(console, 8, "!", 1); /* emerg_wr */
        if (i % 2 == 0)
            (void)driver_await(&tx);
    }
    end();
}

static void check_resets(void)
{
    struct crew crew = {0};

    atomic_store(&stop, false);
    CHECK(fd_set_nonblock(in[1]) == 0 && fd_set_nonblock(out[0]) == 0);
    CHECK(iothread_start(io) == 0);
    crew_start(&crew, 1, run_loop, NULL);
    crew_start(&crew, 1, ask, NULL);
    crew_start(&crew, 1, type, NULL);
    crew_start(&crew, 1, swallow, NULL);
    crew_start(&crew, 1, reset_and_start, NULL);
    crew_join(&crew);
    iothread_stop(io);
}

/* --- */

static void create(void)
{
    CHECK(mem_add(&mem, 0, DRIVER_RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    CHECK(pipe(in) == 0 && pipe(out) == 0);
    CHECK(loop_create(&loop) == 0);
    CHECK(iothread_create("io", &io) == 0);
    CHECK(chr_fds_create(loop, in[0], out[1], NULL, NULL, &chr) == 0);

    const struct virtio_console_port port = {.chr = chr};
    const struct virtio_console_setup setup = {
        .mem = &mem, .loop = iothread_loop(io), .ports = &port, .port_count = 1};
    CHECK(virtio_console_create("console", &setup, &console) == 0);
}

static void destroy(void)
{
    virtio_destroy(console);
    close(out[0]); /* nobody waits for a reader */
    chr_destroy(chr);
    iothread_destroy(io);
    loop_destroy(loop);
    mem_fini(&mem);
    close(out[1]);
    close(in[0]);
    close(in[1]);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    mem_init(&mem);
    create();
    check_order();
    check_resets();
    destroy();
    return 0;
}
