/*
 * layout_describe(): the memory map of machines of several sizes.
 *
 * args: MEMORY ACPI for each case
 */
#include "hv/machine/layout.h"
#include "observe.h"

static void report_range(unsigned i, const struct boot_range *r)
{
    char name[16], text[96];

    (void)snprintf(name, sizeof(name), "range%u", i);
    (void)snprintf(text, sizeof(text), "[%llu, %llu, %d]", (unsigned long long)r->gpa,
                   (unsigned long long)r->size, (int)r->type);
    report_name(name);
    report_raw(text);
}

static void try(uint64_t memory, bool acpi)
{
    struct boot_layout layout;

    memset(&layout, 0xa5, sizeof(layout));
    layout_describe(memory, acpi, &layout);
    report_case();
    report_u64("count", layout.count);
    for (unsigned i = 0; i < layout.count && i < BOOT_RANGES_MAX; i++)
        report_range(i, &layout.ranges[i]);
    report_u64("low_end", layout.low_end);
    report_u64("rsdp", layout.rsdp);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2)
        try(number(argv[i]), number(argv[i + 1]) != 0);
    return report_end();
}
