/*
 * Starting Linux by its own boot protocol (Linux Documentation/arch/x86/boot.rst).
 *
 * The kernel expects the address of a boot_params structure, the "zero page", in RSI: a copy of its
 * setup header with the loader's fields filled in, and the memory map. There are two ways in:
 *
 * - linux_load() puts the bzImage's protected-mode part into memory and enters it, at its start in
 *   32-bit mode or 0x200 bytes later in 64-bit mode. It then unpacks the kernel proper itself.
 * - linux_load_unpacked() unpacks that kernel here, loads it like any ELF file, and enters it at
 *   startup_64, where the decompressor would have jumped to. The guest is spared the slowest
 *   part of its start. The kernel runs where it was linked to run; choosing a random place (KASLR)
 *   is the decompressor's work, and does not happen this way. A vmlinux that never was in a bzImage
 *   starts like this too.
 *
 * Left out: the 16-bit entry and its setup code, which asks a BIOS that hv does not have (and so
 * heap_end_ptr, which only that code uses); initrds and kernels above 4 GiB; EFI.
 */
#include <errno.h>
#include <inttypes.h>

#include "boot/boot_priv.h"
#include "hv/base/todo.h"

#define LOADER_UNDEFINED 0xff /* type_of_loader: one without an assigned number */
#define ENTRY_64 0x200        /* boot.rst, 64-bit Boot Protocol */
#define LOAD_DEFAULT MIB      /* what code32_start counts from */

_Static_assert(sizeof(struct boot_params) == 4096, "boot.rst, Zero Page");

/* --- the zero page --- */

/* Only the header and what follows: the fields before it belong to the setup code or to the page's
 * other users. *p is all 0. */
static void fill_zero_page(struct boot_params *p, const struct setup_header *h,
                           const struct boot_layout *layout)
{
    /* EXERCISE 5.4: what the kernel learns from the zero page (boot.rst, "Details of Header
     * Fields"; zero-page.rst): the image's own setup header `h`, in it a loader without a number of
     * its own (LOADER_UNDEFINED); where the RSDP is, acpi_rsdp_addr; and the memory map,
     * e820_table, with a number of entries that matches. Command line and initrd come in 5.5. */
    // SOLUTION 5.4
    p->hdr = *h;
    p->hdr.type_of_loader = LOADER_UNDEFINED;
    p->acpi_rsdp_addr = layout->rsdp;
    p->e820_entries = (uint8_t)layout->count;
    for (unsigned i = 0; i < layout->count; i++)
        p->e820_table[i] = (struct boot_e820_entry){
            .addr = layout->ranges[i].gpa,
            .size = layout->ranges[i].size,
            .type = layout->ranges[i].type,
        };
    // ELSE
    // (void)todo("5.4");
    // END 5.4
}

/* EXERCISE 5.5: the two things that the user gives a kernel. Each is planned as a piece of guest
 * memory (boot_priv.h), and the header in the zero page tells where it is (boot.rst, cmd_line_ptr,
 * ramdisk_image, ramdisk_size). The command line: refused if longer than the kernel takes
 * (linux_check_cmdline()), placed in the scratch area with its terminating 0, on 16 bytes. The
 * initrd: none is given if it is empty; as high as possible in RAM, but no byte of it above
 * initrd_addr_max, which names the last address that a byte may have, not the first that it may
 * not. The kernel is in the plan already, with the memory that it needs to get going. */
// SOLUTION 5.5
static int add_cmdline(struct boot_job *job, struct boot_params *p)
{
    uint64_t gpa = 0;
    int rc = linux_check_cmdline(&p->hdr, job->cmdline, job->err);

    if (rc == 0)
        rc = plan_add_scratch(&job->plan, "the command line", job_cmdline(job), 16, &gpa, job->err);
    if (rc == 0)
        p->hdr.cmd_line_ptr = (uint32_t)gpa;
    return rc;
}

