/*
 * A console between its four threads: the back end's loop, the I/O thread, a driver that sends back
 * what it gets, and somebody who stops and continues the device all the time. What a writer at the
 * host sends comes back to a reader there: all of it, in order.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "crew.h"
#include "hv/base/fd.h"
#include "hv/base/iothread.h"
#include "hv/chr/stream.h"
#include "hv/virtio/console.h"

#define BYTES 4000000
#define RAM 0x100000
#define RINGS 0x10000 /* a queue's areas, STRIDE for each queue */
#define STRIDE 0x3000
#define DATA 0x40000
#define SLOTS 64
#define SLOT 512 /* bytes of a buffer */
#define PAUSES 300

struct queue {
    struct virtio_queue *q;
    uint64_t data;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t offered, seen;
};

static struct mem mem;
static struct loop *loop;
static struct iothread *io;
static struct chr *chr;
static struct virtio_dev *console;
static struct queue rx, tx;
static int in[2], out[2];
static atomic_bool stop;

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 7 + i / 256);
}

/* --- the host --- */

static void run_loop(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    while (!atomic_load(&stop))
        CHECK(loop_run_once(loop, -1) == 0);
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
    atomic_store(&stop, true);
    loop_wake(loop);
}

static void pause_and_resize(void *ctx, unsigned index)
{
    struct virtio_console_stats stats;

    (void)ctx, (void)index;
    for (unsigned i = 0; i < PAUSES && !atomic_load(&stop); i++) {
        virtio_stop(console);
        virtio_go_on(console);
        CHECK(virtio_console_resize(console, 0, (uint16_t)i, 25) == 0);
        CHECK(virtio_console_set_open(console, 0, true) == 0);
        virtio_console_stats(console, &stats);
        CHECK(virtio_console_is_open(console, 0));
        (void)sched_yield();
    }
}

/* --- the driver --- */

static void place(struct queue *q, unsigned index)
{
    uint64_t base = RINGS + index * STRIDE;

    *q = (struct queue){
        .q = virtio_queue(console, index),
        .data = DATA + (uint64_t)index * SLOTS * SLOT,
        .desc = mem_ptr(&mem, base, 0x1000, true),
        .avail = mem_ptr(&mem, base + 0x1000, 0x1000, true),
        .used = mem_ptr(&mem, base + 0x2000, 0x1000, true),
    };
    q->q->vq.at = (struct vq_layout){SLOTS, base, base + 0x1000, base + 0x2000};
    virtio_enable_queue(q->q);
    CHECK(q->q->vq.enabled);
}

static uint8_t *slot(struct queue *q, uint16_t number)
{
    return mem_ptr(&mem, q->data + number % SLOTS * SLOT, SLOT, true);
}

static void offer(struct queue *q, uint32_t len, uint16_t flags)
{
    uint16_t at = q->offered % SLOTS;

    q->desc[at] = (struct vring_desc){q->data + at * SLOT, len, flags, 0};
    __atomic_store_n(&q->avail->ring[at], at, __ATOMIC_RELAXED);
    __atomic_store_n(&q->avail->idx, ++q->offered, __ATOMIC_SEQ_CST);
    virtio_kick(q->q);
}

/* The next used element's length. */
static uint32_t await_used(struct queue *q)
{
    while (__atomic_load_n(&q->used->idx, __ATOMIC_SEQ_CST) == q->seen)
        (void)sched_yield();
    return q->used->ring[q->seen++ % SLOTS].len;
}

static void echo(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < 16; i++)
        offer(&rx, SLOT, VRING_DESC_F_WRITE);
    for (size_t done = 0; done < BYTES;) {
        uint16_t from = rx.seen;
        uint32_t len = await_used(&rx);
        CHECK(len > 0 && len <= SLOT);
        if ((uint16_t)(tx.offered - tx.seen) == SLOTS)
            (void)await_used(&tx);
        memcpy(slot(&tx, tx.offered), slot(&rx, from), len);
        offer(&tx, len, 0);
        offer(&rx, SLOT, VRING_DESC_F_WRITE);
        done += len;
    }
}

/* --- */

static void create(void)
{
    const struct virtio_console_port port = {.chr = chr};
    const struct virtio_console_setup setup = {
        .mem = &mem, .loop = iothread_loop(io), .ports = &port, .port_count = 1};
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

    CHECK(virtio_console_create("console", &setup, &console) == 0);
    virtio_set_status(console, status);
    virtio_accept(console, 1, 1); /* VIRTIO_F_VERSION_1 */
    virtio_set_status(console, status |= VIRTIO_CONFIG_S_FEATURES_OK);
    place(&rx, 0);
    place(&tx, 1);
    virtio_set_status(console, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

int main(void)
{
    struct crew crew = {0};

    (void)signal(SIGPIPE, SIG_IGN);
    mem_init(&mem);
    CHECK(mem_add(&mem, 0, RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    CHECK(pipe(in) == 0 && pipe(out) == 0);
    CHECK(loop_create(&loop) == 0);
    CHECK(iothread_create("io", &io) == 0);
    CHECK(chr_fds_create(loop, in[0], out[1], NULL, NULL, &chr) == 0);
    create();
    CHECK(iothread_start(io) == 0);
    crew_start(&crew, 1, run_loop, NULL);
    crew_start(&crew, 1, write_all, NULL);
    crew_start(&crew, 1, read_all, NULL);
    crew_start(&crew, 1, echo, NULL);
    crew_start(&crew, 1, pause_and_resize, NULL);
    crew_join(&crew);
    iothread_stop(io);
    virtio_destroy(console);
    chr_destroy(chr);
    iothread_destroy(io);
    loop_destroy(loop);
    mem_fini(&mem);
    for (unsigned i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
    return 0;
}
