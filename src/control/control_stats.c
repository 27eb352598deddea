/*
 * Everything that is counted, as one answer.
 */
#include "control/control_priv.h"
#include "hv/kvm/kvm.h"
#include "hv/machine/manage.h"
#include "hv/virtio/balloon.h"
#include "hv/virtio/blk.h"
#include "hv/virtio/console.h"
#include "hv/virtio/net.h"

#define NS_PER_MS UINT64_C(1000000)

struct number {
    const char *name;
    uint64_t value;
};

/* An object of numbers, to the first without a name. */
static json_t *numbers(const struct number *n)
{
    json_t *out = json_object();

    for (; n->name != NULL; n++)
        (void)json_object_set_new(out, n->name, control_u64(n->value));
    return out;
}

/* --- the machine --- */

static json_t *memory(const struct machine_stats *s)
{
    return numbers((const struct number[]){{"size", s->memory}, {"resident", s->resident}, {0}});
}

static json_t *cpu(const struct machine *m, unsigned index)
{
    struct machine_cpu_stats s;
    json_t *reasons = json_object();

    machine_cpu_stats(m, index, &s);
    for (unsigned i = 0; i < MACHINE_EXIT_REASONS; i++)
        if (s.by_reason[i] > 0)
            (void)json_object_set_new(reasons, kvm_exit_name(i), control_u64(s.by_reason[i]));
    return json_pack("{s:o, s:o, s:o}", "exits", control_u64(s.exits), "cpu-ms",
                     control_u64(s.cpu_ns / NS_PER_MS), "reasons", reasons);
}

static json_t *cpus(const struct machine *m)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < machine_cpus(m); i++)
        (void)json_array_append_new(list, cpu(m, i));
    return list;
}

static json_t *threads(const struct machine *m)
{
    json_t *list = json_array();
    struct machine_thread_stats s;

    for (unsigned i = 0; i < machine_io_threads(m); i++) {
        machine_io_thread_stats(m, i, &s);
        (void)json_array_append_new(list, json_pack("{s:s, s:o}", "name", s.name, "cpu-ms",
                                                    control_u64(s.cpu_ns / NS_PER_MS)));
    }
    return list;
}

/* --- devices --- */

const char *stats_kind(uint32_t id)
{
    switch (id) {
    case VIRTIO_ID_NET:
        return "net";
    case VIRTIO_ID_BLOCK:
        return "disk";
    case VIRTIO_ID_CONSOLE:
        return "console";
    case VIRTIO_ID_RNG:
        return "rng";
    case VIRTIO_ID_BALLOON:
        return "balloon";
    case VIRTIO_ID_VSOCK:
        return "vsock";
    default:
        return "other";
    }
}

static json_t *queues(const struct virtio_dev *v)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < v->queue_count; i++) {
        const struct virtio_queue *q = &v->queues[i];
        const struct number n[] = {{"kicks", atomic_load(&q->kicks)},
                                   {"chains", atomic_load(&q->chains)},
                                   {"interrupts", atomic_load(&q->interrupts)},
                                   {0}};
        (void)json_array_append_new(list, numbers(n));
    }
    return list;
}

static json_t *disk(struct virtio_dev *v)
{
    struct virtio_blk_stats s;

    virtio_blk_stats(v, &s);
    return numbers((const struct number[]){
        {"reads", s.reads},
        {"writes", s.writes},
        {"flushes", s.flushes},
        {"discards", s.discards},
        {"read-bytes", s.read_bytes},
        {"written-bytes", s.written_bytes},
        {"iops-limit", s.ops.rate},
        {"bps-limit", s.bytes.rate},
        {"waits", s.ops.waits + s.bytes.waits},
        {0},
    });
}

static json_t *net(struct virtio_dev *v)
{
    struct virtio_net_limits limits;
    struct virtio_net_stats s;

    virtio_net_stats(v, &s);
    virtio_net_limits(v, &limits);
    return numbers((const struct number[]){
        {"received", s.received},
        {"sent", s.sent},
        {"received-bytes", s.received_bytes},
        {"sent-bytes", s.sent_bytes},
        {"dropped-in", s.dropped_in},
        {"dropped-out", s.dropped_out},
        {"filtered", s.filtered},
        {"pps-limit", limits.packets},
        {"bps-limit", limits.bytes},
        {"waits", s.waits},
        {0},
    });
}

static json_t *balloon(const struct virtio_dev *v)
{
    struct virtio_balloon_counts s;

    virtio_balloon_counts(v, &s);
    return numbers((const struct number[]){
        {"target", (uint64_t)virtio_balloon_target(v) * VIRTIO_BALLOON_PAGE},
        {"actual", (uint64_t)virtio_balloon_actual(v) * VIRTIO_BALLOON_PAGE},
        {"held", s.held * VIRTIO_BALLOON_PAGE},
        {"reported", s.reported},
        {0},
    });
}

static json_t *console(const struct virtio_dev *v)
{
    struct virtio_console_stats s;

    virtio_console_stats(v, &s);
    return numbers((const struct number[]){
        {"received-bytes", s.received}, {"sent-bytes", s.sent}, {"dropped-bytes", s.dropped}, {0}});
}

/* What only this kind of device counts; NULL: nothing. */
static json_t *own_numbers(struct virtio_dev *v)
{
    switch (v->ops->id) {
    case VIRTIO_ID_BLOCK:
        return disk(v);
    case VIRTIO_ID_NET:
        return net(v);
    case VIRTIO_ID_BALLOON:
        return balloon(v);
    case VIRTIO_ID_CONSOLE:
        return console(v);
    default:
        return NULL;
    }
}

static json_t *devices(const struct machine *m)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < machine_virtio_count(m); i++) {
        struct virtio_dev *v = machine_virtio(m, i);
        json_t *one = json_pack("{s:s, s:s, s:o}", "name", v->name, "kind", stats_kind(v->ops->id),
                                "queues", queues(v));
        json_t *own = own_numbers(v);
        if (own != NULL)
            (void)json_object_set_new(one, "counters", own);
        (void)json_array_append_new(list, one);
    }
    return list;
}

json_t *stats_of(const struct machine *m)
{
    struct machine_stats s;

    machine_stats(m, &s);
    json_t *unclaimed = numbers((const struct number[]){
        {"port-bytes", s.unclaimed_ports}, {"memory-bytes", s.unclaimed_memory}, {0}});
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "age-ms",
                     control_u64(machine_age_ns(m) / NS_PER_MS), "memory", memory(&s), "cpus",
                     cpus(m), "io-threads", threads(m), "devices", devices(m), "unclaimed",
                     unclaimed);
}
