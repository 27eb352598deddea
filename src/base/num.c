#include "hv/base/num.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int align_up(uint64_t n, uint64_t align, uint64_t *out)
{
    uint64_t sum;

    if (__builtin_add_overflow(n, align - 1, &sum))
        return -EOVERFLOW;
    *out = align_down(sum, align);
    return 0;
}

/* The number at the start of `text`, and what follows it. strtoull() alone would take signs, spaces
 * and octal, and a second 0x. */
static int number_prefix(const char *text, uint64_t *out, const char **rest)
{
    int base = text[0] == '0' && (text[1] == 'x' || text[1] == 'X') ? 16 : 10;
    const char *digits = base == 16 ? text + 2 : text;
    char *end;

    if (base == 16 ? !isxdigit((unsigned char)*digits) : !isdigit((unsigned char)*digits))
        return -EINVAL;
    if (base == 16 && (digits[1] == 'x' || digits[1] == 'X'))
        return -EINVAL;
    errno = 0;
    unsigned long long n = strtoull(digits, &end, base);
    if (errno == ERANGE)
        return -ERANGE;
    *out = n;
    *rest = end;
    return 0;
}

int parse_u64(const char *text, uint64_t max, uint64_t *out)
{
    const char *rest;
    uint64_t n;
    int rc = number_prefix(text, &n, &rest);

    if (rc == -ERANGE)
        return rc;
    if (rc < 0 || *rest != '\0')
        return -EINVAL;
    if (n > max)
        return -ERANGE;
    *out = n;
    return 0;
}

/* The factor that a size suffix stands for, 0 when it is none. */
static uint64_t suffix_factor(const char *suffix, uint64_t unit)
{
    static const char letters[] = "KMGT";

    if (*suffix == '\0')
        return unit;
    if (strcasecmp(suffix, "B") == 0)
        return 1;
    const char *letter = strchr(letters, toupper((unsigned char)*suffix));
    const char *rest = suffix + 1;
    if (letter == NULL ||
        (*rest != '\0' && strcasecmp(rest, "B") != 0 && strcasecmp(rest, "iB") != 0))
        return 0;
    return KIB << (10 * (letter - letters));
}

int parse_size(const char *text, uint64_t unit, uint64_t *out)
{
    const char *rest;
    uint64_t n;
    int rc = number_prefix(text, &n, &rest);

    if (rc < 0)
        return rc;
    uint64_t factor = suffix_factor(rest, unit);
    if (factor == 0)
        return -EINVAL;
    if (__builtin_mul_overflow(n, factor, &n))
        return -ERANGE;
    *out = n;
    return 0;
}

char *format_size(uint64_t bytes, char *buf)
{
    static const char letters[] = "KMGT";
    int power = 0;

    while (power < 4 && bytes != 0 && bytes % KIB == 0) {
        bytes /= KIB;
        power++;
    }
    if (power == 0)
        (void)snprintf(buf, SIZE_TEXT_MAX, "%" PRIu64, bytes);
    else
        (void)snprintf(buf, SIZE_TEXT_MAX, "%" PRIu64 "%c", bytes, letters[power - 1]);
    return buf;
}
