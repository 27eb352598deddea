#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/machine/trace.h"
#include "hv/x86/cpuid.h"
#include "support/tmp.h"

static struct tmp_dir tmp;
static char path[256];
static struct trace trace;
static struct error err;

static void setup(void)
{
    tmp_init(&tmp);
    (void)snprintf(path, sizeof(path), "%s", tmp_path(&tmp, "trace"));
}

static void teardown(void)
{
    trace_close(&trace);
    tmp_fini(&tmp);
}

TestSuite(trace, .init = setup, .fini = teardown);

static void create(unsigned cpus, uint32_t events)
{
    cr_assert_eq(trace_create(path, cpus, events, &trace, &err), 0, "%s", err.text);
}

static void record(const struct trace_ring *ring, uint64_t addr)
{
    *trace_next(ring) = (struct trace_event){.reason = KVM_EXIT_IO, .count = 1, .addr = addr};
    trace_commit(ring);
}

/* Asserts that the ring holds events `first` up to `end`, each of which has its index as address.
 */
static void assert_holds(const struct trace_ring *ring, uint64_t first, uint64_t end)
{
    uint64_t a = UINT64_MAX, b = UINT64_MAX;

    trace_span(ring, &a, &b);
    cr_assert_eq(a, first);
    cr_assert_eq(b, end);
    for (uint64_t i = a; i < b; i++)
        cr_assert_eq(trace_at(ring, i)->addr, i);
}

/* --- the ring --- */

Test(trace, a_new_ring_is_empty)
{
    create(2, 8);
    cr_assert_eq(trace.header->magic, TRACE_MAGIC);
    cr_assert_eq(trace.header->cpus, 2);
    cr_assert_gt(trace.header->start_ns, 0);
    for (unsigned cpu = 0; cpu < 2; cpu++) {
        struct trace_ring ring = trace_ring(&trace, cpu);
        assert_holds(&ring, 0, 0);
    }
}

Test(trace, keeps_events_in_order)
{
    create(1, 8);
    struct trace_ring ring = trace_ring(&trace, 0);
    for (uint64_t i = 0; i < 5; i++)
        record(&ring, i);
    assert_holds(&ring, 0, 5);
}

Test(trace, an_event_counts_only_once_it_is_committed)
{
    create(1, 8);
    struct trace_ring ring = trace_ring(&trace, 0);
    trace_next(&ring)->addr = 1;
    assert_holds(&ring, 0, 0);
    trace_next(&ring)->addr = 0; /* the same one again */
    trace_commit(&ring);
    assert_holds(&ring, 0, 1);
}

Test(trace, a_full_ring_overwrites_its_oldest)
{
    create(1, 8);
    struct trace_ring ring = trace_ring(&trace, 0);
    for (uint64_t i = 0; i < 8; i++)
        record(&ring, i);
    assert_holds(&ring, 0, 8);
    record(&ring, 8);
    assert_holds(&ring, 1, 9);
    for (uint64_t i = 9; i < 1003; i++)
        record(&ring, i);
    assert_holds(&ring, 995, 1003);
}

Test(trace, a_ring_of_one_holds_the_last_event)
{
    create(1, 1);
    struct trace_ring ring = trace_ring(&trace, 0);
    for (uint64_t i = 0; i < 3; i++)
        record(&ring, i);
    assert_holds(&ring, 2, 3);
}

Test(trace, capacity_is_rounded_up_to_a_power_of_two)
{
    create(1, 100);
    cr_assert_eq(trace.header->capacity, 128);
}

Test(trace, vcpus_have_rings_of_their_own)
{
    create(X86_CPUS_MAX, 128); /* more than a page of events each */
    for (unsigned cpu = 0; cpu < X86_CPUS_MAX; cpu++) {
        struct trace_ring ring = trace_ring(&trace, cpu);
        for (uint64_t i = 0; i <= 130 + cpu; i++)
            record(&ring, i);
    }
    for (unsigned cpu = 0; cpu < X86_CPUS_MAX; cpu++) {
        struct trace_ring ring = trace_ring(&trace, cpu);
        assert_holds(&ring, 3 + cpu, 131 + cpu);
    }
}

