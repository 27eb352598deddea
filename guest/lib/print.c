/*
 * Text and test results through the debug port; see guest_abi.h.
 */
#include <stdarg.h>

#include "lib/guest.h"

static bool failed;

static void put(char c)
{
    outb(GUEST_DEBUG_PORT, (uint8_t)c);
}

static void put_string(const char *s)
{
    while (*s != '\0')
        put(*s++);
}

static void put_hex(uint64_t v)
{
    int shift = 60;

    while (shift > 0 && (v >> shift) == 0)
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put("0123456789abcdef"[v >> shift & 15]);
}

static void put_decimal(unsigned v)
{
    if (v >= 10)
        put_decimal(v / 10);
    put((char)('0' + v % 10));
}

void print(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    for (; *fmt != '\0'; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        switch (*++fmt) {
        case 's':
            put_string(va_arg(args, const char *));
            break;
        case 'c':
            put((char)va_arg(args, int));
            break;
        case 'u':
            put_decimal(va_arg(args, unsigned));
            break;
        case 'x':
            put_hex(va_arg(args, unsigned));
            break;
        case 'X':
            put_hex(va_arg(args, uint64_t));
            break;
        default:
            put(*fmt);
        }
    }
    va_end(args);
}

void check(const char *name, uint64_t expected, uint64_t got)
{
    if (expected == got) {
        print("@ok %s\n", name);
        return;
    }
    failed = true;
    print("@fail %s expected %X got %X\n", name, expected, got);
}

void value(const char *name, uint64_t v)
{
    print("@value %s %X\n", name, v);
}

_Noreturn void quit(uint8_t code)
{
    outb(GUEST_EXIT_PORT, code);
    for (;;)
        __asm__ volatile("cli; hlt");
}

_Noreturn void finish(void)
{
    print("@done\n");
    quit(failed ? GUEST_FAILED : GUEST_OK);
}
