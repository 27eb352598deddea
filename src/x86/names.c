/*
 * Registers in words: what a person needs to see first when a guest has died.
 *
 * Names are those of the SDM (3A §2.5 for control registers, §2.3 for RFLAGS, §6.15 for
 * exceptions). Bits without a name here are shown as a number, so that nothing set is ever
 * invisible.
 */
#include "hv/x86/names.h"

#include <inttypes.h>

#include "hv/base/num.h"
#include "hv/x86/modes.h"

struct bit_name {
    unsigned bit;
    const char *name;
};

static const struct bit_name cr0_bits[] = {
    {0, "PE"},  {1, "MP"},  {2, "EM"},  {3, "TS"},  {4, "ET"},  {5, "NE"},
    {16, "WP"}, {18, "AM"}, {29, "NW"}, {30, "CD"}, {31, "PG"},
};

static const struct bit_name cr4_bits[] = {
    {0, "VME"},   {1, "PVI"},   {2, "TSD"},   {3, "DE"},        {4, "PSE"},         {5, "PAE"},
    {6, "MCE"},   {7, "PGE"},   {8, "PCE"},   {9, "OSFXSR"},    {10, "OSXMMEXCPT"}, {11, "UMIP"},
    {12, "LA57"}, {13, "VMXE"}, {14, "SMXE"}, {16, "FSGSBASE"}, {17, "PCIDE"},      {18, "OSXSAVE"},
    {19, "KL"},   {20, "SMEP"}, {21, "SMAP"}, {22, "PKE"},      {23, "CET"},        {24, "PKS"},
};

static const struct bit_name efer_bits[] = {
    {0, "SCE"}, {8, "LME"}, {10, "LMA"}, {11, "NXE"}, {12, "SVME"}, {14, "FFXSR"},
};

/* Bit 1 is always set and says nothing; IOPL (bits 13:12) is two bits wide. */
static const struct bit_name rflags_bits[] = {
    {0, "CF"},  {2, "PF"},  {4, "AF"},  {6, "ZF"},     {7, "SF"},     {8, "TF"},
    {9, "IF"},  {10, "DF"}, {11, "OF"}, {12, "IOPL0"}, {13, "IOPL1"}, {14, "NT"},
    {16, "RF"}, {17, "VM"}, {18, "AC"}, {19, "VIF"},   {20, "VIP"},   {21, "ID"},
};

/* Appends to the text in buf of which *used bytes are taken; what does not fit is cut. */
static void append(char *buf, size_t size, size_t *used, const char *separator, const char *text)
{
    int n;

    if (*used >= size)
        return;
    n = snprintf(buf + *used, size - *used, "%s%s", *used > 0 ? separator : "", text);
    *used += n > 0 ? (size_t)n : 0;
}

static char *bits_text(uint64_t value, const struct bit_name *bits, size_t count, char *buf,
                       size_t size)
{
    size_t used = 0;
    char number[24];

    if (size > 0)
        buf[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        if (!(value >> bits[i].bit & 1))
            continue;
        append(buf, size, &used, "|", bits[i].name);
        value &= ~(1ULL << bits[i].bit);
    }
    if (value != 0) {
        snprintf(number, sizeof(number), "0x%" PRIx64, value);
        append(buf, size, &used, "|", number);
    }
    return buf;
}

char *x86_cr0_text(uint64_t cr0, char *buf, size_t size)
{
    return bits_text(cr0, cr0_bits, ARRAY_LEN(cr0_bits), buf, size);
}

char *x86_cr4_text(uint64_t cr4, char *buf, size_t size)
{
    return bits_text(cr4, cr4_bits, ARRAY_LEN(cr4_bits), buf, size);
}

char *x86_efer_text(uint64_t efer, char *buf, size_t size)
{
    return bits_text(efer, efer_bits, ARRAY_LEN(efer_bits), buf, size);
}

char *x86_rflags_text(uint64_t rflags, char *buf, size_t size)
{
    return bits_text(rflags & ~2ULL, rflags_bits, ARRAY_LEN(rflags_bits), buf, size);
}

char *x86_vector_text(unsigned vector, char *buf, size_t size)
{
    static const char *const exceptions[32] = {
        [0] = "#DE divide error",
        [1] = "#DB debug exception",
        [2] = "NMI",
        [3] = "#BP breakpoint",
        [4] = "#OF overflow",
        [5] = "#BR bound range exceeded",
        [6] = "#UD invalid opcode",
        [7] = "#NM no math coprocessor",
        [8] = "#DF double fault",
        [10] = "#TS invalid TSS",
        [11] = "#NP segment not present",
        [12] = "#SS stack fault",
        [13] = "#GP general protection",
        [14] = "#PF page fault",
        [16] = "#MF x87 floating-point error",
        [17] = "#AC alignment check",
        [18] = "#MC machine check",
        [19] = "#XM SIMD floating-point exception",
        [20] = "#VE virtualization exception",
        [21] = "#CP control protection",
        [29] = "#VC VMM communication",
        [30] = "#SX security exception",
    };

    if (vector < ARRAY_LEN(exceptions) && exceptions[vector] != NULL)
        snprintf(buf, size, "%s", exceptions[vector]);
    else
        snprintf(buf, size, "vector %u", vector);
    return buf;
}

