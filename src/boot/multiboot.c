/*
 * Multiboot, version 1 (specification 0.6.96): how GRUB has started course and hobby kernels since
 * 1995.
 *
 * A header in the first 8 KiB of the file says what the kernel wants. Where its bytes go is told by
 * the file's ELF program headers, or, for other formats, by addresses in the header itself. The
 * kernel starts in 32-bit protected mode with a magic number in EAX and the address of a structure
 * in EBX that holds the memory map, the command line, and the initrd as the one module.
 *
 * ELF64 files are taken too, as GRUB does: they still start in 32-bit mode. Command line and module
 * string are exactly what the user gave, without a file name in front (§3.3).
 *
 * Left out: setting a video mode (the request is logged and ignored: there is no display), symbol
 * tables, drives, APM and VBE. Multiboot 2 is another protocol. There is no BIOS either: a kernel
 * that goes back to real mode to call one hangs. Xen does, unless its command line says
 * no-real-mode.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "boot/boot_priv.h"

#define HEADER_MAGIC 0x1BADB002U /* §3.1.1 */
#define ENTRY_MAGIC 0x2BADB002U  /* §3.2: in EAX */
#define SEARCH_SIZE 8192         /* §3.1: the header is contained in these first bytes */
#define HEADER_WORD 4            /* … and aligned so */

/* §3.1.1: with MULTIBOOT_ADDRESSES the last five count. */
struct wire_header {
    uint32_t magic, flags, checksum;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};
#define SHORT_HEADER_SIZE offsetof(struct wire_header, header_addr)
_Static_assert(sizeof(struct wire_header) == 32, "Multiboot 0.6.96 §3.1.1");

/* §3.3: bits of info.flags, which say what of the rest is valid */
#define INFO_MEMORY (1U << 0)
#define INFO_CMDLINE (1U << 2)
#define INFO_MODULES (1U << 3)
#define INFO_MEMORY_MAP (1U << 6)
#define INFO_LOADER_NAME (1U << 9)

struct wire_info {
    uint32_t flags;
    uint32_t mem_lower, mem_upper; /* KiB from 0, and from 1 MiB to the first hole */
    uint32_t boot_device;
    uint32_t cmdline;
    uint32_t mods_count, mods_addr;
    uint32_t syms[4];
    uint32_t mmap_length, mmap_addr;
    uint32_t drives_length, drives_addr;
    uint32_t config_table;
    uint32_t boot_loader_name;
    uint32_t apm_table;
    uint8_t vbe_and_framebuffer[44];
};
_Static_assert(sizeof(struct wire_info) == 116, "Multiboot 0.6.96 §3.3");

struct wire_module {
    uint32_t start, end, string, reserved;
};

struct wire_range {
    uint32_t size; /* of the rest of this entry */
    uint64_t base, length;
    uint32_t type; /* 1: RAM, 2: reserved, 3: ACPI tables; the numbers of e820 */
} __attribute__((packed));
_Static_assert(sizeof(struct wire_range) == 24, "Multiboot 0.6.96 §3.3");

bool multiboot_find(struct bytes file, struct multiboot_header *out)
{
    size_t end = file.size < SEARCH_SIZE ? file.size : SEARCH_SIZE;
    struct wire_header h;

    for (size_t at = 0; range_fits(at, SHORT_HEADER_SIZE, end); at += HEADER_WORD) {
        size_t have = end - at < sizeof(h) ? end - at : sizeof(h);

        memset(&h, 0, sizeof(h));
        memcpy(&h, file.data + at, have);
        if (h.magic != HEADER_MAGIC || h.magic + h.flags + h.checksum != 0)
            continue;
        if ((h.flags & MULTIBOOT_ADDRESSES) && have < sizeof(h))
            continue;
        *out = (struct multiboot_header){
            .offset = (uint32_t)at,
            .flags = h.flags,
            .header_addr = h.header_addr,
            .load_addr = h.load_addr,
            .load_end_addr = h.load_end_addr,
            .bss_end_addr = h.bss_end_addr,
            .entry_addr = h.entry_addr,
        };
        return true;
    }
    return false;
}

