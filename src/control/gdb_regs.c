#include "control/gdb_regs_priv.h"

#include <errno.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/x86/modes.h"

#define EFER_LMA (1U << 10)

/* The registers that are not simply a field of struct debug_regs. */
enum reg_kind {
    PLAIN,
    SELECTOR,    /* a segment register's visible part */
    FPU_TAGS,    /* two bits for each x87 register; KVM keeps one, as FXSAVE does */
    FPU_SEGMENT, /* the upper half of an address that KVM keeps whole */
};

enum feature { CORE, SSE, SEGMENTS, SYSTEM };

struct gdb_reg {
    const char *name;
    const char *type; /* as gdb calls it; NULL: an integer of its size */
    uint16_t offset;  /* of the field in struct debug_regs */
    uint8_t stored;   /* bytes of the field */
    uint8_t size;     /* bytes that gdb sees; the difference is cut off or filled with zeros */
    enum reg_kind kind;
    enum feature feature;
};

/* --- the lists: their order is gdb's, up to the feature SEGMENTS --- */

#define FIELD(f) offsetof(struct debug_regs, f), sizeof(((struct debug_regs *)0)->f)

#define GENERAL(name, field, type, size)                                                           \
    {                                                                                              \
        name, type, FIELD(regs.field), size, PLAIN, CORE                                           \
    }
#define SEGMENT(name)                                                                              \
    {                                                                                              \
#name, "int32", FIELD(sregs.name.selector), 4, SELECTOR, CORE                              \
    }
#define ST(n)                                                                                      \
    {                                                                                              \
        "st" #n, "i387_ext", FIELD(fpu.fpr[n]), 10, PLAIN, CORE                                    \
    }
#define FPU(name, field, kind)                                                                     \
    {                                                                                              \
        name, "int", FIELD(fpu.field), 4, kind, CORE                                               \
    }
#define XMM(n)                                                                                     \
    {                                                                                              \
        "xmm" #n, "vec128", FIELD(fpu.xmm[n]), 16, PLAIN, SSE                                      \
    }
#define SYS(name, field, type, size)                                                               \
    {                                                                                              \
        name, type, FIELD(sregs.field), size, PLAIN, SYSTEM                                        \
    }

#define SEGMENT_LIST SEGMENT(cs), SEGMENT(ss), SEGMENT(ds), SEGMENT(es), SEGMENT(fs), SEGMENT(gs)

/* clang-format off */
#define FPU_LIST                                                                                   \
    ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7),                                        \
    FPU("fctrl", fcw, PLAIN), FPU("fstat", fsw, PLAIN), FPU("ftag", ftwx, FPU_TAGS),               \
    FPU("fiseg", last_ip, FPU_SEGMENT), FPU("fioff", last_ip, PLAIN),                              \
    FPU("foseg", last_dp, FPU_SEGMENT), FPU("fooff", last_dp, PLAIN),                              \
    FPU("fop", last_opcode, PLAIN)

#define MXCSR {"mxcsr", "i386_mxcsr", FIELD(fpu.mxcsr), 4, PLAIN, SSE}

#define SYSTEM_LIST(size)                                                                          \
    SYS("cr0", cr0, "cr0", size), SYS("cr2", cr2, NULL, size),                              \
    SYS("cr3", cr3, NULL, size), SYS("cr4", cr4, "cr4", size),                              \
    SYS("cr8", cr8, NULL, size), SYS("efer", efer, "efer", size),                           \
    SYS("gdt_base", gdt.base, NULL, size), SYS("idt_base", idt.base, NULL, size)

