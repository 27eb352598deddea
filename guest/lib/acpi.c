/*
 * ACPI 6.5 §5.2. Tables are read with memcpy(): nothing in them is aligned.
 */
#include "lib/acpi.h"

#include "lib/guest.h"
#include "lib/string.h"

#define SCAN_START 0xe0000UL
#define SCAN_END 0x100000UL
#define HEADER_SIZE 36
#define MADT_HEADER_SIZE 44
#define MADT_LAPIC 0

static uint32_t u32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static const uint8_t *pointer(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return (const uint8_t *)v;
}

static const uint8_t *find_rsdp(void)
{
    for (uint64_t a = SCAN_START; a < SCAN_END; a += 16) {
        if (memcmp((const void *)a, "RSD PTR ", 8) == 0)
            return (const uint8_t *)a;
    }
    return NULL;
}

const uint8_t *acpi_find(const char *signature)
{
    const uint8_t *rsdp = find_rsdp();
    const uint8_t *xsdt;

    if (rsdp == NULL)
        return NULL;
    xsdt = pointer(rsdp + 24);
    for (uint32_t i = HEADER_SIZE; i < u32(xsdt + 4); i += 8) {
        const uint8_t *table = pointer(xsdt + i);

        if (memcmp(table, signature, 4) == 0)
            return table;
    }
    return NULL;
}

unsigned acpi_lapic_ids(uint8_t *ids, unsigned max)
{
    const uint8_t *madt = acpi_find("APIC");
    unsigned count = 0;

    if (madt == NULL)
        return 0;
    for (const uint8_t *p = madt + MADT_HEADER_SIZE; p < madt + u32(madt + 4); p += p[1]) {
        if (p[0] == MADT_LAPIC && (u32(p + 4) & 1) && count < max)
            ids[count++] = p[3];
    }
    return count;
}
