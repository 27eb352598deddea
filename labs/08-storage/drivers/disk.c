/*
 * A virtio-blk device behind virtio-mmio, on a disk whose answers the script gives (exercises 8.6,
 * 8.7 and 8.8). Each case reports the device afterwards.
 *
 *   mem, put, get           as in script.h
 *   disk QUEUES SECTORS rw|ro IOPS BPS   a disk of zeros; the device and its window
 *   wr OFFSET SIZE VALUE, rd OFFSET SIZE   registers
 *   work MS                 lets the loop run: what is due, and what becomes due within MS
 *   until COUNT MS          … until the disk has had COUNT requests, MS at most
 *   seen                    reports the requests that the disk has, oldest first
 *   finish N RESULT …       answers the Nth of them (and so on; numbers are those before)
 *   all RESULT              answers all
 *   auto 0|1                the disk answers by itself
 *   sector N, fill N BYTE   looks at a sector of the disk; fills it
 */
#include <poll.h>
#include <pthread.h>
#include <time.h>

#include "hv/base/num.h"
#include "hv/virtio/blk.h"
#include "hv/virtio/mmio.h"
#include "script.h"

#define SECTORS_MAX 4096
#define HELD_MAX 2048

static struct loop *loop;
static struct device *window;
static struct virtio_dev *v;
static uint8_t content[SECTORS_MAX * 512];
static struct block block;
static struct block_channel *channels[16];
static unsigned channel_count;
static bool is_auto;

static struct {
    struct block_req *req;
    struct block_channel *channel;
} held[HELD_MAX];
static unsigned held_count, seen_total, commits, edges, twice;
static bool level;

/* --- the disk --- */

static int fake_open(struct block *b, const struct block_channel_config *cfg,
                     struct block_channel **out)
{
    struct block_channel *c = calloc(1, sizeof(*c));
    int rc = c ? block_channel_init(c, b, cfg) : -ENOMEM;

    if (rc < 0)
        return rc;
    channels[channel_count++ % 16] = c;
    *out = c;
    return 0;
}

static void move(const struct block_req *req)
{
    uint8_t *at = content + req->offset;

    if (req->op == BLOCK_ZERO || req->op == BLOCK_DISCARD)
        memset(at, 0, req->size);
    if (req->op != BLOCK_READ && req->op != BLOCK_WRITE)
        return;
    for (unsigned i = 0; i < req->iov_count; at += req->iov[i++].iov_len) {
        if (req->op == BLOCK_READ)
            memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
        else
            memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
    }
}

static void answer(struct block_channel *c, struct block_req *req, int result)
{
    if (result == 0)
        move(req);
    block_finish(c, req, result);
}

static void fake_submit(struct block_channel *c, struct block_req *req)
{
    seen_total++;
    for (unsigned i = 0; i < held_count; i++)
        twice += held[i].req == req;
    if (is_auto) {
        answer(c, req, 0);
    } else if (held_count < HELD_MAX) {
        held[held_count].req = req;
        held[held_count++].channel = c;
    }
}

static void fake_commit(struct block_channel *c)
{
    (void)c;
    commits++;
}

static void fake_close(struct block_channel *c)
{
    block_channel_fini(c);
    free(c);
}

static void fake_destroy(struct block *b)
{
    (void)b;
}

static const struct block_ops fake_ops = {.open = fake_open,
                                          .submit = fake_submit,
                                          .commit = fake_commit,
                                          .close = fake_close,
                                          .destroy = fake_destroy};

/* --- the device --- */

static void on_line(void *ctx, uint32_t gsi, bool now)
{
    (void)ctx;
    (void)gsi;
    edges += now && !level;
    level = now;
}

static void do_disk(char *rest)
{
    unsigned queues = (unsigned)take_number(&rest);
    uint64_t sectors = take_number(&rest);
    bool read_only = strcmp(strsep(&rest, " "), "ro") == 0;
    struct loop *loops[16];
    struct irq_line irq;

    if (window != NULL)
        exit(2); /* one device in each run */
    if (loop_create(&loop) < 0 || sectors > SECTORS_MAX)
        abort();
    block = (struct block){.ops = &fake_ops,
                           .size = sectors * 512,
                           .logical_size = 512,
                           .physical_size = 4096,
                           .read_only = read_only,
                           .can_discard = !read_only,
                           .can_zero = !read_only};
    for (unsigned i = 0; i < 16; i++)
        loops[i] = loop;
    struct virtio_blk_setup setup = {
        .mem = &mem, .block = &block, .loops = loops, .queues = queues, .serial = "hvlab-8"};
    setup.iops = take_number(&rest);
    setup.bps = take_number(&rest);
    if (virtio_blk_create("disk", &setup, &v) < 0)
        abort();
    irq_init(&irq, on_line, NULL, 5);
    report_int("rc", virtio_mmio_create("window", v, &irq, &window));
}

/* --- what is there --- */

static unsigned in_flight(void)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < v->queue_count; i++)
        sum += v->queues[i].in_flight;
    return sum;
}

