/*
 * Writes down the last exits of every vCPU of the program that it is loaded into (LD_PRELOAD), for
 * labs/tool/exits.py: whatever the learner's monitor can say itself by then, a failed check shows
 * what the guest did last.
 *
 * It stands before libc's ioctl() and mmap(): mapping a descriptor at offset 0 with room for a
 * struct kvm_run makes it a vCPU once KVM_RUN is called on it. The notes are a ring in a file,
 * EXITS_FILE, which outlives a program that is killed. Left out: programs that call KVM without
 * libc's ioctl(); they have no notes, and that is all.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOTES 64
#define VCPUS 64

/* exits.py reads these: little-endian, 40 bytes. */
struct note {
    uint32_t reason, vcpu;
    uint32_t size, count; /* IO: of an element, and how many; MMIO: size; else what tells more */
    uint64_t address;     /* IO: the port; MMIO: guest-physical; else what tells more */
    uint8_t is_write;
    uint8_t pad[7];
    uint8_t data[8];
};
_Static_assert(sizeof(struct note) == 40, "exits.py knows this size");

struct ring {
    _Atomic uint64_t count; /* of all exits so far */
    struct note notes[NOTES];
};

static struct ring *ring;
static struct {
    _Atomic int fd; /* + 1; 0: free */
    const struct kvm_run *run;
} vcpus[VCPUS];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("EXITS_FILE");
    int fd = path == NULL ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return;
    void *map = (void *)syscall(SYS_mmap, NULL, sizeof(*ring), PROT_READ | PROT_WRITE, // NOLINT
                                MAP_SHARED, fd, 0L);
    if (map != MAP_FAILED)
        ring = map;
    (void)syscall(SYS_close, fd);
}

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    void *map = (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset); // NOLINT

    if (map == MAP_FAILED || ring == NULL || fd < 0 || offset != 0 || (flags & MAP_SHARED) == 0 ||
        length < sizeof(struct kvm_run))
        return map;
    for (int i = 0; i < VCPUS; i++) {
        int seen = atomic_load(&vcpus[i].fd);
        if (seen == fd + 1 ||
            (seen == 0 && atomic_compare_exchange_strong(&vcpus[i].fd, &seen, fd + 1))) {
            vcpus[i].run = map;
            break;
        }
    }
    return map;
}

void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));

static void write_down(const struct kvm_run *run, unsigned vcpu)
{
    struct note note = {.reason = run->exit_reason, .vcpu = vcpu};

    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        note.address = run->io.port;
        note.size = run->io.size;
        note.count = run->io.count;
        note.is_write = run->io.direction == KVM_EXIT_IO_OUT;
        if (note.is_write && note.size <= sizeof(note.data))
            memcpy(note.data, (const uint8_t *)run + run->io.data_offset, note.size);
        break;
    case KVM_EXIT_MMIO:
        note.address = run->mmio.phys_addr;
        note.size = run->mmio.len;
        note.count = 1;
        note.is_write = run->mmio.is_write;
        memcpy(note.data, run->mmio.data, sizeof(note.data));
        break;
    case KVM_EXIT_FAIL_ENTRY:
        note.address = run->fail_entry.hardware_entry_failure_reason;
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        note.size = run->internal.suberror;
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        note.size = run->system_event.type;
        break;
    default:
        break;
    }
    ring->notes[atomic_fetch_add(&ring->count, 1) % NOTES] = note;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    int rc = (int)syscall(SYS_ioctl, fd, request, arg);
    if (request == KVM_RUN && rc == 0 && ring != NULL)
        for (unsigned i = 0; i < VCPUS; i++)
            if (atomic_load(&vcpus[i].fd) == fd + 1 && vcpus[i].run != NULL)
                write_down(vcpus[i].run, i);
    return rc;
}
