#include "hv/x86/names.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "hv/x86/flat_modes.h"

Test(names, control_registers_by_bit)
{
    char buf[X86_BITS_TEXT_MAX];

    cr_assert_str_eq(x86_cr0_text(0x80010031, buf, sizeof(buf)), "PE|ET|NE|WP|PG");
    cr_assert_str_eq(x86_cr4_text(0x1020, buf, sizeof(buf)), "PAE|LA57");
    cr_assert_str_eq(x86_efer_text(0xd01, buf, sizeof(buf)), "SCE|LME|LMA|NXE");
    cr_assert_str_eq(x86_rflags_text(0x246, buf, sizeof(buf)), "PF|ZF|IF");
}

Test(names, nothing_set_is_an_empty_string)
{
    char buf[X86_BITS_TEXT_MAX] = "poison";

    cr_assert_str_eq(x86_cr4_text(0, buf, sizeof(buf)), "");
    cr_assert_str_eq(x86_rflags_text(2, buf, sizeof(buf)), "", "bit 1 is always set");
}

Test(names, unnamed_bits_are_shown_as_a_number)
{
    char buf[X86_BITS_TEXT_MAX];

    cr_assert_str_eq(x86_efer_text(1ULL << 40 | 1, buf, sizeof(buf)), "SCE|0x10000000000");
}

Test(names, every_bit_fits_the_stated_maximum)
{
    char buf[X86_BITS_TEXT_MAX];

    cr_assert_lt(strlen(x86_cr4_text(~0ULL, buf, sizeof(buf))), sizeof(buf) - 1);
    cr_assert_lt(strlen(x86_rflags_text(~0ULL, buf, sizeof(buf))), sizeof(buf) - 1);
}

Test(names, small_buffers_are_terminated_and_not_overrun)
{
    char buf[8];

    memset(buf, '#', sizeof(buf));
    cr_assert_str_eq(x86_cr0_text(0x80010031, buf, 6), "PE|ET");
    cr_assert_eq(buf[6], '#');
    (void)x86_cr0_text(0x80010031, buf, 0); /* nothing to check but that it returns */
}

Test(names, vectors)
{
    char buf[64];

    cr_assert_str_eq(x86_vector_text(14, buf, sizeof(buf)), "#PF page fault");
    cr_assert_str_eq(x86_vector_text(2, buf, sizeof(buf)), "NMI");
    cr_assert_str_eq(x86_vector_text(9, buf, sizeof(buf)), "vector 9");
    cr_assert_str_eq(x86_vector_text(33, buf, sizeof(buf)), "vector 33");
    cr_assert_str_eq(x86_vector_text(4000000000, buf, sizeof(buf)), "vector 4000000000");
}

/* The report's shape: two spaces, 100 columns, about 25 lines. */
Test(names, register_report_keeps_its_shape)
{
    struct kvm_regs regs = {.rip = 0x7c00, .rflags = 2, .r15 = 0x1234};
    struct kvm_sregs sregs = {0};
    char *text = NULL;
    size_t size, lines = 0;
    FILE *out = open_memstream(&text, &size);

    x86_long_mode(&sregs, 0x1000, 0x2000);
    x86_print_regs(&regs, &sregs, out);
    fclose(out);
    cr_assert_not_null(strstr(text, "long mode, CPL 0"));
    cr_assert_not_null(strstr(text, "r15 0000000000001234"));
    cr_assert_not_null(strstr(text, "code rx 64-bit"));
    cr_assert_not_null(strstr(text, "TSS busy"));
    cr_assert_not_null(strstr(text, "unusable"));
    cr_assert_not_null(strstr(text, "LME|LMA|NXE"));
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), lines++) {
        cr_assert_eq(strncmp(line, "  ", 2), 0, "%s", line);
        cr_assert_leq(strlen(line), 100, "%s", line);
    }
    cr_assert(lines >= 18 && lines <= 26, "%zu lines", lines);
    free(text);
}

Test(names, register_report_survives_any_bits)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    memset(&regs, 0xff, sizeof(regs));
    memset(&sregs, 0xff, sizeof(sregs));
    x86_print_regs(&regs, &sregs, out);
    sregs.cs.unusable = 0;
    sregs.ldt.unusable = 0;
    sregs.ldt.s = 0;
    sregs.ldt.type = 0;
    x86_print_regs(&regs, &sregs, out);
    fclose(out);
    cr_assert_not_null(strstr(text, "reserved type"));
    free(text);
}