static int check_requirements(const struct boot_job *job, const struct multiboot_header *h)
{
    uint32_t known = MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO | MULTIBOOT_VIDEO_MODE;
    uint32_t unknown = h->flags & MULTIBOOT_REQUIREMENTS & ~known;

    if (unknown != 0)
        return error_set(job->err, -ENOTSUP,
                         "the multiboot header requires features 0x%x, which hv does not offer",
                         unknown);
    if (h->flags & MULTIBOOT_VIDEO_MODE)
        log_msg(job->log, LOG_INFO, "%s asks for a video mode; hv has no display and ignores it",
                job->req->kernel_name);
    return 0;
}

/* --- where the bytes go --- */

/* §3.1.3: the header's addresses name one run of the file, around the header itself … */
static int find_run(const struct boot_job *job, const struct multiboot_header *h, struct bytes *out)
{
    uint32_t before = h->header_addr - h->load_addr; /* bytes loaded in front of the header */
    size_t start, size;

    if (h->load_addr > h->header_addr || before > h->offset)
        return error_set(job->err, -ENOEXEC,
                         "the multiboot header's load address 0x%x does not fit its place in the "
                         "file",
                         h->load_addr);
    start = h->offset - before;
    size = h->load_end_addr == 0 ? job->image.size - start : h->load_end_addr - h->load_addr;
    if ((h->load_end_addr != 0 && h->load_end_addr < h->load_addr) ||
        !range_fits(start, size, job->image.size))
        return error_set(job->err, -ENOEXEC,
                         "the multiboot header's load end 0x%x lies beyond the end of the file",
                         h->load_end_addr);
    *out = (struct bytes){job->image.data + start, size};
    return 0;
}

/* … and zeroed memory after it. */
static int plan_by_addresses(struct boot_job *job, const struct multiboot_header *h,
                             uint64_t *entry)
{
    struct bytes run;
    size_t room;
    int rc = find_run(job, h, &run);

    if (rc < 0)
        return rc;
    room = h->bss_end_addr == 0 ? run.size : h->bss_end_addr - h->load_addr;
    if ((h->bss_end_addr != 0 && h->bss_end_addr < h->load_addr) || room < run.size)
        return error_set(job->err, -ENOEXEC,
                         "the multiboot header's bss end 0x%x lies before the end of the data",
                         h->bss_end_addr);
    if (h->entry_addr < h->load_addr || h->entry_addr - h->load_addr >= room)
        return error_set(job->err, -ENOEXEC, "the entry point 0x%x lies outside the kernel",
                         h->entry_addr);
    *entry = h->entry_addr;
    return plan_add(&job->plan, "the kernel", h->load_addr, run, room, job->err);
}

/* Physical, or virtual in a kernel that is linked high and turns paging on by itself. */
static int find_elf_entry(const struct elf_image *elf, uint64_t *entry, struct error *err)
{
    uint64_t pa = elf->entry;

    if (!elf_has_physical(elf, pa) && !elf_to_physical(elf, elf->entry, &pa))
        return error_set(err, -ENOEXEC, "the entry point 0x%" PRIx64 " lies in no segment",
                         elf->entry);
    if (pa > UINT32_MAX)
        return error_set(
            err, -ENOEXEC,
            "the entry point 0x%" PRIx64 " is above 4 GiB; multiboot starts in 32-bit mode", pa);
    *entry = pa;
    return 0;
}

static int plan_by_elf(struct boot_job *job, uint64_t *entry)
{
    struct elf_image elf;
    int rc = elf_open(job->image, &elf, job->err);

    if (rc == 0)
        rc = find_elf_entry(&elf, entry, job->err);
    if (rc == 0)
        rc = elf_plan(&elf, &job->plan, job->err);
    return rc;
}

static int plan_kernel(struct boot_job *job, uint64_t *entry)
{
    struct multiboot_header h;
    int rc;

    if (!multiboot_find(job->image, &h))
        return error_set(job->err, -ENOEXEC,
                         "no multiboot header in the first %d bytes (Multiboot 2 headers do not "
                         "count)",
                         SEARCH_SIZE);
    rc = check_requirements(job, &h);
    if (rc < 0)
        return rc;
    return h.flags & MULTIBOOT_ADDRESSES ? plan_by_addresses(job, &h, entry)
                                         : plan_by_elf(job, entry);
}

/* --- what the kernel is told --- */

/* All that EBX leads to, while it is put together. Lives until the plan is written. */
struct handover {
    struct wire_info info;
    struct wire_module module;
    struct wire_range map[BOOT_RANGES_MAX];
};

