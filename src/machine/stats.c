/*
 * Numbers about a machine's life.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "machine_priv.h"

uint64_t stats_resident(const struct machine *m)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < m->mem.count; i++) {
        const struct mem_region *r = &m->mem.regions[i];
        size_t count = r->size / MEM_PAGE_SIZE;
        unsigned char *in_core = malloc(count);
        if (in_core == NULL || mincore(r->host, r->size, in_core) < 0)
            count = 0;
        for (size_t p = 0; p < count; p++)
            pages += in_core[p] & 1;
        free(in_core);
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
