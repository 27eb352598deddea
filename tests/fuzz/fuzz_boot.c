/*
 * Any bytes as a kernel: inspected, and loaded by every protocol into one 64 MiB guest.
 *
 * The first byte picks a layout with much or little scratch memory, so that running out of it is
 * tried as well; the second says whether there is an initrd.
 */
#include <stdio.h>
#include <stdlib.h>

#include "hv/boot/boot.h"

#define RAM (64U << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mem mem;
static FILE *sink;

static void set_up(void)
{
    if (sink != NULL)
        return;
    sink = fopen("/dev/null", "w");
    mem_init(&mem);
    if (sink == NULL || mem_add(&mem, 0, RAM, MEM_RAM, MEM_ANONYMOUS, NULL) < 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t initrd[5000];

    set_up();
    if (size < 2)
        return 0;
    struct boot_request req = {
        .kernel = data + 2,
        .kernel_size = size - 2,
        .kernel_name = "kernel",
        .initrd = data[1] & 1 ? initrd : NULL,
        .initrd_size = data[1] & 1 ? sizeof(initrd) : 0,
        .initrd_name = "initrd",
        .cmdline = "console=ttyS0",
        .flat_load = 0x7c00,
        .flat_entry = 0x7c00,
        .layout = {.ranges = {{0, 0x9fc00, BOOT_RANGE_RAM},
                              {0x9fc00, 0x60400, BOOT_RANGE_RESERVED},
                              {0x100000, RAM - 0x100000, BOOT_RANGE_RAM}},
                   .count = 3,
                   .low_end = RAM,
                   .scratch = 0x10000,
                   .scratch_end = 0x10000 + (data[0] + 1U) * 0x800,
                   .rsdp = 0xe0000},
    };
    (void)!boot_inspect(req.kernel, req.kernel_size, "kernel", sink);
    for (unsigned p = BOOT_AUTO; p <= BOOT_LINUX_UNPACKED; p++) {
        struct boot_entry entry = {.protocol = BOOT_AUTO};
        struct error err = {{0}};

        req.protocol = (enum boot_protocol)p;
        if (boot_load(&mem, &req, NULL, &entry, &err) < 0) {
            if (err.text[0] == '\0')
                abort(); /* every refusal has a sentence */
        } else if (entry.protocol == BOOT_AUTO || entry.rip > UINT32_MAX) {
            /* Only an ELF64 program may start above 4 GiB. */
            if (entry.protocol != BOOT_ELF)
                abort();
        }
    }
    return 0;
}
