/*
 * x86_real_mode() on a register set full of rubbish.
 *
 * args: CS POISON   (the byte that fills the register set before the call)
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

int main(int argc, char **argv)
{
    struct kvm_sregs sregs;

    if (argc != 3)
        return 2;
    memset(&sregs, (int)number(argv[2]), sizeof(sregs));
    x86_real_mode(&sregs, (uint16_t)number(argv[1]));

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
    return report_end();
}
