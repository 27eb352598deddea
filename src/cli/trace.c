/*
 * hv trace: the exits that `hv run --trace` recorded, as a list, a summary, or a file for a trace
 * viewer.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "hv/base/num.h"
#include "hv/kvm/kvm.h"
#include "hv/machine/trace.h"
#include "hv/x86/cpuid.h"

struct trace_options {
    const char *chrome;
    bool summary;
    uint64_t last; /* 0: all */
};

static int set_summary(void *ctx, const char *value, struct error *err)
{
    (void)value;
    (void)err;
    ((struct trace_options *)ctx)->summary = true;
    return 0;
}

static int set_chrome(void *ctx, const char *value, struct error *err)
{
    (void)err;
    ((struct trace_options *)ctx)->chrome = value;
    return 0;
}

static int set_last(void *ctx, const char *value, struct error *err)
{
    if (parse_u64(value, UINT32_MAX, &((struct trace_options *)ctx)->last) < 0)
        return error_set(err, -EINVAL, "give a number of exits");
    return 0;
}

static const struct cli_option trace_option_table[] = {
    {"summary", 's', NULL, "add up by kind of exit and address", set_summary},
    {"chrome", 0, "FILE", "write Chrome-trace JSON, which Perfetto opens", set_chrome},
    {"last", 'n', "N", "only the last N exits", set_last},
    {0},
};

static const struct cli_group trace_groups[] = {{"Options", trace_option_table}};

/* --- all vCPUs' events in one order of time --- */

struct merged {
    const struct trace *trace;
    uint64_t pos[X86_CPUS_MAX];
    uint64_t end[X86_CPUS_MAX];
};

static uint64_t merge_start(struct merged *m, const struct trace *trace)
{
    uint64_t total = 0;

    m->trace = trace;
    for (unsigned c = 0; c < trace->header->cpus; c++) {
        struct trace_ring ring = trace_ring(trace, c);
        trace_span(&ring, &m->pos[c], &m->end[c]);
        total += m->end[c] - m->pos[c];
    }
    return total;
}

/* The next event in time and whose it is; NULL at the end. */
static const struct trace_event *merge_next(struct merged *m, unsigned *cpu)
{
    const struct trace_event *best = NULL;

    for (unsigned c = 0; c < m->trace->header->cpus; c++) {
        struct trace_ring ring = trace_ring(m->trace, c);
        const struct trace_event *e = trace_at(&ring, m->pos[c]);
        if (m->pos[c] < m->end[c] && (best == NULL || e->ns < best->ns)) {
            best = e;
            *cpu = c;
        }
    }
    if (best != NULL)
        m->pos[*cpu]++;
    return best;
}

/* --- list --- */

static void print_list(const struct trace *trace, uint64_t last)
{
    struct merged m;
    const struct trace_event *e;
    unsigned cpu = 0;
    uint64_t total = merge_start(&m, trace);
    uint64_t skip = last != 0 && last < total ? total - last : 0;

    printf("%14s %3s %9s %-18s %s\n", "time (s)", "CPU", "hv (us)", "RIP", "exit");
    for (uint64_t i = 0; (e = merge_next(&m, &cpu)) != NULL; i++) {
        char text[TRACE_TEXT_MAX], rip[24] = "-";
        if (i < skip)
            continue;
        if (e->flags & TRACE_HAS_RIP)
            (void)snprintf(rip, sizeof(rip), "0x%" PRIx64, e->rip);
        printf("%14.6f %3u %9.1f %-18s %s\n", (double)(e->ns - trace->header->start_ns) / 1e9, cpu,
               (double)e->handle_ns / 1e3, rip, trace_text(e, text));
    }
}

/* --- summary --- */

struct bucket {
    uint64_t addr;
    uint16_t reason;
    uint8_t write;
    uint64_t count;
    uint64_t total_ns;
    uint32_t max_ns;
};

