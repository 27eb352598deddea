/*
 * A machine with several vCPUs on the host's KVM.
 */
#ifndef REAL_SMP_H
#define REAL_SMP_H

#include <errno.h>

#include "hv/base/fd.h"
#include "hv/bus/bus.h"
#include "hv/chr/chr.h"
#include "hv/kvm/vcpu_state.h"
#include "hv/mem/mem.h"
#include "scene.h"

static struct chr *guest_says;

/* A machine that has read the program at PATH, and is not yet started. */
static inline struct machine *real_machine(const char *path, enum boot_protocol protocol,
                                           unsigned cpus)
{
    static const struct log log = {.write = no_log};
    struct error err = {0};
    struct file_bytes file = {0};
    struct machine *m = NULL;
    struct machine_config cfg = {
        .memory = 2 << 20, .cpus = cpus, .irqchip = true, .kvm_path = KVM_DEVICE, .log = &log};

    if (!scene_needs(file_read_all(path, 1 << 20, &file, &err), "file_read_all", &err) ||
        !scene_needs(loop_create(&cfg.loop), "loop_create", &err) ||
        !scene_needs(chr_mem_create(4096, &guest_says), "chr_mem_create", &err))
        return NULL;
    cfg.debug = guest_says;
    cfg.boot = (struct boot_request){.protocol = protocol,
                                     .kernel = file.data,
                                     .kernel_size = file.size,
                                     .kernel_name = path,
                                     .flat_load = 0x7c00,
                                     .flat_entry = 0x7c00};
    (void)scene_needs(machine_create(&cfg, &m, &err), "machine_create", &err);
    file_fini(&file);
    return m;
}

static inline bool real_start(struct machine *m)
{
    struct error err = {0};

    return scene_needs(machine_start(m, &err), "machine_start", &err);
}

static inline void real_destroy(struct machine *m)
{
    struct loop *loop = m->cfg.loop;

    stage = "machine_destroy()";
    machine_destroy(m);
    loop_destroy(loop);
    chr_destroy(guest_says);
}

static inline uint32_t word_at(struct machine *m, uint64_t gpa)
{
    uint32_t v = 0;

    (void)!mem_read(&m->mem, gpa, &v, sizeof(v));
    return v;
}

/* Ends the machine after a while, whatever its guest does. */
struct deadline {
    struct machine *m;
    unsigned ms;
    _Atomic int over, late;
    pthread_t thread;
};

static inline void *deadline_main(void *arg)
{
    struct deadline *d = arg;

    if (!reaches(&d->over, 1, d->ms)) {
        d->late = 1;
        machine_end(d->m, &(struct machine_outcome){.end = MACHINE_QUIT});
    }
    return NULL;
}

/* machine_run(), but for at most `ms`. True: the guest itself came to an end. */
static inline bool run_at_most(struct machine *m, unsigned ms, struct machine_outcome *out)
{
    struct deadline d = {.m = m, .ms = ms};
    struct error err = {0};

    if (pthread_create(&d.thread, NULL, deadline_main, &d) != 0)
        return false;
    stage = "machine_run()";
    int rc = machine_run(m, out, &err);
    d.over = 1;
    (void)pthread_join(d.thread, NULL);
    return scene_needs(rc, "machine_run", &err) && !d.late;
}

#endif
