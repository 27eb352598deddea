/*
 * The walker, by a script on stdin.
 *
 *   ram GPA SIZE            memory, zeroed
 *   put GPA WORD            8 bytes
 *   put4 GPA WORD           4 bytes
 *   mode CR0 CR3 CR4 EFER
 *   walk VA ACCESS USER RFLAGS
 *
 * Each walk is a case.
 */
#include <linux/kvm.h>

#include "hv/x86/paging.h"
#include "ram.h"

static struct mem mem;
static struct kvm_sregs sregs;

static void add(uint64_t gpa, uint64_t size)
{
    add_ram(&mem, gpa, size);
    memset(mem_ptr(&mem, gpa, size, true), 0, size);
}

static void put(uint64_t gpa, uint64_t word, size_t size)
{
    if (mem_write(&mem, gpa, &word, size) < 0)
        exit(2);
}

static void report_steps(const struct page_walk *w)
{
    report_name("steps");
    report_raw("[");
    for (unsigned i = 0; i < w->levels && i < WALK_LEVELS_MAX; i++) {
        report_raw(i > 0 ? ", [\"" : "[\"");
        report_raw(w->steps[i].table != NULL ? w->steps[i].table : "none");
        report_raw("\", ");
        report_raw_number(w->steps[i].entry_gpa);
        report_raw(", ");
        report_raw_number(w->steps[i].entry);
        report_raw("]");
    }
    report_raw("]");
}

static void walk(uint64_t va, enum page_access access, bool user, uint64_t rflags)
{
    struct page_walk w;

    memset(&w, POISON, sizeof(w));
    page_walk(&mem, &sregs, rflags, va, access, user, &w);
    report_case();
    report_int("result", w.result);
    report_int("levels", w.levels);
    report_u64("pa", w.pa);
    report_u64("size", w.page_size);
    report_u64("error", w.error_code);
    report_steps(&w);
}

int main(void)
{
    char line[256];
    unsigned long long a, b, c, d;

    mem_init(&mem);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (sscanf(line, "ram %llu %llu", &a, &b) == 2) {
            add(a, b);
        } else if (sscanf(line, "put4 %llu %llu", &a, &b) == 2) {
            put(a, b, 4);
        } else if (sscanf(line, "put %llu %llu", &a, &b) == 2) {
            put(a, b, 8);
        } else if (sscanf(line, "mode %llu %llu %llu %llu", &a, &b, &c, &d) == 4) {
            sregs = (struct kvm_sregs){.cr0 = a, .cr3 = b, .cr4 = c, .efer = d};
        } else if (sscanf(line, "walk %llu %llu %llu %llu", &a, &b, &c, &d) == 4) {
            walk(a, (enum page_access)b, c != 0, d);
        }
    }
    mem_fini(&mem);
    return report_end();
}
