/*
 * A network device, its driver's rings, and the other end of its cable, as a script says.
 *
 *   net                      the device, on a cable of its own
 *   start FEATURES           what a driver does at the start, with these and VERSION_1; the status
 *   offer QUEUE HEAD COUNT [ADDRESS LENGTH FLAGS]…   a chain, from descriptor HEAD on
 *   kick QUEUE               the driver notifies, and the device works
 *   send HEX                 the other end sends a frame, with its header
 *   take                     what has come at the other end: frames, with their headers
 *   used QUEUE               elements that are new in the used ring
 *
 * `send` lets the device work, too. Each reports the status and the device's counters.
 */
#include "hv/virtio/net.h"
#include "script.h"

#define SIZE 64
#define RINGS 0x10000 /* of the first queue; others follow */
#define STRIDE 0x4000
#define RAM_BYTES 0x400000
#define QUEUES 3
#define FRAME_ROOM 70000

static struct loop *loop;
static struct net *near_end, *far_end;
static struct virtio_dev *v;
static uint16_t avail_idx[QUEUES], used_idx[QUEUES];
static unsigned interrupts[QUEUES];
static uint8_t frame[FRAME_ROOM];

static void on_used(void *ctx, unsigned queue)
{
    (void)ctx;
    interrupts[queue]++;
}

static void on_config(void *ctx)
{
    (void)ctx;
}

static void work(void)
{
    for (unsigned i = 0; i < 40; i++)
        if (loop_run_once(loop, 0) < 0)
            abort();
}

static uint64_t ring_of(unsigned queue)
{
    return RINGS + (uint64_t)queue * STRIDE;
}

static void put16(uint64_t gpa, uint16_t value)
{
    if (mem_write_u16(&mem, gpa, value) < 0)
        abort();
}

static void do_net(void)
{
    virtio_destroy(v);
    v = NULL;
    net_destroy(near_end);
    net_destroy(far_end);
    loop_destroy(loop);
    if (mem.count == 0 && mem_add(&mem, 0, RAM_BYTES, MEM_RAM, MEM_ANONYMOUS, NULL) < 0)
        abort();
    if (loop_create(&loop) < 0 || net_pair_create(&near_end, &far_end) < 0)
        abort();
    const struct virtio_net_pair pair = {.net = near_end, .loop = loop};
    const struct virtio_net_setup setup = {
        .mem = &mem, .pairs = &pair, .pair_count = 1, .mac = {2, 0, 0, 0, 0, 1}};
    report_int("rc", virtio_net_create("net", &setup, &v));
    virtio_attach(v, &(struct virtio_port){.used = on_used, .config = on_config});
}

static void do_start(uint64_t features)
{
    features |= VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
    virtio_set_status(v, 0);
    virtio_set_status(v, 3);
    virtio_accept(v, 0, (uint32_t)features);
    virtio_accept(v, 1, (uint32_t)(features >> 32));
    virtio_set_status(v, 11);
    for (unsigned i = 0; i < QUEUES; i++) {
        struct virtio_queue *q = virtio_queue(v, i);
        memset(mem_ptr(&mem, ring_of(i), STRIDE, true), 0, STRIDE);
        q->vq.at = (struct vq_layout){.size = SIZE,
                                      .desc = ring_of(i),
                                      .driver = ring_of(i) + 0x1000,
                                      .device = ring_of(i) + 0x2000};
        virtio_enable_queue(q);
        avail_idx[i] = used_idx[i] = 0;
        interrupts[i] = 0;
    }
    virtio_set_status(v, 15);
    work();
}

static void do_offer(char *rest)
{
    unsigned queue = (unsigned)take_number(&rest), head = (unsigned)take_number(&rest);
    unsigned count = (unsigned)take_number(&rest);
    uint64_t table = ring_of(queue), avail = table + 0x1000;

    for (unsigned i = 0; i < count; i++) {
        struct vring_desc d = {.addr = take_number(&rest)};
        d.len = (uint32_t)take_number(&rest);
        d.flags = (uint16_t)(take_number(&rest) | (i + 1 < count ? VRING_DESC_F_NEXT : 0));
        d.next = (uint16_t)(head + i + 1);
        if (mem_write(&mem, table + 16 * (uint64_t)(head + i), &d, sizeof(d)) < 0)
            abort();
    }
    put16(avail + 4 + 2 * (uint64_t)(avail_idx[queue] % SIZE), (uint16_t)head);
    put16(avail + 2, ++avail_idx[queue]);
}

static void do_send(const char *hex)
{
    size_t size = from_hex(hex, frame, sizeof(frame));
    struct iovec iov = {frame, size};

    report_int("rc", net_send(far_end, &iov, 1));
    work();
}

static void do_take(void)
{
    struct iovec iov = {frame, sizeof(frame)};
    unsigned count = 0;
    ssize_t got;
    char name[32];

    while ((got = net_receive(far_end, &iov, 1)) > 0) {
        (void)snprintf(name, sizeof(name), "frame%u", count++);
        report_hex(name, frame, (size_t)got);
    }
    report_int("frames", count);
}

static void do_used(unsigned queue)
{
    uint64_t used = ring_of(queue) + 0x2000;
    uint16_t idx = 0;
    char text[60];

    if (mem_read_u16(&mem, used + 2, &idx) < 0)
        abort();
    report_name("elements");
    report_raw("[");
    for (unsigned i = 0; used_idx[queue] != idx && i < SIZE; i++) {
        struct vring_used_elem e;
        if (mem_read(&mem, used + 4 + 8 * (uint64_t)(used_idx[queue]++ % SIZE), &e, sizeof(e)) < 0)
            abort();
        (void)snprintf(text, sizeof(text), "%s[%u, %u]", i > 0 ? ", " : "", e.id, e.len);
        report_raw(text);
    }
    report_raw("]");
    report_int("idx", idx);
}

static void report_device(void)
{
    struct virtio_net_stats s;

    virtio_net_stats(v, &s);
    report_int("status", virtio_status(v));
    report_u64("sent", s.sent);
    report_u64("received", s.received);
    report_u64("dropped_in", s.dropped_in);
    report_u64("dropped_out", s.dropped_out);
    report_u64("filtered", s.filtered);
    report_int("edges", interrupts[0] + interrupts[1]);
}

static bool command(const char *verb, char *rest)
{
    if (strcmp(verb, "net") == 0) {
        do_net();
    } else if (v == NULL) {
        return false;
    } else if (strcmp(verb, "start") == 0) {
        do_start(take_number(&rest));
    } else if (strcmp(verb, "offer") == 0) {
        do_offer(rest);
    } else if (strcmp(verb, "kick") == 0) {
        virtio_kick(virtio_queue(v, (uint32_t)take_number(&rest)));
        work();
    } else if (strcmp(verb, "send") == 0) {
        do_send(rest);
    } else if (strcmp(verb, "take") == 0) {
        do_take();
    } else if (strcmp(verb, "used") == 0) {
        do_used((unsigned)take_number(&rest));
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
