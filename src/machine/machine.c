#include "hv/machine/machine.h"

#include <errno.h>
#include <stdlib.h>

#include "hv/base/fd.h" // lab 05
#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "hv/devices/acpi_pm.h" // lab 05
#include "hv/machine/layout.h"
#include "machine_priv.h"

#define PORT_LIMIT 0xffff

/* --- creation --- */

static int check_config(const struct machine_config *cfg, struct error *err)
{
    char min[SIZE_TEXT_MAX], max[SIZE_TEXT_MAX];

    // lab 06 {
    if (cfg->cpus < 1 || cfg->cpus > X86_CPUS_MAX)
        return error_set(err, -EINVAL, "%u CPUs: give 1 to %u", cfg->cpus, X86_CPUS_MAX);
    if (cfg->cpus > 1 && !cfg->irqchip)
        return error_set(err, -EINVAL, "more than one CPU needs the interrupt controllers");
    // }
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
    // lab 04 {
    if (rc == 0 && m->cfg.irqchip)
        rc = vm_create_irqchip(&m->vm, err);
    if (rc == 0 && m->cfg.irqchip)
        rc = vm_create_pit(&m->vm, err);
    // }
    // lab 05 {
    int sync = kvm_check(&m->kvm, KVM_CAP_SYNC_REGS);
    m->can_sample = (sync & KVM_SYNC_X86_REGS) && (sync & KVM_SYNC_X86_SREGS);
    // }
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

static int load_kernel(struct machine *m, struct error *err)
{
    struct boot_request req = m->cfg.boot;

    bool acpi = false;                                 // lab 03
    acpi = m->cfg.irqchip;                             // lab 05
    layout_describe(m->cfg.memory, acpi, &req.layout); // lab 03
    return boot_load(&m->mem, &req, m->cfg.log, &m->entry, err);
}

static int create_cpus(struct machine *m, struct error *err)
{
    int rc = 0;

    m->cpus = calloc(m->cfg.cpus, sizeof(*m->cpus));
    if (m->cpus == NULL)
        return error_set(err, -ENOMEM, "no memory for %u CPUs", m->cfg.cpus);
    for (unsigned i = 0; rc == 0 && i < m->cfg.cpus; i++)
        rc = cpu_create(m, &m->cpus[i], i, err);
    return rc;
}

/* vCPU 0 starts where the loader says; the others wait in KVM for INIT and SIPI (SDM 3A §8.4.4). */
static int enter_kernel(struct machine *m, struct error *err)
{
    return cpu_enter(&m->cpus[0], &m->entry, err);
}

/* In this order. What a step made, machine_destroy() undoes, also when a later one fails. */
static int (*const creation[])(struct machine *m, struct error *err) = {
    create_vm,
    create_memory,
    write_firmware_tables, // lab 05
    load_kernel,
    board_wire,
    create_cpus,
    identify_cpus, // lab 05
    enter_kernel,
};

static void init(struct machine *m, const struct machine_config *cfg)
{
    m->cfg = *cfg;
    m->kvm.fd = m->vm.fd = -1;
    m->created_ns = now_ns(); // lab 05
    mem_init(&m->mem);
    bus_init(&m->pio, PORT_LIMIT);
    bus_init(&m->mmio, UINT64_MAX);            // lab 02
    pthread_mutex_init(&m->world_lock, NULL);  // lab 04
    pthread_cond_init(&m->world_change, NULL); // lab 04
    pthread_mutex_init(&m->end_lock, NULL);
}

int machine_create(const struct machine_config *cfg, struct machine **out, struct error *err)
{
    int rc = check_config(cfg, err);

    if (rc < 0)
        return rc;
    struct machine *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return error_set(err, -ENOMEM, "no memory for a machine");
    init(m, cfg);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(creation); i++)
        rc = creation[i](m, err);
    if (rc < 0) {
        machine_destroy(m);
        return rc;
    }
    m->cfg.boot = (struct boot_request){0}; /* its pointers are the caller's, and used */
    *out = m;
    return 0;
}

