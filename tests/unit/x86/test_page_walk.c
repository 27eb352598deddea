/*
 * The walker in every paging mode, on tables written entry by entry.
 */
#include "hv/x86/paging.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"
#include "support/ram.h"

#define RAM (1 * MIB)
#define T1 0x1000 /* the tables, root first */
#define T2 0x2000
#define T3 0x3000
#define T4 0x4000
#define T5 0x5000
#define PAGE 0x8000 /* the page that they map */

#define CR0_PAGING 0x80000001ULL
#define CR0_WP (1ULL << 16)
#define CR4_PSE (1ULL << 4)
#define CR4_PAE (1ULL << 5)
#define CR4_LA57 (1ULL << 12)
#define CR4_SMEP (1ULL << 20)
#define CR4_SMAP (1ULL << 21)
#define EFER_LONG 0x500ULL
#define EFER_NXE (1ULL << 11)
#define AC (1ULL << 18)

#define RW (PTE_PRESENT | PTE_WRITE)
#define RWU (RW | PTE_USER)

static struct mem mem;
static struct kvm_sregs sregs;
static struct page_walk w;

static void setup(void)
{
    ram_init(&mem, RAM);
    memset(&sregs, 0, sizeof(sregs));
    sregs.cr0 = CR0_PAGING | CR0_WP;
    sregs.cr3 = T1;
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(page_walk, .init = setup, .fini = teardown);

static void put64(uint64_t gpa, uint64_t entry)
{
    cr_assert_eq(mem_write_u64(&mem, gpa, entry), 0);
}

static void put32(uint64_t gpa, uint32_t entry)
{
    cr_assert_eq(mem_write_u32(&mem, gpa, entry), 0);
}

static enum walk_result go_flags(uint64_t va, enum page_access access, bool user, uint64_t rflags)
{
    memset(&w, 0xa5, sizeof(w));
    page_walk(&mem, &sregs, rflags, va, access, user, &w);
    return w.result;
}

static enum walk_result go(uint64_t va, enum page_access access, bool user)
{
    return go_flags(va, access, user, 0);
}

/* 4-level tables that map virtual 0x1000 to PAGE with `leaf` flags, all else permissive. */
static void map_4level(uint64_t leaf)
{
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LONG;
    put64(T1, T2 | RWU);
    put64(T2, T3 | RWU);
    put64(T3, T4 | RWU);
    put64(T4 + 8, PAGE | leaf);
}

/* --- no paging --- */

Test(page_walk, without_paging_the_address_is_physical)
{
    sregs.cr0 = 1;
    cr_assert_eq(go(0x12345678, PAGE_WRITE, true), WALK_OK);
    cr_assert_eq(w.pa, 0x12345678);
    cr_assert_eq(w.levels, 0);
    cr_assert_eq(w.page_size, 0);
    cr_assert_eq(w.error_code, 0);
}

/* --- 32-bit paging, SDM 3A §4.3 --- */

Test(page_walk, bits32_small_page)
{
    put32(T1 + 4 * 3, T2 | RWU);
    put32(T2 + 4 * 5, PAGE | RWU);
    cr_assert_eq(go(0x00c05abc, PAGE_READ, true), WALK_OK);
    cr_assert_eq(w.pa, PAGE + 0xabc);
    cr_assert_eq(w.page_size, 4 * KIB);
    cr_assert_eq(w.levels, 2);
    cr_assert_str_eq(w.steps[0].table, "PD");
    cr_assert_eq(w.steps[0].entry_gpa, T1 + 12);
    cr_assert_str_eq(w.steps[1].table, "PT");
    cr_assert_eq(w.steps[1].entry, PAGE | RWU);
}

Test(page_walk, bits32_ignores_the_high_half_of_the_address)
{
    put32(T1, T2 | RW);
    put32(T2, PAGE | RW);
    cr_assert_eq(go(0xffffffff00000010, PAGE_READ, false), WALK_OK);
    cr_assert_eq(w.va, 0x10);
    cr_assert_eq(w.pa, PAGE + 0x10);
}

Test(page_walk, bits32_large_page_needs_pse)
{
    put32(T1 + 4, 0x00400000 | RW | PTE_PAGE_SIZE);
    sregs.cr4 = CR4_PSE;
    cr_assert_eq(go(0x00412345, PAGE_READ, false), WALK_OK);
    cr_assert_eq(w.pa, 0x00412345);
    cr_assert_eq(w.page_size, 4 * MIB);
    sregs.cr4 = 0; /* then bit 7 is ignored and the entry names a table, which is not in RAM */
    cr_assert_eq(go(0x00412345, PAGE_READ, false), WALK_NO_MEMORY);
}

Test(page_walk, bits32_pse36_reaches_above_4_gib)
{
    sregs.cr4 = CR4_PSE;
    put32(T1, 0x00400000 | 5u << 13 | RW | PTE_PAGE_SIZE);
    cr_assert_eq(go(0x10, PAGE_READ, false), WALK_OK);
    cr_assert_eq(w.pa, (5ULL << 32) + 0x00400010);
    put32(T1, 1u << 21 | RW | PTE_PAGE_SIZE);
    cr_assert_eq(go(0x10, PAGE_READ, false), WALK_RESERVED_BIT);
}

Test(page_walk, bits32_last_entry)
{
    put32(T1 + 4 * 1023, T2 | RW);
    put32(T2 + 4 * 1023, PAGE | RW);
    cr_assert_eq(go(0xffffffff, PAGE_READ, false), WALK_OK);
    cr_assert_eq(w.pa, PAGE + 0xfff);
}

/* --- PAE, SDM 3A §4.4 --- */

Test(page_walk, pae_small_page)
{
    sregs.cr4 = CR4_PAE;
    sregs.cr3 = T1 + 0x20; /* the four PDPTEs are 32-byte aligned only */
    put64(T1 + 0x20 + 8 * 3, T2 | PTE_PRESENT);
    put64(T2 + 8 * 511, T3 | RWU);
    put64(T3 + 8 * 511, PAGE | RWU);
    cr_assert_eq(go(0xfffff123, PAGE_WRITE, true), WALK_OK);
    cr_assert_eq(w.pa, PAGE + 0x123);
    cr_assert_eq(w.levels, 3);
    cr_assert_str_eq(w.steps[0].table, "PDPT");
}

Test(page_walk, pae_large_page)
{
    sregs.cr4 = CR4_PAE;
    put64(T1, T2 | PTE_PRESENT);
    put64(T2 + 8, 0x200000 | RW | PTE_PAGE_SIZE);
    cr_assert_eq(go(0x212345, PAGE_WRITE, false), WALK_OK);
    cr_assert_eq(w.pa, 0x212345);
    cr_assert_eq(w.page_size, 2 * MIB);
}

Test(page_walk, pae_reserved_bits)
{
    sregs.cr4 = CR4_PAE;
    put64(T1, T2 | RW); /* R/W is reserved in a PDPTE */
    cr_assert_eq(go(0, PAGE_READ, false), WALK_RESERVED_BIT);
    put64(T1, T2 | PTE_PRESENT);
    put64(T2, T3 | RW | 1ULL << 52);
    cr_assert_eq(go(0, PAGE_READ, false), WALK_RESERVED_BIT);
    cr_assert_eq(w.levels, 2);
    put64(T2, T3 | RW);
    put64(T3, PAGE | RW | PTE_NO_EXECUTE);
    cr_assert_eq(go(0, PAGE_READ, false), WALK_RESERVED_BIT, "XD without EFER.NXE");
    cr_assert_eq(w.error_code, 9);
    sregs.efer = EFER_NXE;
    cr_assert_eq(go(0, PAGE_READ, false), WALK_OK);
    cr_assert_eq(go(0, PAGE_EXECUTE, false), WALK_NOT_EXECUTABLE);
}

/* --- 4- and 5-level, SDM 3A §4.5 --- */

Test(page_walk, level4_names_every_step)
{
    map_4level(RW);
    cr_assert_eq(go(0x1234, PAGE_WRITE, false), WALK_OK);
    cr_assert_eq(w.pa, PAGE + 0x234);
    cr_assert_eq(w.levels, 4);
    cr_assert_str_eq(w.steps[0].table, "PML4");
    cr_assert_str_eq(w.steps[1].table, "PDPT");
    cr_assert_str_eq(w.steps[2].table, "PD");
    cr_assert_str_eq(w.steps[3].table, "PT");
    cr_assert_eq(w.steps[3].entry_gpa, T4 + 8);
    cr_assert_eq(w.error_code, 0);
}

Test(page_walk, level4_root_ignores_pcid_and_flags_in_cr3)
{
    map_4level(RW);
    sregs.cr3 = T1 | 0xfff | 1ULL << 63;
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_OK);
}