static double ms_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void report_device(void)
{
    char text[160];

    report_int("clock", (long long)ms_now());
    report_int("status", atomic_load(&v->status));
    report_int("edges", edges);
    report_int("held", held_count);
    report_int("total", seen_total);
    report_int("commits", commits);
    report_int("twice", twice);
    report_name("queues");
    report_raw("[");
    for (unsigned i = 0; i < v->queue_count; i++) {
        const struct virtio_queue *q = &v->queues[i];
        (void)snprintf(text, sizeof(text),
                       "%s{\"taken\": %u, \"published\": %u, \"pushed\": %u, \"in_flight\": %u}",
                       i > 0 ? ", " : "", q->vq.next_avail, q->vq.next_used, q->vq.pushed,
                       q->in_flight);
        report_raw(text);
    }
    report_raw("]");
    report_int("in_flight", in_flight());
}

static void report_seen(void)
{
    char text[200];

    report_name("seen");
    report_raw("[");
    for (unsigned i = 0; i < held_count; i++) {
        const struct block_req *r = held[i].req;
        (void)snprintf(
            text, sizeof(text),
            "%s{\"op\": %d, \"offset\": %llu, \"size\": %llu, \"unmap\": %s, \"pieces\": [",
            i ? ", " : "", (int)r->op, (unsigned long long)r->offset, (unsigned long long)r->size,
            r->may_unmap ? "true" : "false");
        report_raw(text);
        bool any = false;
        for (unsigned j = 0; j < r->iov_count && (r->op == BLOCK_READ || r->op == BLOCK_WRITE);
             j++) {
            if (r->iov[j].iov_len == 0)
                continue; /* harmless */
            (void)snprintf(text, sizeof(text), "%s[%llu, %llu]", any ? ", " : "",
                           (unsigned long long)gpa_of(r->iov[j].iov_base),
                           (unsigned long long)r->iov[j].iov_len);
            any = true;
            report_raw(text);
        }
        report_raw("]}");
    }
    report_raw("]");
}

static void run_loop(double ms)
{
    double end = ms_now() + ms;

    do {
        double left = end - ms_now();
        for (unsigned i = 0; i < 8; i++)
            if (loop_run_once(loop, 0) < 0)
                abort();
        if (left > 0 && loop_run_once(loop, (int)left + 1) < 0)
            abort();
    } while (ms_now() < end);
}

static void do_finish(char *rest)
{
    struct block_req *reqs[HELD_MAX];
    struct block_channel *of[HELD_MAX];
    int results[HELD_MAX];
    unsigned count = 0;

    while (rest != NULL && count < HELD_MAX) {
        unsigned n = (unsigned)take_number(&rest);
        char *result = strsep(&rest, " ");
        if (n >= held_count || held[n].req == NULL || result == NULL)
            continue;
        reqs[count] = held[n].req;
        of[count] = held[n].channel;
        results[count++] = atoi(result);
        held[n].req = NULL;
    }
    unsigned left = 0;
    for (unsigned i = 0; i < held_count; i++)
        if (held[i].req != NULL)
            held[left++] = held[i];
    held_count = left;
    for (unsigned i = 0; i < count; i++)
        answer(of[i], reqs[i], results[i]);
}

static bool command(const char *verb, char *rest)
{
    if (strcmp(verb, "disk") == 0) {
        do_disk(rest);
    } else if (v == NULL) {
        return false;
    } else if (strcmp(verb, "wr") == 0) {
        uint64_t offset = take_number(&rest);
        unsigned size = (unsigned)take_number(&rest);
        uint64_t value = take_number(&rest);
        if (offset == 0x70 && value == 0 && in_flight() > 0)
            report_bool("never_ends", true); /* a reset would wait for answers that do not come */
        else
            dev_write(window, offset, size, value);
    } else if (strcmp(verb, "rd") == 0) {
        uint64_t offset = take_number(&rest);
        report_u64("value", dev_read(window, offset, (unsigned)take_number(&rest)));
    } else if (strcmp(verb, "work") == 0) {
        run_loop((double)take_number(&rest));
    } else if (strcmp(verb, "until") == 0) {
        unsigned want = (unsigned)take_number(&rest);
        double begin = ms_now(), most = (double)take_number(&rest);
        while (seen_total < want && ms_now() - begin < most)
            if (loop_run_once(loop, 20) < 0)
                abort();
    } else if (strcmp(verb, "seen") == 0) {
        report_seen();
    } else if (strcmp(verb, "finish") == 0) {
        do_finish(rest);
    } else if (strcmp(verb, "all") == 0) {
        unsigned count = held_count;
        held_count = 0;
        for (unsigned i = 0; i < count; i++)
            answer(held[i].channel, held[i].req, atoi(rest));
    } else if (strcmp(verb, "auto") == 0) {
        is_auto = take_number(&rest);
    } else if (strcmp(verb, "sector") == 0) {
        report_hex("bytes", content + 512 * (take_number(&rest) % SECTORS_MAX), 512);
    } else if (strcmp(verb, "fill") == 0) {
        uint64_t n = take_number(&rest) % SECTORS_MAX;
        memset(content + 512 * n, (int)take_number(&rest), 512);
    } else {
        return false;
    }
    report_device();
    return true;
}

int main(void)
{
    return script_run(command);
}
