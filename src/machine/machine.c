#include "hv/machine/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/acpi/acpi.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/devices/acpi_pm.h"
#include "hv/machine/layout.h"
#include "machine_priv.h"

#define PORT_LIMIT 0xffff

/* --- creation --- */

static int check_config(const struct machine_config *cfg, struct error *err)
{
    char min[SIZE_TEXT_MAX], max[SIZE_TEXT_MAX];

    if (cfg->cpus < 1 || cfg->cpus > X86_CPUS_MAX)
        return error_set(err, -EINVAL, "%u CPUs: give 1 to %u", cfg->cpus, X86_CPUS_MAX);
    if (cfg->cpus > 1 && !cfg->irqchip)
        return error_set(err, -EINVAL, "more than one CPU needs the interrupt controllers");
    if (cfg->memory < LAYOUT_MEMORY_MIN || cfg->memory > LAYOUT_MEMORY_MAX ||
        cfg->memory % MEM_PAGE_SIZE != 0)
        return error_set(err, -EINVAL, "memory must be %s to %s, a multiple of 4K",
                         format_size(LAYOUT_MEMORY_MIN, min), format_size(LAYOUT_MEMORY_MAX, max));
    return 0;
}

static int create_vm(struct machine *m, struct error *err)
{
    int rc = kvm_open(m->cfg.kvm_path, &m->kvm, err);

    if (rc == 0)
        rc = vm_create(&m->kvm, &m->vm, err);
    if (rc == 0)
        rc = vm_set_tss_addr(&m->vm, LAYOUT_TSS, err);
    if (rc == 0)
        rc = vm_set_identity_map_addr(&m->vm, LAYOUT_IDENTITY_MAP, err);
    if (rc == 0 && m->cfg.irqchip)
        rc = vm_create_irqchip(&m->vm, err);
    if (rc == 0 && m->cfg.irqchip)
        rc = vm_create_pit(&m->vm, err);
    int sync = kvm_check(&m->kvm, KVM_CAP_SYNC_REGS);
    m->can_sample = (sync & KVM_SYNC_X86_REGS) && (sync & KVM_SYNC_X86_SREGS);
    return rc;
}

static int create_memory(struct machine *m, struct error *err)
{
    int rc = layout_add_ram(&m->mem, m->cfg.memory, m->cfg.backing, err);

    for (unsigned i = 0; rc == 0 && i < m->mem.count; i++) {
        const struct mem_region *r = &m->mem.regions[i];
        uint32_t flags = r->kind == MEM_ROM ? KVM_MEM_READONLY : 0;
        rc = vm_set_memory(&m->vm, i, r->gpa, r->size, r->host, flags, err);
    }
    return rc;
}

static int write_firmware_tables(struct machine *m, struct error *err)
{
    const struct acpi_config acpi = {
        .cpus = m->cfg.cpus,
        .lapic_gpa = LAYOUT_LAPIC,
        .ioapic_gpa = LAYOUT_IOAPIC,
        .ioapic_id = 0,
        .rsdp_gpa = LAYOUT_RSDP,
        .tables_gpa = LAYOUT_ACPI_TABLES,
        .tables_size = LAYOUT_ACPI_END - LAYOUT_ACPI_TABLES,
    };
    int rc = layout_write_bios_data(&m->mem);

    if (rc == 0 && m->cfg.irqchip)
        rc = acpi_build(&m->mem, &acpi, NULL);
    return rc < 0 ? error_sys(err, rc, "cannot write the firmware tables") : 0;
}

static int load_kernel(struct machine *m, struct error *err)
{
    struct boot_request req = m->cfg.boot;

    layout_describe(m->cfg.memory, m->cfg.irqchip, &req.layout);
    return boot_load(&m->mem, &req, m->cfg.log, &m->entry, err);
}

static int create_cpus(struct machine *m, struct error *err)
{
    struct kvm_cpuid2 *supported;
    int rc = kvm_supported_cpuid(&m->kvm, &supported, err);

    if (rc < 0)
        return rc;
    m->cpus = calloc(m->cfg.cpus, sizeof(*m->cpus));
    if (m->cpus == NULL)
        rc = error_set(err, -ENOMEM, "no memory for %u CPUs", m->cfg.cpus);
    for (unsigned i = 0; rc == 0 && i < m->cfg.cpus; i++)
        rc = cpu_create(m, &m->cpus[i], i, supported, err);
    free(supported);
    return rc;
}

