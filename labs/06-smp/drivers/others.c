/*
 * What became of the other processors when a guest had started them.
 *
 * args: PATH CPUS   PATH: the guest, an ELF file, entered on vCPU 0
 */
#include <sys/mman.h>

#include "real_smp.h"

#define EFER_LMA (1U << 10)

static void report_cpu(const struct cpu *cpu)
{
    char text[256];
    uint32_t mp_state = ~0U;
    struct kvm_sregs sregs = {0};
    struct kvm_regs regs = {0};

    (void)!vcpu_get_mp_state(&cpu->vcpu, &mp_state);
    (void)!vcpu_get_sregs(&cpu->vcpu, &sregs);
    (void)!vcpu_get_regs(&cpu->vcpu, &regs);
    (void)snprintf(text, sizeof(text),
                   "%s{\"mp_state\": %u, \"long_mode\": %d, \"cr3\": %llu, \"rsp\": %llu, \"rip\": "
                   "%llu}",
                   cpu->vcpu.id == 0 ? "" : ", ", mp_state, (sregs.efer & EFER_LMA) != 0,
                   (unsigned long long)sregs.cr3, (unsigned long long)regs.rsp,
                   (unsigned long long)regs.rip);
    report_raw(text);
}

/* stderr goes to `fd` now; returns a descriptor of where it went before. */
static int divert_stderr(int fd)
{
    int before = dup(STDERR_FILENO);

    (void)dup2(fd, STDERR_FILENO);
    (void)close(fd);
    return before;
}

static void show(int fd)
{
    char text[512];
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    (void)fputs(text, stderr);
}

/* A processor that begins in the wrong place would slide over zeros, or through an empty vector
 * table, to the trampoline after all. */
static bool mine_low_memory(struct machine *m)
{
    uint32_t vectors[256];
    uint8_t hlt[0x8000 - 0x500];

    for (unsigned i = 0; i < 256; i++)
        vectors[i] = 0x500 << 16;
    memset(hlt, 0xf4, sizeof(hlt));
    return mem_write(&m->mem, 0, vectors, sizeof(vectors)) == 0 &&
           mem_write(&m->mem, 0x500, hlt, sizeof(hlt)) == 0;
}

static void play(int argc, char **argv)
{
    if (argc < 3)
        return;
    struct machine_outcome out = {.end = MACHINE_CRASH};
    struct machine *m = real_machine(argv[1], BOOT_ELF, (unsigned)number(argv[2]));
    size_t length;

    if (m == NULL || !mine_low_memory(m) || !real_start(m))
        return;
    int complaints = divert_stderr(memfd_create("stderr", 0));
    bool by_itself = run_at_most(m, 2500, &out);
    complaints = divert_stderr(complaints);
    report_int("by_itself", by_itself);
    report_int("end", out.end);
    report_u64("value", out.value);
    const char *said = chr_mem_output(guest_says, &length);
    report_string("said", said);
    (void)fputs(said, stderr); /* before what hv says: the guest's is this exercise */
    show(complaints);
    report_name("cpus");
    report_raw("[");
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        report_cpu(&m->cpus[i]);
    report_raw("]");
    real_destroy(m);
}

int main(int argc, char **argv)
{
    return scene_run(play, argc, argv);
}
