/*
 * The page-table builder, by a script on stdin, in guest memory full of rubbish.
 *
 *   new RAM START END       a case: RAM bytes of memory, page_builder_init() with the range for
 * tables map VA PA SIZE FLAGS    page_map() plant VA LEVEL ENTRY    writes an entry into the table
 * of that level (1: PT … 4: PML4) that translates VA, for which the tables above must exist end of
 * the case: what there is now is reported
 */
#include "hv/x86/paging.h"
#include "ram.h"

static struct mem mem;
static struct page_builder builder;
static uint64_t ram, start, end;
static char codes[4096]; /* the results of the script's lines, as a list */

static void note(int rc)
{
    size_t used = strlen(codes);

    (void)snprintf(codes + used, sizeof(codes) - used, "%s%d", used > 0 ? ", " : "", rc);
}

static uint64_t entry_place(uint64_t table, uint64_t va, unsigned level)
{
    return (table & 0x000ffffffffff000) + 8 * (va >> (12 + 9 * (level - 1)) & 511);
}

static int plant(uint64_t va, unsigned level, uint64_t entry, bool keep)
{
    uint64_t table = builder.root;
    uint64_t old = 0;

    for (unsigned l = 4; l > level; l--)
        if (mem_read_u64(&mem, entry_place(table, va, l), &table) < 0 || !(table & PTE_PRESENT))
            return -1;
    if (keep && mem_read_u64(&mem, entry_place(table, va, level), &old) < 0)
        return -1;
    return mem_write_u64(&mem, entry_place(table, va, level), entry | old);
}

static void begin(void)
{
    mem_init(&mem);
    add_ram(&mem, 0, ram);
    codes[0] = '\0';
    memset(&builder, POISON, sizeof(builder));
    note(page_builder_init(&builder, &mem, start, end));
}

static void finish(void)
{
    uint64_t used = builder.next < end ? builder.next : end;

    report_case();
    report_name("codes");
    report_raw("[");
    report_raw(codes);
    report_raw("]");
    report_u64("root", builder.root);
    report_u64("next", builder.next);
    report_u64("outside", count_changed(&mem, 0, start) + count_changed(&mem, used, ram - used));
    report_words("words", &mem, start, used - start);
    mem_fini(&mem);
}

int main(void)
{
    char line[256];
    unsigned long long a, b, c, d;

    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (sscanf(line, "new %llu %llu %llu", &a, &b, &c) == 3) {
            ram = a;
            start = b;
            end = c;
            begin();
        } else if (sscanf(line, "map %llu %llu %llu %llu", &a, &b, &c, &d) == 4) {
            note(page_map(&builder, a, b, c, d));
        } else if (sscanf(line, "plant %llu %llu %llu", &a, &b, &c) == 3) {
            note(plant(a, (unsigned)b, c, false));
        } else if (sscanf(line, "mark %llu %llu %llu", &a, &b, &c) == 3) {
            note(plant(a, (unsigned)b, c, true));
        } else {
            finish();
        }
    }
    return report_end();
}