int machine_create(const struct machine_config *cfg, struct machine **out, struct error *err)
{
    int rc = check_config(cfg, err);

    if (rc < 0)
        return rc;
    struct machine *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return error_set(err, -ENOMEM, "no memory for a machine");
    m->cfg = *cfg;
    m->kvm.fd = m->vm.fd = -1;
    m->created_ns = now_ns();
    mem_init(&m->mem);
    bus_init(&m->pio, PORT_LIMIT);
    bus_init(&m->mmio, UINT64_MAX);
    pthread_mutex_init(&m->world_lock, NULL);
    pthread_cond_init(&m->world_change, NULL);
    pthread_mutex_init(&m->end_lock, NULL);

    rc = create_vm(m, err);
    if (rc == 0)
        rc = create_memory(m, err);
    if (rc == 0)
        rc = write_firmware_tables(m, err);
    if (rc == 0)
        rc = load_kernel(m, err);
    if (rc == 0)
        rc = board_wire(m, err);
    if (rc == 0)
        rc = create_cpus(m, err);
    if (rc < 0) {
        machine_destroy(m);
        return rc;
    }
    m->cfg.boot = (struct boot_request){0}; /* its pointers are the caller's, and used */
    *out = m;
    return 0;
}

/* --- the world: running, paused, stopped --- */

/* Stopped is for good: a pause or resume that comes too late changes nothing, but the vCPUs are
 * kicked all the same, because machine_end() leaves that to whoever waits for them. */
static void set_world(struct machine *m, enum world world)
{
    pthread_mutex_lock(&m->world_lock);
    if (atomic_load(&m->world) != WORLD_STOP)
        atomic_store(&m->world, world);
    for (unsigned i = 0; world != WORLD_RUN && m->cpus != NULL && i < m->cfg.cpus; i++)
        if (m->cpus[i].vcpu.run != NULL)
            cpu_kick(&m->cpus[i]);
    pthread_cond_broadcast(&m->world_change);
    pthread_mutex_unlock(&m->world_lock);
}

int machine_start(struct machine *m, bool paused, struct error *err)
{
    atomic_store(&m->world, paused ? WORLD_PAUSE : WORLD_RUN);
    for (unsigned i = 0; i < m->cfg.cpus; i++) {
        int rc = cpu_start_thread(&m->cpus[i], err);
        if (rc < 0)
            return rc; /* machine_destroy() joins those that did start */
    }
    return 0;
}

void machine_pause(struct machine *m)
{
    set_world(m, WORLD_PAUSE);
    pthread_mutex_lock(&m->world_lock);
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        while (m->cpus[i].started && !m->cpus[i].parked)
            pthread_cond_wait(&m->world_change, &m->world_lock);
    pthread_mutex_unlock(&m->world_lock);
}

void machine_resume(struct machine *m)
{
    set_world(m, WORLD_RUN);
}

bool machine_is_paused(const struct machine *m)
{
    return atomic_load(&m->world) == WORLD_PAUSE;
}

static void stop_cpus(struct machine *m)
{
    set_world(m, WORLD_STOP);
    for (unsigned i = 0; m->cpus != NULL && i < m->cfg.cpus; i++) {
        if (!m->cpus[i].started)
            continue;
        (void)pthread_join(m->cpus[i].thread, NULL);
        m->cpus[i].started = false;
    }
}

/* --- the end --- */

void machine_end(struct machine *m, const struct machine_outcome *outcome)
{
    pthread_mutex_lock(&m->end_lock);
    if (!m->ended) {
        m->ended = true;
        m->outcome = *outcome;
    }
    pthread_mutex_unlock(&m->end_lock);
    /* A vCPU that ended its machine must not run on until the main thread has woken. */
    atomic_store(&m->world, WORLD_STOP);
    loop_wake(m->cfg.loop);
}

static bool has_ended(struct machine *m, struct machine_outcome *out)
{
    pthread_mutex_lock(&m->end_lock);
    bool ended = m->ended;
    if (ended)
        *out = m->outcome;
    pthread_mutex_unlock(&m->end_lock);
    return ended;
}

int machine_run(struct machine *m, struct machine_outcome *out, struct error *err)
{
    int rc = 0;

    while (rc == 0 && !has_ended(m, out))
        rc = loop_run_once(m->cfg.loop, -1);
    stop_cpus(m);
    return rc < 0 ? error_sys(err, rc, "the event loop failed") : 0;
}

void machine_destroy(struct machine *m)
{
    if (m == NULL)
        return;
    stop_cpus(m);
    for (unsigned i = 0; m->cpus != NULL && i < m->cfg.cpus; i++)
        cpu_destroy(&m->cpus[i]);
    free(m->cpus);
    board_unwire(m);
    bus_fini(&m->mmio);
    bus_fini(&m->pio);
    vm_close(&m->vm);
    kvm_close(&m->kvm);
    mem_fini(&m->mem);
    pthread_mutex_destroy(&m->end_lock);
    pthread_cond_destroy(&m->world_change);
    pthread_mutex_destroy(&m->world_lock);
    free(m);
}

/* --- small things --- */

void machine_power_button(struct machine *m)
{
    acpi_pm_power_button(m->power);
}

enum boot_protocol machine_protocol(const struct machine *m)
{
    return m->entry.protocol;
}

unsigned machine_device_count(const struct machine *m)
{
    return m->device_count;
}

struct device *machine_device(const struct machine *m, unsigned index)
{
    return m->devices[index];
}

/* Bytes of guest memory that are resident in the host's memory. */
static uint64_t resident_memory(const struct machine *m)
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
                  seconds, total, resident_memory(m) / KIB);
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