static const struct gdb_reg wide[] = {
    GENERAL("rax", rax, "int64", 8), GENERAL("rbx", rbx, "int64", 8),
    GENERAL("rcx", rcx, "int64", 8), GENERAL("rdx", rdx, "int64", 8),
    GENERAL("rsi", rsi, "int64", 8), GENERAL("rdi", rdi, "int64", 8),
    GENERAL("rbp", rbp, "data_ptr", 8), GENERAL("rsp", rsp, "data_ptr", 8),
    GENERAL("r8", r8, "int64", 8), GENERAL("r9", r9, "int64", 8),
    GENERAL("r10", r10, "int64", 8), GENERAL("r11", r11, "int64", 8),
    GENERAL("r12", r12, "int64", 8), GENERAL("r13", r13, "int64", 8),
    GENERAL("r14", r14, "int64", 8), GENERAL("r15", r15, "int64", 8),
    GENERAL("rip", rip, "code_ptr", 8), GENERAL("eflags", rflags, "i386_eflags", 4),
    SEGMENT_LIST, FPU_LIST,
    XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7),
    XMM(8), XMM(9), XMM(10), XMM(11), XMM(12), XMM(13), XMM(14), XMM(15), MXCSR,
    {"fs_base", "int64", FIELD(sregs.fs.base), 8, PLAIN, SEGMENTS},
    {"gs_base", "int64", FIELD(sregs.gs.base), 8, PLAIN, SEGMENTS},
    SYSTEM_LIST(8),
};

static const struct gdb_reg narrow[] = {
    GENERAL("eax", rax, "int32", 4), GENERAL("ecx", rcx, "int32", 4),
    GENERAL("edx", rdx, "int32", 4), GENERAL("ebx", rbx, "int32", 4),
    GENERAL("esp", rsp, "data_ptr", 4), GENERAL("ebp", rbp, "data_ptr", 4),
    GENERAL("esi", rsi, "int32", 4), GENERAL("edi", rdi, "int32", 4),
    GENERAL("eip", rip, "code_ptr", 4), GENERAL("eflags", rflags, "i386_eflags", 4),
    SEGMENT_LIST, FPU_LIST,
    XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7), MXCSR,
    SYSTEM_LIST(4),
};
/* clang-format on */

static const struct gdb_layout layouts[] = {
    [X86_REAL] = {"i8086", narrow, ARRAY_LEN(narrow)},
    [X86_PROTECTED] = {"i386", narrow, ARRAY_LEN(narrow)},
    [X86_LONG] = {"i386:x86-64", wide, ARRAY_LEN(wide)},
};

const struct gdb_layout *gdb_layout_for(const struct kvm_sregs *sregs)
{
    /* A 32-bit program under a 64-bit kernel: the kernel is what one looks at. */
    if (sregs->efer & EFER_LMA)
        return &layouts[X86_LONG];
    return &layouts[x86_mode_of(sregs)];
}

const struct gdb_layout *gdb_layout_named(const char *name)
{
    if (strcmp(name, "x86-64") == 0)
        return &layouts[X86_LONG];
    for (size_t i = 0; i < ARRAY_LEN(layouts); i++)
        if (strcmp(layouts[i].architecture, name) == 0)
            return &layouts[i];
    return NULL;
}

/* --- the description --- */

struct flag {
    const char *name;
    unsigned bit;
};

/* SDM 1 §3.4.3, §10.2.3; SDM 3A §2.2.1, §2.5. */
static const struct flag eflags[] = {
    {"CF", 0},  {"PF", 2},   {"AF", 4},   {"ZF", 6},  {"SF", 7},  {"TF", 8},
    {"IF", 9},  {"DF", 10},  {"OF", 11},  {"NT", 14}, {"RF", 16}, {"VM", 17},
    {"AC", 18}, {"VIF", 19}, {"VIP", 20}, {"ID", 21},
};
static const struct flag mxcsr[] = {
    {"IE", 0}, {"DE", 1}, {"ZE", 2}, {"OE", 3},  {"UE", 4},  {"PE", 5},  {"DAZ", 6},
    {"IM", 7}, {"DM", 8}, {"ZM", 9}, {"OM", 10}, {"UM", 11}, {"PM", 12}, {"FZ", 15},
};
static const struct flag cr0[] = {
    {"PE", 0},  {"MP", 1},  {"EM", 2},  {"TS", 3},  {"ET", 4},  {"NE", 5},
    {"WP", 16}, {"AM", 18}, {"NW", 29}, {"CD", 30}, {"PG", 31},
};
static const struct flag cr4[] = {
    {"VME", 0},         {"PVI", 1},      {"TSD", 2},   {"DE", 3},    {"PSE", 4},
    {"PAE", 5},         {"MCE", 6},      {"PGE", 7},   {"PCE", 8},   {"OSFXSR", 9},
    {"OSXMMEXCPT", 10}, {"UMIP", 11},    {"LA57", 12}, {"VMXE", 13}, {"FSGSBASE", 16},
    {"PCIDE", 17},      {"OSXSAVE", 18}, {"SMEP", 20}, {"SMAP", 21}, {"PKE", 22},
};
static const struct flag efer[] = {
    {"SCE", 0}, {"LME", 8}, {"LMA", 10}, {"NXE", 11}, {"SVME", 12},
};

