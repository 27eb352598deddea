#include "hv/machine/probe.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "hv/kvm/irqchip.h"
#include "hv/kvm/kvm.h"
#include "hv/kvm/vcpu_state.h"
#include "hv/machine/layout.h"
#include "hv/mem/mem.h"
#include "hv/x86/flat_modes.h"
#include "hv/x86/paging.h"
#include "machine/probe_guest.h"

/* The probe's own little map: 2 MiB of RAM, everything below 64 KiB. */
#define PROBE_RAM (2 * MIB)
#define PROBE_GDT 0x1000ULL
#define PROBE_IDT 0x2000ULL
#define PROBE_CODE 0x3000ULL
#define PROBE_STACK 0x5000ULL
#define PROBE_TABLES 0x6000ULL
#define PROBE_TABLES_END 0x10000ULL

#define UNDEFINED_OPCODE 6 /* the vector of #UD */

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

static int write_gate(const struct mem *mem, unsigned vector, const uint8_t *handler)
{
    const uint64_t gpa = PROBE_CODE + (uint64_t)(handler - probe_guest);
    const struct gate gate = {.offset_low = (uint16_t)gpa, .selector = X86_SEL_CODE, .type = 0x8e};

    return mem_write(mem, PROBE_IDT + vector * sizeof(gate), &gate, sizeof(gate));
}

static int write_tables(const struct mem *mem, uint64_t *cr3)
{
    struct page_builder pages;
    int rc = x86_write_gdt(mem, PROBE_GDT, X86_LONG);

    if (rc == 0)
        rc = page_builder_init(&pages, mem, PROBE_TABLES, PROBE_TABLES_END);
    if (rc == 0)
        rc = page_map(&pages, 0, 0, PROBE_RAM, PTE_WRITE);
    if (rc == 0)
        rc = page_map(&pages, LAYOUT_LAPIC, LAYOUT_LAPIC, MEM_PAGE_SIZE, PTE_WRITE);
    if (rc == 0)
        *cr3 = pages.root;
    return rc;
}

static int write_guest(const struct mem *mem, uint64_t *cr3)
{
    int rc = mem_write(mem, PROBE_CODE, probe_guest, (uint64_t)(probe_guest_end - probe_guest));

    if (rc == 0)
        rc = write_gate(mem, PROBE_VECTOR, probe_on_interrupt);
    if (rc == 0)
        rc = write_gate(mem, PROBE_SOFT_VECTOR, probe_on_software);
    if (rc == 0)
        rc = write_gate(mem, UNDEFINED_OPCODE, probe_on_exception);
    return rc < 0 ? rc : write_tables(mem, cr3);
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
    sregs.idt.limit = (PROBE_SOFT_VECTOR + 1) * sizeof(struct gate) - 1;
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
    rc = write_guest(&r->mem, &cr3);
    if (rc == 0)
        rc = set_registers(r, cr3);
    return rc < 0 ? error_sys(err, rc, "cannot set the probe's registers") : 0;
}

/* What the guest wrote to its port, or STEP_NONE for any other exit. */
static unsigned reported(const struct kvm_run *run)
{
    if (run->exit_reason != KVM_EXIT_IO || run->io.port != PROBE_PORT)
        return STEP_NONE;
    return ((const uint8_t *)run)[run->io.data_offset];
}

/* The guest got no further than `last`: the step after it failed. */
static void judge(const struct rig *r, unsigned last, bool timed_out, struct probe *out)
{
    static const char *const failed[] = {
        [STEP_NONE] = "does not run 64-bit code",
        [STEP_STARTED] = "cannot deliver an interrupt through the guest's IDT",
        [STEP_INTERRUPT] = "cannot deliver a software interrupt (INT) through the guest's IDT",
        [STEP_SOFTWARE] = "cannot deliver an exception through the guest's IDT",
        [STEP_EXCEPTION] = "does not know the instruction CMPXCHG16B, which Linux needs",
    };

    if (last == STEP_NONE)
        out->result = PROBE_NO_LONG_MODE;
    else
        out->result = last < STEP_EXCEPTION ? PROBE_NO_INTERRUPTS : PROBE_INCOMPLETE;
    out->exit_reason = r->vcpu.run->exit_reason;
    if (out->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        out->suberror = r->vcpu.run->internal.suberror;
    (void)error_set(&out->why, 0, "this KVM %s (%s)", failed[last],
                    timed_out ? "nothing arrived" : kvm_exit_name(out->exit_reason));
}

static void run(struct rig *r, struct probe *out)
{
    unsigned last = STEP_NONE;

    while (last != STEP_LAST) {
        int rc = vcpu_run(&r->vcpu);
        if (rc == -EINTR)
            continue;
        if (rc < 0) {
            (void)error_sys(&out->why, rc, "KVM_RUN failed");
            return;
        }
        unsigned step = reported(r->vcpu.run);
        if (step != last + 1) {
            judge(r, last, step == STEP_MISSED, out);
            return;
        }
        last = step;
    }
    out->result = PROBE_OK;
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
    case PROBE_INCOMPLETE:
        return "incomplete";
    }
    return "?";
}
