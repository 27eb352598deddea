/*
 * Each vCPU writes its own ring while another thread reads them all: whatever the count says is
 * there is whole. (A reader of a ring that wraps around may meet an event that is being replaced;
 * the rings here are large enough for all that is written.)
 */
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "hv/machine/trace.h"
#include "thread/crew.h"

#define VCPUS 3
#define EVENTS 262144

static struct trace trace;

static void record(void *ctx, unsigned index)
{
    struct trace_ring ring = trace_ring(&trace, index);

    (void)ctx;
    for (uint64_t i = 0; i < EVENTS; i++) {
        *trace_next(&ring) = (struct trace_event){.addr = i, .data = ~i, .reason = (uint16_t)index};
        trace_commit(&ring);
    }
}

/* Checks the events from `from` on, and returns how many there are now. */
static uint64_t check_events(unsigned cpu, uint64_t from)
{
    struct trace_ring ring = trace_ring(&trace, cpu);
    uint64_t first, end;

    trace_span(&ring, &first, &end);
    CHECK(first == 0 && end <= EVENTS && end >= from);
    for (uint64_t i = from; i < end; i++) {
        const struct trace_event *event = trace_at(&ring, i);
        CHECK(event->addr == i && event->data == ~i && event->reason == cpu);
    }
    return end;
}

static void read_events(void *ctx, unsigned index)
{
    uint64_t seen[VCPUS] = {0}, sum = 0;

    (void)ctx, (void)index;
    while (sum < (uint64_t)VCPUS * EVENTS) {
        sum = 0;
        for (unsigned cpu = 0; cpu < VCPUS; cpu++) {
            seen[cpu] = check_events(cpu, seen[cpu]);
            sum += seen[cpu];
        }
    }
}

int main(void)
{
    struct crew crew = {0};
    char path[64];

    (void)snprintf(path, sizeof(path), "/tmp/hv-thread-trace-%d", (int)getpid());
    CHECK(trace_create(path, VCPUS, EVENTS, &trace, NULL) == 0);
    CHECK(unlink(path) == 0);
    crew_start(&crew, 2, read_events, NULL);
    crew_start(&crew, VCPUS, record, NULL);
    crew_join(&crew);
    trace_close(&trace);
    return 0;
}
