/*
 * vcpu_create() against an ioctl() and an mmap() of our own.
 *
 * The fake vCPU is a real file descriptor (/dev/null), so that a leak can be counted; the fake
 * mapping is memory of ours.
 *
 * args: ID RUN_SIZE CREATE_ERRNO MMAP_ERRNO for each case   (0: that step succeeds)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "hv/kvm/kvm.h"
#include "observe.h"

#define POISON 0xa5
#define VM_FD 1234

static struct {
    int create_errno, mmap_errno; /* what it answers */
    int calls, asked_other, right_fd, vcpu_fd;
    uint64_t id_seen;
    int maps, map_fd_right, map_prot, map_flags;
    uint64_t map_length, map_offset;
} fake;
static uint8_t run_page[1 << 16];

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    uint64_t arg = va_arg(args, unsigned long);
    va_end(args);
    if (request != KVM_CREATE_VCPU) {
        fake.asked_other++;
        return 0;
    }
    fake.calls++;
    fake.id_seen = arg;
    fake.right_fd = fd == VM_FD;
    if (fake.create_errno != 0) {
        errno = fake.create_errno;
        return -1;
    }
    fake.vcpu_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return fake.vcpu_fd;
}

/* libc fake.maps memory of its own now and then; only the vCPU's is ours. */
void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    if (fd < 0)
        return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset); // NOLINT
    fake.maps++;
    fake.map_fd_right = fd == fake.vcpu_fd;
    fake.map_length = length;
    fake.map_prot = prot;
    fake.map_flags = flags;
    fake.map_offset = (uint64_t)offset;
    errno = fake.mmap_errno;
    return fake.mmap_errno != 0 ? MAP_FAILED : run_page;
}

static void try(unsigned id, size_t run_size)
{
    const struct vm vm = {.fd = VM_FD};
    const struct kvm kvm = {.fd = -1, .run_size = run_size};
    struct error err = {0};
    struct vcpu vcpu;

    memset(&vcpu, POISON, sizeof(vcpu));
    int before = open_descriptors();
    int rc = vcpu_create(&kvm, &vm, id, &vcpu, &err);
    int after = open_descriptors();

    report_case();
    report_int("rc", rc);
    report_int("calls", fake.calls);
    report_int("asked_other", fake.asked_other);
    report_int("right_fd", fake.right_fd);
    report_u64("id_asked", fake.id_seen);
    report_int("maps", fake.maps);
    report_int("map_fd_right", fake.map_fd_right);
    report_u64("map_length", fake.map_length);
    report_int("map_shared",
               (fake.map_flags & MAP_SHARED) != 0 && (fake.map_flags & MAP_ANONYMOUS) == 0);
    report_int("map_writable", fake.map_prot == (PROT_READ | PROT_WRITE));
    report_u64("map_offset", fake.map_offset);
    report_int("opened", after - before);
    report_int("untouched", all_bytes_are(&vcpu, POISON, sizeof(vcpu)));
    report_u64("id", vcpu.id);
    report_int("fd_kept", vcpu.fd == fake.vcpu_fd);
    report_int("run_kept", (void *)vcpu.run == (void *)run_page);
    report_u64("run_size", vcpu.run_size);
    report_string("error", err.text);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 3 < argc; i += 4) {
        memset(&fake, 0, sizeof(fake));
        fake.vcpu_fd = -1;
        fake.create_errno = atoi(argv[i + 2]);
        fake.mmap_errno = atoi(argv[i + 3]);
        try((unsigned)number(argv[i]), number(argv[i + 1]));
    }
    return report_end();
}
