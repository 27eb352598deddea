/*
 * x86_write_gdt() into guest memory full of rubbish.
 *
 * args: MODE GDT for each case; MODE: 32 or 64. There is 1 MiB of RAM.
 */
#include "hv/x86/flat_modes.h"
#include "ram.h"

#define RAM (1ULL << 20)

static void try(unsigned mode, uint64_t gdt)
{
    struct mem mem;

    mem_init(&mem);
    add_ram(&mem, 0, RAM);
    int rc = x86_write_gdt(&mem, gdt, mode == 64 ? X86_LONG : X86_PROTECTED);

    report_case();
    report_int("rc", rc);
    if (gdt < RAM - X86_GDT_SIZE) {
        report_hex("bytes", mem_ptr(&mem, gdt, X86_GDT_SIZE, false), X86_GDT_SIZE);
        report_u64("around", count_changed(&mem, 0, gdt) +
                                 count_changed(&mem, gdt + X86_GDT_SIZE, RAM - gdt - X86_GDT_SIZE));
    } else {
        report_u64("around", count_changed(&mem, 0, RAM));
    }
    mem_fini(&mem);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2)
        try((unsigned)number(argv[i]), number(argv[i + 1]));
    return report_end();
}
