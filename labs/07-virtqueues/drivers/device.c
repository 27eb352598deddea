/*
 * A device, its transport and guest memory, as a script says.
 *
 *   probe FEATURES QUEUES SIZE   a device of ours that counts; on virtio-mmio
 *   rng RATE                     the learner's; likewise
 *   status VALUE                 virtio_set_status()
 *   accept SELECT BITS           virtio_accept()
 *   wanted FEATURES              what the driver has accepted, without virtio_accept()
 *   needs_reset                  as if a queue had been broken
 *   place QUEUE SIZE DESC DRIVER DEVICE, kick QUEUE      without registers
 *   used QUEUE                   as if the device had used a buffer
 *   stored VALUE                 the status becomes this, without the learner's help
 *   wr OFFSET SIZE VALUE, rd OFFSET SIZE    registers
 *   on_used GPA HEX …            when the device interrupts next, the driver writes this
 *   work MS                      lets the loop run: what is due, and what becomes due within MS
 *   time MS MAX GPA VALUE        … until the 16 bits at GPA are VALUE, MAX ms at most; how long?
 */
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "hv/virtio/mmio.h"
#include "hv/virtio/rng.h"
#include "script.h"

#define PROBE_ID 4 /* an entropy device's */

static struct loop *loop;
static struct device *window;
static struct virtio_dev *v;
static struct virtio_dev probe;
static struct virtio_ops probe_ops;

static struct {
    unsigned edges, starts, resets, serves, stops;
    uint8_t status_at_start;
    uint64_t features_at_start;
    bool level;
} seen;
static char on_used[LINE_MAX_BYTES]; /* "GPA HEX GPA HEX …", once */

/* --- the device that counts --- */

static void probe_start(struct virtio_dev *dev)
{
    seen.starts++;
    seen.status_at_start = atomic_load(&dev->status);
    seen.features_at_start = dev->features;
}

static void probe_reset(struct virtio_dev *dev)
{
    (void)dev;
    seen.resets++;
}

static void probe_serve(struct virtio_dev *dev, struct virtio_queue *q)
{
    (void)dev;
    (void)q;
    seen.serves++;
}

static void probe_stop(struct virtio_dev *dev, struct virtio_queue *q)
{
    (void)dev;
    (void)q;
    seen.stops++;
}

static void probe_destroy(struct virtio_dev *dev)
{
    virtio_fini(dev);
}

static void write_on_used(void)
{
    char *rest = on_used, *gpa;

    while ((gpa = strsep(&rest, " ")) != NULL && *gpa != '\0')
        put(number(gpa), strsep(&rest, " "));
    on_used[0] = '\0';
}

static void on_line(void *ctx, uint32_t gsi, bool level)
{
    (void)ctx;
    (void)gsi;
    if (level && !seen.level) {
        seen.edges++;
        write_on_used();
    }
    seen.level = level;
}

static void window_on(struct virtio_dev *dev)
{
    struct irq_line irq;

    v = dev;
    irq_init(&irq, on_line, NULL, 5);
    report_int("rc", virtio_mmio_create("window", dev, &irq, &window));
    memset(&seen, 0, sizeof(seen));
}

static void begin(void)
{
    dev_destroy(window);
    loop_destroy(loop);
    window = NULL;
    loop = NULL;
    if (loop_create(&loop) < 0)
        abort();
}

static void do_probe(char *rest)
{
    uint64_t features = take_number(&rest);
    unsigned queues = (unsigned)take_number(&rest);
    struct virtio_queue_config cfg[VIRTIO_QUEUES_MAX];

    begin();
    for (unsigned i = 0; i < queues; i++)
        cfg[i] = (struct virtio_queue_config){.size = (uint16_t)number(rest), .loop = loop};
    probe_ops = (struct virtio_ops){.id = PROBE_ID,
                                    .version = 1,
                                    .start = probe_start,
                                    .reset = probe_reset,
                                    .serve = probe_serve,
                                    .stop = probe_stop,
                                    .destroy = probe_destroy};
    if (virtio_init(&probe, &probe_ops, "probe", &mem, features, cfg, queues) == 0)
        window_on(&probe);
}

static void do_rng(char *rest)
{
    struct virtio_rng_setup setup = {.mem = &mem, .rate = take_number(&rest)};
    struct virtio_dev *dev = NULL;

    begin();
    setup.loop = loop;
    if (virtio_rng_create("rng", &setup, &dev) == 0)
        window_on(dev);
}

