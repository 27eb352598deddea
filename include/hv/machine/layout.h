/*
 * The guest-physical address map of a machine. src/README.md draws it.
 *
 *   0x0000_0000  RAM; the first 4 KiB hold the real-mode IVT and the BIOS data area
 *   0x0008_0000  scratch for the boot loaders (descriptor and page tables, zero page, command line)
 *   0x0009_fc00  extended BIOS data area (1 KiB)         \
 *   0x000a_0000  legacy video memory                      | backed by RAM, reserved in
 *   0x000e_0000  ACPI: RSDP, then the tables               | the map the guest is given
 *   0x000f_0000  BIOS area                                /
 *   0x0010_0000  RAM, up to 3 GiB
 *   0xc000_0000  hole: device memory, I/O APIC 0xfec0_0000, local APIC 0xfee0_0000, KVM's own pages
 *   0x1_0000_0000  the rest of RAM
 */
#ifndef HV_MACHINE_LAYOUT_H
#define HV_MACHINE_LAYOUT_H

#include <stdint.h>

#include "hv/base/err.h"
#include "hv/base/num.h"
#include "hv/boot/boot.h" // lab 03
#include "hv/mem/mem.h"

// lab 03 {
#define LAYOUT_SCRATCH 0x80000ULL
#define LAYOUT_SCRATCH_END 0x9f000ULL
#define LAYOUT_EBDA 0x9fc00ULL
#define LAYOUT_RSDP 0xe0000ULL
#define LAYOUT_HIGH 0x100000ULL
// }
#define LAYOUT_ACPI_TABLES 0xe0100ULL // lab 05
#define LAYOUT_ACPI_END 0xf0000ULL    // lab 05
#define LAYOUT_HOLE 0xc0000000ULL
#define LAYOUT_HOLE_END 0x100000000ULL
#define LAYOUT_IOAPIC 0xfec00000ULL       // lab 05
#define LAYOUT_LAPIC 0xfee00000ULL        // lab 05
#define LAYOUT_IDENTITY_MAP 0xfffbc000ULL /* one page for VMX's real mode; KVM API §4.40 */
#define LAYOUT_TSS 0xfffbd000ULL          /* three pages; KVM API §4.36 */

#define LAYOUT_MEMORY_MIN MIB
#define LAYOUT_MEMORY_MAX                                                                          \
    (1ULL << 40) /* what 4-level EPT and NPT reach everywhere, with room to spare */

/* Adds RAM of `memory` bytes (a multiple of the page size, LAYOUT_MEMORY_MIN to LAYOUT_MEMORY_MAX)
 * around the hole. */
int layout_add_ram(struct mem *mem, uint64_t memory, enum mem_backing backing,
                   struct error *err) HV_MUST_CHECK;

// lab 03 {
/* The map the boot loaders and the guest see. `acpi`: tables are present. */
void layout_describe(uint64_t memory, bool acpi, struct boot_layout *out);
// }

// lab 05 {
/* The few bytes of the BIOS data area that kernels look at: EBDA segment at 0x40e, base memory at
 * 0x413. */
int layout_write_bios_data(const struct mem *mem) HV_MUST_CHECK;
// }

#endif
