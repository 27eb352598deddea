/*
 * Any driver of the console device, and a host that types, reads slowly or goes away. The back ends
 * are the target's own: they take what the input lets them, and check what they are promised.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_console.h>

#include "chr/chr_priv.h"
#include "fuzz/virtio_harness.h"
#include "hv/base/num.h"
#include "hv/virtio/console.h"

#define PORTS 3 /* which are eight queues */

struct line {
    struct chr chr;
    size_t room; /* bytes that it takes */
    bool is_hungry;
};

static struct line lines[2][PORTS];
static struct vfuzz_target target;

/* --- a back end --- */

static ssize_t line_offer(struct chr *chr, const void *data, size_t len)
{
    struct line *l = container_of(chr, struct line, chr);
    size_t taken = len < l->room ? len : l->room;

    for (size_t i = 0; i < taken; i++)
        (void)((const volatile uint8_t *)data)[i]; /* it can all be read */
    l->room -= taken;
    l->is_hungry = l->is_hungry || taken < len;
    return (ssize_t)taken;
}

static void line_destroy(struct chr *chr)
{
    fuzz_check(chr->front.ctx == NULL); /* the device let go of it */
}

static const struct chr_ops line_ops = {
    .write = line_offer, .offer = line_offer, .destroy = line_destroy};

static void make_room(struct line *l, size_t bytes)
{
    l->room += bytes;
    if (l->is_hungry && l->chr.front.writable != NULL) {
        l->is_hungry = false;
        l->chr.front.writable(l->chr.front.ctx);
    }
}

static void type(struct line *l, struct fuzz_input *in, size_t len)
{
    const struct chr_front *front = &l->chr.front;
    uint8_t bytes[4096];
    size_t room = front->room ? front->room(front->ctx) : 0;

    fuzz_check(room <= sizeof(bytes));
    len = len < room ? len : room;
    memset(bytes, fuzz_u8(in), sizeof(bytes));
    if (len > 0)
        front->input(front->ctx, bytes, len);
}

/* --- the device --- */

static int create(void *ctx, unsigned which, const struct mem *mem, struct loop *loop,
                  struct virtio_dev **out)
{
    struct virtio_console_port ports[PORTS] = {{.name = NULL}, {.name = "agent"}, {.name = "b"}};
    const struct virtio_console_setup setup = {
        .mem = mem, .loop = loop, .ports = ports, .port_count = PORTS, .cols = 80, .rows = 25};

    (void)ctx;
    for (unsigned i = 0; i < PORTS; i++) {
        lines[which][i] = (struct line){.room = 100};
        chr_init(&lines[which][i].chr, &line_ops);
        ports[i].chr = &lines[which][i].chr;
    }
    return virtio_console_create("console", &setup, out);
}

static void destroyed(void *ctx, unsigned which)
{
    (void)ctx;
    for (unsigned i = 0; i < PORTS; i++)
        chr_destroy(&lines[which][i].chr);
}

static void request(void *ctx, unsigned queue, struct fuzz_input *in, uint8_t *bytes, uint32_t len)
{
    static const uint16_t events[] = {VIRTIO_CONSOLE_DEVICE_READY, VIRTIO_CONSOLE_PORT_READY,
                                      VIRTIO_CONSOLE_PORT_OPEN};
    uint8_t what = fuzz_u8(in);
    struct virtio_console_control m = {
        .id = htole32(what < 250 ? what % PORTS : (uint32_t)fuzz_u64(in, 4)),
        .event = htole16(what < 240 ? events[what / PORTS % 3] : (uint16_t)fuzz_u64(in, 2)),
        .value = htole16(what < 200),
    };

    (void)ctx;
    if (queue == 3)
        memcpy(bytes, &m, len < sizeof(m) ? len : sizeof(m));
}

static void event(void *ctx, unsigned which, struct virtio_dev *v, struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in);
    unsigned port = what / 8 % (PORTS + 1);
    struct line *l = &lines[which][port % PORTS];

    (void)ctx;
    switch (what % 8) {
    case 0:
        target.keeps = true; /* the size of a screen outlives a reset */
        fuzz_check(virtio_console_resize(v, port, fuzz_u8(in), fuzz_u8(in)) ==
                   (port < PORTS ? 0 : -ENOENT));
        break;
    case 1:
        target.keeps = true; /* and so does the host */
        fuzz_check(virtio_console_set_open(v, port, fuzz_u8(in) & 1) ==
                   (port < PORTS ? 0 : -ENOENT));
        break;
    case 2:
    case 3:
        make_room(l, fuzz_u64(in, 2));
        break;
    case 4:
        (void)virtio_console_is_open(v, port);
        break;
    default:
        type(l, in, fuzz_u64(in, 2) % 6000);
        break;
    }
}

static void before_probe(void *ctx, unsigned which, struct virtio_dev *v)
{
    (void)ctx;
    (void)v;
    for (unsigned i = 0; i < PORTS; i++)
        make_room(&lines[which][i], 1U << 30);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    target = (struct vfuzz_target){
        .create = create,
        .destroyed = destroyed,
        .request = request,
        .event = event,
        .before_probe = before_probe,
        .probe = {{.queue = 3, .out = {[6] = 1}, .out_len = 8}, /* the device is ready */
                  {.queue = 2, .in_len = 128, .written = 8},
                  {.queue = 1, .out = "x", .out_len = 1}},
        .loads = true,
        .mutes = 0x55, /* what is to be filled is looked at when there is something */
    };
    vfuzz_run(&target, data, size);
    return 0;
}