Test(trace, survives_in_its_file)
{
    unsigned fds = count_open_fds();

    create(2, 8);
    struct trace_ring ring = trace_ring(&trace, 1);
    for (uint64_t i = 0; i < 11; i++)
        record(&ring, i);
    trace_close(&trace);
    cr_assert_null(trace.header);
    cr_assert_eq(trace_open(path, &trace, &err), 0, "%s", err.text);
    cr_assert_eq(trace.header->cpus, 2);
    ring = trace_ring(&trace, 0);
    assert_holds(&ring, 0, 0);
    ring = trace_ring(&trace, 1);
    assert_holds(&ring, 3, 11);
    trace_close(&trace);
    trace_close(&trace);
    cr_assert_eq(count_open_fds(), fds);
}

Test(trace, what_is_written_is_in_the_file_at_once)
{
    struct trace reader = {0};

    create(1, 8);
    struct trace_ring ring = trace_ring(&trace, 0);
    record(&ring, 0);
    cr_assert_eq(trace_open(path, &reader, &err), 0, "%s", err.text);
    ring = trace_ring(&reader, 0);
    assert_holds(&ring, 0, 1);
    trace_close(&reader);
}

Test(trace, replaces_an_older_file)
{
    create(4, 1024);
    struct trace_ring ring = trace_ring(&trace, 0);
    record(&ring, 0);
    trace_close(&trace);
    create(1, 8);
    ring = trace_ring(&trace, 0);
    assert_holds(&ring, 0, 0);
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq((size_t)st.st_size, trace.size);
}

/* --- what cannot be created --- */

static void assert_refused(unsigned cpus, uint32_t events)
{
    struct trace out = {.size = 4711};

    cr_assert_eq(trace_create(path, cpus, events, &out, &err), -EINVAL);
    cr_assert_eq(out.size, 4711);
    cr_assert_neq(access(path, F_OK), 0, "a file was made");
}

Test(trace, refuses_numbers_out_of_range)
{
    assert_refused(0, 8);
    assert_refused(X86_CPUS_MAX + 1, 8);
    assert_refused(1, 0);
    assert_refused(1, TRACE_EVENTS_MAX + 1);
    assert_refused(1, UINT32_MAX);
}

Test(trace, names_the_file_it_cannot_create)
{
    struct trace out = {.size = 4711};

    cr_assert_eq(trace_create(tmp.path, 1, 8, &out, &err), -EISDIR);
    cr_assert_not_null(strstr(err.text, tmp.path), "%s", err.text);
    cr_assert_eq(trace_create("/dev/full", 1, 8, &out, &err), -ENODEV);
    cr_assert_eq(out.size, 4711);
}

/* --- files made by others --- */

/* A damaged copy of a good trace of two vCPUs: `at` gets the bytes of `value`. */
static void damage(size_t at, const void *value, size_t size)
{
    create(2, 8);
    memcpy((uint8_t *)trace.header + at, value, size);
    trace_close(&trace);
}

static void assert_not_a_trace(int want, const char *why)
{
    struct trace out = {.size = 4711};
    unsigned fds = count_open_fds();

    cr_assert_eq(trace_open(path, &out, &err), want, "%s", err.text);
    cr_assert_not_null(strstr(err.text, path), "'%s' does not name the file", err.text);
    cr_assert_not_null(strstr(err.text, why), "'%s' lacks '%s'", err.text, why);
    cr_assert_eq(out.size, 4711);
    cr_assert_eq(count_open_fds(), fds);
}

Test(trace, a_missing_file_is_an_error)
{
    assert_not_a_trace(-ENOENT, "No such file");
}

Test(trace, another_magic_is_refused)
{
    damage(offsetof(struct trace_header, magic), &(uint64_t){1}, 8);
    assert_not_a_trace(-EINVAL, "not a trace");
}

Test(trace, hostile_cpu_counts_are_refused)
{
    static const uint32_t counts[] = {0, X86_CPUS_MAX + 1, 0x80000000, UINT32_MAX};

    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        damage(offsetof(struct trace_header, cpus), &counts[i], 4);
        assert_not_a_trace(-EINVAL, "not a trace");
    }
}

Test(trace, hostile_capacities_are_refused)
{
    static const uint32_t capacities[] = {0, 7, TRACE_EVENTS_MAX * 2, 0x80000000, UINT32_MAX};

    for (size_t i = 0; i < ARRAY_LEN(capacities); i++) {
        damage(offsetof(struct trace_header, capacity), &capacities[i], 4);
        assert_not_a_trace(-EINVAL, "not a trace");
    }
}

