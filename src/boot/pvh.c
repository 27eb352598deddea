/*
 * PVH: Xen's direct boot of x86/HVM guests, which other monitors took over.
 *
 * An ELF note of owner "Xen" names a 32-bit entry point by its physical address. The kernel starts
 * there in protected mode without paging, with the address of an hvm_start_info in EBX: magic,
 * memory map, command line, modules (the initrd is the only one), ACPI's RSDP. There is nothing to
 * detect and nothing of the PC's past, which is why small kernels like it.
 *
 * A bzImage hides its note in the compressed kernel; it is unpacked first.
 *
 * Sources: Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h, version 1 of the
 * structure; note number 18 from public/elfnote.h.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "boot/boot_priv.h"

#define NOTE_OWNER "Xen"
#define NOTE_PHYS32_ENTRY 18

#define START_MAGIC 0x336ec578U
#define START_VERSION 1

struct start_info {
    uint32_t magic, version;
    uint32_t flags;
    uint32_t modules;
    uint64_t modules_gpa;
    uint64_t cmdline_gpa;
    uint64_t rsdp_gpa;
    uint64_t map_gpa; /* since version 1 */
    uint32_t map_entries;
    uint32_t reserved;
};
_Static_assert(sizeof(struct start_info) == 56, "start_info.h: hvm_start_info");

struct start_module {
    uint64_t gpa, size;
    uint64_t cmdline_gpa; /* 0: none */
    uint64_t reserved;
};
_Static_assert(sizeof(struct start_module) == 32, "start_info.h: hvm_modlist_entry");

struct start_range {
    uint64_t gpa, size;
    uint32_t type; /* the numbers of e820 */
    uint32_t reserved;
};
_Static_assert(sizeof(struct start_range) == 24, "start_info.h: hvm_memmap_table_entry");

/* --- the entry point --- */

/* The note holds a number of the ELF class's word size; both sizes are seen in either class. */
static bool note_number(struct bytes desc, uint64_t *out)
{
    uint32_t narrow;
    uint64_t wide;

    if (desc.size == sizeof(narrow)) {
        memcpy(&narrow, desc.data, sizeof(narrow));
        *out = le32toh(narrow);
        return true;
    }
    if (desc.size == sizeof(wide)) {
        memcpy(&wide, desc.data, sizeof(wide));
        *out = le64toh(wide);
        return true;
    }
    return false;
}

int pvh_find_entry(const struct elf_image *elf, uint32_t *entry, struct error *err)
{
    struct bytes desc;
    uint64_t pa;

    if (!elf_find_note(elf, NOTE_OWNER, NOTE_PHYS32_ENTRY, &desc))
        return error_set(err, -ENOENT,
                         "no PVH entry point (a Xen PHYS32_ENTRY note); Linux has one when it is "
                         "built with CONFIG_PVH");
    if (!note_number(desc, &pa))
        return error_set(err, -ENOEXEC, "the PVH note holds %zu bytes instead of 4 or 8",
                         desc.size);
    if (pa > UINT32_MAX || !elf_has_physical(elf, pa))
        return error_set(err, -ENOEXEC, "the PVH entry point 0x%" PRIx64 " lies in no segment", pa);
    *entry = (uint32_t)pa;
    return 0;
}

/* --- what the kernel is told --- */

/* All that EBX leads to, while it is put together. Lives until the plan is written. */
struct handover {
    struct start_info info;
    struct start_module module;
    struct start_range map[BOOT_RANGES_MAX];
};

static int add_map(struct boot_job *job, struct handover *h)
{
    const struct boot_layout *layout = &job->req->layout;
    struct bytes map = {(const uint8_t *)h->map, layout->count * sizeof(h->map[0])};

    for (unsigned i = 0; i < layout->count; i++)
        h->map[i] = (struct start_range){
            .gpa = layout->ranges[i].gpa,
            .size = layout->ranges[i].size,
            .type = layout->ranges[i].type,
        };
    h->info.map_entries = layout->count;
    return plan_add_scratch(&job->plan, "the memory map", map, 8, &h->info.map_gpa, job->err);
}

static int add_initrd(struct boot_job *job, struct handover *h)
{
    struct bytes initrd = job_initrd(job);
    struct bytes module = {(const uint8_t *)&h->module, sizeof(h->module)};
    int rc;

    if (initrd.size == 0)
        return 0;
    rc = plan_add_high(&job->plan, "the initrd", initrd, 4 * GIB, &h->module.gpa, job->err);
    if (rc < 0)
        return rc;
    h->module.size = initrd.size;
    h->info.modules = 1;
    return plan_add_scratch(&job->plan, "the module list", module, 8, &h->info.modules_gpa,
                            job->err);
}

static int plan_handover(struct boot_job *job, struct handover *h, uint64_t *info_gpa)
{
    struct bytes info = {(const uint8_t *)&h->info, sizeof(h->info)};
    int rc = plan_add_scratch(&job->plan, "the start information", info, 8, info_gpa, job->err);

    if (rc == 0)
        rc = add_map(job, h);
    if (rc == 0)
        rc = plan_add_scratch(&job->plan, "the command line", job_cmdline(job), 8,
                              &h->info.cmdline_gpa, job->err);
    if (rc == 0)
        rc = add_initrd(job, h);
    h->info.magic = START_MAGIC;
    h->info.version = START_VERSION;
    h->info.rsdp_gpa = job->req->layout.rsdp;
    return rc;
}

static int load_elf(struct boot_job *job, struct bytes file)
{
    struct handover handover = {0};
    struct elf_image elf;
    uint32_t entry = 0;
    int rc = elf_open(file, &elf, job->err);

    if (rc == 0)
        rc = pvh_find_entry(&elf, &entry, job->err);
    if (rc == 0)
        rc = elf_plan(&elf, &job->plan, job->err);
    if (rc == 0)
        rc = plan_handover(job, &handover, &job->entry.rbx);
    if (rc == 0)
        rc = enter_protected(job, entry);
    if (rc < 0)
        return rc == -ENOENT ? -ENOEXEC : rc;
    return plan_write(&job->plan, job->err);
}

int pvh_load(struct boot_job *job)
{
    struct unpacked vmlinux = {0};
    struct linux_image image;
    int rc;

    if (!linux_is(job->image))
        return load_elf(job, job->image);
    rc = linux_open(job->image, &image, job->err);
    if (rc == 0)
        rc = linux_check_cmdline(&image.header, job->cmdline, job->err);
    if (rc == 0)
        rc = linux_unpack(&image, &vmlinux, job->err);
    if (rc == 0) {
        job->plan.gift = vmlinux.data;
        job->plan.gift_size = vmlinux.size;
        rc = load_elf(job, unpacked_bytes(&vmlinux));
    }
    unpacked_fini(&vmlinux);
    return rc;
}
