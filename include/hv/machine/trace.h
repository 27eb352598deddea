/*
 * The exit trace: what every exit of every vCPU was, in a bounded ring in a file.
 *
 * The file is a shared mapping, so what was recorded survives hv's own death, and writing an event
 * costs a few stores. Each vCPU has its own ring and is its only writer; a full ring overwrites its
 * oldest events.
 *
 * File: one page of struct trace_header, then per vCPU one page whose first 8 bytes count the
 * events ever written, then `capacity` events, rounded up to a page.
 */
#ifndef HV_MACHINE_TRACE_H
#define HV_MACHINE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

#define TRACE_MAGIC 0x3145434152545648ULL /* "HVTRACE1" */
#define TRACE_EVENTS_DEFAULT 65536
#define TRACE_EVENTS_MAX (1U << 24)

enum trace_flags {
    TRACE_WRITE = 1,   /* IO, MMIO: the guest wrote */
    TRACE_HAS_RIP = 2, /* rip is valid */
};

/* 48 bytes, host byte order. */
struct trace_event {
    uint64_t ns;        /* CLOCK_MONOTONIC when KVM_RUN returned; 0 when not timed */
    uint64_t rip;       /* with TRACE_HAS_RIP */
    uint64_t addr;      /* port or guest-physical address; exit-specific detail otherwise */
    uint64_t data;      /* the first 8 bytes read or written */
    uint32_t handle_ns; /* until the vCPU was ready to run again; saturates */
    uint32_t count;     /* elements of a string I/O, else 1 */
    uint16_t reason;    /* KVM_EXIT_… */
    uint8_t size;       /* bytes of one element */
    uint8_t flags;      /* enum trace_flags */
    uint32_t reserved;
};

struct trace_header {
    uint64_t magic;
    uint32_t cpus;
    uint32_t capacity; /* events per vCPU, a power of two */
    uint64_t start_ns; /* CLOCK_MONOTONIC when the machine was created */
};

struct trace_ring {
    _Atomic uint64_t *written; /* events ever written */
    struct trace_event *events;
    uint32_t capacity;
};

struct trace {
    struct trace_header *header; /* the mapping; owned */
    size_t size;
};

/* Creates the file (replacing it) with room for `events` per vCPU, rounded up to a power of two. */
int trace_create(const char *path, unsigned cpus, uint32_t events, struct trace *out,
                 struct error *err) HV_MUST_CHECK;

/* Opens a file for reading. It is untrusted: every number is checked against the file's size. */
int trace_open(const char *path, struct trace *out, struct error *err) HV_MUST_CHECK;
void trace_close(struct trace *trace);

/* The ring of a vCPU below header->cpus. */
struct trace_ring trace_ring(const struct trace *trace, unsigned cpu);

/* Claims the next event for filling; the owner of the ring calls trace_commit() once it is whole.
 */
struct trace_event *trace_next(const struct trace_ring *ring);
void trace_commit(const struct trace_ring *ring);

/* Reading: indices [*first, *end) are present; event i is trace_at(ring, i). */
void trace_span(const struct trace_ring *ring, uint64_t *first, uint64_t *end);
const struct trace_event *trace_at(const struct trace_ring *ring, uint64_t index);

/* One line: "IO  out 0x3f8 1 byte 'A'", without a newline. Returns buf. */
#define TRACE_TEXT_MAX 160
char *trace_text(const struct trace_event *event, char *buf);

#endif
