/*
 * Checked accesses to a guest memory of our making.
 *
 * Before each access every byte of guest memory is set to the pattern of its address, so that
 * afterwards we can say which bytes changed. An access that touches what is not ours is stopped by
 * the host (SIGSEGV) and reported as a crash.
 *
 * args: ram:GPA:SIZE or rom:GPA:SIZE   a region (they come first)
 *       ptr:GPA:LEN:WRITE              mem_ptr()
 *       read:GPA:LEN  write:GPA:LEN  rom_write:GPA:LEN  zero:GPA:LEN    the copies
 */
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "hv/mem/mem.h"
#include "recorder.h"

#define BUFFER_SIZE ((size_t)64 << 10)
#define POISON 0x5a

static struct mem mem;
static uint8_t *buffer; /* BUFFER_SIZE bytes, with nothing behind them */
static sigjmp_buf escape;

static void on_fault(int sig)
{
    (void)sig;
    siglongjmp(escape, 1);
}

/* What guest memory holds at an address before, and what a write puts there. */
static uint8_t pattern(uint64_t gpa)
{
    return (uint8_t)(gpa * 31 + (gpa >> 8) * 7 + 1);
}

static uint8_t data_at(uint64_t i)
{
    return (uint8_t) ~(i * 13 + (i >> 8));
}

static void fill_memory(void)
{
    for (unsigned r = 0; r < mem.count; r++)
        for (uint64_t i = 0; i < mem.regions[r].size; i++)
            ((uint8_t *)mem.regions[r].host)[i] = pattern(mem.regions[r].gpa + i);
}

/* "changed": bytes of guest memory that are not what they were; "right": those inside
 * [gpa, gpa + len) that are as they should be after a write (or a clearing). */
static void report_memory(uint64_t gpa, uint64_t len, bool zero)
{
    uint64_t changed = 0, right = 0;

    for (unsigned r = 0; r < mem.count; r++) {
        for (uint64_t i = 0; i < mem.regions[r].size; i++) {
            uint64_t at = mem.regions[r].gpa + i;
            uint8_t is = ((const uint8_t *)mem.regions[r].host)[i];
            changed += is != pattern(at);
            right += at - gpa < len && is == (zero ? 0 : data_at(at - gpa));
        }
    }
    report_u64("changed", changed);
    report_u64("right", right);
}

/* "read": bytes at the front of the buffer that are the guest's; "spoilt": those that are no longer
 * poison. */
static void report_buffer(uint64_t gpa)
{
    uint64_t got = 0, spoilt = 0;

    while (got < BUFFER_SIZE && buffer[got] == pattern(gpa + got))
        got++;
    for (size_t i = 0; i < BUFFER_SIZE; i++)
        spoilt += buffer[i] != POISON;
    report_u64("read", got);
    report_u64("spoilt", spoilt);
}

/* Where in which region a pointer leads: "region" -1 for NULL, -2 for somewhere else. */
static void report_pointer(const uint8_t *p)
{
    int region = p == NULL ? -1 : -2;
    uint64_t gpa = 0;

    for (unsigned r = 0; r < mem.count && p != NULL; r++) {
        const struct mem_region *each = &mem.regions[r];
        if ((uintptr_t)p - (uintptr_t)each->host < each->size) {
            region = (int)r;
            gpa = each->gpa + (uint64_t)(p - (const uint8_t *)each->host);
        }
    }
    report_int("region", region);
    report_u64("leads_to", gpa);
}

static void add_region(uint64_t gpa, uint64_t size, enum mem_kind kind)
{
    struct error err = {0};

    if (mem_add(&mem, gpa, size, kind, MEM_ANONYMOUS, &err) < 0)
        exit(2);
}

static int call(const char *arg, const uint64_t *f)
{
    if (strncmp(arg, "read", 4) == 0)
        return mem_read(&mem, f[0], buffer, f[1]);
    if (strncmp(arg, "write", 5) == 0)
        return mem_write(&mem, f[0], buffer, f[1]);
    if (strncmp(arg, "rom_write", 9) == 0)
        return mem_rom_write(&mem, f[0], buffer, f[1]);
    return mem_zero(&mem, f[0], f[1]);
}

static void try(const char *arg)
{
    bool read = strncmp(arg, "read", 4) == 0, zero = strncmp(arg, "zero", 4) == 0;
    uint64_t f[3];

    fill_memory();
    report_case();
    if (is_command(arg, "ptr", f, 3)) {
        report_pointer(mem_ptr(&mem, f[0], f[1], f[2] != 0));
        return;
    }
    if (!is_command(arg,
                    read            ? "read"
                    : zero          ? "zero"
                    : arg[0] == 'w' ? "write"
                                    : "rom_write",
                    f, 2))
        exit(2);
    for (size_t i = 0; i < BUFFER_SIZE; i++)
        buffer[i] = read ? POISON : data_at(i);
    if (sigsetjmp(escape, 1) == 0)
        report_int("rc", call(arg, f));
    else
        report_string("crash", "SIGSEGV");
    report_memory(f[0], f[1], zero);
    if (read)
        report_buffer(f[0]);
}

int main(int argc, char **argv)
{
    uint64_t f[2];

    buffer =
        mmap(NULL, BUFFER_SIZE + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED || mprotect(buffer + BUFFER_SIZE, 4096, PROT_NONE) < 0)
        return 2;
    (void)signal(SIGSEGV, on_fault);
    mem_init(&mem);
    for (int i = 1; i < argc; i++) {
        if (is_command(argv[i], "ram", f, 2))
            add_region(f[0], f[1], MEM_RAM);
        else if (is_command(argv[i], "rom", f, 2))
            add_region(f[0], f[1], MEM_ROM);
        else
            try(argv[i]);
    }
    return report_end();
}
