/*
 * A KVM of our making with several vCPUs: what KVM_RUN does is the driver's function.
 *
 * The driver's ioctl() stands before libc's; everything but KVM_RUN succeeds and does nothing. A
 * vCPU's run structure is shared memory, as with the real one.
 */
#ifndef FAKE_SMP_H
#define FAKE_SMP_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "scene.h"

#define FAKE_CPUS 16
#define FAKE_RUN_SIZE (4 * 4096)

/* KVM_RUN of vCPU `cpu`: 0 when there was an exit, else -errno. */
static int enter(unsigned cpu, struct kvm_run *run);

static struct {
    int fd;
    struct kvm_run *run;
} fake[FAKE_CPUS];
static unsigned fake_count;

static inline int fake_vcpu(void)
{
    int fd = memfd_create("fake-vcpu", MFD_CLOEXEC);

    if (fd < 0 || fake_count == FAKE_CPUS || ftruncate(fd, FAKE_RUN_SIZE) < 0)
        return -1;
    fake[fake_count].fd = fd;
    fake[fake_count].run = mmap(NULL, FAKE_RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fake_count++;
    return fd;
}

/* Leaves 0 and 1 are the least that a CPUID policy can start from. */
static inline void fake_cpuid(struct kvm_cpuid2 *table)
{
    memset(table->entries, 0, 2 * sizeof(table->entries[0]));
    table->entries[1].function = 1;
    table->nent = 2;
}

static inline int fake_enter(int fd)
{
    for (unsigned i = 0; i < fake_count; i++) {
        if (fake[i].fd == fd) {
            int rc = enter(i, fake[i].run);
            errno = rc < 0 ? -rc : 0;
            return rc < 0 ? -1 : 0;
        }
    }
    errno = EBADF;
    return -1;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    switch (request) {
    case KVM_GET_API_VERSION:
        return KVM_API_VERSION;
    case KVM_GET_VCPU_MMAP_SIZE:
        return FAKE_RUN_SIZE;
    case KVM_CREATE_VM:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case KVM_CREATE_VCPU:
        return fake_vcpu();
    case KVM_RUN:
        return fake_enter(fd);
    case KVM_GET_SREGS:
        memset(arg, 0, sizeof(struct kvm_sregs));
        return 0;
    case KVM_GET_REGS:
        memset(arg, 0, sizeof(struct kvm_regs));
        return 0;
    case KVM_GET_SUPPORTED_CPUID:
        fake_cpuid(arg);
        return 0;
    case KVM_SET_MSRS:
        return 1;
    default:
        if ((request >> 8 & 0xff) == KVMIO)
            return 0;
        return (int)syscall(SYS_ioctl, fd, request, arg);
    }
}

/* An interrupted wait: -EINTR when a signal came within `ms`, 0 when none did. */
static inline int wait_for_signal(int ms)
{
    return poll(NULL, 0, ms) < 0 ? -EINTR : 0;
}

static inline bool wants_out(struct kvm_run *run)
{
    return __atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST) != 0;
}

/* A guest that computes for 20 ms, unless somebody wants the vCPU out. -EAGAIN (for which
 * vcpu_run() says -EINTR): nobody did. */
static inline int compute(struct kvm_run *run)
{
    return wants_out(run) || wait_for_signal(20) < 0 ? -EINTR : -EAGAIN;
}

/* The guest computed in the middle of a pause: it began in one (`world`), nobody disturbed it, and
 * the pause goes on. A vCPU that enters just before its kick does no wrong. */
static inline bool computed_in_pause(const struct machine *m, int world, struct kvm_run *run,
                                     int rc)
{
    return world == WORLD_PAUSE && rc == -EAGAIN && atomic_load(&m->world) == WORLD_PAUSE &&
           !wants_out(run);
}

static inline struct machine *fake_machine(unsigned cpus)
{
    static const struct log log = {.write = no_log};
    static const uint8_t hlt[] = {0xf4};
    struct error err = {0};
    struct machine *m = NULL;
    struct machine_config cfg = {
        .memory = 1 << 20,
        .cpus = cpus,
        .irqchip = true,
        .kvm_path = "/dev/null",
        .boot = {.protocol = BOOT_FLAT,
                 .kernel = hlt,
                 .kernel_size = sizeof(hlt),
                 .kernel_name = "hlt",
                 .flat_load = 0x7c00,
                 .flat_entry = 0x7c00},
        .log = &log,
    };

    if (!scene_needs(loop_create(&cfg.loop), "loop_create", &err) ||
        !scene_needs(machine_create(&cfg, &m, &err), "machine_create", &err))
        return NULL;
    return m;
}

static inline bool fake_start(struct machine *m)
{
    struct error err = {0};

    return scene_needs(machine_start(m, &err), "machine_start", &err);
}

/* Functions of libc that a driver stands before. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#endif
