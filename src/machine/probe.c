#include "hv/machine/probe.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "hv/kvm/kvm.h"
#include "hv/machine/layout.h"
#include "hv/mem/mem.h"
#include "hv/x86/modes.h"
#include "hv/x86/paging.h"

/* The probe's own little map: 2 MiB of RAM, everything below 64 KiB. */
#define PROBE_RAM (2 * MIB)
#define PROBE_GDT 0x1000ULL
#define PROBE_IDT 0x2000ULL
#define PROBE_CODE 0x3000ULL
#define PROBE_STACK 0x5000ULL
#define PROBE_TABLES 0x6000ULL
#define PROBE_TABLES_END 0x10000ULL

#define PROBE_VECTOR 0x40
#define PROBE_PORT 0xf4
/* What the guest reports at PROBE_PORT. */
#define PROBE_STARTED 1
#define PROBE_ARRIVED 2
#define PROBE_MISSED 3

#define STRING_(x) #x
#define STRING(x) STRING_(x)

/*
 * The guest: reports that it runs, switches its local APIC on (SDM 3A §10.4.7, spurious vector
 * register), sends itself an interrupt (§10.6.1, ICR with the "self" shorthand), and waits for it
 * in a loop that ends. The handler reports the arrival. Position-independent; the APIC's page is
 * identity-mapped.
 */
__asm__(
    ".pushsection .rodata\n"
    "probe_guest:\n"
    "    movb $" STRING(
        PROBE_STARTED) ", %al\n"
                       "    outb %al, $" STRING(
                           PROBE_PORT) "\n"
                                       "    movl $0xfee00000, %ebx\n"
                                       "    movl $0x1ff, 0xf0(%rbx)\n"
                                       "    sti\n"
                                       "    movl $(0x40000 | " STRING(
                                           PROBE_VECTOR) "), 0x300(%rbx)\n"
                                                         "    movl $100000, %ecx\n"
                                                         "1:  pause\n"
                                                         "    decl %ecx\n"
                                                         "    jnz 1b\n"
                                                         "    movb $" STRING(
                                                             PROBE_MISSED) ", %al\n"
                                                                           "    outb %al, $" STRING(
                                                                               PROBE_PORT) "\n"
                                                                                           "probe_"
                                                                                           "guest_"
                                                                                           "handler"
                                                                                           ":\n"
                                                                                           "    "
                                                                                           "movb "
                                                                                           "$" STRING(
                                                                                               PROBE_ARRIVED) ", %al\n"
                                                                                                              "    outb %al, $" STRING(
                                                                                                                  PROBE_PORT) "\n"
                                                                                                                              "2:  hlt\n"
                                                                                                                              "    jmp 2b\n"
                                                                                                                              "probe_guest_end:\n"
                                                                                                                              ".popsection\n");
extern const uint8_t probe_guest[], probe_guest_handler[], probe_guest_end[];

/* A 64-bit interrupt gate, SDM 3A §6.14.1. */
struct gate {
    uint16_t offset_low;
    uint16_t selector;
    uint8_t ist;
    uint8_t type; /* P, DPL, type 0xe */
    uint16_t offset_mid;
    uint32_t offset_high;
    uint32_t reserved;
};

_Static_assert(sizeof(struct gate) == 16, "SDM 3A figure 6-8");

struct rig {
    struct kvm kvm;
    struct vm vm;
    struct vcpu vcpu;
    struct mem mem;
};

static int write_guest(struct rig *r, uint64_t *cr3)
{
    uint64_t handler = PROBE_CODE + (uint64_t)(probe_guest_handler - probe_guest);
    const struct gate gate = {
        .offset_low = (uint16_t)handler, .selector = X86_SEL_CODE, .type = 0x8e};
    struct page_builder pages;
    int rc = mem_write(&r->mem, PROBE_CODE, probe_guest, (uint64_t)(probe_guest_end - probe_guest));

    if (rc == 0)
        rc = mem_write(&r->mem, PROBE_IDT + PROBE_VECTOR * sizeof(gate), &gate, sizeof(gate));
    if (rc == 0)
        rc = x86_write_gdt(&r->mem, PROBE_GDT, X86_LONG);
    if (rc == 0)
        rc = page_builder_init(&pages, &r->mem, PROBE_TABLES, PROBE_TABLES_END);
    if (rc == 0)
        rc = page_map(&pages, 0, 0, PROBE_RAM, PTE_WRITE);
    if (rc == 0)
        rc = page_map(&pages, LAYOUT_LAPIC, LAYOUT_LAPIC, MEM_PAGE_SIZE, PTE_WRITE);
    if (rc == 0)
        *cr3 = pages.root;
    return rc;
}

static int set_registers(struct rig *r, uint64_t cr3)
{
    const struct kvm_regs regs = {.rip = PROBE_CODE, .rsp = PROBE_STACK, .rflags = 2};
    struct kvm_sregs sregs;
    int rc = vcpu_get_sregs(&r->vcpu, &sregs);

    if (rc < 0)
        return rc;
    x86_long_mode(&sregs, PROBE_GDT, cr3);
    sregs.idt.base = PROBE_IDT;
    sregs.idt.limit = (PROBE_VECTOR + 1) * sizeof(struct gate) - 1;
    rc = vcpu_set_sregs(&r->vcpu, &sregs);
    return rc < 0 ? rc : vcpu_set_regs(&r->vcpu, &regs);
}

