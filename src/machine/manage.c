/*
 * A machine's counters and devices, for whoever manages it.
 */
#include "hv/machine/manage.h"

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "machine_priv.h"

_Static_assert(MACHINE_EXIT_REASONS == EXIT_REASONS, "what is counted is what is told");

uint64_t machine_age_ns(const struct machine *m)
{
    return now_ns() - m->created_ns;
}

uint64_t machine_memory_size(const struct machine *m)
{
    return m->cfg.memory;
}

void machine_stats(const struct machine *m, struct machine_stats *out)
{
    *out = (struct machine_stats){
        .memory = m->cfg.memory,
        .resident = stats_resident(m),
        .unclaimed_ports = atomic_load(&m->pio.unclaimed),
        .unclaimed_memory = atomic_load(&m->mmio.unclaimed),
    };
}

/* --- processors --- */

unsigned machine_cpus(const struct machine *m)
{
    return m->cfg.cpus;
}

void machine_cpu_stats(const struct machine *m, unsigned cpu, struct machine_cpu_stats *out)
{
    const struct cpu *c = &m->cpus[cpu];

    *out = (struct machine_cpu_stats){
        .exits = atomic_load_explicit(&c->exit_count, memory_order_relaxed),
        .cpu_ns = c->started ? thread_cpu_ns(c->thread) : 0,
    };
    for (unsigned i = 0; i < EXIT_REASONS; i++)
        out->by_reason[i] = atomic_load_explicit(&c->exits[i], memory_order_relaxed);
}

unsigned machine_io_threads(const struct machine *m)
{
    return m->virtio.thread_count;
}

void machine_io_thread_stats(const struct machine *m, unsigned index,
                             struct machine_thread_stats *out)
{
    const struct iothread *t = m->virtio.threads[index];

    *out = (struct machine_thread_stats){.name = iothread_name(t), .cpu_ns = iothread_cpu_ns(t)};
}

/* --- devices --- */

unsigned machine_virtio_count(const struct machine *m)
{
    return m->virtio.dev_count;
}

struct virtio_dev *machine_virtio(const struct machine *m, unsigned index)
{
    return m->virtio.devs[index];
}

struct virtio_dev *machine_virtio_of(const struct machine *m, uint32_t id)
{
    for (unsigned i = 0; i < m->virtio.dev_count; i++)
        if (m->virtio.devs[i]->ops->id == id)
            return m->virtio.devs[i];
    return NULL;
}
