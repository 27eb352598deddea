/*
 * A KVM without a processor: put before libc (LD_PRELOAD), it lets hv run any sequence of exits.
 *
 * Some exits are hard to provoke with a guest, and none can be provoked on a host without KVM. Here
 * KVM_RUN takes the next line of a script instead of running anything; all other ioctls succeed.
 *
 * FAKE_EXITS: exits, separated by blanks; after the last one comes HLT.
 *   out:PORT:SIZE:HEX   OUT or OUTS of all the bytes in HEX, SIZE at a time
 *   in:PORT:SIZE:COUNT  IN or INS; the data area holds 0x5a before
 *   reason:NUMBER       any other exit
 *   EINTR EAGAIN        KVM_RUN fails with that
 * On descriptor 3: {"answer": "HEX", "runs": N}, what the last IN was answered and how often
 * KVM_RUN was called.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "observe.h"

#define RUN_SIZE (16 * 4096)
#define DATA_OFFSET 4096
#define SHOWN_MAX 64 /* bytes of an answer that are reported */

static struct kvm_run *run; /* our view of the vCPU's page */
static int runs;
static bool pending_in;
static const char *next;

static int fail(int code)
{
    errno = code;
    return -1;
}

static int new_vcpu(void)
{
    int fd = memfd_create("fake-vcpu", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, RUN_SIZE) < 0)
        return -1;
    run = (struct kvm_run *)syscall(SYS_mmap, NULL, (size_t)RUN_SIZE, PROT_READ | PROT_WRITE,
                                    MAP_SHARED, fd, 0L); // NOLINT
    next = getenv("FAKE_EXITS");
    return fd;
}

static uint8_t *data_area(void)
{
    return (uint8_t *)run + DATA_OFFSET;
}

static void note_answer(void)
{
    size_t size = (size_t)run->io.size * run->io.count;

    if (!pending_in)
        return;
    pending_in = false;
    report_hex("answer", data_area(), size < SHOWN_MAX ? size : SHOWN_MAX);
}

static void set_io(uint8_t direction, unsigned port, unsigned size, uint32_t count)
{
    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = direction;
    run->io.port = (uint16_t)port;
    run->io.size = (uint8_t)size;
    run->io.count = count;
    run->io.data_offset = DATA_OFFSET;
}

/* One word of the script. */
static int play(const char *word)
{
    unsigned port, size, count, reason;
    int hex = 0;

    if (strncmp(word, "EINTR", 5) == 0 || strncmp(word, "EAGAIN", 6) == 0)
        return fail(word[1] == 'I' ? EINTR : EAGAIN);
    if (sscanf(word, "out:%u:%u:%n", &port, &size, &hex) == 2 && hex > 0) {
        size_t room = strcspn(word + hex, " ") / 2;
        size_t n = from_hex(word + hex, data_area(), room);
        set_io(KVM_EXIT_IO_OUT, port, size, (uint32_t)n / size);
    } else if (sscanf(word, "in:%u:%u:%u", &port, &size, &count) == 3) {
        set_io(KVM_EXIT_IO_IN, port, size, count);
        memset(data_area(), 0x5a, (size_t)size * count);
        pending_in = true;
    } else if (sscanf(word, "reason:%u", &reason) == 1) {
        run->exit_reason = reason;
    }
    return 0;
}

static int run_next(void)
{
    runs++;
    note_answer();
    if (next == NULL || *next == '\0') {
        run->exit_reason = KVM_EXIT_HLT;
        return 0;
    }
    const char *word = next;
    next += strcspn(word, " ");
    next += *next == ' ';
    return play(word);
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
        return RUN_SIZE;
    case KVM_CREATE_VM:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case KVM_CREATE_VCPU:
        return new_vcpu();
    case KVM_RUN:
        return run_next();
    case KVM_GET_SREGS:
        memset(arg, 0, sizeof(struct kvm_sregs));
        return 0;
    case KVM_GET_REGS:
        memset(arg, 0, sizeof(struct kvm_regs));
        return 0;
    case KVM_GET_SUPPORTED_CPUID:
        ((struct kvm_cpuid2 *)arg)->nent = 0;
        return 0;
    default:
        if ((request >> 8 & 0xff) == KVMIO)
            return 0;
        return (int)syscall(SYS_ioctl, fd, request, arg);
    }
}

/* The device is there on every host: another file stands for it. */
int open(const char *path, int flags, ...)
{
    va_list args;

    va_start(args, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    return (int)syscall(SYS_openat, AT_FDCWD, strcmp(path, "/dev/kvm") == 0 ? "/dev/null" : path,
                        flags, mode);
}

__attribute__((destructor)) static void tell(void)
{
    if (run == NULL || fcntl(REPORT_FD, F_GETFD) < 0)
        return;
    report_int("runs", runs);
    (void)report_end();
}