Test(page_walk, level4_large_pages)
{
    map_4level(RW);
    put64(T3 + 8, 0x40200000 | RW | PTE_PAGE_SIZE | 1 << 12); /* bit 12 is PAT */
    cr_assert_eq(go(0x234567, PAGE_READ, false), WALK_OK);
    cr_assert_eq(w.pa, 0x40234567);
    cr_assert_eq(w.page_size, 2 * MIB);
    put64(T2 + 8, 0x80000000 | RW | PTE_PAGE_SIZE);
    cr_assert_eq(go(0x40234567, PAGE_READ, false), WALK_OK);
    cr_assert_eq(w.pa, 0x80234567);
    cr_assert_eq(w.page_size, 1 * GIB);
    cr_assert_eq(w.levels, 2);
}

Test(page_walk, level4_reserved_bits)
{
    map_4level(RW);
    put64(T3 + 8, 0x40000000 | RW | PTE_PAGE_SIZE | 1 << 13);
    cr_assert_eq(go(0x200000, PAGE_READ, false), WALK_RESERVED_BIT);
    put64(T2 + 8, 0x80000000 | RW | PTE_PAGE_SIZE | 1 << 29);
    cr_assert_eq(go(0x40000000, PAGE_READ, false), WALK_RESERVED_BIT);
    put64(T1 + 8, T2 | RW | PTE_PAGE_SIZE);
    cr_assert_eq(go(1ULL << 39, PAGE_READ, false), WALK_RESERVED_BIT);
    put64(T4 + 8, PAGE | RW | PTE_NO_EXECUTE);
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_RESERVED_BIT, "XD without EFER.NXE");
    put64(T4 + 8, PAGE | RW | 0x7ffULL << 52);
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_OK, "62:52 are free for software");
}