/* --- the register dump --- */

static void print_general(const struct kvm_regs *r, FILE *out)
{
    const struct {
        const char *name;
        uint64_t value;
    } regs[] = {
        {"rax", r->rax}, {"rbx", r->rbx}, {"rcx", r->rcx}, {"rdx", r->rdx},
        {"rsi", r->rsi}, {"rdi", r->rdi}, {"rbp", r->rbp}, {"rsp", r->rsp},
        {"r8", r->r8},   {"r9", r->r9},   {"r10", r->r10}, {"r11", r->r11},
        {"r12", r->r12}, {"r13", r->r13}, {"r14", r->r14}, {"r15", r->r15},
    };

    for (size_t i = 0; i < ARRAY_LEN(regs); i++) {
        fprintf(out, "  %-4s%016" PRIx64, regs[i].name, regs[i].value);
        if (i % 4 == 3)
            fputc('\n', out);
    }
}

/* SDM 3A §3.4.5.1 for code and data, §3.5 for system segments. */
static const char *segment_type_text(const struct kvm_segment *seg)
{
    static const char *const code_data[] = {
        "data r-",         "data r-",         "data rw",         "data rw",
        "data r- down",    "data r- down",    "data rw down",    "data rw down",
        "code -x",         "code -x",         "code rx",         "code rx",
        "code -x conform", "code -x conform", "code rx conform", "code rx conform",
    };
    static const char *const system[16] = {
        [1] = "TSS16",     [2] = "LDT",        [3] = "TSS16 busy",      [9] = "TSS",
        [11] = "TSS busy", [12] = "call gate", [14] = "interrupt gate", [15] = "trap gate",
    };
    unsigned type = seg->type & 15;

    if (seg->unusable || !seg->present)
        return "unusable";
    if (seg->s)
        return code_data[type];
    return system[type] != NULL ? system[type] : "reserved type";
}

static const char *segment_width_text(const struct kvm_segment *seg)
{
    if (!seg->s)
        return "";
    if (seg->l)
        return " 64-bit";
    return seg->db ? " 32-bit" : " 16-bit";
}

static void print_segment(const char *name, const struct kvm_segment *seg, FILE *out)
{
    fprintf(out, "  %-4s%04x  base %016" PRIx64 "  limit %08" PRIx32 "  dpl %u  %s%s\n", name,
            seg->selector, (uint64_t)seg->base, seg->limit, seg->dpl & 3u, segment_type_text(seg),
            segment_width_text(seg));
}

static void print_segments(const struct kvm_sregs *s, FILE *out)
{
    print_segment("cs", &s->cs, out);
    print_segment("ss", &s->ss, out);
    print_segment("ds", &s->ds, out);
    print_segment("es", &s->es, out);
    print_segment("fs", &s->fs, out);
    print_segment("gs", &s->gs, out);
    print_segment("tr", &s->tr, out);
    print_segment("ldt", &s->ldt, out);
    fprintf(out, "  gdt       base %016" PRIx64 "  limit %04x\n", (uint64_t)s->gdt.base,
            s->gdt.limit);
    fprintf(out, "  idt       base %016" PRIx64 "  limit %04x\n", (uint64_t)s->idt.base,
            s->idt.limit);
}

static void print_control(const struct kvm_sregs *s, FILE *out)
{
    char buf[X86_BITS_TEXT_MAX];

    fprintf(out, "  cr0  %016" PRIx64 "  %s\n", (uint64_t)s->cr0,
            x86_cr0_text(s->cr0, buf, sizeof(buf)));
    fprintf(out, "  cr2  %016" PRIx64 "  cr3 %016" PRIx64 "  cr8 %" PRIx64 "\n", (uint64_t)s->cr2,
            (uint64_t)s->cr3, (uint64_t)s->cr8);
    fprintf(out, "  cr4  %016" PRIx64 "  %s\n", (uint64_t)s->cr4,
            x86_cr4_text(s->cr4, buf, sizeof(buf)));
    fprintf(out, "  efer %016" PRIx64 "  %s\n", (uint64_t)s->efer,
            x86_efer_text(s->efer, buf, sizeof(buf)));
}

void x86_print_regs(const struct kvm_regs *regs, const struct kvm_sregs *sregs, FILE *out)
{
    char buf[X86_BITS_TEXT_MAX];

    fprintf(out, "  rip %016" PRIx64 "  %s, CPL %u\n", (uint64_t)regs->rip,
            x86_mode_name(x86_mode_of(sregs)), sregs->ss.dpl & 3u);
    fprintf(out, "  rflags %08" PRIx64 "  %s\n", (uint64_t)regs->rflags,
            x86_rflags_text(regs->rflags, buf, sizeof(buf)));
    print_general(regs, out);
    print_control(sregs, out);
    print_segments(sregs, out);
}