/* --- what is there --- */

static bool is_kicked(const struct virtio_queue *q)
{
    struct pollfd p = {.fd = q->kick, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void report_device(void)
{
    char text[200];

    report_int("status", atomic_load(&v->status));
    report_u64("features", v->features);
    report_u64("offered", v->offered);
    report_int("isr", (long long)dev_read(window, 0x60, 4));
    report_int("edges", seen.edges);
    report_int("starts", seen.starts);
    report_int("resets", seen.resets);
    report_int("serves", seen.serves);
    report_int("stops", seen.stops);
    report_int("status_at_start", seen.status_at_start);
    report_u64("features_at_start", seen.features_at_start);
    report_name("queues");
    report_raw("[");
    for (unsigned i = 0; i < v->queue_count; i++) {
        const struct virtio_queue *q = &v->queues[i];
        (void)snprintf(text, sizeof(text),
                       "%s{\"size\": %u, \"desc\": %llu, \"driver\": %llu, \"device\": %llu, "
                       "\"enabled\": %s, \"running\": %s, \"broken\": %s, \"kicked\": %s}",
                       i > 0 ? ", " : "", q->vq.at.size, (unsigned long long)q->vq.at.desc,
                       (unsigned long long)q->vq.at.driver, (unsigned long long)q->vq.at.device,
                       q->vq.enabled ? "true" : "false", q->running ? "true" : "false",
                       q->vq.broken ? "true" : "false", is_kicked(q) ? "true" : "false");
        report_raw(text);
    }
    report_raw("]");
}

/* --- time --- */

static double ms_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
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

static void do_time(char *rest)
{
    double max = (double)take_number(&rest);
    uint64_t gpa = take_number(&rest);
    uint16_t want = (uint16_t)take_number(&rest), now = 0;
    double begin_ms = ms_now();

    while (mem_read_u16(&mem, gpa, &now) == 0 && now != want && ms_now() - begin_ms < max)
        if (loop_run_once(loop, 20) < 0)
            abort();
    report_int("ms", (long long)(ms_now() - begin_ms));
    report_int("value", now);
}

static void do_place(char *rest)
{
    struct virtio_queue *q = virtio_queue(v, (uint32_t)take_number(&rest));

    q->vq.at.size = (uint16_t)take_number(&rest);
    q->vq.at.desc = take_number(&rest);
    q->vq.at.driver = take_number(&rest);
    q->vq.at.device = take_number(&rest);
    virtio_enable_queue(q);
}

static bool command(const char *verb, char *rest)
{
    if (strcmp(verb, "probe") == 0) {
        do_probe(rest);
    } else if (strcmp(verb, "rng") == 0) {
        do_rng(rest);
    } else if (v == NULL) {
        return false;
    } else if (strcmp(verb, "status") == 0) {
        virtio_set_status(v, (uint8_t)take_number(&rest));
    } else if (strcmp(verb, "accept") == 0) {
        uint32_t select = (uint32_t)take_number(&rest);
        virtio_accept(v, select, (uint32_t)take_number(&rest));
    } else if (strcmp(verb, "wanted") == 0) {
        v->features = take_number(&rest);
    } else if (strcmp(verb, "needs_reset") == 0) {
        virtio_needs_reset(v);
    } else if (strcmp(verb, "place") == 0) {
        do_place(rest);
    } else if (strcmp(verb, "kick") == 0) {
        virtio_kick(virtio_queue(v, (uint32_t)take_number(&rest)));
    } else if (strcmp(verb, "used") == 0) {
        v->port.used(v->port.ctx, (unsigned)take_number(&rest));
    } else if (strcmp(verb, "stored") == 0) {
        atomic_store(&v->status, (uint8_t)take_number(&rest));
    } else if (strcmp(verb, "wr") == 0) {
        uint64_t offset = take_number(&rest);
        unsigned size = (unsigned)take_number(&rest);
        dev_write(window, offset, size, take_number(&rest));
    } else if (strcmp(verb, "rd") == 0) {
        uint64_t offset = take_number(&rest);
        report_u64("value", dev_read(window, offset, (unsigned)take_number(&rest)));
    } else if (strcmp(verb, "on_used") == 0) {
        (void)snprintf(on_used, sizeof(on_used), "%s", rest);
    } else if (strcmp(verb, "work") == 0) {
        run_loop((double)take_number(&rest));
    } else if (strcmp(verb, "time") == 0) {
        do_time(rest);
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
