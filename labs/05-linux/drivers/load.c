/*
 * boot_load() into memory of the driver's own, full of poison.
 *
 * args: for each case  PROTOCOL KERNEL INITRD CMDLINE RAM RSDP
 *   PROTOCOL  "linux" or "linux-unpacked"
 *   KERNEL    a file; INITRD a file or "-"; CMDLINE a file with the text, or "-" for none given
 *   RAM       bytes of memory from 0, a multiple of 4096; the map the loader is given has the PC's
 *             hole from 0x9fc00 to 1 MiB in it
 *   RSDP      what the layout says
 *
 * A load that succeeds is reported with the entry, the zero page, and what it points to. One that
 * fails, with whether it left entry and memory alone (the loader's scratch area is its own).
 */
#include "boot/boot_priv.h"
#include "guarded.h"
#include "observe.h"

#define POISON 0xa5
#define SCRATCH 0x80000U
#define SCRATCH_END 0x9f000U
#define HOLE 0x9fc00U
#define CMDLINE_SHOWN 4096U
#define KERNEL_SHOWN 64U

static struct boot_layout layout_of(uint64_t ram, uint64_t rsdp)
{
    return (struct boot_layout){
        .ranges = {{0, HOLE, BOOT_RANGE_RAM},
                   {HOLE, MIB - HOLE, BOOT_RANGE_RESERVED},
                   {MIB, ram - MIB, BOOT_RANGE_RAM}},
        .count = 3,
        .low_end = ram,
        .scratch = SCRATCH,
        .scratch_end = SCRATCH_END,
        .rsdp = rsdp,
    };
}

/* How many bytes outside the scratch area are no longer poison. */
static uint64_t changed_bytes(const uint8_t *ram, uint64_t size)
{
    uint64_t changed = 0;

    for (uint64_t at = 0; at < size; at += MEM_PAGE_SIZE)
        if ((at < SCRATCH || at >= SCRATCH_END) && !all_bytes_are(ram + at, POISON, MEM_PAGE_SIZE))
            changed += MEM_PAGE_SIZE;
    return changed;
}

/* The bytes of guest memory from `gpa` on, at most `size` of them. */
static void report_memory(const char *name, const uint8_t *ram, uint64_t ram_size, uint64_t gpa,
                          uint64_t size)
{
    if (gpa > ram_size)
        gpa = ram_size;
    report_hex(name, ram + gpa, size < ram_size - gpa ? size : ram_size - gpa);
}

/* A checksum of the bytes where the initrd should be, for the check to compare (FNV-1a). */
static uint64_t fnv(const uint8_t *data, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325U;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ data[i]) * 0x100000001b3U;
    return hash;
}

static void report_loaded(const struct boot_entry *e, const uint8_t *ram, uint64_t size)
{
    struct boot_params p;

    report_int("mode", (int)e->mode);
    report_u64("rip", e->rip);
    report_u64("rsi", e->rsi);
    report_u64("rsp", e->rsp);
    report_u64("cr3", e->cr3);
    if (e->rsi > size || size - e->rsi < sizeof(p))
        return;
    memcpy(&p, ram + e->rsi, sizeof(p));
    report_hex("zero_page", &p, sizeof(p));
    report_memory("cmdline", ram, size, p.hdr.cmd_line_ptr, CMDLINE_SHOWN);
    if (p.hdr.ramdisk_image <= size && p.hdr.ramdisk_size <= size - p.hdr.ramdisk_image)
        report_u64("initrd_hash", fnv(ram + p.hdr.ramdisk_image, p.hdr.ramdisk_size));
    report_memory("at_rip", ram, size, e->rip, KERNEL_SHOWN);
}

static struct guarded read_if_given(const char *path)
{
    return strcmp(path, "-") == 0 ? (struct guarded){0} : guarded_read(path);
}

static void try(char **args)
{
    struct guarded kernel = guarded_read(args[1]);
    struct guarded initrd = read_if_given(args[2]);
    struct guarded text = read_if_given(args[3]);
    uint64_t ram = number(args[4]);
    char *cmdline = text.data == NULL ? NULL : strndup((char *)text.data, text.size);
    const struct boot_request req = {
        .protocol = strcmp(args[0], "linux") == 0 ? BOOT_LINUX : BOOT_LINUX_UNPACKED,
        .kernel = kernel.data,
        .kernel_size = kernel.size,
        .kernel_name = "kernel",
        .initrd = initrd.data,
        .initrd_size = initrd.size,
        .initrd_name = "initrd",
        .cmdline = cmdline,
        .layout = layout_of(ram, number(args[5])),
    };
    struct error err = {0};
    struct boot_entry entry;
    struct mem mem;

    mem_init(&mem);
    if (mem_add(&mem, 0, ram, MEM_RAM, MEM_ANONYMOUS, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    memset(mem.regions[0].host, POISON, ram);
    memset(&entry, POISON, sizeof(entry));
    int rc = boot_load(&mem, &req, NULL, &entry, &err);

    report_case();
    report_int("rc", rc);
    report_string("error", err.text);
    report_int("untouched", all_bytes_are(&entry, POISON, sizeof(entry)));
    if (rc == 0)
        report_loaded(&entry, mem.regions[0].host, ram);
    else
        report_u64("changed", changed_bytes(mem.regions[0].host, ram));
    mem_fini(&mem);
    free(cmdline);
    guarded_free(&kernel);
    if (initrd.data != NULL)
        guarded_free(&initrd);
    if (text.data != NULL)
        guarded_free(&text);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 5 < argc; i += 6)
        try(argv + i);
    return report_end();
}
