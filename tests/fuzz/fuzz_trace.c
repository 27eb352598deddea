/*
 * Any bytes as a trace file: opened, and every event of every ring printed, as hv trace does.
 *
 * A trace of one vCPU has two pages before its events, so the input is spread: the header's fields,
 * the first ring's count, then event bytes, each at its place in a file of the size that fits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/machine/trace.h"

#define PAGE 4096
#define FILE_MAX (64U << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(const uint8_t **data, size_t *size, void *to, size_t len)
{
    size_t n = len < *size ? len : *size;

    memcpy(to, *data, n);
    *data += n;
    *size -= n;
}

/* Fills `file`, which is zeroed, and returns how long it is to be. */
static size_t spread(const uint8_t *data, size_t size, uint8_t *file)
{
    struct trace_header header = {.magic = TRACE_MAGIC, .cpus = 1, .capacity = 64};
    uint16_t cut = 0;
    uint8_t honest = 0;

    take(&data, &size, &honest, 1);
    take(&data, &size, &cut, sizeof(cut));
    if (honest % 4 == 0)
        take(&data, &size, &header, sizeof(header));
    memcpy(file, &header, sizeof(header));
    take(&data, &size, file + PAGE, 8);
    take(&data, &size, file + 2 * PAGE, FILE_MAX - 2 * PAGE);
    return FILE_MAX - (honest % 8 < 4 ? cut : 0);
}

static void print_all(const struct trace *trace)
{
    char text[TRACE_TEXT_MAX];

    for (unsigned cpu = 0; cpu < trace->header->cpus; cpu++) {
        struct trace_ring ring = trace_ring(trace, cpu);
        uint64_t first, end;
        trace_span(&ring, &first, &end);
        for (uint64_t i = first; i < end; i++)
            if (strlen(trace_text(trace_at(&ring, i), text)) >= TRACE_TEXT_MAX)
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[FILE_MAX];
    struct trace trace;
    struct error err;
    char path[64];

    memset(file, 0, sizeof(file));
    size_t len = spread(data, size, file);
    int fd = memfd_create("trace", MFD_CLOEXEC);
    if (fd < 0 || fd_write_full(fd, file, len) < 0)
        abort();
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (trace_open(path, &trace, &err) == 0) {
        print_all(&trace);
        trace_close(&trace);
    }
    fd_close(&fd);
    return 0;
}