/* Accesses are told apart by address and direction, other exits by reason. */
static struct bucket bucket_of(const struct trace_event *e)
{
    bool access = e->reason == KVM_EXIT_IO || e->reason == KVM_EXIT_MMIO;

    return (struct bucket){.addr = access ? e->addr : 0,
                           .reason = e->reason,
                           .write = access && (e->flags & TRACE_WRITE),
                           .count = 1,
                           .total_ns = e->handle_ns,
                           .max_ns = e->handle_ns};
}

static int by_key(const void *a, const void *b)
{
    const struct bucket *x = a, *y = b;

    if (x->reason != y->reason)
        return x->reason < y->reason ? -1 : 1;
    if (x->addr != y->addr)
        return x->addr < y->addr ? -1 : 1;
    return (int)x->write - (int)y->write;
}

static int by_count(const void *a, const void *b)
{
    const struct bucket *x = a, *y = b;

    return x->count == y->count ? by_key(a, b) : x->count > y->count ? -1 : 1;
}

/* Folds neighbours with the same key; returns how many buckets are left. */
static size_t fold(struct bucket *b, size_t n)
{
    size_t used = 0;

    for (size_t i = 0; i < n; i++) {
        if (used > 0 && by_key(&b[used - 1], &b[i]) == 0) {
            b[used - 1].count += b[i].count;
            b[used - 1].total_ns += b[i].total_ns;
            if (b[i].max_ns > b[used - 1].max_ns)
                b[used - 1].max_ns = b[i].max_ns;
        } else {
            b[used++] = b[i];
        }
    }
    return used;
}

static void print_bucket(const struct bucket *b, uint64_t total)
{
    char what[64];

    if (b->reason == KVM_EXIT_IO)
        (void)snprintf(what, sizeof(what), "IO %-5s 0x%04" PRIx64, b->write ? "out" : "in",
                       b->addr);
    else if (b->reason == KVM_EXIT_MMIO)
        (void)snprintf(what, sizeof(what), "MMIO %-5s 0x%08" PRIx64, b->write ? "write" : "read",
                       b->addr);
    else
        (void)snprintf(what, sizeof(what), "%s", kvm_exit_name(b->reason));
    printf("%10" PRIu64 " %5.1f%% %11.1f %9.1f  %s\n", b->count,
           100.0 * (double)b->count / (double)total, (double)b->total_ns / 1e3 / (double)b->count,
           (double)b->max_ns / 1e3, what);
}

static int print_summary(const struct trace *trace)
{
    struct merged m;
    const struct trace_event *e;
    unsigned cpu = 0;
    uint64_t total = merge_start(&m, trace), n = 0, lost = 0;

    for (unsigned c = 0; c < trace->header->cpus; c++)
        lost += m.pos[c];
    struct bucket *buckets = calloc(total + 1, sizeof(*buckets));
    if (buckets == NULL) {
        complain("no memory for %" PRIu64 " exits", total);
        return STATUS_HOST;
    }
    while ((e = merge_next(&m, &cpu)) != NULL)
        buckets[n++] = bucket_of(e);
    qsort(buckets, n, sizeof(*buckets), by_key);
    size_t used = fold(buckets, n);
    qsort(buckets, used, sizeof(*buckets), by_count);
    printf("%" PRIu64 " exits of %u CPUs", total, trace->header->cpus);
    if (lost > 0)
        printf("; %" PRIu64 " older ones were overwritten (--trace-events keeps more)", lost);
    printf("\n%10s %6s %11s %9s  %s\n", "exits", "share", "hv us mean", "max", "kind");
    for (size_t i = 0; i < used; i++)
        print_bucket(&buckets[i], total);
    free(buckets);
    return STATUS_OK;
}

/* --- Chrome-trace JSON: an array of events, one object a line, so that memory stays bounded --- */

static int put_json(FILE *out, json_t *object, const char *before)
{
    int rc = -ENOMEM;

    if (object != NULL) {
        rc = fputs(before, out) < 0 || json_dumpf(object, out, JSON_COMPACT) < 0 ? -EIO : 0;
        json_decref(object);
    }
    return rc;
}

