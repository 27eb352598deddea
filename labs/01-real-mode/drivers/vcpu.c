/*
 * vcpu_create() against an ioctl() and an mmap() of our own.
 *
 * The fake vCPU is a real file descriptor (/dev/null), so that a leak can be counted; the fake
 * mapping is memory of ours.
 *
 * args: ID RUN_SIZE CREATE_ERRNO MMAP_ERRNO   (0: that step succeeds)
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

static int create_errno, mmap_errno;
static int calls, asked_other, right_fd, vcpu_fd = -1;
static uint64_t id_seen;
static int maps, map_fd_right, map_prot, map_flags;
static uint64_t map_length, map_offset;
static uint8_t run_page[1 << 16];

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    uint64_t arg = va_arg(args, unsigned long);
    va_end(args);
    if (request != KVM_CREATE_VCPU) {
        asked_other++;
        return 0;
    }
    calls++;
    id_seen = arg;
    right_fd = fd == VM_FD;
    if (create_errno != 0) {
        errno = create_errno;
        return -1;
    }
    vcpu_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return vcpu_fd;
}

/* libc maps memory of its own now and then; only the vCPU's is ours. */
void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    if (fd < 0)
        return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset); // NOLINT
    maps++;
    map_fd_right = fd == vcpu_fd;
    map_length = length;
    map_prot = prot;
    map_flags = flags;
    map_offset = (uint64_t)offset;
    errno = mmap_errno;
    return mmap_errno != 0 ? MAP_FAILED : run_page;
}

int main(int argc, char **argv)
{
    const struct vm vm = {.fd = VM_FD};
    struct error err = {0};
    struct vcpu vcpu;

    if (argc != 5)
        return 2;
    const struct kvm kvm = {.fd = -1, .run_size = number(argv[2])};
    create_errno = atoi(argv[3]);
    mmap_errno = atoi(argv[4]);
    memset(&vcpu, POISON, sizeof(vcpu));
    int before = open_descriptors();
    int rc = vcpu_create(&kvm, &vm, (unsigned)number(argv[1]), &vcpu, &err);
    int after = open_descriptors();

    report_int("rc", rc);
    report_int("calls", calls);
    report_int("asked_other", asked_other);
    report_int("right_fd", right_fd);
    report_u64("id_asked", id_seen);
    report_int("maps", maps);
    report_int("map_fd_right", map_fd_right);
    report_u64("map_length", map_length);
    report_int("map_shared", (map_flags & MAP_SHARED) != 0 && (map_flags & MAP_ANONYMOUS) == 0);
    report_int("map_writable", map_prot == (PROT_READ | PROT_WRITE));
    report_u64("map_offset", map_offset);
    report_int("opened", after - before);
    report_int("untouched", all_bytes_are(&vcpu, POISON, sizeof(vcpu)));
    report_u64("id", vcpu.id);
    report_int("fd_kept", vcpu.fd == vcpu_fd);
    report_int("run_kept", (void *)vcpu.run == (void *)run_page);
    report_u64("run_size", vcpu.run_size);
    report_string("error", err.text);
    return report_end();
}
