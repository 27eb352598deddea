#include "support/boot_case.h"

#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>

#include "support/ram.h"

static void keep_message(void *ctx, enum log_level level, const char *text)
{
    struct boot_case *c = ctx;

    (void)level;
    snprintf(c->logged, sizeof(c->logged), "%s", text);
}

void boot_case_init(struct boot_case *c)
{
    *c = (struct boot_case){
        .req = {.kernel_name = "kernel",
                .initrd_name = "initrd",
                .cmdline = "",
                .layout = {.ranges = {{0, CASE_HOLE, BOOT_RANGE_RAM},
                                      {CASE_HOLE, 0x100000 - CASE_HOLE, BOOT_RANGE_RESERVED},
                                      {0x100000, CASE_RAM - 0x100000, BOOT_RANGE_RAM}},
                           .count = 3,
                           .low_end = CASE_RAM,
                           .scratch = CASE_SCRATCH,
                           .scratch_end = CASE_SCRATCH_END,
                           .rsdp = CASE_RSDP}},
        .log = {.level = LOG_DEBUG, .write = keep_message},
    };
    c->log.ctx = c;
    ram_init(&c->mem, CASE_RAM);
}

void boot_case_fini(struct boot_case *c)
{
    mem_fini(&c->mem);
}

static int run(struct boot_case *c, enum boot_protocol protocol, const struct image *image)
{
    memset(mem_ptr(&c->mem, 0, CASE_RAM, true), CASE_POISON, CASE_RAM);
    memset(&c->entry, CASE_POISON, sizeof(c->entry));
    c->err.text[0] = '\0';
    c->logged[0] = '\0';
    c->req.protocol = protocol;
    c->req.kernel = image->data;
    c->req.kernel_size = image->size;
    return boot_load(&c->mem, &c->req, &c->log, &c->entry, &c->err);
}

void boot_case_load(struct boot_case *c, enum boot_protocol protocol, const struct image *image)
{
    int rc = run(c, protocol, image);

    cr_assert_eq(rc, 0, "%d: %s", rc, c->err.text);
    cr_assert_str_empty(c->err.text);
}

void boot_case_refuse(struct boot_case *c, enum boot_protocol protocol, const struct image *image,
                      int rc, const char *text)
{
    struct boot_entry poison;
    int got = run(c, protocol, image);

    cr_assert_eq(got, rc, "%d instead of %d: %s", got, rc, c->err.text);
    cr_assert_not_null(strstr(c->err.text, text), "'%s' is not in '%s'", text, c->err.text);
    cr_assert_eq(strncmp(c->err.text, "kernel: ", 8), 0, "%s", c->err.text);
    memset(&poison, CASE_POISON, sizeof(poison));
    cr_assert_eq(memcmp(&c->entry, &poison, sizeof(poison)), 0, "entry was changed");
    boot_case_expect_fill(c, 0, CASE_SCRATCH, CASE_POISON);
    boot_case_expect_fill(c, CASE_SCRATCH_END, CASE_RAM - CASE_SCRATCH_END, CASE_POISON);
}

const uint8_t *boot_case_at(const struct boot_case *c, uint64_t gpa, size_t size)
{
    const uint8_t *p = mem_ptr(&c->mem, gpa, size, false);

    cr_assert_not_null(p, "0x%llx is outside guest memory", (unsigned long long)gpa);
    return p;
}

void boot_case_expect_fill(const struct boot_case *c, uint64_t gpa, size_t size, uint8_t value)
{
    const uint8_t *p = boot_case_at(c, gpa, size);

    if (size > 0 && (p[0] != value || memcmp(p, p + 1, size - 1) != 0))
        cr_assert_fail("not all 0x%02x at 0x%llx", value, (unsigned long long)gpa);
}