static void put_decimal(struct rsp_text *xml, unsigned n)
{
    const char digit = (char)('0' + n % 10);

    if (n >= 10)
        put_decimal(xml, n / 10);
    rsp_put(xml, &digit, 1);
}

static void put_attribute(struct rsp_text *xml, const char *name, unsigned value)
{
    rsp_put_text(xml, " ");
    rsp_put_text(xml, name);
    rsp_put_text(xml, "=\"");
    put_decimal(xml, value);
    rsp_put_text(xml, "\"");
}

static void put_flags(struct rsp_text *xml, const char *id, unsigned size, const struct flag *flags,
                      size_t count)
{
    rsp_put_text(xml, "<flags id=\"");
    rsp_put_text(xml, id);
    rsp_put_text(xml, "\"");
    put_attribute(xml, "size", size);
    rsp_put_text(xml, ">");
    for (size_t i = 0; i < count; i++) {
        rsp_put_text(xml, "<field name=\"");
        rsp_put_text(xml, flags[i].name);
        rsp_put_text(xml, "\"");
        put_attribute(xml, "start", flags[i].bit);
        put_attribute(xml, "end", flags[i].bit);
        rsp_put_text(xml, "/>");
    }
    rsp_put_text(xml, "</flags>\n");
}

/* One register as floating-point numbers or integers of any size. */
static const char vector_types[] =
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>\n"
    "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\n"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>\n"
    "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\n"
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>\n"
    "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\n"
    "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
    "<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
    "<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
    "<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>\n";

/* A feature's name and the types that its registers have; `size` is that of a control register. */
static void begin_feature(struct rsp_text *xml, enum feature feature, unsigned size)
{
    static const char *const names[] = {
        [CORE] = "org.gnu.gdb.i386.core",
        [SSE] = "org.gnu.gdb.i386.sse",
        [SEGMENTS] = "org.gnu.gdb.i386.segments",
        [SYSTEM] = "hv.system",
    };

    rsp_put_text(xml, "<feature name=\"");
    rsp_put_text(xml, names[feature]);
    rsp_put_text(xml, "\">\n");
    if (feature == CORE)
        put_flags(xml, "i386_eflags", 4, eflags, ARRAY_LEN(eflags));
    if (feature == SSE) {
        rsp_put_text(xml, vector_types);
        put_flags(xml, "i386_mxcsr", 4, mxcsr, ARRAY_LEN(mxcsr));
    }
    if (feature == SYSTEM) {
        put_flags(xml, "cr0", size, cr0, ARRAY_LEN(cr0));
        put_flags(xml, "cr4", size, cr4, ARRAY_LEN(cr4));
        put_flags(xml, "efer", size, efer, ARRAY_LEN(efer));
    }
}

static const char *type_of(const struct gdb_reg *r)
{
    if (r->type != NULL)
        return r->type;
    return r->size == 8 ? "int64" : "int32";
}

static void describe_reg(struct rsp_text *xml, const struct gdb_reg *r)
{
    rsp_put_text(xml, "<reg name=\"");
    rsp_put_text(xml, r->name);
    rsp_put_text(xml, "\"");
    put_attribute(xml, "bitsize", r->size * 8U);
    rsp_put_text(xml, " type=\"");
    rsp_put_text(xml, type_of(r));
    rsp_put_text(xml, "\"/>\n");
}

void gdb_describe(const struct gdb_layout *l, struct rsp_text *xml)
{
    rsp_put_text(xml, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
                      "<target>\n<architecture>");
    rsp_put_text(xml, l->architecture);
    rsp_put_text(xml, "</architecture>\n<osabi>none</osabi>\n"); /* no Linux program */
    for (unsigned n = 0; n < l->count; n++) {
        const struct gdb_reg *r = &l->regs[n];
        if (n == 0 || r->feature != r[-1].feature)
            begin_feature(xml, r->feature, r->size);
        describe_reg(xml, r);
        if (n + 1 == l->count || r->feature != r[1].feature)
            rsp_put_text(xml, "</feature>\n");
    }
    rsp_put_text(xml, "</target>\n");
}

