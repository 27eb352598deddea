#include "hv/machine/layout.h"

#include <errno.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"

// lab 05 {
/* Where the BIOS data area keeps what kernels look for. */
#define BDA_EBDA_SEGMENT 0x40e
#define BDA_BASE_MEMORY_KIB 0x413
// }

static uint64_t below_hole(uint64_t memory)
{
    return memory < LAYOUT_HOLE ? memory : LAYOUT_HOLE;
}

int layout_add_ram(struct mem *mem, uint64_t memory, enum mem_backing backing, struct error *err)
{
    uint64_t low = below_hole(memory);
    int rc = mem_add(mem, 0, low, MEM_RAM, backing, err);

    if (rc == 0 && memory > low)
        rc = mem_add(mem, LAYOUT_HOLE_END, memory - low, MEM_RAM, backing, err);
    return rc;
}

// lab 03 {
static void add_range(struct boot_layout *layout, uint64_t gpa, uint64_t end,
                      enum boot_range_type type)
{
    if (end > gpa)
        layout->ranges[layout->count++] =
            (struct boot_range){.gpa = gpa, .size = end - gpa, .type = type};
}

void layout_describe(uint64_t memory, bool acpi, struct boot_layout *out)
{
    uint64_t low = below_hole(memory);

    *out = (struct boot_layout){
        .low_end = low,
        .scratch = LAYOUT_SCRATCH,
        .scratch_end = LAYOUT_SCRATCH_END,
        .rsdp = acpi ? LAYOUT_RSDP : 0,
    };
    /* EXERCISE 5.3: the memory map, sorted, that loaders place things by and that the guest will
     * believe (layout.h draws it). Conventional memory ends where the EBDA begins. What lies
     * between the EBDA and 1 MiB is reserved: video memory, firmware, the ACPI tables. Then RAM as
     * far as it goes, at most to the hole below 4 GiB; what the hole displaced begins at 4 GiB. In
     * the hole only the pages that KVM itself occupies are named, from LAYOUT_IDENTITY_MAP to the
     * hole's end, as reserved: no device may be put there. What is in no range is free for devices.
     */
    // SOLUTION 5.3
    add_range(out, 0, LAYOUT_EBDA, BOOT_RANGE_RAM);
    add_range(out, LAYOUT_EBDA, LAYOUT_HIGH, BOOT_RANGE_RESERVED);
    add_range(out, LAYOUT_HIGH, low, BOOT_RANGE_RAM);
    add_range(out, LAYOUT_IDENTITY_MAP, LAYOUT_HOLE_END, BOOT_RANGE_RESERVED);
    if (memory > low)
        add_range(out, LAYOUT_HOLE_END, LAYOUT_HOLE_END + (memory - low), BOOT_RANGE_RAM);
    // ELSE
    // (void)todo("5.3");
    // add_range(out, 0, low, BOOT_RANGE_RAM);
    // BEFORE
    // add_range(out, 0, low, BOOT_RANGE_RAM);
    // END 5.3
}
// }

// lab 05 {
int layout_write_bios_data(const struct mem *mem)
{
    int rc = mem_write_u16(mem, BDA_EBDA_SEGMENT, LAYOUT_EBDA >> 4);

    if (rc == 0)
        rc = mem_write_u16(mem, BDA_BASE_MEMORY_KIB, LAYOUT_EBDA / KIB);
    if (rc == 0)
        rc = mem_write_u16(mem, LAYOUT_EBDA, 1); /* the EBDA's own size in KiB */
    return rc;
}
// }
