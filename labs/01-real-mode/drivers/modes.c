/*
 * x86_real_mode() on a register set full of rubbish.
 *
 * args: CS POISON for each case (the byte that fills the register set before the call)
 */
#include <linux/kvm.h>

#include "hv/x86/modes.h"
#include "observe.h"

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

static void try(uint16_t cs, int poison)
{
    struct kvm_sregs sregs;

    memset(&sregs, poison, sizeof(sregs));
    x86_real_mode(&sregs, cs);

    report_case();
    report_segment("cs", &sregs.cs);
    report_segment("ds", &sregs.ds);
    report_segment("es", &sregs.es);
    report_segment("fs", &sregs.fs);
    report_segment("gs", &sregs.gs);
    report_segment("ss", &sregs.ss);
    report_segment("tr", &sregs.tr);
    report_segment("ldt", &sregs.ldt);
    report_u64("idt_base", sregs.idt.base);
    report_u64("idt_limit", sregs.idt.limit);
    report_u64("cr0", sregs.cr0);
    report_u64("cr3", sregs.cr3);
    report_u64("cr4", sregs.cr4);
    report_u64("efer", sregs.efer);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2)
        try((uint16_t)number(argv[i]), (int)number(argv[i + 1]));
    return report_end();
}