static int add_initrd(struct boot_job *job, struct boot_params *p)
{
    struct bytes initrd = job_initrd(job);
    uint64_t gpa;
    int rc;

    if (initrd.size == 0)
        return 0;
    rc = plan_add_high(&job->plan, "the initrd", initrd, (uint64_t)p->hdr.initrd_addr_max + 1, &gpa,
                       job->err);
    if (rc < 0)
        return rc;
    p->hdr.ramdisk_image = (uint32_t)gpa;
    p->hdr.ramdisk_size = (uint32_t)initrd.size;
    return 0;
}
// ELSE
// static int add_cmdline(struct boot_job *job, struct boot_params *p)
// {
//     (void)todo("5.5"); /* and go on without one */
//     return 0;
// }
//
// static int add_initrd(struct boot_job *job, struct boot_params *p)
// {
//     (void)todo("5.5");
//     return 0;
// }
// END 5.5

/* Fills *params, which is all 0 and must live until the plan is written, and plans it and what it
 * refers to. */
static int plan_zero_page(struct boot_job *job, const struct setup_header *h,
                          struct boot_params *params)
{
    struct bytes page = {(const uint8_t *)params, sizeof(*params)};
    int rc;

    fill_zero_page(params, h, &job->req->layout);
    rc = add_cmdline(job, params);
    if (rc == 0)
        rc = add_initrd(job, params);
    if (rc == 0)
        rc = plan_add_scratch(&job->plan, "the zero page", page, MEM_PAGE_SIZE, &job->entry.rsi,
                              job->err);
    return rc;
}

/* --- the bzImage itself --- */

/* Where the kernel goes: where it was linked for if it is relocatable, so that it need not move;
 * else 1 MiB. boot.rst, pref_address and kernel_alignment. */
static int choose_load(const struct setup_header *h, uint64_t *load)
{
    uint64_t lowest = h->pref_address > LOAD_DEFAULT ? h->pref_address : LOAD_DEFAULT;

    if (h->relocatable_kernel)
        return align_up(lowest, h->kernel_alignment, load);
    *load = LOAD_DEFAULT;
    return 0;
}

/* boot.rst, init_size: the memory from where the kernel will run that it needs before it reads the
 * memory map. */
static int plan_bzimage(struct boot_job *job, const struct linux_image *image, uint64_t load)
{
    const struct setup_header *h = &image->header;
    uint64_t runs_at = h->relocatable_kernel ? load : h->pref_address;
    int rc = plan_add(&job->plan, "the kernel", load, image->kernel, image->kernel.size, job->err);

    if (rc < 0)
        return rc;
    return plan_reserve(&job->plan, "the memory that the kernel unpacks to", runs_at, h->init_size,
                        job->err);
}

/* EXERCISE 5.6: the kernel's first instruction (boot.rst, "32-bit Boot Protocol", "64-bit Boot
 * Protocol", code32_start). The kernel part lies at `load`. A kernel that says XLF_KERNEL_64 is
 * entered in long mode, ENTRY_64 bytes behind its start; -ENOEXEC if it is too short to have
 * anything there. Any other is entered in protected mode, where code32_start says: the address its
 * entry point would have if the kernel lay at LOAD_DEFAULT; -ENOEXEC if that is outside the kernel
 * part. enter_long() and enter_protected() make the state. In the zero page code32_start then names
 * the place where the 32-bit entry point really is. */
// SOLUTION 5.6
static int enter_64(struct boot_job *job, const struct linux_image *image, uint64_t load)
{
    struct page_builder tables;

    if (image->kernel.size <= ENTRY_64)
        return error_set(job->err, -ENOEXEC, "too short for its 64-bit entry point");
    return enter_long(job, load + ENTRY_64, &tables);
}

static int enter_32(struct boot_job *job, const struct linux_image *image, uint64_t load)
{
    uint64_t offset = (uint64_t)image->header.code32_start - LOAD_DEFAULT;

    if (offset >= image->kernel.size) /* also when code32_start is below 1 MiB */
        return error_set(job->err, -ENOEXEC, "its entry point 0x%x lies outside the kernel",
                         image->header.code32_start);
    return enter_protected(job, load + offset);
}

