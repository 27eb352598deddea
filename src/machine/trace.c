#include "hv/machine/trace.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/kvm/kvm.h"
#include "hv/x86/cpuid.h"

#define TRACE_PAGE 4096

_Static_assert(sizeof(struct trace_event) == 48, "the file's format");

/* Bytes of one vCPU's part: its counter's page, then the events. */
static size_t ring_bytes(uint32_t capacity)
{
    size_t events = (size_t)capacity * sizeof(struct trace_event);

    return TRACE_PAGE + (events + TRACE_PAGE - 1) / TRACE_PAGE * TRACE_PAGE;
}

static size_t file_bytes_for(unsigned cpus, uint32_t capacity)
{
    return TRACE_PAGE + cpus * ring_bytes(capacity);
}

static uint32_t round_up_capacity(uint32_t events)
{
    uint32_t capacity = 1;

    while (capacity < events)
        capacity *= 2;
    return capacity;
}

int trace_create(const char *path, unsigned cpus, uint32_t events, struct trace *out,
                 struct error *err)
{
    if (cpus == 0 || cpus > X86_CPUS_MAX || events == 0 || events > TRACE_EVENTS_MAX)
        return error_set(err, -EINVAL, "a trace of %u events for %u CPUs is out of range", events,
                         cpus);
    uint32_t capacity = round_up_capacity(events);
    size_t size = file_bytes_for(cpus, capacity);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_sys(err, -errno, "cannot create the trace %s", path);
    /* Allocated, not sparse: a full disk shows here as an error and not later as SIGBUS. */
    int rc = -posix_fallocate(fd, 0, (off_t)size);
    if (rc < 0) {
        fd_close(&fd);
        return error_sys(err, rc, "cannot reserve %zu bytes for the trace %s", size, path);
    }
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    rc = map == MAP_FAILED ? -errno : 0;
    fd_close(&fd);
    if (rc < 0)
        return error_sys(err, rc, "cannot map the trace %s", path);
    *out = (struct trace){.header = map, .size = size};
    *out->header = (struct trace_header){
        .magic = TRACE_MAGIC, .cpus = cpus, .capacity = capacity, .start_ns = now_ns()};
    return 0;
}

static int check_header(const struct trace_header *h, size_t size)
{
    if (size < TRACE_PAGE || h->magic != TRACE_MAGIC || h->cpus == 0 || h->cpus > X86_CPUS_MAX ||
        !is_power_of_two(h->capacity) || h->capacity > TRACE_EVENTS_MAX)
        return -EINVAL;
    return size < file_bytes_for(h->cpus, h->capacity) ? -ENODATA : 0;
}

int trace_open(const char *path, struct trace *out, struct error *err)
{
    struct file_bytes file;
    int rc = file_read_all(path, file_bytes_for(X86_CPUS_MAX, TRACE_EVENTS_MAX), &file, err);

    /* A private copy: a file that shrinks or changes underneath cannot hurt. */
    if (rc < 0)
        return rc;
    rc = check_header((const struct trace_header *)file.data, file.size);
    if (rc < 0) {
        file_fini(&file);
        return error_set(err, rc, "%s: %s", path,
                         rc == -ENODATA ? "a trace, but truncated" : "not a trace made by hv");
    }
    void *copy = mmap(NULL, file.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) {
        file_fini(&file);
        return error_sys(err, -ENOMEM, "%s", path);
    }
    memcpy(copy, file.data, file.size);
    *out = (struct trace){.header = copy, .size = file.size};
    file_fini(&file);
    return 0;
}

void trace_close(struct trace *trace)
{
    if (trace->header != NULL)
        (void)munmap(trace->header, trace->size);
    *trace = (struct trace){0};
}

struct trace_ring trace_ring(const struct trace *trace, unsigned cpu)
{
    uint32_t capacity = trace->header->capacity;
    uint8_t *base = (uint8_t *)trace->header + TRACE_PAGE + cpu * ring_bytes(capacity);

    return (struct trace_ring){
        .written = (_Atomic uint64_t *)base,
        .events = (struct trace_event *)(base + TRACE_PAGE),
        .capacity = capacity,
    };
}

struct trace_event *trace_next(const struct trace_ring *ring)
{
    uint64_t n = atomic_load_explicit(ring->written, memory_order_relaxed);

    return &ring->events[n & (ring->capacity - 1)];
}

void trace_commit(const struct trace_ring *ring)
{
    uint64_t n = atomic_load_explicit(ring->written, memory_order_relaxed);

    /* Pairs with the acquire in trace_span(): whoever sees the count sees the event. */
    atomic_store_explicit(ring->written, n + 1, memory_order_release);
}

void trace_span(const struct trace_ring *ring, uint64_t *first, uint64_t *end)
{
    uint64_t n = atomic_load_explicit(ring->written, memory_order_acquire);

    *end = n;
    *first = n > ring->capacity ? n - ring->capacity : 0;
}

const struct trace_event *trace_at(const struct trace_ring *ring, uint64_t index)
{
    return &ring->events[index & (ring->capacity - 1)];
}

/* --- text --- */

static void text_access(const struct trace_event *e, char *buf)
{
    bool io = e->reason == KVM_EXIT_IO;
    bool write = (e->flags & TRACE_WRITE) != 0;
    char extra[48] = "";

    if (e->count != 1)
        (void)snprintf(extra, sizeof(extra), " x%" PRIu32, e->count);
    else if (io && e->size == 1 && e->data < 128 && isprint((int)e->data))
        (void)snprintf(extra, sizeof(extra), " '%c'", (char)e->data);
    (void)snprintf(buf, TRACE_TEXT_MAX, "%-4s %-5s 0x%0*" PRIx64 " %u byte%s 0x%" PRIx64 "%s",
                   kvm_exit_name(e->reason),
                   io ? (write ? "out" : "in") : (write ? "write" : "read"), io ? 4 : 8, e->addr,
                   e->size, e->size == 1 ? " " : "s", e->data, extra);
}

char *trace_text(const struct trace_event *e, char *buf)
{
    switch (e->reason) {
    case KVM_EXIT_IO:
    case KVM_EXIT_MMIO:
        text_access(e, buf);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        (void)snprintf(buf, TRACE_TEXT_MAX, "INTERNAL_ERROR suberror %" PRIu64, e->data);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        (void)snprintf(buf, TRACE_TEXT_MAX, "FAIL_ENTRY hardware reason 0x%" PRIx64, e->data);
        break;
    default:
        (void)snprintf(buf, TRACE_TEXT_MAX, "%s", kvm_exit_name(e->reason));
    }
    return buf;
}
