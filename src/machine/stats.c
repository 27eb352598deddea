/*
 * Numbers about a machine's life.
 */
#include <inttypes.h>
#include <sys/mman.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "machine_priv.h"

#define PAGES_AT_ONCE 4096

static uint64_t count_resident(const struct mem_region *r, uint64_t offset, size_t pages)
{
    unsigned char in_core[PAGES_AT_ONCE];
    uint64_t count = 0;

    if (mincore((char *)r->host + offset, pages * MEM_PAGE_SIZE, in_core) < 0)
        return 0;
    for (size_t p = 0; p < pages; p++)
        count += in_core[p] & 1;
    return count;
}

uint64_t stats_resident(const struct machine *m)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < m->mem.count; i++) {
        const struct mem_region *r = &m->mem.regions[i];
        for (uint64_t at = 0; at < r->size; at += PAGES_AT_ONCE * MEM_PAGE_SIZE) {
            uint64_t left = (r->size - at) / MEM_PAGE_SIZE;
            pages += count_resident(r, at, left < PAGES_AT_ONCE ? left : PAGES_AT_ONCE);
        }
    }
    return pages * MEM_PAGE_SIZE;
}

void machine_print_stats(const struct machine *m, FILE *out)
{
    double seconds = (double)(now_ns() - m->created_ns) / 1e9;
    uint64_t total = 0;

    for (unsigned i = 0; i < m->cfg.cpus; i++)
        total += m->cpus[i].exit_count;
    (void)fprintf(out, "ran %.3f s, %" PRIu64 " exits, %" PRIu64 " KiB of guest memory touched\n",
                  seconds, total, stats_resident(m) / KIB);
    for (unsigned i = 0; i < m->cfg.cpus; i++) {
        (void)fprintf(out, "  CPU %u:", i);
        for (unsigned r = 0; r < EXIT_REASONS; r++)
            if (m->cpus[i].exits[r] > 0)
                (void)fprintf(out, " %s %" PRIu64, kvm_exit_name(r), m->cpus[i].exits[r]);
        (void)fprintf(out, "\n");
    }
    (void)fprintf(
        out, "  bytes of accesses that no device answered: ports %" PRIu64 ", memory %" PRIu64 "\n",
        atomic_load(&m->pio.unclaimed), atomic_load(&m->mmio.unclaimed));
}