Test(trace, numbers_larger_than_the_file_are_a_truncation)
{
    damage(offsetof(struct trace_header, cpus), &(uint32_t){3}, 4);
    assert_not_a_trace(-ENODATA, "truncated");
    damage(offsetof(struct trace_header, capacity), &(uint32_t){TRACE_EVENTS_MAX}, 4);
    assert_not_a_trace(-ENODATA, "truncated");
}

Test(trace, every_truncation_is_refused)
{
    create(1, 8);
    size_t size = trace.size;
    trace_close(&trace);
    cr_assert_eq(truncate(path, (off_t)size - 1), 0);
    assert_not_a_trace(-ENODATA, "truncated");
    cr_assert_eq(truncate(path, 4096), 0);
    assert_not_a_trace(-ENODATA, "truncated");
    cr_assert_eq(truncate(path, 4095), 0);
    assert_not_a_trace(-EINVAL, "not a trace");
    cr_assert_eq(truncate(path, 8), 0);
    assert_not_a_trace(-EINVAL, "not a trace");
    cr_assert_eq(truncate(path, 0), 0);
    assert_not_a_trace(-EINVAL, "empty");
}

Test(trace, a_hostile_count_stays_inside_the_ring)
{
    damage(4096, &(uint64_t){UINT64_MAX}, 8); /* the first vCPU's counter */
    cr_assert_eq(trace_open(path, &trace, &err), 0, "%s", err.text);
    struct trace_ring ring = trace_ring(&trace, 0);
    uint64_t first = 0, end = 0;
    trace_span(&ring, &first, &end);
    cr_assert_eq(end - first, ring.capacity);
    for (uint64_t i = first; i < end; i++) {
        const struct trace_event *event = trace_at(&ring, i);
        cr_assert(event >= ring.events && event < ring.events + ring.capacity);
    }
}

/* --- text --- */

static const char *text_of(struct trace_event event)
{
    static char buf[TRACE_TEXT_MAX];

    memset(buf, 'x', sizeof(buf));
    cr_assert_eq(trace_text(&event, buf), buf);
    cr_assert_not_null(memchr(buf, '\0', sizeof(buf)));
    return buf;
}

Test(trace, text_of_port_accesses)
{
    struct trace_event e = {.reason = KVM_EXIT_IO,
                            .flags = TRACE_WRITE,
                            .addr = 0x3f8,
                            .data = 'A',
                            .size = 1,
                            .count = 1};

    cr_assert_str_eq(text_of(e), "IO   out   0x03f8 1 byte  0x41 'A'");
    e.data = 0x07;
    cr_assert_str_eq(text_of(e), "IO   out   0x03f8 1 byte  0x7");
    e.flags = 0;
    e.size = 4;
    e.data = 0x12345678;
    cr_assert_str_eq(text_of(e), "IO   in    0x03f8 4 bytes 0x12345678");
    e.count = 512;
    cr_assert_str_eq(text_of(e), "IO   in    0x03f8 4 bytes 0x12345678 x512");
}

Test(trace, text_of_memory_accesses)
{
    struct trace_event e = {
        .reason = KVM_EXIT_MMIO, .addr = 0xd0000000, .data = 'A', .size = 8, .count = 1};

    cr_assert_str_eq(text_of(e), "MMIO read  0xd0000000 8 bytes 0x41");
    e.flags = TRACE_WRITE;
    e.addr = UINT64_MAX;
    cr_assert_str_eq(text_of(e), "MMIO write 0xffffffffffffffff 8 bytes 0x41");
}

Test(trace, text_of_deaths)
{
    cr_assert_str_eq(text_of((struct trace_event){.reason = KVM_EXIT_INTERNAL_ERROR, .data = 1}),
                     "INTERNAL_ERROR suberror 1");
    cr_assert_str_eq(
        text_of((struct trace_event){.reason = KVM_EXIT_FAIL_ENTRY, .data = 0x80000021}),
        "FAIL_ENTRY hardware reason 0x80000021");
    cr_assert_str_eq(text_of((struct trace_event){.reason = KVM_EXIT_HLT}), "HLT");
}

Test(trace, every_event_has_a_text_that_fits)
{
    struct trace_event e;

    memset(&e, 0xff, sizeof(e));
    for (unsigned reason = 0; reason <= UINT16_MAX; reason++) {
        e.reason = (uint16_t)reason;
        cr_assert_gt(strlen(text_of(e)), 0);
        cr_assert_null(strchr(text_of(e), '\n'));
    }
}