/* --- the x87 tag word --- */

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

/* The class of an 80-bit number, SDM 1 §8.1.7 and table 4-2. */
static unsigned class_of(const uint8_t *number)
{
    uint64_t significand;
    unsigned exponent = (number[8] | number[9] << 8) & 0x7fff;

    memcpy(&significand, number, sizeof(significand));
    if (exponent == 0)
        return significand == 0 ? TAG_ZERO : TAG_SPECIAL;
    if (exponent == 0x7fff)
        return TAG_SPECIAL;
    return significand >> 63 ? TAG_VALID : TAG_SPECIAL;
}

/* SDM 1 §10.5.1.1: FXSAVE says only which registers are not empty. It numbers them as they lie, the
 * numbers themselves it stores from the stack's top on. */
static uint32_t full_tags(const struct kvm_fpu *fpu)
{
    unsigned top = (fpu->fsw >> 11) & 7;
    uint32_t tags = 0;

    for (unsigned i = 0; i < 8; i++) {
        bool used = (fpu->ftwx >> i) & 1;
        unsigned tag = used ? class_of(fpu->fpr[(i - top) & 7]) : TAG_EMPTY;
        tags |= tag << (2 * i);
    }
    return tags;
}

static uint8_t short_tags(uint32_t tags)
{
    unsigned used = 0;

    for (unsigned i = 0; i < 8; i++)
        if (((tags >> (2 * i)) & 3) != TAG_EMPTY)
            used |= 1U << i;
    return (uint8_t)used;
}

/* --- values --- */

#define REG_SIZE_MAX 16

void gdb_put_reg(const struct gdb_layout *l, unsigned n, const struct debug_regs *regs,
                 struct rsp_text *out)
{
    const struct gdb_reg *r = &l->regs[n];
    const uint8_t *field = (const uint8_t *)regs + r->offset;
    uint8_t value[REG_SIZE_MAX] = {0};
    uint32_t tags = full_tags(&regs->fpu);

    if (r->kind == FPU_TAGS)
        memcpy(value, &tags, sizeof(tags));
    else if (r->kind == FPU_SEGMENT)
        memcpy(value, field + 4, 2);
    else
        memcpy(value, field, r->stored < r->size ? r->stored : r->size);
    rsp_put_bytes(out, value, r->size);
}

/* In real mode a selector is the segment's address divided by 16 (SDM 3A §20.1.1). */
static int set_selector(const struct kvm_sregs *sregs, void *field, const uint8_t *value)
{
    struct kvm_segment *segment = container_of(field, struct kvm_segment, selector);
    uint16_t selector;

    memcpy(&selector, value, sizeof(selector));
    if (selector == segment->selector)
        return 0;
    if (x86_mode_of(sregs) != X86_REAL)
        return -EPERM;
    segment->selector = selector;
    segment->base = (uint64_t)selector << 4;
    return 0;
}

int gdb_take_reg(const struct gdb_layout *l, unsigned n, struct rsp_view *v,
                 struct debug_regs *regs)
{
    const struct gdb_reg *r = &l->regs[n];
    uint8_t *field = (uint8_t *)regs + r->offset;
    uint8_t value[REG_SIZE_MAX] = {0};
    uint32_t tags;

    if (!rsp_take_bytes(v, value, r->size))
        return -EINVAL;
    switch (r->kind) {
    case SELECTOR:
        return set_selector(&regs->sregs, field, value);
    case FPU_TAGS:
        memcpy(&tags, value, sizeof(tags));
        regs->fpu.ftwx = short_tags(tags);
        return 0;
    case FPU_SEGMENT:
        memcpy(field + 4, value, 2);
        return 0;
    case PLAIN:
        memcpy(field, value, r->stored < r->size ? r->stored : r->size);
        return 0;
    }
    return 0;
}

uint64_t gdb_linear_pc(const struct debug_regs *regs)
{
    if (x86_mode_of(&regs->sregs) == X86_LONG)
        return regs->regs.rip;
    return (uint32_t)(regs->sregs.cs.base + regs->regs.rip);
}