static int enter_bzimage(struct boot_job *job, const struct linux_image *image, uint64_t load,
                         struct boot_params *params)
{
    params->hdr.code32_start = (uint32_t)(load + image->header.code32_start - LOAD_DEFAULT);
    return image->header.xloadflags & XLF_KERNEL_64 ? enter_64(job, image, load)
                                                    : enter_32(job, image, load);
}
// ELSE
// static int enter_bzimage(struct boot_job *job, const struct linux_image *image, uint64_t load,
//                          struct boot_params *params)
// {
//     return todo("5.6");
// }
// END 5.6

static int load_bzimage(struct boot_job *job, const struct linux_image *image)
{
    struct boot_params params = {0};
    uint64_t load;
    int rc;

    if (choose_load(&image->header, &load) < 0)
        return error_set(job->err, -ENOEXEC, "its preferred address 0x%" PRIx64 " is absurd",
                         (uint64_t)image->header.pref_address);
    rc = plan_bzimage(job, image, load);
    if (rc == 0)
        rc = plan_zero_page(job, &image->header, &params);
    if (rc == 0)
        rc = enter_bzimage(job, image, load, &params);
    if (rc < 0)
        return rc;
    return plan_write(&job->plan, job->err);
}

int linux_load(struct boot_job *job)
{
    struct linux_image image;
    int rc;

    if (elf_is(job->image)) { /* a vmlinux has no other way in */
        job->entry.protocol = BOOT_LINUX_UNPACKED;
        return linux_load_unpacked(job);
    }
    rc = linux_open(job->image, &image, job->err);
    if (rc < 0)
        return rc;
    return load_bzimage(job, &image);
}

/* --- the kernel inside --- */

/* The kernel proper as one ELF file. Its entry point is a physical address: startup_64 runs before
 * the kernel's own page tables are loaded. */
static int load_vmlinux(struct boot_job *job, const struct setup_header *h, struct bytes file)
{
    struct page_builder tables;
    struct boot_params params = {0};
    struct elf_image elf;
    int rc = elf_open(file, &elf, job->err);

    if (rc < 0)
        return rc;
    if (!elf.is_64)
        return error_set(job->err, -ENOTSUP,
                         "a 32-bit vmlinux; hv starts 32-bit Linux only as a "
                         "bzImage, with --boot linux");
    if (!elf_has_physical(&elf, elf.entry) || elf.entry >= IDENTITY_END)
        return error_set(job->err, -ENOEXEC,
                         "the kernel's entry point 0x%" PRIx64 " lies in no segment below 4 GiB",
                         elf.entry);
    rc = elf_plan(&elf, &job->plan, job->err);
    if (rc == 0)
        rc = plan_reserve(&job->plan, "the kernel's start-up memory", h->pref_address, h->init_size,
                          job->err);
    if (rc == 0)
        rc = plan_zero_page(job, h, &params);
    if (rc == 0)
        rc = enter_long(job, elf.entry, &tables);
    if (rc < 0)
        return rc;
    return plan_write(&job->plan, job->err);
}

/* What a bzImage around this vmlinux would have said: a vmlinux has no setup header. */
static struct setup_header default_header(void)
{
    return (struct setup_header){
        .boot_flag = 0xaa55,
        .header = 0x53726448, /* "HdrS" */
        .version = 0x20f,
        .loadflags = LOADED_HIGH,
        .initrd_addr_max = 0x7fffffff,
        .kernel_alignment = 2 * MIB,
        .xloadflags = XLF_KERNEL_64,
        .cmdline_size = 2047, /* COMMAND_LINE_SIZE - 1 */
    };
}

int linux_load_unpacked(struct boot_job *job)
{
    struct unpacked vmlinux = {0};
    struct setup_header header;
    struct linux_image image;
    int rc;

    if (elf_is(job->image)) {
        header = default_header();
        return load_vmlinux(job, &header, job->image);
    }
    rc = linux_open(job->image, &image, job->err);
    if (rc == 0)
        rc = linux_unpack(&image, &vmlinux, job->err);
    if (rc == 0) {
        job->plan.gift = vmlinux.data;
        job->plan.gift_size = vmlinux.size;
        rc = load_vmlinux(job, &image.header, unpacked_bytes(&vmlinux));
    }
    unpacked_fini(&vmlinux);
    return rc;
}