Test(page_walk, level4_not_canonical_is_not_a_page_fault)
{
    map_4level(RW);
    cr_assert_eq(go(0x800000000000, PAGE_READ, false), WALK_NOT_CANONICAL);
    cr_assert_eq(w.levels, 0);
    cr_assert_eq(w.error_code, 0);
    cr_assert_eq(go(0xffff7fffffffffff, PAGE_READ, false), WALK_NOT_CANONICAL);
    cr_assert_eq(go(0xffff800000000000, PAGE_READ, false), WALK_NOT_PRESENT);
}

Test(page_walk, level5)
{
    map_4level(RW);
    sregs.cr4 |= CR4_LA57;
    sregs.cr3 = T5;
    put64(T5 + 8 * 1, T1 | RWU);
    cr_assert_eq(go(1ULL << 48 | 0x1020, PAGE_READ, false), WALK_OK);
    cr_assert_eq(w.pa, PAGE + 0x20);
    cr_assert_eq(w.levels, 5);
    cr_assert_str_eq(w.steps[0].table, "PML5");
    cr_assert_eq(go(1ULL << 56, PAGE_READ, false), WALK_NOT_CANONICAL);
}

/* --- missing entries and tables --- */

Test(page_walk, stops_at_the_entry_that_is_missing)
{
    map_4level(RW);
    cr_assert_eq(go(0x2000, PAGE_WRITE, false), WALK_NOT_PRESENT);
    cr_assert_eq(w.levels, 4);
    cr_assert_eq(w.error_code, 2);
    cr_assert_eq(go(0x40000000, PAGE_READ, true), WALK_NOT_PRESENT);
    cr_assert_eq(w.levels, 2);
    cr_assert_eq(w.error_code, 4);
}

Test(page_walk, reserved_bits_of_an_absent_entry_do_not_matter)
{
    map_4level(RW);
    put64(T4 + 8, ~1ULL);
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_NOT_PRESENT);
}

