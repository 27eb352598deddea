/*
 * A whole monitor by bare ioctls, in protected or long mode. What is under test is the learner's:
 * the registers, and, where the script asks for them, descriptor table and page tables.
 *
 * args: MODE RAM RIP RSP GDT TABLES  MODE: 32 or 64; GDT: where x86_write_gdt() shall put a table,
 *                                    0: there is none; TABLES: the first page for page_map(), 0:
 * the tables are the driver's own, which map the first 2 MiB to themselves and once more at
 * 0xffffffff80000000 stdin: put GPA HEX                 bytes of guest memory map VA PA SIZE FLAGS
 * page_map()
 *
 * Every exit is written down, until one that is no port or memory access, or until a guest has run
 * for too long. Reads get zeroes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "hv/kvm/kvm.h"
#include "hv/x86/flat_modes.h"
#include "hv/x86/paging.h"
#include "ram.h"

#define EXITS_MAX 64
#define PATIENCE 3        /* seconds that a guest may run */
#define OWN_TABLES 0x1000 /* four pages: PML4, two PDPTs, PD */
#define TABLE_FLAGS (PTE_PRESENT | PTE_WRITE)

static struct mem mem;
static uint64_t ram, gdt, tables;

/* Stops the driver when a step fails; says whose it was. */
static void need(int rc, const char *step)
{
    if (rc >= 0)
        return;
    report_string("stopped_at", step);
    report_int("rc", rc == -1 ? -errno : rc);
    exit(report_end());
}

static void put_own_tables(void)
{
    uint64_t *t = mem_ptr(&mem, OWN_TABLES, 4 * 4096, true);

    memset(t, 0, (size_t)4 * 4096);
    t[0] = (OWN_TABLES + 0x1000) | TABLE_FLAGS;
    t[511] = (OWN_TABLES + 0x2000) | TABLE_FLAGS;
    t[512] = (OWN_TABLES + 0x3000) | TABLE_FLAGS;
    t[2 * 512 + 510] = (OWN_TABLES + 0x3000) | TABLE_FLAGS;
    t[3 * 512] = TABLE_FLAGS | PTE_PAGE_SIZE;
}

static void put_bytes(uint64_t gpa, const char *hex)
{
    unsigned byte;

    for (; sscanf(hex, "%2x", &byte) == 1; hex += 2, gpa++)
        if (mem_write(&mem, gpa, &(uint8_t){(uint8_t)byte}, 1) < 0)
            exit(2);
}

static void read_script(struct page_builder *builder)
{
    static char line[65536];
    char step[128];
    unsigned long long a, b, c, d;
    int n = 0;

    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (sscanf(line, "put %llu %n", &a, &n) == 1) {
            put_bytes(a, line + n);
        } else if (sscanf(line, "map %llu %llu %llu %llu", &a, &b, &c, &d) == 4) {
            (void)snprintf(step, sizeof(step), "page_map(0x%llx, 0x%llx, 0x%llx)", a, b, c);
            need(page_map(builder, a, b, c, d), step);
        }
    }
}

static void set_registers(int vcpu, unsigned mode, uint64_t rip, uint64_t rsp, uint64_t cr3)
{
    struct kvm_regs regs = {.rip = rip, .rflags = 2, .rsp = rsp};
    struct kvm_sregs sregs;

    need(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    if (mode == 64)
        x86_long_mode(&sregs, gdt, cr3);
    else
        x86_protected_mode(&sregs, gdt);
    need(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    need(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void write_down(const struct kvm_run *run, unsigned n)
{
    const uint8_t *data = (const uint8_t *)run + run->io.data_offset;
    char text[96];

    if (run->exit_reason == KVM_EXIT_IO)
        (void)snprintf(text, sizeof(text), "[\"IO\", %u, %u]", run->io.port,
                       run->io.size == 1   ? data[0]
                       : run->io.size == 2 ? *(const uint16_t *)data
                                           : *(const uint32_t *)data);
    else if (run->exit_reason == KVM_EXIT_MMIO)
        (void)snprintf(text, sizeof(text), "[\"MMIO\", %llu, %u]",
                       (unsigned long long)run->mmio.phys_addr, run->mmio.data[0]);
    else
        (void)snprintf(text, sizeof(text), "[\"%s\", 0, 0]", kvm_exit_name(run->exit_reason));
    report_raw(n > 0 ? ", " : "");
    report_raw(text);
}

/* That it comes is enough: KVM_RUN fails with EINTR. */
static void on_alarm(int signal)
{
    (void)signal;
}

static void run_guest(int vcpu, struct kvm_run *run)
{
    (void)sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
    (void)alarm(PATIENCE);
    report_name("exits");
    report_raw("[");
    int rc = 0;
    for (unsigned n = 0; n < EXITS_MAX; n++) {
        rc = ioctl(vcpu, KVM_RUN, NULL);
        if (rc < 0)
            break;
        write_down(run, n);
        if (run->exit_reason != KVM_EXIT_IO && run->exit_reason != KVM_EXIT_MMIO)
            break;
    }
    report_raw("]");
    report_int("rc", rc < 0 ? -errno : 0);
}

static void report_registers(int vcpu)
{
    struct kvm_regs regs;

    need(ioctl(vcpu, KVM_GET_REGS, &regs), "KVM_GET_REGS");
    report_u64("rax", regs.rax);
    report_u64("rbx", regs.rbx);
    report_u64("rcx", regs.rcx);
    report_u64("rdx", regs.rdx);
    report_u64("rsi", regs.rsi);
    report_u64("rdi", regs.rdi);
    report_u64("rip", regs.rip);
}

/* Guest memory, with what the script puts there. Returns the value for CR3. */
static uint64_t fill_memory(unsigned mode)
{
    struct page_builder builder = {0};

    add_ram(&mem, 0, ram);
    if (gdt != 0)
        need(x86_write_gdt(&mem, gdt, mode == 64 ? X86_LONG : X86_PROTECTED), "x86_write_gdt()");
    if (tables == 0)
        put_own_tables();
    else
        need(page_builder_init(&builder, &mem, tables, ram), "page_builder_init()");
    read_script(&builder);
    return tables == 0 ? OWN_TABLES : builder.root;
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    unsigned mode = (unsigned)number(argv[1]);
    ram = number(argv[2]);
    gdt = number(argv[5]);
    tables = number(argv[6]);
    mem_init(&mem);
    uint64_t cr3 = fill_memory(mode);

    int kvm = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
    need(kvm, KVM_DEVICE);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    need(vm, "KVM_CREATE_VM");
    need(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
    struct kvm_userspace_memory_region region = {
        .memory_size = ram, .userspace_addr = (uintptr_t)mem_ptr(&mem, 0, ram, true)};
    need(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    need(vcpu, "KVM_CREATE_VCPU");
    size_t size = (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        return 2;
    set_registers(vcpu, mode, number(argv[3]), number(argv[4]), cr3);
    run_guest(vcpu, run);
    report_registers(vcpu);
    return report_end();
}
