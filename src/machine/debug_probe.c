/*
 * Which traps does this KVM really have?
 *
 * KVM_SET_GUEST_DEBUG promises them all, and says nothing when one does not work: a KVM that
 * interprets guest code lets int3 pass, an emulated processor with AMD-V (such as QEMU's) ignores
 * the debug registers of its guests as well. A breakpoint that is never hit is worse than none, so
 * each kind is tried out, on a guest of a few instructions in real mode that ends in HLT. One that
 * gets there was not stopped.
 */
#include "hv/kvm/guest_debug.h"
#include "hv/machine/layout.h"
#include "machine_priv.h"

#define CODE 0x1000 /* where they run; the interrupt table below is of zeros */
#define DATA 0x2000
#define MEMORY 0x4000

#define OP_HLT 0xf4

struct trial {
    struct kvm kvm;
    struct vm vm;
    struct vcpu vcpu;
    struct mem mem;
};

static void trial_fini(struct trial *t)
{
    vcpu_close(&t->vcpu);
    vm_close(&t->vm);
    kvm_close(&t->kvm);
    mem_fini(&t->mem);
}

/* Without interrupt controllers, so that HLT is an exit. At address 0, where an int3 that passes
 * leads to, there is a HLT too. */
static int trial_init(struct trial *t, const char *kvm_path)
{
    const uint8_t hlt = OP_HLT;
    int rc = kvm_open(kvm_path, &t->kvm, NULL);

    if (rc == 0)
        rc = vm_create(&t->kvm, &t->vm, NULL);
    if (rc == 0)
        rc = vm_set_tss_addr(&t->vm, LAYOUT_TSS, NULL);
    if (rc == 0)
        rc = vm_set_identity_map_addr(&t->vm, LAYOUT_IDENTITY_MAP, NULL);
    if (rc == 0)
        rc = mem_add(&t->mem, 0, MEMORY, MEM_RAM, MEM_ANONYMOUS, NULL);
    if (rc == 0)
        rc = vm_set_memory(&t->vm, 0, 0, MEMORY, t->mem.regions[0].host, 0, NULL);
    if (rc == 0)
        rc = vcpu_create(&t->kvm, &t->vm, 0, &t->vcpu, NULL);
    return rc < 0 ? rc : mem_write(&t->mem, 0, &hlt, sizeof(hlt));
}

static int enter(struct trial *t, const uint8_t *code, size_t len,
                 const struct kvm_guest_debug *debug)
{
    const struct kvm_regs regs = {.rip = CODE, .rsp = MEMORY, .rflags = 1U << 1};
    struct kvm_sregs sregs;
    int rc = mem_write(&t->mem, CODE, code, len);

    if (rc == 0)
        rc = vcpu_get_sregs(&t->vcpu, &sregs);
    if (rc < 0)
        return rc;
    x86_real_mode(&sregs, 0);
    rc = vcpu_set_sregs(&t->vcpu, &sregs);
    if (rc == 0)
        rc = vcpu_set_regs(&t->vcpu, &regs);
    if (rc == 0)
        rc = vcpu_set_debug(&t->vcpu, debug);
    return rc < 0 ? rc : vcpu_run(&t->vcpu);
}

static bool stops(struct trial *t, const uint8_t *code, size_t len, const struct debug_traps *traps)
{
    struct kvm_guest_debug debug;

    debug_encode(traps, 0, &debug);
    return enter(t, code, len, &debug) == 0 && t->vcpu.run->exit_reason == KVM_EXIT_DEBUG;
}

struct debug_means debug_probe(const char *kvm_path)
{
    static const uint8_t int3[] = {0xcc, OP_HLT};
    static const uint8_t nops[] = {0x90, 0x90, OP_HLT};
    static const uint8_t store[] = {0xa2, DATA & 0xff, DATA >> 8, 0x90, OP_HLT}; /* mov %al, DATA */
    const struct debug_traps at_int3 = {.int3 = true};
    const struct debug_traps at_code = {.slots = {{CODE + 1, 1, DEBUG_EXECUTE}}};
    const struct debug_traps at_data = {.slots = {{DATA, 1, DEBUG_WRITE}}};
    struct trial t = {.kvm.fd = -1, .vm.fd = -1, .vcpu.fd = -1};
    struct debug_means means = {.int3 = false};

    mem_init(&t.mem);
    if (trial_init(&t, kvm_path) == 0) {
        means.int3 = stops(&t, int3, sizeof(int3), &at_int3);
        means.execute = stops(&t, nops, sizeof(nops), &at_code);
        means.data = stops(&t, store, sizeof(store), &at_data);
    }
    trial_fini(&t);
    return means;
}