Test(page_walk, table_outside_memory)
{
    map_4level(RW);
    put64(T2, RAM | RW);
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_NO_MEMORY);
    cr_assert_eq(w.levels, 3);
    cr_assert_eq(w.steps[2].entry_gpa, RAM);
    cr_assert_eq(w.steps[2].entry, 0);
    cr_assert_eq(w.error_code, 0);
    sregs.cr3 = PTE_NO_EXECUTE - 0x1000;
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_NO_MEMORY);
}

Test(page_walk, tables_that_point_at_themselves_end)
{
    map_4level(RW);
    put64(T1, T1 | RW);
    cr_assert_eq(go(0, PAGE_READ, false), WALK_OK);
    cr_assert_eq(w.pa, T1);
}

/* --- access rights, SDM 3A §4.6.1; error codes, §4.7 --- */

Test(page_walk, write_needs_rw_in_every_entry)
{
    map_4level(RWU);
    put64(T2, T3 | PTE_PRESENT | PTE_USER);
    cr_assert_eq(go(0x1000, PAGE_WRITE, false), WALK_NOT_WRITABLE);
    cr_assert_eq(w.error_code, 3);
    cr_assert_eq(go(0x1000, PAGE_WRITE, true), WALK_NOT_WRITABLE);
    cr_assert_eq(w.error_code, 7);
    cr_assert_eq(go(0x1000, PAGE_READ, true), WALK_OK);
}

Test(page_walk, supervisor_may_write_read_only_pages_without_wp)
{
    map_4level(PTE_PRESENT | PTE_USER);
    sregs.cr0 &= ~CR0_WP;
    cr_assert_eq(go(0x1000, PAGE_WRITE, false), WALK_OK);
    cr_assert_eq(go(0x1000, PAGE_WRITE, true), WALK_NOT_WRITABLE);
}

Test(page_walk, user_needs_us_in_every_entry)
{
    map_4level(RWU);
    put64(T3, T4 | RW);
    cr_assert_eq(go(0x1000, PAGE_READ, true), WALK_NOT_USER);
    cr_assert_eq(w.error_code, 5);
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_OK);
}

Test(page_walk, no_execute_in_any_entry)
{
    sregs.efer = EFER_NXE;
    map_4level(RWU);
    put64(T1, T2 | RWU | PTE_NO_EXECUTE);
    cr_assert_eq(go(0x1000, PAGE_EXECUTE, false), WALK_NOT_EXECUTABLE);
    cr_assert_eq(w.error_code, 0x11);
    cr_assert_eq(go(0x1000, PAGE_EXECUTE, true), WALK_NOT_EXECUTABLE);
    cr_assert_eq(w.error_code, 0x15);
    cr_assert_eq(go(0x1000, PAGE_READ, true), WALK_OK);
}

Test(page_walk, fetch_bit_needs_nxe_or_smep)
{
    map_4level(RWU);
    cr_assert_eq(go(0x2000, PAGE_EXECUTE, false), WALK_NOT_PRESENT);
    cr_assert_eq(w.error_code, 0);
    sregs.cr4 |= CR4_SMEP;
    cr_assert_eq(go(0x2000, PAGE_EXECUTE, false), WALK_NOT_PRESENT);
    cr_assert_eq(w.error_code, 0x10);
}

Test(page_walk, smep_keeps_the_supervisor_from_user_code)
{
    map_4level(RWU);
    cr_assert_eq(go(0x1000, PAGE_EXECUTE, false), WALK_OK);
    sregs.cr4 |= CR4_SMEP;
    cr_assert_eq(go(0x1000, PAGE_EXECUTE, false), WALK_NOT_EXECUTABLE);
    cr_assert_eq(w.error_code, 0x11);
    cr_assert_eq(go(0x1000, PAGE_EXECUTE, true), WALK_OK);
}

Test(page_walk, smap_keeps_the_supervisor_from_user_data)
{
    map_4level(RWU);
    sregs.cr4 |= CR4_SMAP;
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_SMAP);
    cr_assert_eq(w.error_code, 1);
    cr_assert_eq(go(0x1000, PAGE_WRITE, false), WALK_SMAP);
    cr_assert_eq(w.error_code, 3);
    cr_assert_eq(go_flags(0x1000, PAGE_READ, false, AC), WALK_OK);
    cr_assert_eq(go(0x1000, PAGE_EXECUTE, false), WALK_OK, "SMAP is about data");
    put64(T4 + 8, PAGE | RW);
    cr_assert_eq(go(0x1000, PAGE_READ, false), WALK_OK);
}

