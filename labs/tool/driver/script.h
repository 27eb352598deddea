/*
 * For drivers that a script on standard input tells what to do, and guest memory for it. Each line
 * is a command, and makes one case of the report.
 *
 *   mem GPA SIZE rom|ram     a region
 *   put GPA HEX              bytes into it, ROM too
 *   get GPA LEN              bytes out of it
 *
 * A crash, or a line that takes too long, says on stderr which one it was.
 */
#ifndef SCRIPT_H
#define SCRIPT_H

#include <errno.h>
#include <signal.h>

#include "hv/mem/mem.h"
#include "observe.h"

#define LINE_MAX_BYTES (1 << 20)
#define NOT_IN_GUEST UINT64_MAX
#define SLOW_SECONDS 6

static struct mem mem;
static char script_line[LINE_MAX_BYTES], script_now[160];
static uint8_t script_bytes[LINE_MAX_BYTES / 2];

/* The guest-physical address of a host pointer. */
static inline uint64_t gpa_of(const void *host)
{
    uintptr_t p = (uintptr_t)host;

    for (unsigned i = 0; i < mem.count; i++) {
        uintptr_t base = (uintptr_t)mem.regions[i].host;
        if (p >= base && p - base < mem.regions[i].size)
            return mem.regions[i].gpa + (p - base);
    }
    return NOT_IN_GUEST;
}

static inline void report_bool(const char *name, bool value)
{
    report_name(name);
    report_raw(value ? "true" : "false");
}

static inline void put(uint64_t gpa, const char *hex)
{
    size_t size = from_hex(hex, script_bytes, sizeof(script_bytes));

    if (mem_rom_write(&mem, gpa, script_bytes, size) < 0)
        report_bool("bad_put", true);
}

static inline void get(uint64_t gpa, uint64_t size)
{
    if (size <= sizeof(script_bytes) && mem_read(&mem, gpa, script_bytes, size) == 0)
        report_hex("bytes", script_bytes, size);
}

static inline void say(const char *what)
{
    (void)!write(STDERR_FILENO, what, strlen(what));
    (void)!write(STDERR_FILENO, script_now, strlen(script_now));
}

static inline void on_crash(int sig)
{
    (void)signal(sig, SIG_DFL);
    say("it crashed in: ");
    (void)raise(sig);
}

static inline void on_time(int sig)
{
    (void)sig;
    say("it takes its time in: ");
}

static inline bool memory_command(const char *verb, char *rest)
{
    if (strcmp(verb, "mem") == 0) {
        uint64_t gpa = take_number(&rest), size = take_number(&rest);
        enum mem_kind kind = rest && strcmp(rest, "rom") == 0 ? MEM_ROM : MEM_RAM;
        report_int("rc", mem_add(&mem, gpa, size, kind, MEM_ANONYMOUS, NULL));
    } else if (strcmp(verb, "put") == 0) {
        uint64_t gpa = take_number(&rest);
        put(gpa, rest ? rest : "");
    } else if (strcmp(verb, "get") == 0) {
        uint64_t gpa = take_number(&rest);
        get(gpa, take_number(&rest));
    } else {
        return false;
    }
    return true;
}

/* Runs the script; `command` knows the driver's own verbs. */
static inline int script_run(bool (*command)(const char *verb, char *rest))
{
    mem_init(&mem);
    (void)signal(SIGSEGV, on_crash);
    (void)signal(SIGBUS, on_crash);
    (void)signal(SIGALRM, on_time);
    while (fgets(script_line, sizeof(script_line), stdin) != NULL) {
        char *rest = script_line;
        script_line[strcspn(script_line, "\n")] = '\0';
        (void)snprintf(script_now, sizeof(script_now), "%.100s\n", script_line);
        (void)alarm(SLOW_SECONDS);
        report_case();
        char *verb = strsep(&rest, " ");
        report_string("did", verb);
        if (!memory_command(verb, rest) && !command(verb, rest))
            return 2;
    }
    return report_end();
}

#endif
