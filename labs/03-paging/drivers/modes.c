/*
 * x86_protected_mode() and x86_long_mode() on register sets full of rubbish.
 *
 * args: MODE GDT CR3 POISON for each case; MODE: 32 or 64; POISON: the byte that fills the register
 * set before the call
 */
#include <linux/kvm.h>

#include "hv/x86/flat_modes.h"
#include "hv/x86/vmx_checks.h"
#include "ram.h"

static void report_segment(const char *name, const struct kvm_segment *s)
{
    char text[256];

    (void)snprintf(text, sizeof(text),
                   "{\"selector\": %u, \"base\": %llu, \"limit\": %u, \"type\": %u, \"s\": %u, "
                   "\"dpl\": %u, \"present\": %u, \"db\": %u, \"l\": %u, \"g\": %u, "
                   "\"unusable\": %u}",
                   s->selector, (unsigned long long)s->base, s->limit, s->type, s->s, s->dpl,
                   s->present, s->db, s->l, s->g, s->unusable);
    report_name(name);
    report_raw(text);
}

static void try(unsigned mode, uint64_t gdt, uint64_t cr3, int poison)
{
    struct kvm_sregs sregs;

    memset(&sregs, poison, sizeof(sregs));
    if (mode == 64)
        x86_long_mode(&sregs, gdt, cr3);
    else
        x86_protected_mode(&sregs, gdt);

    const char *objection = x86_vmx_objection(&sregs);
    report_case();
    report_segment("cs", &sregs.cs);
    report_segment("ds", &sregs.ds);
    report_segment("es", &sregs.es);
    report_segment("fs", &sregs.fs);
    report_segment("gs", &sregs.gs);
    report_segment("ss", &sregs.ss);
    report_segment("tr", &sregs.tr);
    report_segment("ldt", &sregs.ldt);
    report_u64("gdt_base", sregs.gdt.base);
    report_u64("gdt_limit", sregs.gdt.limit);
    report_u64("idt_limit", sregs.idt.limit);
    report_u64("cr0", sregs.cr0);
    report_u64("cr3", sregs.cr3);
    report_u64("cr4", sregs.cr4);
    report_u64("efer", sregs.efer);
    report_string("objection", objection != NULL ? objection : "");
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 3 < argc; i += 4)
        try((unsigned)number(argv[i]), number(argv[i + 1]), number(argv[i + 2]),
            (int)number(argv[i + 3]));
    return report_end();
}
