/*
 * Exits per notification, counted by whoever runs the guest: this program. A guest in real mode
 * writes COUNT times to an address where no memory is, and halts.
 *
 * args: COUNT GPA SIZE   GPA: 0x20000 to 0x9fff0; of SIZE bytes each (2 or 4)
 *
 * Reports for three runs, without a doorbell, with one, and when it was removed: exits (the HLT is
 * not counted), and what the eventfd held.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "hv/kvm/eventfd.h"
#include "hv/kvm/kvm.h"
#include "observe.h"

#define RAM_BYTES 0x10000
#define CODE 0x1000
#define EXITS_MAX 100000

static struct kvm kvm;
static struct vm vm;
static struct vcpu vcpu;
static uint8_t *ram;

static bool make(void)
{
    struct error err;

    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return ram != MAP_FAILED && kvm_open("/dev/kvm", &kvm, &err) == 0 &&
           vm_create(&kvm, &vm, &err) == 0 &&
           vm_set_memory(&vm, 0, 0, RAM_BYTES, ram, 0, &err) == 0 &&
           vcpu_create(&kvm, &vm, 0, &vcpu, &err) == 0;
}

/* again: mov %eax, (%bx) or mov %ax, (%bx); dec %cx; jnz again; hlt */
static void write_code(unsigned size)
{
    static const uint8_t wide[] = {0x66, 0x89, 0x07, 0x49, 0x75, 0xfa, 0xf4};
    static const uint8_t narrow[] = {0x89, 0x07, 0x49, 0x75, 0xfb, 0xf4};

    memcpy(ram + CODE, size == 4 ? wide : narrow, size == 4 ? sizeof(wide) : sizeof(narrow));
}

/* Exits until HLT, or -1. */
static long run(unsigned count, uint64_t gpa)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = CODE, .rflags = 2, .rcx = count, .rbx = gpa & 0xf, .rax = 7};

    if (vcpu_get_sregs(&vcpu, &s) < 0)
        return -1;
    s.cs.base = 0;
    s.cs.selector = 0;
    s.ds.base = gpa & ~0xfULL;
    s.ds.selector = (uint16_t)(gpa >> 4);
    if (vcpu_set_sregs(&vcpu, &s) < 0 || vcpu_set_regs(&vcpu, &r) < 0)
        return -1;
    for (long exits = 0; exits < EXITS_MAX; exits++) {
        if (vcpu_run(&vcpu) < 0)
            return -1;
        if (vcpu.run->exit_reason == KVM_EXIT_HLT)
            return exits;
        if (vcpu.run->exit_reason != KVM_EXIT_MMIO)
            return -1;
    }
    return -1;
}

static void scene(const char *name, unsigned count, uint64_t gpa, int fd)
{
    char text[40];
    uint64_t rung = 0;
    long exits = run(count, gpa);

    (void)snprintf(text, sizeof(text), "%s_exits", name);
    report_int(text, exits);
    if (read(fd, &rung, sizeof(rung)) < 0)
        rung = 0;
    (void)snprintf(text, sizeof(text), "%s_rung", name);
    report_u64(text, rung);
}

int main(int argc, char **argv)
{
    int fd = eventfd(0, EFD_NONBLOCK);

    if (argc < 4 || fd < 0)
        return 2;
    unsigned count = (unsigned)number(argv[1]), size = (unsigned)number(argv[3]);
    uint64_t gpa = number(argv[2]);
    const struct vm_doorbell bell = {.gpa = gpa, .size = size, .event_fd = fd};
    report_int("made", make());
    if (vcpu.run == NULL)
        return report_end();
    write_code(size);
    scene("before", count, gpa, fd);
    report_int("added", vm_doorbell_add(&vm, &bell));
    scene("with", count, gpa, fd);
    report_int("removed", vm_doorbell_remove(&vm, &bell));
    scene("after", count, gpa, fd);
    return report_end();
}