/* KiB of RAM from `start` to the first hole, at most `max`. */
static uint32_t ram_kib(const struct boot_layout *layout, uint64_t start, uint64_t max)
{
    uint64_t end = start;

    for (unsigned i = 0; i < layout->count; i++) {
        const struct boot_range *r = &layout->ranges[i];
        if (r->type == BOOT_RANGE_RAM && end >= r->gpa && end - r->gpa < r->size)
            end = r->gpa + r->size;
    }
    return (uint32_t)((end - start < max ? end - start : max) / KIB);
}

static int add_memory(struct boot_job *job, struct handover *h)
{
    const struct boot_layout *layout = &job->req->layout;
    struct bytes map = {(const uint8_t *)h->map, layout->count * sizeof(h->map[0])};
    uint64_t gpa;
    int rc;

    for (unsigned i = 0; i < layout->count; i++)
        h->map[i] = (struct wire_range){
            .size = sizeof(h->map[i]) - sizeof(h->map[i].size),
            .base = layout->ranges[i].gpa,
            .length = layout->ranges[i].size,
            .type = layout->ranges[i].type,
        };
    rc = plan_add_scratch(&job->plan, "the memory map", map, 8, &gpa, job->err);
    if (rc < 0)
        return rc;
    h->info.flags |= INFO_MEMORY | INFO_MEMORY_MAP;
    h->info.mem_lower = ram_kib(layout, 0, 640 * KIB);
    h->info.mem_upper = ram_kib(layout, MIB, 4 * GIB);
    h->info.mmap_addr = (uint32_t)gpa;
    h->info.mmap_length = (uint32_t)map.size;
    return 0;
}

static int add_text(struct boot_job *job, const char *what, const char *text, uint32_t *address)
{
    struct bytes bytes = {(const uint8_t *)text, strlen(text) + 1};
    uint64_t gpa;
    int rc = plan_add_scratch(&job->plan, what, bytes, 4, &gpa, job->err);

    if (rc == 0)
        *address = (uint32_t)gpa;
    return rc;
}

static int add_texts(struct boot_job *job, struct handover *h)
{
    int rc = add_text(job, "the command line", job->cmdline, &h->info.cmdline);

    if (rc == 0)
        rc = add_text(job, "the loader's name", "hv", &h->info.boot_loader_name);
    if (rc == 0)
        h->info.flags |= INFO_CMDLINE | INFO_LOADER_NAME;
    return rc;
}

/* The initrd is module 1, on a page of its own whether the kernel asked for that or not. */
static int add_module(struct boot_job *job, struct handover *h)
{
    struct bytes initrd = job_initrd(job);
    struct bytes module = {(const uint8_t *)&h->module, sizeof(h->module)};
    uint64_t start = 0, gpa = 0;
    int rc;

    if (initrd.size == 0)
        return 0;
    rc = plan_add_high(&job->plan, "the initrd", initrd, 4 * GIB, &start, job->err);
    if (rc == 0)
        rc = add_text(job, "the module's name", job->req->initrd_name, &h->module.string);
    if (rc == 0)
        rc = plan_add_scratch(&job->plan, "the module list", module, 4, &gpa, job->err);
    if (rc < 0)
        return rc;
    h->module.start = (uint32_t)start;
    h->module.end = (uint32_t)(start + initrd.size);
    h->info.flags |= INFO_MODULES;
    h->info.mods_count = 1;
    h->info.mods_addr = (uint32_t)gpa;
    return 0;
}

static int plan_handover(struct boot_job *job, struct handover *h, uint64_t *info_gpa)
{
    struct bytes info = {(const uint8_t *)&h->info, sizeof(h->info)};
    int rc = plan_add_scratch(&job->plan, "the multiboot information", info, 8, info_gpa, job->err);

    if (rc == 0)
        rc = add_memory(job, h);
    if (rc == 0)
        rc = add_texts(job, h);
    if (rc == 0)
        rc = add_module(job, h);
    return rc;
}

int multiboot_load(struct boot_job *job)
{
    struct handover handover = {0};
    int rc = plan_kernel(job, &job->entry.rip);

    if (rc == 0)
        rc = plan_handover(job, &handover, &job->entry.rbx);
    if (rc == 0)
        rc = enter_protected(job, job->entry.rip);
    if (rc < 0)
        return rc;
    job->entry.rax = ENTRY_MAGIC;
    return plan_write(&job->plan, job->err);
}
