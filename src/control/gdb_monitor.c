/*
 * `monitor …`: what hv can tell that gdb has no words for.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/gdb_priv.h"
#include "hv/base/num.h"

#define DUMP_LINE 16
#define DUMP_MAX 4096

struct monitor_command {
    const char *name;
    const char *usage;
    const char *help;
    void (*run)(struct gdb *g, char *args, FILE *out);
};

/* --- the commands --- */

/* Addresses that one asks about most, by name. */
static bool named_place(struct gdb *g, const char *name, uint64_t *va)
{
    struct debug_regs regs;

    if (g->target.ops->get_regs(g->target.ctx, g->cpu, &regs) < 0)
        return false;
    if (strcmp(name, "rip") == 0)
        *va = gdb_linear_pc(&regs);
    else if (strcmp(name, "rsp") == 0)
        *va = regs.regs.rsp;
    else if (strcmp(name, "cr2") == 0)
        *va = regs.sregs.cr2;
    else
        return false;
    return true;
}

static void run_walk(struct gdb *g, char *args, FILE *out)
{
    char *rest;
    const char *text = strtok_r(args, " ", &rest);
    uint64_t va;

    if (text == NULL)
        text = "rip";
    if (!named_place(g, text, &va) && parse_u64(text, UINT64_MAX, &va) < 0) {
        (void)fprintf(out, "give an address, such as 0xffffffff81000000, or rip, rsp or cr2\n");
        return;
    }
    g->target.ops->print_walk(g->target.ctx, g->cpu, va, out);
}

static void run_regs(struct gdb *g, char *args, FILE *out)
{
    (void)args;
    g->target.ops->print_regs(g->target.ctx, g->cpu, out);
}

static void print_line(uint64_t pa, const uint8_t *bytes, size_t len, FILE *out)
{
    (void)fprintf(out, "  0x%010" PRIx64 ":", pa);
    for (size_t i = 0; i < DUMP_LINE; i++)
        if (i < len)
            (void)fprintf(out, " %02x", bytes[i]);
        else
            (void)fprintf(out, "   ");
    (void)fprintf(out, "  ");
    for (size_t i = 0; i < len; i++)
        (void)fputc(bytes[i] >= 0x20 && bytes[i] < 0x7f ? bytes[i] : '.', out);
    (void)fputc('\n', out);
}

static void dump(struct gdb *g, uint64_t pa, uint64_t len, FILE *out)
{
    uint8_t bytes[DUMP_LINE];

    for (uint64_t done = 0, n; done < len; done += n) {
        n = len - done < DUMP_LINE ? len - done : DUMP_LINE;
        if (gdb_read_physical(&g->traps, g->target.mem, pa + done, bytes, n) < 0) {
            (void)fprintf(out, "  0x%010" PRIx64 ": no memory there\n", pa + done);
            return;
        }
        print_line(pa + done, bytes, n, out);
    }
}

static void run_phys(struct gdb *g, char *args, FILE *out)
{
    char *rest;
    const char *addr_text = strtok_r(args, " ", &rest);
    const char *len_text = strtok_r(NULL, " ", &rest);
    uint64_t pa, len = 64;

    if (addr_text == NULL || parse_u64(addr_text, UINT64_MAX, &pa) < 0 ||
        (len_text != NULL && parse_u64(len_text, DUMP_MAX, &len) < 0)) {
        (void)fprintf(out, "give a guest-physical address and a number of bytes up to %d\n",
                      DUMP_MAX);
        return;
    }
    dump(g, pa, len, out);
}

static void run_info(struct gdb *g, char *args, FILE *out)
{
    const struct mem *mem = g->target.mem;
    char size[SIZE_TEXT_MAX];

    if (strcmp(args, "mem") != 0) {
        (void)fprintf(out, "there is info mem\n");
        return;
    }
    for (unsigned i = 0; i < mem->count; i++) {
        const struct mem_region *r = &mem->regions[i];
        (void)fprintf(out, "  0x%010" PRIx64 " to 0x%010" PRIx64 "  %s  %s\n", r->gpa,
                      r->gpa + r->size - 1, r->kind == MEM_ROM ? "ROM" : "RAM",
                      format_size(r->size, size));
    }
}

static void run_exits(struct gdb *g, char *args, FILE *out)
{
    (void)args;
    g->target.ops->print_exits(g->target.ctx, out);
}

static void run_death(struct gdb *g, char *args, FILE *out)
{
    (void)args;
    if (g->stopped_by_trap && g->stop.event == DEBUG_DYING)
        g->target.ops->print_death(g->target.ctx, &g->stop.outcome, out);
    else
        (void)fprintf(out, "the guest is alive\n");
}

static void run_arch(struct gdb *g, char *args, FILE *out)
{
    const struct gdb_layout *layout = gdb_layout_named(args);

    if (layout == NULL && strcmp(args, "auto") != 0) {
        (void)fprintf(out, "registers are now those of %s; give i8086, i386, x86-64 or auto\n",
                      g->layout->architecture);
        return;
    }
    g->wanted = layout;
    (void)fprintf(out, "holds from the next connection on: disconnect, then target remote\n");
}

static void run_help(struct gdb *g, char *args, FILE *out);

static const struct monitor_command commands[] = {
    {"help", "", "this list", run_help},
    {"walk", "[ADDRESS|rip|rsp|cr2]", "how this vCPU's page tables translate an address", run_walk},
    {"regs", "", "this vCPU's registers, with segments and modes decoded", run_regs},
    {"phys", "ADDRESS [BYTES]", "guest-physical memory", run_phys},
    {"info", "mem", "what there is of it", run_info},
    {"arch", "i8086|i386|x86-64|auto", "how registers look from the next connection on", run_arch},
    {"exits", "", "how often each vCPU has left the guest, and why", run_exits},
    {"death", "", "why the guest is dying", run_death},
};

static void run_help(struct gdb *g, char *args, FILE *out)
{
    (void)g;
    (void)args;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        (void)fprintf(out, "monitor %-5s %-22s %s\n", commands[i].name, commands[i].usage,
                      commands[i].help);
}

/* --- the line --- */

static const struct monitor_command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static void run_line(struct gdb *g, char *line, FILE *out)
{
    char *args = NULL;
    const char *name = strtok_r(line, " ", &args);
    const struct monitor_command *cmd = find_command(name != NULL ? name : "help");

    if (cmd != NULL)
        cmd->run(g, args, out);
    else
        (void)fprintf(out, "there is no monitor command \"%s\"; monitor help lists them\n", name);
}

/* One packet holds half as many bytes as digits. */
static void say_all(struct gdb *g, const char *text, size_t len)
{
    const size_t most = RSP_PACKET_MAX / 2 - 1;

    for (size_t n; len > 0; text += n, len -= n) {
        n = len < most ? len : most;
        rsp_put_text(&g->reply, "O");
        rsp_put_bytes(&g->reply, text, n);
        gdb_reply_done(g);
    }
}

void gdb_monitor(struct gdb *g, char *line)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    if (out == NULL) {
        gdb_reply_error(g, -ENOMEM);
        return;
    }
    run_line(g, line, out);
    if (fclose(out) == 0)
        say_all(g, text, len);
    free(text);
    gdb_reply_text(g, "OK");
}