Test(page_walk, bits32_has_no_execute_disable)
{
    put32(T1, T2 | RW);
    put32(T2, PAGE | RW);
    sregs.efer = EFER_NXE;
    cr_assert_eq(go(0, PAGE_EXECUTE, false), WALK_OK);
}

Test(page_walk, changes_no_guest_memory)
{
    uint64_t entry = 0;

    map_4level(RWU);
    cr_assert_eq(go(0x1000, PAGE_WRITE, true), WALK_OK);
    cr_assert_eq(mem_read_u64(&mem, T4 + 8, &entry), 0);
    cr_assert_eq(entry, PAGE | RWU, "neither A nor D");
}

/* --- reading as a debugger --- */

Test(page_walk, read_virtual_crosses_pages_and_stops_at_a_hole)
{
    char out[64];

    map_4level(PTE_PRESENT);
    put64(T4 + 16, (PAGE + 0x2000) | PTE_PRESENT);
    cr_assert_eq(mem_write(&mem, PAGE + 0xffc, "abcd", 4), 0);
    cr_assert_eq(mem_write(&mem, PAGE + 0x2000, "efgh", 4), 0);
    memset(out, '#', sizeof(out));
    cr_assert_eq(page_read_virtual(&mem, &sregs, 0x1ffc, out, 8), 8);
    cr_assert_arr_eq(out, "abcdefgh#", 9);
    cr_assert_eq(page_read_virtual(&mem, &sregs, 0x2ffe, out, 8), 2);
    cr_assert_eq(page_read_virtual(&mem, &sregs, 0x5000, out, 8), 0);
    cr_assert_eq(page_read_virtual(&mem, &sregs, 0x7fffffffffff, out, 8), 0);
}

Test(page_walk, read_virtual_without_paging)
{
    char out[8] = {0};

    sregs.cr0 = 1;
    cr_assert_eq(mem_write(&mem, 0x100, "xyz", 3), 0);
    cr_assert_eq(page_read_virtual(&mem, &sregs, 0x100, out, 3), 3);
    cr_assert_arr_eq(out, "xyz", 3);
    cr_assert_eq(page_read_virtual(&mem, &sregs, RAM - 2, out, 8), 2);
    cr_assert_eq(page_read_virtual(&mem, &sregs, 0x100, out, 0), 0);
}

/* --- words --- */

Test(page_walk, print_shows_each_level_and_the_outcome)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    sregs.efer = EFER_NXE;
    map_4level(RW | PTE_NO_EXECUTE);
    (void)go(0x1234, PAGE_EXECUTE, false);
    page_walk_print(&w, out);
    fclose(out);
    cr_assert_str_eq(text, "  PML4 entry at 0x0000001000: 0x0000000000002007 P RW US\n"
                           "  PDPT entry at 0x0000002000: 0x0000000000003007 P RW US\n"
                           "  PD   entry at 0x0000003000: 0x0000000000004007 P RW US\n"
                           "  PT   entry at 0x0000004008: 0x8000000000008003 P RW NX\n"
                           "  0x1234: the page is not executable (#PF error code 0x11)\n");
    free(text);
}

Test(page_walk, print_success_and_missing_memory)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    map_4level(RW);
    (void)go(0x1234, PAGE_READ, false);
    page_walk_print(&w, out);
    sregs.cr3 = RAM;
    (void)go(0x1234, PAGE_READ, false);
    page_walk_print(&w, out);
    fclose(out);
    cr_assert_not_null(strstr(text, "  0x1234: mapped to 0x8234\n"));
    cr_assert_not_null(strstr(text, "  PML4 entry at 0x0000100000\n"
                                    "  0x1234: the table lies outside guest memory\n"));
    free(text);
}

Test(page_walk, every_result_has_a_text)
{
    for (int i = WALK_OK; i <= WALK_NO_MEMORY; i++)
        cr_assert_neq(strcmp(walk_result_text(i), "?"), 0);
    cr_assert_str_eq(walk_result_text((enum walk_result)99), "?");
}
