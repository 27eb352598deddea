/*
 * What a PVH loader tells the kernel (Xen, public/arch-x86/hvm/start_info.h).
 *
 * run: --no-probe --boot pvh --append hello=world
 * needs: kvm
 * expect: @ok magic
 * expect: command line: hello=world
 * expect: memory 0
 * expect: @ok has_rsdp
 * status: 33
 */
#include "lib/guest.h"
#include "lib/string.h"

#define MAGIC 0x336ec578 /* "xEn3" with bit 31 off */

struct start_info {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t nr_modules;
    uint64_t modlist;
    uint64_t cmdline;
    uint64_t rsdp;
    /* since version 1 */
    uint64_t memmap;
    uint32_t memmap_entries;
    uint32_t reserved;
};
_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info, version 1");

struct memory_range {
    uint64_t address, size;
    uint32_t type;
    uint32_t reserved;
};

struct module {
    uint64_t address, size, cmdline, reserved;
};

static const void *at(uint64_t address)
{
    return (const void *)(uint32_t)address; /* paging is off: this program reaches 4 GiB */
}

static void print_modules(const struct start_info *info)
{
    const struct module *modules = at(info->modlist);

    for (unsigned i = 0; i < info->nr_modules; i++)
        print("module %X length %X\n", modules[i].address, modules[i].size);
}

static void print_memory_map(const struct start_info *info)
{
    const struct memory_range *map = at(info->memmap);

    for (unsigned i = 0; i < info->memmap_entries; i++)
        print("memory %X length %X type %u\n", map[i].address, map[i].size, (unsigned)map[i].type);
}

void main(const struct start_info *info)
{
    check("magic", MAGIC, info->magic);
    value("version", info->version);
    if (info->cmdline != 0)
        print("command line: %s\n", (const char *)at(info->cmdline));
    print_modules(info);
    if (info->version >= 1)
        print_memory_map(info);
    check("has_rsdp", 0, info->rsdp != 0 ? (unsigned)memcmp(at(info->rsdp), "RSD PTR ", 8) : 1);
}