static int set_cpuid(const struct rig *r, struct error *err)
{
    struct kvm_cpuid2 *table;
    int rc = kvm_supported_cpuid(&r->kvm, &table, err);

    if (rc == 0) {
        rc = vcpu_set_cpuid(&r->vcpu, table, err);
        free(table);
    }
    return rc;
}

static int build(struct rig *r, struct error *err)
{
    uint64_t cr3 = 0;
    int rc = vm_create(&r->kvm, &r->vm, err);

    if (rc == 0)
        rc = vm_set_tss_addr(&r->vm, LAYOUT_TSS, err);
    if (rc == 0)
        rc = vm_set_identity_map_addr(&r->vm, LAYOUT_IDENTITY_MAP, err);
    if (rc == 0)
        rc = vm_create_irqchip(&r->vm, err);
    if (rc == 0)
        rc = mem_add(&r->mem, 0, PROBE_RAM, MEM_RAM, MEM_ANONYMOUS, err);
    if (rc == 0)
        rc = vm_set_memory(&r->vm, 0, 0, PROBE_RAM, r->mem.regions[0].host, 0, err);
    if (rc == 0)
        rc = vcpu_create(&r->kvm, &r->vm, 0, &r->vcpu, err);
    if (rc == 0)
        rc = set_cpuid(r, err);
    if (rc < 0)
        return rc;
    rc = write_guest(r, &cr3);
    if (rc == 0)
        rc = set_registers(r, cr3);
    return rc < 0 ? error_sys(err, rc, "cannot set the probe's registers") : 0;
}

/* What the guest wrote to its port, or -1 for any other exit. */
static int reported(const struct kvm_run *run)
{
    if (run->exit_reason != KVM_EXIT_IO || run->io.port != PROBE_PORT)
        return -1;
    return ((const uint8_t *)run)[run->io.data_offset];
}

static void judge_exit(const struct rig *r, bool started, struct probe *out)
{
    out->exit_reason = r->vcpu.run->exit_reason;
    if (out->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        out->suberror = r->vcpu.run->internal.suberror;
    if (started) {
        out->result = PROBE_NO_INTERRUPTS;
        (void)error_set(&out->why, 0,
                        "this KVM runs 64-bit code but cannot deliver an interrupt through the "
                        "guest's IDT (%s instead): Linux and most guests will not run on it",
                        reported(r->vcpu.run) == PROBE_MISSED ? "nothing arrived"
                                                              : kvm_exit_name(out->exit_reason));
    } else {
        out->result = PROBE_NO_LONG_MODE;
        (void)error_set(&out->why, 0,
                        "this KVM does not run 64-bit code (%s at the first instruction)",
                        kvm_exit_name(out->exit_reason));
    }
}

static void run(struct rig *r, struct probe *out)
{
    bool started = false;

    for (;;) {
        int rc = vcpu_run(&r->vcpu);
        if (rc == -EINTR)
            continue;
        if (rc < 0) {
            out->result = PROBE_BROKEN;
            (void)error_sys(&out->why, rc, "KVM_RUN failed");
            return;
        }
        int value = reported(r->vcpu.run);
        if (value == PROBE_STARTED) {
            started = true;
        } else if (value == PROBE_ARRIVED) {
            out->result = PROBE_OK;
            return;
        } else {
            judge_exit(r, started, out);
            return;
        }
    }
}

enum probe_flavour probe_flavour(void)
{
    unsigned a, b, c, d;

    if (__get_cpuid(1, &a, &b, &c, &d) && (c & (1U << 5)))
        return PROBE_INTEL_VMX;
    if (__get_cpuid(0x80000001, &a, &b, &c, &d) && (c & (1U << 2)))
        return PROBE_AMD_SVM;
    return PROBE_SOFTWARE;
}

static bool host_is_virtual(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1U << 31));
}

static enum probe_result open_result(int rc)
{
    switch (rc) {
    case -ENOENT:
    case -ENODEV:
    case -ENXIO:
        return PROBE_NO_DEVICE;
    case -EACCES:
    case -EPERM:
        return PROBE_NO_PERMISSION;
    default:
        return PROBE_BROKEN;
    }
}

void probe_kvm(const char *path, struct probe *out)
{
    struct rig r = {.kvm.fd = -1, .vm.fd = -1, .vcpu.fd = -1};

    *out = (struct probe){
        .result = PROBE_BROKEN, .flavour = probe_flavour(), .nested = host_is_virtual()};
    int rc = kvm_open(path, &r.kvm, &out->why);
    if (rc < 0) {
        out->result = open_result(rc);
        return;
    }
    mem_init(&r.mem);
    if (build(&r, &out->why) == 0)
        run(&r, out);
    vcpu_close(&r.vcpu);
    vm_close(&r.vm);
    kvm_close(&r.kvm);
    mem_fini(&r.mem);
}

const char *probe_result_name(enum probe_result result)
{
    switch (result) {
    case PROBE_OK:
        return "ok";
    case PROBE_NO_DEVICE:
        return "no device";
    case PROBE_NO_PERMISSION:
        return "no permission";
    case PROBE_BROKEN:
        return "broken";
    case PROBE_NO_LONG_MODE:
        return "no long mode";
    case PROBE_NO_INTERRUPTS:
        return "no interrupts";
    }
    return "?";
}
