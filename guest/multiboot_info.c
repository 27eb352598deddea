/*
 * What a Multiboot loader tells the kernel (Multiboot 0.6.96, section 3.3).
 *
 * run: --boot multiboot --append hello=world
 * needs: kvm
 * expect: @ok magic
 * expect: command line:
 * expect: hello=world
 * expect: memory 0
 * expect: @ok has_memory_above_1m
 * status: 33
 */
#include "lib/guest.h"

#define MAGIC 0x2badb002

enum {
    HAS_MEMORY = 1 << 0,
    HAS_CMDLINE = 1 << 2,
    HAS_MODULES = 1 << 3,
    HAS_MEMORY_MAP = 1 << 6,
    HAS_LOADER_NAME = 1 << 9,
};

struct info {
    uint32_t flags;
    uint32_t mem_lower, mem_upper; /* KiB, below 640 KiB and from 1 MiB on */
    uint32_t boot_device;
    uint32_t cmdline;
    uint32_t mods_count, mods_addr;
    uint32_t syms[4];
    uint32_t mmap_length, mmap_addr;
    uint32_t drives_length, drives_addr;
    uint32_t config_table;
    uint32_t boot_loader_name;
};
_Static_assert(offsetof(struct info, boot_loader_name) == 64, "Multiboot 0.6.96 §3.3");

struct memory_range {
    uint32_t size; /* of what follows */
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

struct module {
    uint32_t start, end, string, reserved;
};

static void print_memory_map(const struct info *info)
{
    uint32_t at = info->mmap_addr;

    while (at < info->mmap_addr + info->mmap_length) {
        const struct memory_range *r = (const struct memory_range *)at;

        print("memory %X length %X type %u\n", r->base, r->length, (unsigned)r->type);
        at += r->size + sizeof(r->size);
    }
}

static void print_modules(const struct info *info)
{
    const struct module *modules = (const struct module *)info->mods_addr;

    for (unsigned i = 0; i < info->mods_count; i++) {
        print("module %x length %x: %s\n", (unsigned)modules[i].start,
              (unsigned)(modules[i].end - modules[i].start), (const char *)modules[i].string);
        print("starts with %c%c%c%c\n", ((const char *)modules[i].start)[0],
              ((const char *)modules[i].start)[1], ((const char *)modules[i].start)[2],
              ((const char *)modules[i].start)[3]);
    }
}

void main(uint32_t magic, const struct info *info)
{
    check("magic", MAGIC, magic);
    if (info->flags & HAS_LOADER_NAME)
        print("loader: %s\n", (const char *)info->boot_loader_name);
    if (info->flags & HAS_CMDLINE)
        print("command line: %s\n", (const char *)info->cmdline);
    if (info->flags & HAS_MEMORY_MAP)
        print_memory_map(info);
    if (info->flags & HAS_MODULES)
        print_modules(info);
    check("has_memory_above_1m", 1, (info->flags & HAS_MEMORY) && info->mem_upper > 0);
}