static json_t *chrome_thread(unsigned cpu)
{
    char name[24];

    (void)snprintf(name, sizeof(name), "vCPU %u", cpu);
    return json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name", "thread_name", "ph", "M", "pid", 1,
                     "tid", (int)cpu, "args", "name", name);
}

/* A complete event ("X"): from the exit to the readiness for the next entry; what lies between is
 * guest time. */
static json_t *chrome_event(const struct trace *trace, const struct trace_event *e, unsigned cpu)
{
    char text[TRACE_TEXT_MAX], name[48], rip[24] = "";

    if (e->reason == KVM_EXIT_IO || e->reason == KVM_EXIT_MMIO)
        (void)snprintf(name, sizeof(name), "%s %s 0x%" PRIx64, kvm_exit_name(e->reason),
                       e->flags & TRACE_WRITE ? "write" : "read", e->addr);
    else
        (void)snprintf(name, sizeof(name), "%s", kvm_exit_name(e->reason));
    if (e->flags & TRACE_HAS_RIP)
        (void)snprintf(rip, sizeof(rip), "0x%" PRIx64, e->rip);
    return json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:s, s:{s:s, s:s}}", "name", name, "ph", "X",
                     "pid", 1, "tid", (int)cpu, "ts",
                     (double)(e->ns - trace->header->start_ns) / 1e3, "dur",
                     (double)e->handle_ns / 1e3, "cat", kvm_exit_name(e->reason), "args", "exit",
                     trace_text(e, text), "rip", rip);
}

static int write_chrome(const struct trace *trace, FILE *out)
{
    struct merged m;
    const struct trace_event *e;
    unsigned cpu = 0;
    const char *before = "[\n";
    int rc = 0;

    for (unsigned c = 0; rc == 0 && c < trace->header->cpus; c++, before = ",\n")
        rc = put_json(out, chrome_thread(c), before);
    (void)merge_start(&m, trace);
    while (rc == 0 && (e = merge_next(&m, &cpu)) != NULL)
        rc = put_json(out, chrome_event(trace, e, cpu), before);
    if (rc == 0 && fputs("\n]\n", out) < 0)
        rc = -EIO;
    return rc;
}

static int export_chrome(const struct trace *trace, const char *path)
{
    FILE *out = fopen(path, "we");

    if (out == NULL) {
        complain("--chrome %s: %s", path, strerror(errno));
        return STATUS_HOST;
    }
    int rc = write_chrome(trace, out);
    if (fclose(out) != 0 || rc < 0) {
        complain("--chrome %s: cannot write it: %s", path, strerror(rc < 0 ? -rc : errno));
        return STATUS_HOST;
    }
    return STATUS_OK;
}

static int trace_command(const struct cli_command *cmd, int argc, char **argv)
{
    struct trace_options opt = {0};
    struct trace trace;
    struct error err = {0};
    int status = STATUS_OK;

    int first = cli_parse(cmd, argc, argv, &opt);
    if (first < 0)
        return STATUS_USAGE;
    if (argc - first != 1) {
        complain("hv trace takes one file, made by hv run --trace FILE");
        return STATUS_USAGE;
    }
    if (trace_open(argv[first], &trace, &err) < 0) {
        complain("%s", err.text);
        return STATUS_INPUT;
    }
    if (opt.chrome != NULL)
        status = export_chrome(&trace, opt.chrome);
    if (status == STATUS_OK && opt.summary)
        status = print_summary(&trace);
    if (status == STATUS_OK && !opt.summary && opt.chrome == NULL)
        print_list(&trace, opt.last);
    trace_close(&trace);
    int out = cli_finish_output();
    return status != STATUS_OK ? status : out;
}

const struct cli_command command_trace = {
    .name = "trace",
    .arguments = "FILE",
    .summary = "Show, add up or convert a recorded exit trace",
    .groups = trace_groups,
    .group_count = ARRAY_LEN(trace_groups),
    .run = trace_command,
};