/* --- running --- */

int machine_start(struct machine *m, struct error *err)
{
    // lab 07 {
    int io = virtio_start_threads(m, err);
    if (io < 0)
        return io;
    // }
    for (unsigned i = 0; i < m->cfg.cpus; i++) {
        int rc = cpu_start_thread(&m->cpus[i], err);
        if (rc < 0)
            return rc; /* machine_destroy() joins those that did start */
    }
    return 0;
}

static void stop_cpus(struct machine *m)
{
    world_set(m, WORLD_STOP); // lab 04
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
    /* EXERCISE 6.9: any thread comes here, several in the same moment. The first one's outcome
     * stays (end_lock guards `ended` and `outcome`). A vCPU that ended its machine must not enter
     * the guest again, and the main thread must wake from its loop to see that it is over; what
     * the main thread still finds to do, stop_cpus() does. Nothing here may wait: the caller may
     * be inside a device, with its lock held. */
    // SOLUTION 6.9
    pthread_mutex_lock(&m->end_lock);
    if (!m->ended) {
        m->ended = true;
        m->outcome = *outcome;
    }
    pthread_mutex_unlock(&m->end_lock);
    atomic_store(&m->world, WORLD_STOP);
    loop_wake(m->cfg.loop);
    // ELSE
    // (void)todo("6.9");
    // m->outcome = *outcome;
    // m->ended = true;
    // loop_wake(m->cfg.loop);
    // BEFORE
    // pthread_mutex_lock(&m->end_lock);
    // m->ended = true;
    // m->outcome = *outcome;
    // pthread_mutex_unlock(&m->end_lock);
    // /* A vCPU that ended its machine must not run on until the main thread has woken. */
    // atomic_store(&m->world, WORLD_STOP);
    // loop_wake(m->cfg.loop); // lab 04
    // END 6.9
}

// lab 04 {
static bool has_ended(struct machine *m)
{
    pthread_mutex_lock(&m->end_lock);
    bool ended = m->ended;
    pthread_mutex_unlock(&m->end_lock);
    return ended;
}

static int wait_for_end(struct machine *m, struct error *err)
{
    int rc = 0;

    while (rc == 0 && !has_ended(m)) {
        rc = loop_run_once(m->cfg.loop, -1);
        debug_deliver(m);
    }
    return rc < 0 ? error_sys(err, rc, "the event loop failed") : 0;
}
// }

int machine_run(struct machine *m, struct machine_outcome *out, struct error *err)
{
    int rc = 0;

    rc = wait_for_end(m, err); // lab 04
    stop_cpus(m);
    virtio_stop_threads(m); // lab 07
    if (rc == 0)
        *out = m->outcome;
    return rc;
}

void machine_destroy(struct machine *m)
{
    if (m == NULL)
        return;
    stop_cpus(m);
    virtio_stop_threads(m); // lab 07
    for (unsigned i = 0; m->cpus != NULL && i < m->cfg.cpus; i++)
        cpu_destroy(&m->cpus[i]);
    free(m->cpus);
    board_unwire(m);
    virtio_unwire(m);   // lab 07
    bus_fini(&m->mmio); // lab 02
    bus_fini(&m->pio);
    vm_close(&m->vm);
    kvm_close(&m->kvm);
    mem_fini(&m->mem);
    pthread_mutex_destroy(&m->end_lock);
    pthread_cond_destroy(&m->world_change); // lab 04
    pthread_mutex_destroy(&m->world_lock);  // lab 04
    free(m);
}

// lab 05 {
/* --- small things --- */

void machine_power_button(struct machine *m)
{
    acpi_pm_power_button(m->power);
}

enum boot_protocol machine_protocol(const struct machine *m)
{
    return m->entry.protocol;
}
// }

// lab 10 {
unsigned machine_device_count(const struct machine *m)
{
    return m->device_count;
}

struct device *machine_device(const struct machine *m, unsigned index)
{
    return m->devices[index];
}
// }
